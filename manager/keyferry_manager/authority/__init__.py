"""The certificate authority. ``Authority`` is what the rest of the manager knows of it.

LocalAuthority keeps its keys in files. One in a token, or behind another EST server, is another
class with these methods.
"""

from collections.abc import Iterable
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keyferry_manager.authority.local import (
    Identified,
    LocalAuthority,
    certificate_key,
    fingerprint,
    key_digest,
    record,
    serial_text,
)
from keyferry_manager.store.records import Revoked

__all__ = [
    "Authority",
    "Identified",
    "LocalAuthority",
    "certificate_key",
    "fingerprint",
    "key_digest",
    "record",
    "serial_text",
]


class Authority(Protocol):
    """Issues certificates to devices, and recognises them."""

    def cacerts(self) -> list[x509.Certificate]:
        """The certificates that a device needs: issuing CA first, root last."""
        ...

    def over(self, identified: Identified) -> list[x509.Certificate]:
        """The CA certificates over a leaf that ``identify`` knew, up to the root."""
        ...

    def issue_device(
        self, name: str, public_key: ec.EllipticCurvePublicKey, now: float | None = None
    ) -> x509.Certificate:
        """A certificate for the device ``name``."""
        ...

    def issue_responder(
        self, public_key: ec.EllipticCurvePublicKey, now: float | None = None
    ) -> x509.Certificate:
        """A certificate for a key that answers OCSP in the name of the issuing CA."""
        ...

    def sign_revocations(
        self, revoked: Iterable[Revoked], number: int, this_update: float, next_update: float
    ) -> x509.CertificateRevocationList:
        """A CRL of the issuing CA."""
        ...

    def identify(self, certificate_der: bytes) -> Identified:
        """Which CA signed a leaf, and for whom; AuthenticationError when none of ours did."""
        ...
