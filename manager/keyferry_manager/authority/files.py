"""Files of keys and certificates: private ones are never readable by others, not for a moment."""

import os
import secrets
import stat
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keyferry_manager.problems import AuthorityProblem

# What cryptography raises for bytes that it cannot read.
UNREADABLE = (
    ValueError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
PRIVATE = 0o600
PUBLIC = 0o644


def write_new(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Make a file that must not exist yet, with ``mode`` from its first moment, and sync it."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the umask may have taken bits away
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def replace(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Write a file so that at any time the old one or the new one is there, whole."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_new(beside, data, mode)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and new files in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    """Certificates in PEM, one after the other."""
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates)


def load_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise AuthorityProblem(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise AuthorityProblem(f"{path} holds no certificate: restore it from a backup.") from None


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of a PEM file (certificates may stand beside it) that only its owner reads."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read()
    except OSError as error:
        raise AuthorityProblem(f"{path} cannot be read: {error.strerror}.") from None
    if mode & 0o077:
        raise AuthorityProblem(
            f"{path} can be read by others (mode {mode:03o}): run 'chmod 600 {path}', and think "
            "about who may have read it."
        )
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        raise AuthorityProblem(
            f"{path} holds no unencrypted private key: restore it from a backup."
        ) from None
    if not is_p256(key):
        raise AuthorityProblem(f"{path}: the key must be ECDSA on P-256.")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def is_p256(key: object) -> bool:
    """Whether a private or public key is ECDSA on P-256."""
    kinds = (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)
    return isinstance(key, kinds) and isinstance(key.curve, ec.SECP256R1)
