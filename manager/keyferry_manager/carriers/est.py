"""Enrolment over HTTPS: EST, RFC 7030.

What arrives is checked from cheap to dear, and who asks before what is asked: a stranger's body
is never read. Errors are one line of plain text (section 4.2.3): the error's name and a sentence.
"""

import base64
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from keyferry_core.errors import KeyferryError
from keyferry_manager import enrolment
from keyferry_manager.authority import Authority, Identified, certificate_key, record
from keyferry_manager.carriers.est_wire import (
    CSR_ATTRIBUTES,
    PREFIX,
    RateLimit,
    ask_later,
    certificates_response,
    check_head,
    decode_request,
    encoded,
    error_response,
    no_such_operation,
    peer_of,
    read_body,
    slow_down,
)
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.config import Config
from keyferry_manager.directory import Directory, DirectoryUnavailable
from keyferry_manager.enrolment import Pending, Refused
from keyferry_manager.hook import open_hook
from keyferry_manager.logs import log
from keyferry_manager.problems import AuthorityUnavailable
from keyferry_manager.store import Admission, AuditEntry, Store

_LOG = logging.getLogger("keyferry.est")


@dataclass(frozen=True, slots=True)
class _Admitted:
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


class Est:
    """The operations of EST on a store and an authority. ``audit`` must not block."""

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

    def app(self) -> FastAPI:
        """The ASGI application. It must be served by HttpEndpoint, which says who the peer is."""
        app = FastAPI(title="Keyferry EST", docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route(PREFIX + "cacerts", self.cacerts, methods=["GET"])
        app.add_api_route(PREFIX + "csrattrs", self.csrattrs, methods=["GET"])
        app.add_api_route(PREFIX + "simpleenroll", self.simpleenroll, methods=["POST"])
        app.add_api_route(PREFIX + "simplereenroll", self.simplereenroll, methods=["POST"])
        for operation in ("serverkeygen", "fullcmc"):
            app.add_api_route(PREFIX + operation, self.not_offered, methods=["GET", "POST"])
        app.add_exception_handler(HTTPException, no_such_operation)
        return app

    async def cacerts(self) -> Response:
        """Section 4.1: what a device needs to trust this manager and its peers."""
        return certificates_response(*self._authority.cacerts())

    async def csrattrs(self) -> Response:
        """Section 4.5: what a request should be."""
        return encoded(base64.b64encode(CSR_ATTRIBUTES), "application/csrattrs")

    async def simpleenroll(self, request: Request) -> Response:
        """Section 4.2.1: a first certificate, for a factory certificate or a one-time token."""
        return await self._operation("simpleenroll", request)

    async def simplereenroll(self, request: Request) -> Response:
        """Section 4.2.2: a new certificate, for the one that is in use."""
        return await self._operation("simplereenroll", request)

    async def not_offered(self, request: Request) -> Response:
        """Sections 4.3 and 4.4. Keys made by a server are known to it: never here."""
        operation = request.url.path.rpartition("/")[2]
        hint = "make the key on the device" if operation == "serverkeygen" else ""
        return self._refuse(
            operation, peer_of(request), None, Refused("not-offered", operation, hint)
        )

    # one operation, step by step

    async def _operation(self, operation: str, request: Request) -> Response:
        peer = peer_of(request)
        wait = self._limit.wait(peer.host) or self._issued.wait(peer.host)
        if wait:
            return slow_down(wait)
        admitted = None
        try:
            check_head(request)
            if operation == "simpleenroll":
                admitted = await self._admit_first(peer, request.headers.get("authorization"))
            else:
                admitted = await self._admit_renewal(peer)
            wait = self._by_credential.wait(admitted.credential)
            if wait:
                return slow_down(wait)
            der = decode_request(await read_body(request))
            certificate = await self._issue(admitted, der, peer)
        except Pending as pending:
            if admitted is not None:
                self._by_credential.count(admitted.credential)
            return ask_later(pending)
        except KeyferryError as error:
            return self._refuse(operation, peer, admitted, enrolment.refusal(error))
        except AuthorityUnavailable as problem:
            return self._unavailable(operation, peer, admitted, problem)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except Exception:
            _LOG.exception("enrolment-failed", extra={"fields": {"address": peer.address}})
            return self._refuse(operation, peer, admitted, Refused("internal"))
        self._issued.count(peer.host)
        return certificates_response(certificate)

    async def _admit_first(self, peer: ChannelPeer, authorization: str | None) -> _Admitted:
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
            return _Admitted(token.device, "token", token.id, _factory_key(identified))
        if identified is None:
            raise Refused("certificate-required")
        known = await self._store.factory_identity(identified.fingerprint)
        name = enrolment.check_factory(identified, known)
        return _Admitted(name, "factory", None, _factory_key(identified), identified.fingerprint)

    async def _admit_renewal(self, peer: ChannelPeer) -> _Admitted:
        identified = self._identify(peer)
        if identified is None:
            raise Refused("certificate-required", hint="the one that is to be renewed")
        known = await self._store.certificate_by_serial(identified.serial)
        name = enrolment.check_renewal(identified, known)
        key = certificate_key(identified.certificate)
        enrolment.check_revoked(await self._store.life.revoked(serial=identified.serial, key=key))
        late = self._check_dates(identified, self._config.grace_days * 86400.0)
        return _Admitted(
            name, "renewal", presented=identified.serial, same_key=key if late else None
        )

    def _identify(self, peer: ChannelPeer) -> Identified | None:
        if peer.certificate_der is None:
            return None
        return self._authority.identify(peer.certificate_der)

    def _check_dates(self, identified: Identified, grace: float = 0.0) -> bool:
        issuers = self._authority.over(identified)
        return enrolment.check_dates(identified, issuers, self._clock(), grace)

    async def _issue(self, admitted: _Admitted, der: bytes, peer: ChannelPeer) -> x509.Certificate:
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
        return certificate

    async def _approved(
        self,
        admitted: _Admitted,
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

    def _unavailable(
        self,
        operation: str,
        peer: ChannelPeer,
        admitted: _Admitted | None,
        problem: AuthorityUnavailable,
    ) -> Response:
        """Whoever signs is away. It is not the device's fault: 503, and when to come again."""
        name = admitted.name if admitted else ""
        fields = {"operation": operation, "error": "authority-unavailable"}
        at, text = time.time(), str(problem)
        self._audit(AuditEntry(at, "enrolment-failed", "failed", name, peer.address, text, fields))
        log(_LOG, logging.ERROR, "enrolment-failed", name=name, detail=text, **fields)
        refused = Refused("internal", hint="the certificate authority does not answer: try again")
        response = error_response(refused, {"Retry-After": str(problem.retry_after)})
        response.status_code = 503
        return response

    def _refuse(
        self, operation: str, peer: ChannelPeer, admitted: _Admitted | None, refused: Refused
    ) -> Response:
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
        headers = {}
        if refused.http_status == 401:
            realm = self._config.realm
            headers["WWW-Authenticate"] = f'Basic realm="{realm}", charset="UTF-8"'
        return error_response(refused, headers)


def _hook_settings(config: Config) -> tuple[tuple[str, ...], str, float, str]:
    return config.hook, config.hook_url, config.hook_seconds, config.hook_ca_file


def _factory_key(identified: Identified | None) -> str | None:
    if identified is None or identified.kind != "factory":
        return None
    return certificate_key(identified.certificate)
