"""From a file to questions: find out the format, and let its module read it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keyferry_hil.vectors import cbor_appendix, cose, edhoc, oscore, primitives, wycheproof
from keyferry_hil.vectors.fields import Node
from keyferry_hil.vectors.model import VectorFile, VectorFileError

MAX_BYTES = 64 << 20

# What is known, what it looks like, who reads it. The first that recognises a file has it.
_FORMATS: list[tuple[str, Callable[[Node], bool], Callable[[Node, str], VectorFile]]] = [
    ("Wycheproof v1 (ECDH, ECDSA, AES-CCM, HKDF, HMAC)", wycheproof.knows, wycheproof.parse),
    ("EDHOC interop traces", edhoc.knows_interop, edhoc.parse_interop),
    ("EDHOC traces of RFC 9529, valid and invalid", edhoc.knows_rfc9529, edhoc.parse_rfc9529),
    ("COSE working group examples", cose.knows, cose.parse),
    ("OSCORE, RFC 8613 appendix C", oscore.knows, oscore.parse),
    ("RFC 6979 signatures", primitives.knows_rfc6979, primitives.parse_rfc6979),
    ("AES-CCM of RFC 3610 and NIST", primitives.knows_aes_ccm, primitives.parse_aes_ccm),
    ("CBOR, RFC 8949 appendix A", cbor_appendix.knows, cbor_appendix.parse),
]
NAMES = [name for name, _, _ in _FORMATS]


def load(path: Path) -> VectorFile:
    """Read one file. VectorFileError, whose text does not repeat the file's name."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise VectorFileError(f"cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise VectorFileError(f"is larger than {MAX_BYTES >> 20} MiB")
    return parse(content, str(path))


def parse(content: bytes, name: str) -> VectorFile:
    """Understand a file's content."""
    document = _json(content)
    if isinstance(document, list):
        # cbor/test-vectors publishes a bare list of tests.
        document = {"tests": document}
    if not isinstance(document, dict):
        raise _unknown()
    node = Node(document, "")
    for _, knows, read in _FORMATS:
        if knows(node):
            try:
                found = read(node, name)
            except VectorFileError as error:
                raise VectorFileError(f"is malformed: {error}") from None
            if not found.cases:
                raise VectorFileError("holds no tests")
            return found
    raise _unknown()


def _json(content: bytes) -> Any:
    try:
        document = json.loads(content.decode("utf-8-sig"))
        # Half of a surrogate pair could neither be encoded nor printed.
        json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise VectorFileError("is nested too deeply to be test vectors") from None
    except UnicodeDecodeError:
        raise VectorFileError("is not JSON: not even UTF-8 text") from None
    except UnicodeEncodeError:
        raise VectorFileError("is malformed: half of a surrogate pair in a text") from None
    except ValueError as error:
        raise VectorFileError(f"is not JSON: {error}") from None
    return document


def _unknown() -> VectorFileError:
    return VectorFileError("is of a format that is not known here")
