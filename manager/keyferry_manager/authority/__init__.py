"""The certificate authority. ``Authority`` is what the rest of the manager knows of it.

LocalAuthority signs in this process, with a key in a file or in a token; RemoteAuthority asks
another EST server, and its home holds no CA key.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keyferry_manager.authority.chain import (
    Identified,
    certificate_key,
    fingerprint,
    key_digest,
    record,
    serial_text,
)
from keyferry_manager.authority.generations import State
from keyferry_manager.authority.local import LocalAuthority
from keyferry_manager.config import Config
from keyferry_manager.store.records import Revoked

if TYPE_CHECKING:
    from keyferry_manager.authority.remote import RemoteAuthority

__all__ = [
    "Authority",
    "Identified",
    "LocalAuthority",
    "Signer",
    "Signers",
    "certificate_key",
    "fingerprint",
    "key_digest",
    "open_authority",
    "record",
    "serial_text",
]


def open_authority(config: Config) -> "LocalAuthority | RemoteAuthority":
    """The authority that the settings name. AuthorityProblem says what is amiss."""
    if config.authority != "est":
        return LocalAuthority(config)
    from keyferry_manager.authority.remote import RemoteAuthority  # its HTTP client loads slowly

    return RemoteAuthority(config)


class Authority(Protocol):
    """Issues certificates to devices, and recognises them."""

    server_file: Path
    state: State
    root: x509.Certificate
    issuing: x509.Certificate

    def cacerts(self) -> list[x509.Certificate]:
        """The certificates that a device needs: the issuing CA that signs now, its root, and while
        the CA rolls over the others."""
        ...

    def cacerts_digest(self) -> bytes:
        """8 bytes that stand for ``cacerts``."""
        ...

    def reread(self) -> bool:
        """Take over another phase of a roll-over. False when there is none."""
        ...

    def over(self, identified: Identified) -> list[x509.Certificate]:
        """The CA certificates over a leaf that ``identify`` knew, up to the root."""
        ...

    def identify(self, certificate_der: bytes) -> Identified:
        """Which CA signed a leaf, and for whom; AuthenticationError when none of ours did."""
        ...

    def trusted_by_links(self) -> list[bytes]:
        """DER of the CAs for the MQTT listener."""
        ...

    def trusted_by_enrolment(self) -> list[bytes]:
        """DER of the CAs for the EST listener."""
        ...

    async def certify(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        request: bytes,
        now: float | None = None,
        *,
        again: bool = False,
    ) -> x509.Certificate:
        """A certificate for the device ``name``. ``request`` is its PKCS#10 request, whose key is
        ``public_key``; ``again`` says that it renews one."""
        ...

    async def keep_server(self) -> str:
        """Renew the manager's own certificate when it is due; why, or empty."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...


class Signer(Protocol):
    """What only an authority with a key can do: say, signed, what is revoked. One for each
    generation of the CA; ``name`` is the generation's, ``issuing`` its issuing CA."""

    name: str
    issuing: x509.Certificate

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


class Signers(Protocol):
    """An authority with keys of its own."""

    def signers(self) -> Sequence[Signer]:
        """Who signs now, and during a roll-over the old issuing CA behind it."""
        ...
