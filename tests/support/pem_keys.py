"""Keys of test credentials, read back from their files."""

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from support.manager_kit import Credentials


def key_of(credentials: Credentials) -> ec.EllipticCurvePrivateKey:
    """The private key of a client."""
    key = load_pem_private_key(credentials.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
