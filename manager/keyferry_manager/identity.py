"""Who is at the other end of a link: the name in the verified leaf certificate, and nothing else.

The TLS listener has verified the chain. Here the leaf must be one that our issuing CA signed
itself, of the shape that we issue, within its dates, and in the store as issued to that name.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from sqlalchemy.exc import SQLAlchemyError

from keyferry_core.errors import AuthenticationError
from keyferry_manager.authority import Authority, certificate_key, serial_text
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.logs import log
from keyferry_manager.store.records import Certificate, Revoked

_LOG = logging.getLogger("keyferry.identity")
# Seconds that the database may take before a device is told to come back later.
_STORE_TIMEOUT = 10.0


class IdentityRefused(Exception):
    """This peer gets no link. ``reason`` is a kebab-case word for log and audit.

    ``temporary`` says that it is our fault and the device may try again.
    """

    def __init__(self, reason: str, name: str, detail: str, temporary: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.name = name
        self.detail = detail
        self.temporary = temporary


@dataclass(frozen=True, slots=True)
class Identity:
    """A device, as its certificate has it. The certificate ends at ``expires_at``, Unix time."""

    name: str
    expires_at: float


class RevokedSet:
    """Serials and keys that are revoked, in memory: for what must not wait for a database."""

    def __init__(self, items: Iterable[Revoked] = ()) -> None:
        items = list(items)
        self._serials = frozenset(item.serial for item in items)
        self._keys = frozenset(item.key for item in items)

    def __len__(self) -> int:
        return len(self._serials)

    def covers(self, certificate: x509.Certificate) -> bool:
        """Whether this certificate is revoked, by its serial or its key."""
        return (
            serial_text(certificate) in self._serials or certificate_key(certificate) in self._keys
        )


class RevocationSource(Protocol):
    """The part of the store that knows what is revoked."""

    async def revoked(self, *, serial: str = "", key: str = "") -> Revoked | None:
        """Why this certificate or this key is not to be believed; None when it is."""
        ...


class Certificates(Protocol):
    """The part of the directory that is needed here."""

    async def certificate_by_serial(self, serial: str) -> Certificate | None:
        """The certificate with this serial, if we issued it."""
        ...


class CertificateSource(Certificates, Protocol):
    """The part of the store that is needed here."""

    @property
    def life(self) -> RevocationSource:
        """What is revoked."""
        ...


class Identifier:
    """Turns a ChannelPeer into an Identity."""

    def __init__(
        self,
        authority: Authority,
        store: CertificateSource,
        now: Callable[[], float] = time.time,
        directory: Certificates | None = None,
    ) -> None:
        self._authority = authority
        self._store = store
        # Which certificates were issued: the store says, unless a directory of its own does.
        self._directory = directory or store
        self._now = now
        # As of the last look at the database.
        self.revoked = RevokedSet()

    async def identify(self, peer: ChannelPeer) -> Identity:
        """The device behind ``peer``. Raises IdentityRefused."""
        if peer.certificate_der is None:
            raise IdentityRefused("no-certificate", "", "no certificate was presented")
        try:
            found = self._authority.identify(peer.certificate_der)
        except AuthenticationError as error:
            raise IdentityRefused("unknown-certificate", "", error.detail) from None
        if found.kind != "device":
            raise IdentityRefused(
                "factory-certificate", found.name, "a factory certificate is for enrolment only"
            )
        # The handshake checked the dates, but a resumed TLS session would not have.
        starts_at = found.certificate.not_valid_before_utc.timestamp()
        expires_at = found.certificate.not_valid_after_utc.timestamp()
        if not starts_at <= self._now() < expires_at:
            raise IdentityRefused("certificate-expired", found.name, "outside its dates")
        try:
            async with asyncio.timeout(_STORE_TIMEOUT):
                record = await self._directory.certificate_by_serial(found.serial)
                key = certificate_key(found.certificate)
                revoked = await self._store.life.revoked(serial=found.serial, key=key)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log(_LOG, logging.ERROR, "store-unavailable", error=type(error).__name__)
            raise IdentityRefused("store-unavailable", found.name, "", True) from None
        if record is None or record.fingerprint != found.fingerprint:
            raise IdentityRefused(
                "unknown-certificate", found.name, "not in the store as issued by this manager"
            )
        if record.device != found.name:
            raise IdentityRefused("unknown-certificate", found.name, f"issued to {record.device}")
        if revoked is not None:
            detail = f"serial {found.serial}, {revoked.reason}"
            raise IdentityRefused("certificate-revoked", found.name, detail)
        if self.revoked.covers(found.certificate):  # while the database was answering
            detail = f"serial {found.serial}, just now"
            raise IdentityRefused("certificate-revoked", found.name, detail)
        return Identity(found.name, expires_at)
