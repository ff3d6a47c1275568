"""EST for registration authorities (RFC 7030): a manager asks for its devices' certificates.

Who asks is the verified TLS leaf: a certificate of the kind ``registration`` that is on record
here, not revoked, of a manager that was not removed. For which device is the common name of the
request, which the manager has decided on; everything else in a certificate is ours to decide.
"""

import base64
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import get_args

from cryptography import x509
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from keyferry_core.errors import AuthenticationError, KeyferryError
from keyferry_core.names import check_name
from keyferry_manager import enrolment
from keyferry_manager.authority import LocalAuthority, certificate_key, record
from keyferry_manager.authority.chain import general_name
from keyferry_manager.carriers.est_wire import (
    CSR_ATTRIBUTES,
    MAX_BODY,
    PREFIX,
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
from keyferry_manager.enrolment import Refused
from keyferry_manager.limits import RateLimit
from keyferry_manager.logs import log
from keyferry_manager.problems import AuthorityUnavailable
from keyferry_manager.store import AuditEntry, Reason, RegistrationAuthority, Store

_LOG = logging.getLogger("keyferry.ca")
_HOUR = 3600.0
_SERIAL = 32
REVOCATIONS = "/revocations"
# Serials in one such request, which also bounds its time.
MAX_REVOCATIONS = 100


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who asks, and what for."""

    manager: RegistrationAuthority
    request: enrolment.Request
    peer: ChannelPeer
    now: float


class Operations:
    """What a CA does for its managers. ``audit`` must not block."""

    def __init__(
        self,
        config: Config,
        store: Store,
        authority: LocalAuthority,
        audit: Callable[[AuditEntry], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._authority = authority
        self._audit = audit
        self._clock = clock
        self._failures = RateLimit(config.failures_per_minute, time.monotonic)
        self._asked = RateLimit(config.per_manager_per_hour, time.monotonic, _HOUR)

    def app(self) -> FastAPI:
        """The ASGI application. It must be served by HttpEndpoint, which says who the peer is."""
        app = FastAPI(title="Keyferry CA", docs_url=None, redoc_url=None, openapi_url=None)
        get, post = ["GET"], ["POST"]
        app.add_api_route(PREFIX + "cacerts", self.cacerts, methods=get)
        app.add_api_route(PREFIX + "csrattrs", self.csrattrs, methods=get)
        app.add_api_route(PREFIX + "factory/cacerts", self.factory_cacerts, methods=get)
        app.add_api_route(PREFIX + "simpleenroll", self.simpleenroll, methods=post)
        app.add_api_route(PREFIX + "simplereenroll", self.simplereenroll, methods=post)
        app.add_api_route(PREFIX + "factory/simpleenroll", self.factory, methods=post)
        app.add_api_route(PREFIX + "manager/simpleenroll", self.register, methods=post)
        app.add_api_route(PREFIX + "manager/simplereenroll", self.renew, methods=post)
        app.add_api_route(REVOCATIONS, self.revocations, methods=post)
        app.add_exception_handler(HTTPException, no_such_operation)
        return app

    async def cacerts(self) -> Response:
        """RFC 7030, section 4.1."""
        return certificates_response(*self._authority.cacerts())

    async def factory_cacerts(self) -> Response:
        """The CA of factory identities, which stands under no other."""
        return certificates_response(self._authority.factory)

    async def csrattrs(self) -> Response:
        """Section 4.5."""
        return encoded(base64.b64encode(CSR_ATTRIBUTES), "application/csrattrs")

    async def simpleenroll(self, request: Request) -> Response:
        """A device's first certificate, or one for another key."""
        return await self._operation("simpleenroll", request, self._device)

    async def simplereenroll(self, request: Request) -> Response:
        """A new certificate for a device that has one."""
        return await self._operation("simplereenroll", request, self._device_again)

    async def factory(self, request: Request) -> Response:
        """A factory identity for a device."""
        return await self._operation("factory", request, self._factory)

    async def renew(self, request: Request) -> Response:
        """A new certificate for the manager itself."""
        return await self._operation("renew", request, self._manager)

    async def register(self, request: Request) -> Response:
        """The manager's first certificate, for the token that ``keyferry ca add`` made."""
        peer = peer_of(request)
        wait = self._failures.wait(peer.host)
        if wait:
            return slow_down(wait)
        name = ""
        try:
            check_head(request)
            now = self._clock()
            user, secret = enrolment.parse_basic(request.headers.get("authorization") or "")
            token = enrolment.check_token(user, secret, await self._store.tokens(user), now)
            name = user
            manager = await self._registered(user)
            asked = enrolment.parse_request(decode_request(await read_body(request)))
            certificate = await self._for_manager(_Asked(manager, asked, peer, now), token.id)
        except KeyferryError as error:
            return self._refuse("register", peer, name, enrolment.refusal(error))
        except AuthorityUnavailable as problem:
            return self._unavailable("register", peer, name, problem)
        except ClientDisconnect:
            return Response(status_code=400)
        return certificates_response(certificate)

    async def revocations(self, request: Request) -> Response:
        """Serials that a manager revoked, with their reasons, as a JSON object. 204 when done."""
        peer = peer_of(request)
        wait = self._failures.wait(peer.host)
        if wait:
            return slow_down(wait)
        name = ""
        try:
            manager = await self._admit(peer)
            name = manager.name
            for serial, reason in _orders(await _json(request)):
                known = await self._store.certificate_by_serial(serial)
                if known is None:
                    raise Refused("unknown-name", f"serial {serial} was never issued")
                if await self._store.registration.introducer(known.device) != name:
                    raise Refused("access-denied", f"serial {serial} is not of its devices")
                if await self._store.life.revoked(serial=serial) is None:
                    await self._store.life.revoke(reason, serial=serial)
                    self._note("revoked-for-manager", "ok", name, peer, serial=serial)
        except KeyferryError as error:
            return self._refuse("revocations", peer, name, enrolment.refusal(error))
        except ClientDisconnect:
            return Response(status_code=400)
        return Response(status_code=204)

    # one operation, step by step

    async def _operation(
        self,
        operation: str,
        request: Request,
        issue: Callable[[_Asked], Awaitable[x509.Certificate]],
    ) -> Response:
        peer = peer_of(request)
        wait = self._failures.wait(peer.host)
        if wait:
            return slow_down(wait)
        name = ""
        try:
            manager = await self._admit(peer)
            name = manager.name
            # No address looks like it.
            wait = self._asked.wait("manager " + name)
            if wait:
                return slow_down(wait)
            self._asked.count("manager " + name)
            check_head(request)
            asked = enrolment.parse_request(decode_request(await read_body(request)))
            certificate = await issue(_Asked(manager, asked, peer, self._clock()))
        except KeyferryError as error:
            return self._refuse(operation, peer, name, enrolment.refusal(error))
        except AuthorityUnavailable as problem:
            return self._unavailable(operation, peer, name, problem)
        except ClientDisconnect:
            return Response(status_code=400)
        return certificates_response(certificate)

    async def _admit(self, peer: ChannelPeer) -> RegistrationAuthority:
        """The registered manager behind a verified leaf."""
        if peer.certificate_der is None:
            raise Refused("certificate-required", hint="the manager's own")
        found = self._authority.identify_registration(peer.certificate_der)
        known = await self._store.certificate_by_serial(found.serial)
        if known is None or known.fingerprint != found.fingerprint or known.device != found.name:
            raise AuthenticationError(f"certificate {found.serial} is not on record")
        key = certificate_key(found.certificate)
        if await self._store.life.revoked(serial=found.serial, key=key) is not None:
            # "revoked" would say that the device's key is.
            raise Refused("access-denied", f"certificate {found.serial} of {found.name} is revoked")
        # The handshake has looked at the dates; a resumed one would not have.
        enrolment.check_dates(found, self._authority.cacerts(), self._clock())
        return await self._registered(found.name)

    async def _registered(self, name: str) -> RegistrationAuthority:
        manager = await self._store.registration.get(name)
        if manager is None:
            raise Refused("access-denied", f"{name} is not registered here, or was removed")
        return manager

    async def _device(self, asked: _Asked) -> x509.Certificate:
        return await self._for_device(asked, _requested_name(asked.request))

    async def _device_again(self, asked: _Asked) -> x509.Certificate:
        name = _requested_name(asked.request)
        if not await self._store.certificates(name):
            raise Refused("name-not-allowed", f"{name} has no certificate to renew")
        return await self._for_device(asked, name)

    async def _for_device(self, asked: _Asked, name: str) -> x509.Certificate:
        store, request = self._store, asked.request
        enrolment.check_names(request, name, self._config.realm)
        if await store.registration.get(name) is not None:
            raise Refused("name-not-allowed", f"{name} is the name of a manager")
        owner = await store.owner_of_key(request.key)
        enrolment.check_key(request, name, owner, None)
        enrolment.check_revoked(await store.life.revoked(key=request.key))
        recent = await store.issued_since(name, int(asked.now) - 3600)
        if recent >= self._config.enrolments_per_hour:
            raise Refused("too-many", f"{recent} certificates for {name} within the hour")
        certificate = await self._authority.certify(name, request.public_key, b"", asked.now)
        written = record(certificate, "registration", asked.now)
        fields = {"serial": written.serial, "manager": asked.manager.name}
        entry = AuditEntry(
            asked.now, "certified", "ok", name, asked.peer.address, fields={**fields}
        )
        if not await store.registration.record(written, asked.manager.name, entry, asked.now):
            raise Refused("name-not-allowed", f"{name} is not a device of {asked.manager.name}")
        log(_LOG, logging.INFO, "certified", name=name, **fields)
        return certificate

    async def _factory(self, asked: _Asked) -> x509.Certificate:
        name = _requested_name(asked.request)
        enrolment.check_names(asked.request, name, self._config.realm)
        introducer = await self._store.registration.introducer(name)
        if introducer not in (None, asked.manager.name):
            raise Refused("name-not-allowed", f"{name} is not a device of {asked.manager.name}")
        key = asked.request.public_key
        certificate = self._authority.issue_factory(name, key, asked.now)
        manager = asked.manager.name
        self._note("factory-certified", "ok", name, asked.peer, manager=manager)
        return certificate

    async def _manager(self, asked: _Asked) -> x509.Certificate:
        return await self._for_manager(asked, None)

    async def _for_manager(self, asked: _Asked, token: int | None) -> x509.Certificate:
        manager, request = asked.manager, asked.request
        if request.common_names != (manager.name,):
            raise Refused("name-not-allowed", f"{manager.name} asked for {request.common_names}")
        realm = self._config.realm
        allowed = {general_name(text) for text in (realm, "localhost", "127.0.0.1")}
        allowed |= {general_name(text) for text in manager.hosts}
        names = request.alternative_names
        if general_name(realm) not in names or not set(names) <= allowed:
            hint = "register the manager with these hosts: keyferry ca add NAME --host HOST"
            raise Refused("name-not-allowed", f"{manager.name} asked for {names}", hint)
        owner = await self._store.owner_of_key(request.key)
        enrolment.check_key(request, manager.name, owner, None)
        enrolment.check_revoked(await self._store.life.revoked(key=request.key))
        certificate = self._authority.issue_registration(
            manager.name, names, request.public_key, asked.now
        )
        written = record(certificate, "renewal" if token is None else "token", asked.now)
        entry = AuditEntry(
            asked.now,
            "manager-certified",
            "ok",
            manager.name,
            asked.peer.address,
            fields={"serial": written.serial, "expires": written.not_after},
        )
        if not await self._store.record_certificate(written, token=token, audit=entry):
            raise Refused("bad-credentials", "the token was used just now, or the manager removed")
        return certificate

    # answers

    def _note(self, event: str, outcome: str, name: str, peer: ChannelPeer, **fields: str) -> None:
        entry = AuditEntry(self._clock(), event, outcome, name, peer.address, fields=fields)  # type: ignore[arg-type]
        self._audit(entry)

    def _refuse(self, operation: str, peer: ChannelPeer, name: str, refused: Refused) -> Response:
        if not name:  # a registered manager has a limit of its own
            self._failures.count(peer.host)
        detail = refused.detail or refused.text
        fields = {"operation": operation, "error": refused.name}
        at = self._clock()
        self._audit(
            AuditEntry(at, "certification-refused", "refused", name, peer.address, detail, fields)
        )
        log(_LOG, logging.WARNING, "certification-refused", name=name, detail=detail, **fields)
        headers = {}
        if refused.http_status == 401:
            headers["WWW-Authenticate"] = f'Basic realm="{self._config.realm}", charset="UTF-8"'
        return error_response(refused, headers)

    def _unavailable(
        self, operation: str, peer: ChannelPeer, name: str, problem: AuthorityUnavailable
    ) -> Response:
        text = str(problem)
        fields = {"operation": operation}
        at = self._clock()
        self._audit(
            AuditEntry(at, "certification-failed", "failed", name, peer.address, text, fields)
        )
        log(_LOG, logging.ERROR, "certification-failed", name=name, detail=text, **fields)
        response = error_response(
            Refused("internal", hint="the key does not answer"),
            {"Retry-After": str(problem.retry_after)},
        )
        response.status_code = 503
        return response


def _requested_name(request: enrolment.Request) -> str:
    if len(request.common_names) != 1:
        raise Refused("name-not-allowed", hint="the request must state the device's name")
    return check_name(request.common_names[0])


async def _json(request: Request) -> object:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 9 or int(length) > MAX_BODY:
        raise Refused("too-large", f"a body of {length[:20]} bytes")
    try:
        return json.loads(await read_body(request))
    except (ValueError, RecursionError):
        raise Refused("malformed", "not JSON") from None


def _orders(document: object) -> list[tuple[str, Reason]]:
    if not isinstance(document, dict) or not 0 < len(document) <= MAX_REVOCATIONS:
        raise Refused("malformed", f"not an object of 1 to {MAX_REVOCATIONS} serials")
    orders: list[tuple[str, Reason]] = []
    for serial, reason in document.items():
        if len(serial) != _SERIAL or not set(serial) <= set("0123456789abcdef"):
            raise Refused("malformed", "not a serial")
        if reason not in get_args(Reason):
            raise Refused("malformed", "not a reason")
        orders.append((serial, reason))
    return orders
