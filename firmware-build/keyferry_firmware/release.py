"""Release keys, and the signature of a build: ``build.cose``, a COSE_Sign1 over ``build.json``.

P-256 and ES256 (RFC 9053). The signature is deterministic (RFC 6979), so two builds that are equal
are signed equally. The protected header names the key (``kid``): the first 8 bytes of the SHA-256
of its point.
"""

import os
import stat
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
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
from keyferry_core.suite_cryptography import CryptographyCrypto
from keyferry_firmware import output, record
from keyferry_firmware.problems import FirmwareProblem

NAME = "build.cose"
_KID = 4  # RFC 9052, section 3.1
_LARGEST = record.LARGEST + 1024
# What the signature is for, so that it fits nothing else (Sig_structure's external_aad).
_CONTEXT = b"keyferry firmware build 1"


def new_key(path: Path) -> tuple[Path, str]:
    """A new key in ``path`` (0600), the public one in ``path``.pub: that path, and its name."""
    public = path.with_name(path.name + ".pub")
    key = ec.generate_private_key(ec.SECP256R1())
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
    return public, name_of(_point(key.public_key()))


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _kid(point: bytes) -> bytes:
    return bytes.fromhex(record.digest(point))[:8]


def name_of(point: bytes) -> str:
    """A key's name for people: 16 hexadecimal digits."""
    return _kid(point).hex()


def private_key(path: Path) -> bytes:
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
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FirmwareProblem(
            f"{path} is no release key (P-256, PEM): make one with 'keyferry firmware key new'."
        )
    return key.private_numbers().private_value.to_bytes(32, "big")


def public_key(path: Path) -> bytes:
    """The public key in a PEM file, as its point."""
    try:
        data = path.read_bytes()[:4096]
    except OSError as error:
        raise FirmwareProblem(f"{path} cannot be read: {error.strerror}.") from None
    try:
        key = load_pem_public_key(data)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FirmwareProblem(f"{path} is no public release key (P-256, PEM): name its .pub file.")
    return _point(key)


def sign(private: bytes, built: bytes) -> bytes:
    """``build.cose`` for the bytes of ``build.json``."""
    crypto = CryptographyCrypto(os.urandom)
    kid = _kid(crypto.public_key(private))
    return cose_message.sign1(crypto, private, built, _CONTEXT, {_KID: kid})


def open_signed(data: bytes, public: bytes, name: str = NAME) -> dict[str, Any]:
    """The record that was signed with this key. FirmwareProblem for any other."""
    if len(data) > _LARGEST:
        raise FirmwareProblem(f"{name} is too large to be the signature of a build.")
    try:
        payload, header, signed, signature = cose_message.parse_sign1(data, _CONTEXT)
    except KeyferryError:
        raise FirmwareProblem(
            f"{name} is no signature of a build, or is cut short; fetch it again."
        ) from None
    kid = header.get(_KID)
    if kid != _kid(public):
        by = kid.hex() if isinstance(kid, bytes) else "one without a name"
        raise FirmwareProblem(
            f"{name} is signed by key {by}, which is not yours ({name_of(public)}): do not flash "
            "it, or ask its maker for the right public key."
        )
    crypto = CryptographyCrypto(os.urandom)
    if not crypto.verify(public, signed, signature):
        raise FirmwareProblem(f"{name}: the signature is wrong; do not flash it, fetch it again.")
    return record.decode(payload, name)


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
