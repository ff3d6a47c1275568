"""Certificates: strict enough that ``cryptography`` reads the same, and none can be forged."""

from fuzz.kit import attempt, crypto
from keyferry_core import names, x509
from keyferry_core._compat import CPYTHON
from keyferry_core.errors import AuthenticationError
from support.portable import vectors

second_opinion = None
if CPYTHON:
    from fuzz import second_opinion

_CRYPTO = crypto(b"x509")
_VECTORS = vectors("identities")
_REALM = _VECTORS["realm"]
_NOW = _VECTORS["now"]
_ISSUER = x509.parse(bytes.fromhex(_VECTORS["issuer"]))
# What the issuer has signed: whatever else verifies is a forgery.
_GENUINE = [
    x509.parse(bytes.fromhex(device["certificate"])).tbs for device in _VECTORS["devices"].values()
]
del _VECTORS  # a board's heap is small


def decode(data: bytes) -> tuple:
    return attempt(x509.parse, data)


def one_input(data: bytes) -> None:
    good, found = decode(data)
    if not good:
        return
    assert len(data) <= x509.MAX_CERTIFICATE
    assert found.raw == data
    assert found.tbs in data
    assert len(found.public_key) == 65
    assert len(found.signature) == 64
    assert 0 < found.serial < 1 << 160
    assert found.not_before <= found.not_after
    assert len(found.uris) <= x509.MAX_NAMES
    if second_opinion:
        second_opinion.certificate(data, found)
    believed, name = attempt(x509.check_device, found, _REALM, _NOW)
    if believed:
        assert found.uris == (names.identity(name, _REALM),)
        assert not found.is_ca
        assert not found.unknown_critical
    else:
        assert isinstance(name, AuthenticationError)
    verified, error = attempt(x509.verify, _CRYPTO, found, _ISSUER)
    if verified:
        assert found.tbs in _GENUINE
    else:
        assert isinstance(error, AuthenticationError)


def seeds() -> list:
    cases = vectors("certificates")
    found = [bytes.fromhex(case["der"]) for case in cases["certificates"].values()]
    found += [bytes.fromhex(text) for text in cases["refused"].values()]
    cases = vectors("identities")
    found += [bytes.fromhex(device["certificate"]) for device in cases["devices"].values()]
    return found
