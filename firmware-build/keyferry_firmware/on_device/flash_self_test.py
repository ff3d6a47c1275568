"""Run by the host at a board's raw prompt: answers of the core on this board to test vectors.

The host judges: what a vector expects never gets here.
"""

import os

from keyferry_core import cbor, kdf
from keyferry_core.errors import KeyferryError
from keyferry_core.suite import Crypto, for_board

_own = Crypto(os.urandom)


def _round():
    """Two key pairs of the board's own cryptography, made and used."""
    crypto = for_board(os.urandom)
    (one, public_one), (two, public_two) = crypto.generate(), crypto.generate()
    same = crypto.ecdh(one, public_two) == crypto.ecdh(two, public_one)
    return same and crypto.verify(public_one, b"sample", crypto.sign(one, b"sample"))


def answer(operation, *given):
    """Print the result as hexadecimal digits, or a word; "refused" where the core refuses."""
    arguments = [bytes.fromhex(item) if isinstance(item, str) else item for item in given]
    try:
        if operation == "hkdf":
            salt, ikm, info = arguments[:3]
            result = kdf.hkdf_expand(kdf.hkdf_extract(salt, ikm), info, given[3])
        elif operation == "hmac":
            result = kdf.hmac_sha256(*arguments)
        elif operation == "cbor":
            result = cbor.encode(cbor.decode(arguments[0]))
        elif operation == "round":
            result = _round()
        else:
            result = getattr(_own, operation)(*arguments)
    except KeyferryError:
        print("refused")
        return
    print(result if isinstance(result, bool) else result.hex())
