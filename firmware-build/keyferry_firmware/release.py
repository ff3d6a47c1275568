"""Release keys, and the signature of a build: ``build.cose``, a COSE_Sign1 over ``build.json``.

P-256 with ES256 or Ed25519 with EdDSA (RFC 9053, sections 2.1 and 2.2). Both sign deterministically
(RFC 6979, RFC 8032), so two builds that are equal are signed equally. The protected header names
the key (``kid``): the first 8 bytes of the SHA-256 of its point, 65 bytes, or of its 32 bytes.
"""

import os
import stat
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from keyferry_core import cose_message
from keyferry_core.errors import KeyferryError
from keyferry_core.iana import ES256, HEADER_ALG
from keyferry_core.suite_cryptography import CryptographyCrypto
from keyferry_firmware import output, record
from keyferry_firmware.problems import FirmwareProblem

NAME = "build.cose"
_KID = 4  # RFC 9052, section 3.1
_LARGEST = record.LARGEST + 1024
# What the signature is for, so that it fits nothing else (Sig_structure's external_aad).
_CONTEXT = b"keyferry firmware build 1"


PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | Ed25519PrivateKey
KINDS = ("p256", "ed25519")
_EDDSA = -8  # RFC 9053, section 2.2
_POINT, _EDWARDS = 65, 32


def new_key(path: Path, kind: str = "p256") -> tuple[Path, str]:
    """A new key in ``path`` (0600), the public one in ``path``.pub: that path, and its name.

    ``kind`` is one of KINDS.
    """
    public = path.with_name(path.name + ".pub")
    key: PrivateKey = (
        Ed25519PrivateKey.generate()
        if kind == "ed25519"
        else ec.generate_private_key(ec.SECP256R1())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for place in (path, public):
        if place.exists():
            raise FirmwareProblem(f"{place} exists already and is not overwritten.")
    try:
        output.write_new(path, private, 0o600)
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        output.write_new(public, pem, 0o644)
    except OSError as error:
        raise FirmwareProblem(f"{path} cannot be written: {error.strerror}.") from None
    return public, name_of(_raw(key))


def _raw(key: object) -> bytes | None:
    """What a public or private release key is known by; None when it is none."""
    if isinstance(key, ec.EllipticCurvePrivateKey | Ed25519PrivateKey):
        key = key.public_key()
    if isinstance(key, Ed25519PublicKey):
        return key.public_bytes_raw()
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return None


def _kid(public: bytes) -> bytes:
    return bytes.fromhex(record.digest(public))[:8]


def name_of(public: bytes | None) -> str:
    """A key's name for people: 16 hexadecimal digits."""
    assert public is not None
    return _kid(public).hex()


def private_key(path: Path) -> PrivateKey:
    """The private key in a file that only its owner can read."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise FirmwareProblem(f"{path} can be read by others: chmod 600 {path}")
            data = file.read(4096)
    except OSError as error:
        raise FirmwareProblem(f"{path} cannot be read: {error.strerror}.") from None
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey | Ed25519PrivateKey) or _raw(key) is None:
        raise FirmwareProblem(
            f"{path} is no release key (P-256 or Ed25519, PEM): make one with 'keyferry firmware "
            "key new'."
        )
    return key


def public_key(path: Path) -> bytes:
    """The public key in a PEM file: its point, 65 bytes, on P-256; 32 bytes of Ed25519."""
    try:
        data = path.read_bytes()[:4096]
    except OSError as error:
        raise FirmwareProblem(f"{path} cannot be read: {error.strerror}.") from None
    try:
        found = _raw(load_pem_public_key(data))
    except ValueError:
        found = None
    if found is None:
        raise FirmwareProblem(
            f"{path} is no public release key (P-256 or Ed25519, PEM): name its .pub file."
        )
    return found


class _Ed25519:
    """``sign`` as the core's messages ask for it, with an Ed25519 key."""

    def sign(self, private: Ed25519PrivateKey, message: bytes) -> bytes:
        return private.sign(message)


def sign(private: PrivateKey, built: bytes) -> bytes:
    """``build.cose`` for the bytes of ``build.json``."""
    public = _raw(private)
    assert public is not None
    header = {_KID: _kid(public)}
    if isinstance(private, Ed25519PrivateKey):
        return cose_message.sign1(_Ed25519(), private, built, _CONTEXT, header, _EDDSA)
    scalar = private.private_numbers().private_value.to_bytes(32, "big")
    return cose_message.sign1(CryptographyCrypto(os.urandom), scalar, built, _CONTEXT, header)


def open_signed(data: bytes, public: bytes, name: str = NAME) -> dict[str, Any]:
    """The record that was signed with this key. FirmwareProblem for any other."""
    if len(data) > _LARGEST:
        raise FirmwareProblem(f"{name} is too large to be the signature of a build.")
    payload, header, signed, signature = _parse(data, name)
    kid = header.get(_KID)
    if kid != _kid(public):
        by = kid.hex() if isinstance(kid, bytes) else "one without a name"
        raise FirmwareProblem(
            f"{name} is signed by key {by}, which is not yours ({name_of(public)}): do not flash "
            "it, or ask its maker for the right public key."
        )
    # The key decides which algorithm is meant; the header can only agree.
    if header.get(HEADER_ALG) != _algorithm(public) or not _verifies(public, signed, signature):
        raise FirmwareProblem(f"{name}: the signature is wrong; do not flash it, fetch it again.")
    return record.decode(payload, name)


def _parse(data: bytes, name: str) -> tuple[bytes, dict, bytes, bytes]:
    for alg in (ES256, _EDDSA):
        try:
            return cose_message.parse_sign1(data, _CONTEXT, alg)
        except KeyferryError:
            continue
    raise FirmwareProblem(f"{name} is no signature of a build, or is cut short; fetch it again.")


def _algorithm(public: bytes) -> int:
    return _EDDSA if len(public) == _EDWARDS else ES256


def _verifies(public: bytes, signed: bytes, signature: bytes) -> bool:
    if len(public) == _POINT:
        return CryptographyCrypto(os.urandom).verify(public, signed, signature)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify(place: Path, public: bytes) -> dict[str, Any]:
    """Check a build's folder, or its ``build.cose``: signature, and every file. The record."""
    path = place / NAME if place.is_dir() else place
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise FirmwareProblem(
            f"{path} cannot be read ({error.strerror}): the build is not signed, or not whole."
        ) from None
    found = open_signed(data, public, str(path))
    wrong = record.compare(found, path.parent, record.BESIDES)
    plain = path.parent / record.NAME
    if not plain.is_file() or plain.read_bytes() != record.encode(found):
        wrong.append(f"{record.NAME} is missing or is not what was signed")
    if wrong:
        raise FirmwareProblem(
            f"{path.parent} is not what was signed: {'; '.join(wrong)}. Do not flash it; build or "
            "copy it again."
        )
    return found
