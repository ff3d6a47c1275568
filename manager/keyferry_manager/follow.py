"""Keeps what is revoked here and at a CA that stands apart the same, in both directions.

The CA's list says what it knows, so nothing has to be remembered between two looks: whatever one
side lacks is told to it, also after either was away.
"""

import logging
import time
from typing import cast, get_args

from cryptography import x509

from keyferry_manager.audit import AuditTrail
from keyferry_manager.authority import certificate_key
from keyferry_manager.authority.remote import RemoteAuthority
from keyferry_manager.logs import log
from keyferry_manager.problems import AuthorityUnavailable
from keyferry_manager.store import Reason, Store

_LOG = logging.getLogger("keyferry.authority")
# Seconds between two looks at the CA's list when nothing changed here, and after a failure.
_PERIOD = 15.0
_RETRY = 3.0


class Follower:
    """Looks at the CA's list now and then, and at once when something changed here."""

    def __init__(self, store: Store, authority: RemoteAuthority, trail: AuditTrail) -> None:
        self._store = store
        self._authority = authority
        self._trail = trail
        self._version = -1
        self._next = 0.0
        self._away = False

    async def tick(self, version: int) -> None:
        """Compare, if it is time. ``version``: the store's ``data_version``, as last seen."""
        now = time.monotonic()
        if self._away and now < self._next:
            return
        if version == self._version and now < self._next:
            return
        try:
            await self._compare()
        except AuthorityUnavailable as problem:
            if not self._away:
                log(_LOG, logging.ERROR, "ca-unavailable", detail=str(problem))
            self._away = True
            self._next = now + _RETRY
            return
        if self._away:
            log(_LOG, logging.INFO, "ca-available")
        self._away = False
        self._version = version
        self._next = now + _PERIOD

    async def _compare(self) -> None:
        crl = await self._authority.list_now()
        listed: dict[str, Reason] = {f"{entry.serial_number:032x}": _reason(entry) for entry in crl}
        revoked = await self._store.life.all_revoked(time.time())
        ours = {item.serial: item.reason for item in revoked if item.serial not in listed}
        if ours:
            await self._authority.revoke(ours)
            for serial, reason in ours.items():
                self._trail.ok("revocation-sent", "", "", reason, serial=serial)
            await self._authority.list_now()
        known = {item.serial for item in revoked}
        for serial, reason in listed.items():
            if serial in known:
                continue
            found = await self._store.certificate_by_serial(serial)
            if found is None:
                continue  # of another manager, or ended long ago
            key = certificate_key(x509.load_der_x509_certificate(found.der))
            if await self._store.life.revoked(serial=serial, key=key) is None:
                await self._store.life.revoke(reason, serial=serial)
                self._trail.ok("revoked-by-ca", found.device, "", reason, serial=serial)


def _reason(entry: x509.RevokedCertificate) -> Reason:
    try:
        value = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except (x509.ExtensionNotFound, ValueError):
        return "unspecified"
    return cast(Reason, value) if value in get_args(Reason) else "unspecified"
