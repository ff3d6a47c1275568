"""Records: what two devices send each other under the keys of a session (docs/keys.md).

COSE_Encrypt0 with the key derivation and nonce of OSCORE (RFC 8613, sections 3.2.1 and 5.2) and
AES-CCM-16-128-128, in a frame of its own:

    0 P E E K N N N | sequence number, N bytes | ciphertext | tag, 16 bytes

N: 1 to 5. P K: 0 0 data, 0 1 close, 1 0 about a direct path, for the agent itself. E: the low
two bits of the sender's key generation. Header, names and session are covered by the tag. A record
costs 18 to 22 bytes over its data.
"""

from keyferry_core import cbor
from keyferry_core.cose import enc_structure
from keyferry_core.edhoc.party import HASH_LENGTH, IV_LENGTH, KEY_LENGTH, edhoc_kdf
from keyferry_core.errors import AuthenticationError, DecodeError, LocalError, RemoteError
from keyferry_core.iana import AES_CCM_16_128_128, EXPORTER_RECORD_SALT, EXPORTER_RECORD_SECRET
from keyferry_core.kdf import hkdf_expand, hkdf_extract

DATA = 0
CLOSE = 1
PATH = 2

# Bytes of data in one record, far below the 65535 where AES-CCM with 13-byte nonces ends.
MAX_DATA = 8192
TAG_LENGTH = 16
# Records behind the highest number seen that are still accepted, each once.
WINDOW = 64
# Limits of draft-ietf-core-oscore-key-limits for this algorithm, with room to spare: new keys by
# EDHOC_KeyUpdate every 2^16 records, no more than 2^20 records and 2^10 forgeries in a session.
UPDATE_AFTER = 1 << 16
MAX_RECORDS = 1 << 20
MAX_FORGED = 1 << 10
# And in seconds: new keys every 24 hours, no session older than 7 days; old keys are kept for late
# records an hour at most, the longest that a manager holds what it could not deliver.
UPDATE_SECONDS = 86400
MAX_SECONDS = 604800
KEEP_SECONDS = 3600


def oscore_derive(
    secret: bytes, salt: bytes, identifier: bytes, id_context, alg: int, kind: str, length: int
) -> bytes:
    """One output of OSCORE's key derivation; ``kind`` is "Key" or "IV" (RFC 8613, 3.2.1)."""
    info = cbor.encode([identifier, id_context, alg, kind, length])
    return hkdf_expand(hkdf_extract(salt, secret), info, length)


def nonce_base(identifier: bytes, common_iv: bytes) -> int:
    """The nonce for Partial IV 0, as an integer; XOR the Partial IV to it (RFC 8613, 5.2)."""
    # size of ID_PIV (1) || ID_PIV, left-padded to 7 || Partial IV (5), XOR Common IV
    value = len(identifier) << 96 | int.from_bytes(identifier, "big") << 40
    return value ^ int.from_bytes(common_iv, "big")


class _Keys:
    """One generation of keys in one direction, named by the sending party's identifier."""

    def __init__(self, prk_out: bytes, generation: int, sender_id: bytes, context: bytes) -> None:
        self.prk_out = prk_out
        self.generation = generation
        prk_exporter = edhoc_kdf(prk_out, 10, b"", HASH_LENGTH)
        secret = edhoc_kdf(prk_exporter, EXPORTER_RECORD_SECRET, context, KEY_LENGTH)
        salt = edhoc_kdf(prk_exporter, EXPORTER_RECORD_SALT, context, 8)
        alg = AES_CCM_16_128_128
        self.key = oscore_derive(secret, salt, sender_id, None, alg, "Key", KEY_LENGTH)
        common_iv = oscore_derive(secret, salt, b"", None, alg, "IV", IV_LENGTH)
        self.nonce_base = nonce_base(sender_id, common_iv)

    def following(self, sender_id: bytes, context: bytes) -> "_Keys":
        """The next generation, by EDHOC_KeyUpdate (RFC 9528, appendix H)."""
        prk_out = edhoc_kdf(self.prk_out, 11, context, HASH_LENGTH)
        return _Keys(prk_out, self.generation + 1, sender_id, context)

    def nonce(self, number: int) -> bytes:
        return (self.nonce_base ^ number).to_bytes(IV_LENGTH, "big")


class Records:
    """Both directions of a session's records. No method that raises has moved any state, but for
    the count of forgeries.

    ``sender_id``, ``recipient_id``: EDHOC's connection identifiers (the Initiator sends under C_R).
    ``context``: 32 bytes that bind session and names.
    """

    def __init__(
        self, crypto, prk_out: bytes, sender_id: bytes, recipient_id: bytes, context: bytes
    ) -> None:
        # Equal identifiers would give both directions one key, and so repeat nonces.
        if sender_id == recipient_id:
            raise AuthenticationError("both parties chose the same connection identifier")
        self._crypto = crypto
        self._context = context
        self._sender_id = sender_id
        self._recipient_id = recipient_id
        self._send = _Keys(prk_out, 0, sender_id, context)
        self._receive = _Keys(prk_out, 0, recipient_id, context)
        self._previous = self._next = None
        self._aads = {}
        self.sent = 0
        self._sent_with_keys = 0
        self.age = self._updated_at = self._followed_at = 0  # seconds
        self.received = 0
        self.forged = 0
        self._highest = -1
        self._seen = 0

    def update_keys(self) -> None:
        """Send under the next generation of keys from now on; the peer follows by itself."""
        self._send = self._send.following(self._sender_id, self._context)
        self._sent_with_keys = 0
        self._updated_at = self.age

    def elapse(self, seconds: int) -> bool:
        """Count ``seconds`` that passed; False when the keys must not be used any longer.

        Keys that nothing was sent under are not replaced: the peer could not follow.
        """
        self.age += seconds
        if self._sent_with_keys and self.age - self._updated_at >= UPDATE_SECONDS:
            self.update_keys()
        if self.age - self._followed_at >= KEEP_SECONDS:
            self._previous = None
        return self.age < MAX_SECONDS

    def _aad(self, header: bytes) -> bytes:
        # external_aad is << context, header >>; only the header changes, so the rest is kept
        prefix = self._aads.get(len(header))
        if prefix is None:
            whole = enc_structure(b"", cbor.encode(self._context) + cbor.encode(header))
            prefix = self._aads[len(header)] = whole[: -len(header)]
        return prefix + header

    def protect(self, data: bytes, kind: int = DATA) -> bytes:
        """``data`` (at most MAX_DATA bytes) as a record. LocalError at the end of the keys."""
        if len(data) > MAX_DATA:
            raise LocalError("bad-argument", "a record holds at most 8192 bytes")
        # the last number is kept for saying goodbye
        if self.sent >= MAX_RECORDS - (kind == DATA):
            raise LocalError("limit-reached", "the session has sent 2^20 records")
        if self._sent_with_keys >= UPDATE_AFTER:
            self.update_keys()
        number = self.sent
        length = 1
        while number >> (8 * length):
            length += 1
        keys = self._send
        flags = (kind & 2) << 5 | (keys.generation & 3) << 4 | (kind & 1) << 3 | length
        header = bytes([flags]) + number.to_bytes(length, "big")
        # the number is spent before it is used: an error below must not lead to a second use
        self.sent += 1
        self._sent_with_keys += 1
        return header + self._crypto.seal(
            AES_CCM_16_128_128, keys.key, keys.nonce(number), self._aad(header), data
        )

    def unprotect(self, record: bytes) -> tuple[int, bytes]:
        """``(kind, data)``. DecodeError: not a record, or one seen before. AuthenticationError:
        forged. RemoteError limit-reached: too many forgeries, the session must end.
        """
        if self.forged >= MAX_FORGED:
            raise RemoteError("limit-reached", "too many forged records")
        size = len(record)
        if not 2 + TAG_LENGTH <= size <= MAX_DATA + 6 + TAG_LENGTH:
            raise DecodeError("record: length")
        flags = record[0]
        length = flags & 7
        if (
            flags & 0x80
            or flags & 0x48 == 0x48
            or not 1 <= length <= 5
            or size < 1 + length + TAG_LENGTH
        ):
            raise DecodeError("record: header")
        header = record[: 1 + length]
        number = int.from_bytes(header[1:], "big")
        if (length > 1 and not header[1]) or number >= MAX_RECORDS:
            raise DecodeError("record: sequence number")
        behind = self._highest - number
        if behind >= WINDOW or (behind >= 0 and self._seen >> behind & 1):
            raise DecodeError("record: seen before, or too old to tell")
        try:
            keys = self._keys_for(flags >> 4 & 3)
            data = self._crypto.open(
                AES_CCM_16_128_128,
                keys.key,
                keys.nonce(number),
                self._aad(header),
                record[1 + length :],
            )
        except AuthenticationError:
            self.forged += 1
            raise
        self._accept(number, behind, keys)
        return flags >> 3 & 1 | flags >> 5 & 2, data

    def _keys_for(self, generation_bits: int) -> _Keys:
        for keys in (self._receive, self._previous, self._next):
            if keys is not None and generation_bits == keys.generation & 3:
                return keys
        # more than one ahead when all that was sent under the keys between has been lost
        keys = self._receive
        while generation_bits != keys.generation & 3:
            keys = keys.following(self._recipient_id, self._context)
        self._next = keys
        return keys

    def _accept(self, number: int, behind: int, keys: _Keys) -> None:
        # only after the tag has verified (RFC 8613, section 7.4)
        if behind >= 0:
            self._seen |= 1 << behind
        else:
            self._seen = (
                (self._seen << -behind | 1) & ((1 << WINDOW) - 1) if -behind < WINDOW else 1
            )
            self._highest = number
        self.received += 1
        if keys is self._next:
            self._previous, self._receive, self._next = self._receive, keys, None
            self._first_of_generation = number
            self._followed_at = self.age
        elif self._previous is not None and self._highest - self._first_of_generation >= WINDOW:
            # nothing under the old keys can be inside the window any more
            self._previous = None
