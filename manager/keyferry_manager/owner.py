"""The owner's key, and what it signs, on a machine that is no manager's.

A key on P-256, in PEM (PKCS #8) that only its owner can read. Its public key goes onto each device
as ``owner.pub``, 65 bytes; what it says of a device's key is an endorsement (keyferry_core.owner).
"""

import hashlib
import os
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from keyferry_core import owner
from keyferry_core import x509 as core_x509
from keyferry_core.errors import DecodeError
from keyferry_core.names import parse_identity
from keyferry_core.suite_cryptography import CryptographyCrypto
from keyferry_manager.authority.files import PRIVATE, write_new
from keyferry_manager.problems import Problem

_LARGEST = 8192


def new_key(path: Path) -> tuple[Path, str]:
    """A new key in ``path`` (0600), the public one in ``path``.pub: that path, and its name."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = path.with_name(path.name + ".pub")
    for place in (path, public):
        if place.exists():
            raise Problem(f"{place} exists already and is not overwritten.")
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_new(path, private, PRIVATE)
        write_new(public, pem)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror}.") from None
    return public, name_of(_point(key.public_key()))


def name_of(point: bytes) -> str:
    """A key's name for people: the start of its SHA-256, 16 hexadecimal digits."""
    return hashlib.sha256(point).hexdigest()[:16]


def public_key(path: Path) -> bytes:
    """The owner's public key in a PEM file, as devices have it: 65 bytes."""
    try:
        key = load_pem_public_key(_read(path))
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Problem(f"{path} is no owner's public key (P-256, PEM): name its .pub file.")
    return _point(key)


def endorse(certificate: Path, key: Path, until: int) -> tuple[bytes, str, str]:
    """(endorsement, device's name, name of its key) for a device's certificate in PEM or DER.

    ``until``: Unix seconds, 0 for as long as the key is in use.
    """
    private = _private_key(key)
    data = _read(certificate)
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            data = x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
        parsed = core_x509.parse(data)
        if len(parsed.uris) != 1:
            raise DecodeError("x509: not one identity")
        name, realm = parse_identity(parsed.uris[0])
    except (ValueError, DecodeError):
        raise Problem(
            f"{certificate} is no certificate of a device: 'keyferry certificate export NAME' "
            "writes one."
        ) from None
    scalar = private.private_numbers().private_value.to_bytes(32, "big")
    crypto = CryptographyCrypto(os.urandom)
    signed = owner.endorse(crypto, scalar, realm, name, parsed.public_key, until)
    return signed, f"{name}@{realm}", name_of(parsed.public_key)


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise Problem(f"{path} can be read by others: chmod 600 {path}")
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}.") from None
    try:
        key = load_pem_private_key(_read(path), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Problem(
            f"{path} is no owner's key (P-256, PEM): 'keyferry owner new FILE' makes one."
        )
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}.") from None


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
