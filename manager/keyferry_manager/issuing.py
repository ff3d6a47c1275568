"""From a request to a certificate, whoever carried it: admitted, checked, signed, written down.

A carrier says who asks (a ChannelPeer) and what for. It gets a certificate or a Refused, and what
happened is in the log and the audit trail. Limits count over all carriers.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from keyferry_core.errors import KeyferryError
from keyferry_manager import enrolment
from keyferry_manager.authority import Authority, Identified, certificate_key, record
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.config import Config
from keyferry_manager.directory import Directory, DirectoryUnavailable
from keyferry_manager.enrolment import Pending, Refused
from keyferry_manager.hook import open_hook
from keyferry_manager.limits import RateLimit
from keyferry_manager.logs import log
from keyferry_manager.problems import AuthorityUnavailable
from keyferry_manager.store import Admission, AuditEntry, Store

_LOG = logging.getLogger("keyferry.enrolment")
# Seconds for a renewal that a link waits for, with all that it asks.
_RENEWAL = 30.0
# What audit and log call a renewal over a link.
CERTIFY = "certify"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who asks for a certificate, and what for: decided before the body is read."""

    name: str
    admission: Admission
    token: int | None = None
    channel_key: str | None = None
    # What the device presented: the fingerprint of a factory certificate, the serial of a device's.
    presented: str = ""
    # The key that the request must be for: that of a certificate which has ended.
    same_key: str | None = None

    @property
    def credential(self) -> str:
        """What entitles to this, for counting; no address looks like it."""
        return f"{self.admission} {self.name if self.token is None else self.token}"


class Issuing:
    """Certificates for devices, on a store and an authority. ``audit`` must not block."""

    def __init__(
        self,
        config: Config,
        store: Store,
        authority: Authority,
        audit: Callable[[AuditEntry], None],
        clock: Callable[[], float] = time.time,
        directory: Directory | None = None,
    ) -> None:
        self._directory = directory
        self._config = config
        self._store = store
        self._authority = authority
        self._audit = audit
        self._clock = clock
        self._by_credential = RateLimit(config.failures_per_minute, time.monotonic)
        self._issued = RateLimit(config.address_enrolments_per_hour, time.monotonic, 3600.0)
        self._hook = open_hook(*_hook_settings(config))
        self._limit = RateLimit(config.failures_per_minute, time.monotonic)

    def adopt(self, config: Config) -> None:
        """Other settings, from now on. What was counted stays counted."""
        if _hook_settings(config) != _hook_settings(self._config):
            self._hook = open_hook(*_hook_settings(config))
        self._config = config
        for limit in (self._by_credential, self._limit):
            limit.bound(config.failures_per_minute)
        self._issued.bound(config.address_enrolments_per_hour)

    # limits

    def wait(self, host: str) -> int:
        """Seconds until this address may ask again, 0 when it may now."""
        return self._limit.wait(host) or self._issued.wait(host)

    def wait_with(self, admitted: Admitted) -> int:
        """Seconds until this credential may be used again, 0 when it may now."""
        return self._by_credential.wait(admitted.credential)

    def count_pending(self, admitted: Admitted) -> None:
        """It asked, and waits for a person."""
        self._by_credential.count(admitted.credential)

    # one renewal, whole

    async def renew(self, peer: ChannelPeer, der: bytes) -> x509.Certificate:
        """A new certificate in place of the one that ``peer`` presented, for the PKCS#10 request
        ``der``: what simplereenroll does, for a carrier that is not EST. Raises Refused, whose
        ``text`` and ``hint`` may go to whoever asked."""
        wait = self.wait(peer.host)
        if wait:
            raise _slow_down(wait)
        admitted = None
        try:
            async with asyncio.timeout(_RENEWAL):
                admitted = await self.admit_renewal(peer)
                wait = self.wait_with(admitted)
                if not wait:
                    return await self.issue(admitted, der, peer)
        except KeyferryError as error:
            refused = enrolment.refusal(error)
            self.refused(CERTIFY, peer, admitted, refused)
            raise refused from None
        except AuthorityUnavailable as problem:
            raise self.unavailable(CERTIFY, peer, admitted, problem) from None
        except Exception:
            _LOG.exception("enrolment-failed", extra={"fields": {"address": peer.address}})
            refused = Refused("internal")
            self.refused(CERTIFY, peer, admitted, refused)
            raise refused from None
        raise _slow_down(wait)

    # step by step

    async def admit_first(self, peer: ChannelPeer, authorization: str | None) -> Admitted:
        """Who asks for a first certificate, by a factory certificate or by the Basic credentials
        of ``authorization``. KeyferryError."""
        identified = self._identify(peer)
        if identified is not None:
            self._check_dates(identified)
        if authorization is not None:
            user, secret = enrolment.parse_basic(authorization)
            tokens = await self._store.tokens(user)
            token = enrolment.check_token(user, secret, tokens, self._clock())
            if identified is not None and identified.name != token.device:
                detail = f"the certificate of {identified.name} with a token of {token.device}"
                raise Refused("name-not-allowed", detail)
            return Admitted(token.device, "token", token.id, _factory_key(identified))
        if identified is None:
            raise Refused("certificate-required")
        known = await self._store.factory_identity(identified.fingerprint)
        name = enrolment.check_factory(identified, known)
        return Admitted(name, "factory", None, _factory_key(identified), identified.fingerprint)

    async def admit_renewal(self, peer: ChannelPeer) -> Admitted:
        """Who asks for another certificate, by the one in use. KeyferryError."""
        identified = self._identify(peer)
        if identified is None:
            raise Refused("certificate-required", hint="the one that is to be renewed")
        known = await self._store.certificate_by_serial(identified.serial)
        name = enrolment.check_renewal(identified, known)
        key = certificate_key(identified.certificate)
        enrolment.check_revoked(await self._store.life.revoked(serial=identified.serial, key=key))
        late = self._check_dates(identified, self._config.grace_days * 86400.0)
        return Admitted(
            name, "renewal", presented=identified.serial, same_key=key if late else None
        )

    def _identify(self, peer: ChannelPeer) -> Identified | None:
        if peer.certificate_der is None:
            return None
        return self._authority.identify(peer.certificate_der)

    def _check_dates(self, identified: Identified, grace: float = 0.0) -> bool:
        issuers = self._authority.over(identified)
        return enrolment.check_dates(identified, issuers, self._clock(), grace)

    async def issue(self, admitted: Admitted, der: bytes, peer: ChannelPeer) -> x509.Certificate:
        """Check the request, have it signed and write the certificate down. KeyferryError,
        Pending, AuthorityUnavailable."""
        now = self._clock()
        name = admitted.name
        asked = enrolment.parse_request(der)
        enrolment.check_names(asked, name, self._config.realm)
        owner = await self._store.owner_of_key(asked.key)
        enrolment.check_key(asked, name, owner, admitted.channel_key, admitted.same_key)
        enrolment.check_revoked(await self._store.life.revoked(key=asked.key))
        recent = await self._store.issued_since(name, int(now) - 3600)
        if recent >= self._config.enrolments_per_hour:
            raise Refused("too-many", f"{recent} certificates within the hour")
        if admitted.admission != "renewal":
            await self._approved(admitted, asked, der, peer, now)
        again = admitted.admission == "renewal"
        certificate = await self._authority.certify(name, asked.public_key, der, now, again=again)
        written = record(certificate, admitted.admission, now)
        fields = {
            "serial": written.serial,
            "admission": admitted.admission,
            "expires": written.not_after,
        }
        if admitted.same_key is not None:
            fields["late"] = True
        if self._directory is not None:
            try:
                # First: a certificate that is in no directory opens no link.
                await self._directory.publish(written)
            except DirectoryUnavailable as error:
                raise AuthorityUnavailable(str(error)) from None
        entry = AuditEntry(now, "enrolled", "ok", name, peer.address, fields=fields)
        if not await self._store.record_certificate(
            written, token=admitted.token, presented=admitted.presented, audit=entry
        ):
            if admitted.token is not None:
                raise Refused("bad-credentials", f"token {admitted.token} was used just now")
            raise Refused("revoked", "while the certificate was being issued")
        log(_LOG, logging.INFO, "enrolled", name=name, address=peer.address, **fields)
        self._issued.count(peer.host)
        return certificate

    async def _approved(
        self,
        admitted: Admitted,
        asked: enrolment.Request,
        der: bytes,
        peer: ChannelPeer,
        now: float,
    ) -> None:
        """The operator's own conditions for a first certificate: a command, and a person."""
        name, key = admitted.name, asked.key
        config = self._config
        approved = True
        if config.admission == "approve":
            found = await self._store.approvals.of_key(name, key)
            approved = enrolment.check_approval(found, name, config.approval_seconds)
        await self._hook.ask(
            {
                "name": name,
                "realm": config.realm,
                "admission": admitted.admission,
                "address": peer.address,
                "key": key,
                "csr": base64.b64encode(der).decode(),
            }
        )
        if not approved:
            if not await self._store.approvals.ask(
                name, key, admitted.admission, peer.address, now
            ):
                raise Refused("too-many", "approvals: the queue is full, or has this key already")
            log(_LOG, logging.INFO, "approval-asked", name=name, address=peer.address, key=key)
            raise Pending(name, config.approval_seconds)

    # what did not work

    def unavailable(
        self,
        operation: str,
        peer: ChannelPeer,
        admitted: Admitted | None,
        problem: AuthorityUnavailable,
    ) -> Refused:
        """Write down that whoever signs is away, which is not the device's fault."""
        name = admitted.name if admitted else ""
        fields = {"operation": operation, "error": "authority-unavailable"}
        at, text = time.time(), str(problem)
        self._audit(AuditEntry(at, "enrolment-failed", "failed", name, peer.address, text, fields))
        log(_LOG, logging.ERROR, "enrolment-failed", name=name, detail=text, **fields)
        return Refused("internal", hint="the certificate authority does not answer: try again")

    def refused(
        self, operation: str, peer: ChannelPeer, admitted: Admitted | None, refused: Refused
    ) -> None:
        """Write a refusal down, and count it."""
        self._limit.count(peer.host)
        if admitted is not None:
            self._by_credential.count(admitted.credential)
        name = admitted.name if admitted else ""
        detail = refused.detail or refused.text
        fields = {"operation": operation, "error": refused.name}
        self._audit(
            AuditEntry(
                time.time(), "enrolment-refused", "refused", name, peer.address, detail, fields
            )
        )
        log(
            _LOG,
            logging.WARNING,
            "enrolment-refused",
            name=name,
            address=peer.address,
            detail=detail,
            **fields,
        )


def _hook_settings(config: Config) -> tuple[tuple[str, ...], str, float, str]:
    return config.hook, config.hook_url, config.hook_seconds, config.hook_ca_file


def _factory_key(identified: Identified | None) -> str | None:
    if identified is None or identified.kind != "factory":
        return None
    return certificate_key(identified.certificate)


def _slow_down(wait: int) -> Refused:
    # Neither logged nor audited: that is what makes a flood of them cheap.
    return Refused("too-many", hint=f"try again in {wait} s")
