"""Enrolment over HTTPS: EST, RFC 7030.

What arrives is checked from cheap to dear, and who asks before what is asked: a stranger's body
is never read. Errors are one line of plain text (section 4.2.3): the error's name and a sentence.
"""

import asyncio
import base64
import binascii
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from keyferry_core.errors import KeyferryError
from keyferry_manager import enrolment
from keyferry_manager.authority import Authority, Identified, certificate_key, record
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.config import Config
from keyferry_manager.enrolment import Pending, Refused
from keyferry_manager.hook import Hook
from keyferry_manager.logs import log
from keyferry_manager.problems import AuthorityUnavailable
from keyferry_manager.store import Admission, AuditEntry, Store

_LOG = logging.getLogger("keyferry.est")
_PREFIX = "/.well-known/est/"

MAX_BODY = 16384
# Seconds for a request's body to arrive.
_BODY_TIMEOUT = 10.0
# Addresses whose failures are remembered; the one that was quiet longest is forgotten first.
_MAX_ADDRESSES = 10_000
_WINDOW = 60.0
# The table's 504 is for a peer that keeps silent; here it is whoever asks.
_STATUS = {"timeout": 408}

# CsrAttrs (section 4.5.2), for "an ECDSA key on P-256, signed with SHA-256":
# SEQUENCE { SEQUENCE { OID id-ecPublicKey, SET { OID prime256v1 } }, OID ecdsa-with-SHA256 }
CSR_ATTRIBUTES = bytes.fromhex(
    "3021301506072a8648ce3d0201310a06082a8648ce3d03010706082a8648ce3d040302"
)


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


class RateLimit:
    """Events per ``window`` seconds (a minute) and address, or other text. IPv6 counts by /64: one
    host has all of it."""

    def __init__(self, most: int, clock: Callable[[], float], window: float = _WINDOW) -> None:
        self._most = most
        self._clock = clock
        self._window = window
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, host: str) -> int:
        """Seconds until this address may try again, 0 when it may now."""
        times = self._recent(_network(host))
        if times is None or len(times) < self._most:
            return 0
        return int(times[0] + self._window - self._clock()) + 1

    def bound(self, most: int) -> None:
        """Another bound, from now on."""
        if most != self._most:
            self._most = most
            for key, times in self._failures.items():
                self._failures[key] = deque(times, maxlen=most)

    def count(self, host: str) -> None:
        """Count an event."""
        key = _network(host)
        times = self._recent(key)
        if times is None:
            times = self._failures[key] = deque(maxlen=self._most)
        times.append(self._clock())
        self._failures.move_to_end(key)
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def _recent(self, key: str) -> deque[float] | None:
        times = self._failures.get(key)
        if times is None:
            return None
        while times and times[0] + self._window <= self._clock():
            times.popleft()
        if not times:
            del self._failures[key]
            return None
        return times


class Est:
    """The operations of EST on a store and an authority. ``audit`` must not block."""

    def __init__(
        self,
        config: Config,
        store: Store,
        authority: Authority,
        audit: Callable[[AuditEntry], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._authority = authority
        self._audit = audit
        self._clock = clock
        self._by_credential = RateLimit(config.failures_per_minute, time.monotonic)
        self._issued = RateLimit(config.address_enrolments_per_hour, time.monotonic, 3600.0)
        self._hook = Hook(config.hook, config.hook_seconds)
        self._limit = RateLimit(config.failures_per_minute, time.monotonic)
        cacerts = pkcs7.serialize_certificates(authority.cacerts(), Encoding.DER)
        self._cacerts = base64.b64encode(cacerts)

    def adopt(self, config: Config) -> None:
        """Other settings, from now on. What was counted stays counted."""
        if (config.hook, config.hook_seconds) != (self._config.hook, self._config.hook_seconds):
            self._hook = Hook(config.hook, config.hook_seconds)
        self._config = config
        for limit in (self._by_credential, self._limit):
            limit.bound(config.failures_per_minute)
        self._issued.bound(config.address_enrolments_per_hour)

    def app(self) -> FastAPI:
        """The ASGI application. It must be served by HttpEndpoint, which says who the peer is."""
        app = FastAPI(title="Keyferry EST", docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route(_PREFIX + "cacerts", self.cacerts, methods=["GET"])
        app.add_api_route(_PREFIX + "csrattrs", self.csrattrs, methods=["GET"])
        app.add_api_route(_PREFIX + "simpleenroll", self.simpleenroll, methods=["POST"])
        app.add_api_route(_PREFIX + "simplereenroll", self.simplereenroll, methods=["POST"])
        for operation in ("serverkeygen", "fullcmc"):
            app.add_api_route(_PREFIX + operation, self.not_offered, methods=["GET", "POST"])
        app.add_exception_handler(HTTPException, _no_such_operation)
        return app

    async def cacerts(self) -> Response:
        """Section 4.1: what a device needs to trust this manager and its peers."""
        return _encoded(self._cacerts, "application/pkcs7-mime; smime-type=certs-only")

    async def csrattrs(self) -> Response:
        """Section 4.5: what a request should be."""
        return _encoded(base64.b64encode(CSR_ATTRIBUTES), "application/csrattrs")

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
            operation, _peer(request), None, Refused("not-offered", operation, hint)
        )

    # one operation, step by step

    async def _operation(self, operation: str, request: Request) -> Response:
        peer = _peer(request)
        wait = self._limit.wait(peer.host) or self._issued.wait(peer.host)
        if wait:
            return _slow_down(wait)
        admitted = None
        try:
            _check_head(request)
            if operation == "simpleenroll":
                admitted = await self._admit_first(peer, request.headers.get("authorization"))
            else:
                admitted = await self._admit_renewal(peer)
            wait = self._by_credential.wait(admitted.credential)
            if wait:
                return _slow_down(wait)
            der = _decode(await _body(request))
            certificate = await self._issue(admitted, der, peer)
        except Pending as pending:
            if admitted is not None:
                self._by_credential.count(admitted.credential)
            return _later(pending)
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
        body = base64.b64encode(pkcs7.serialize_certificates([certificate], Encoding.DER))
        return _encoded(body, "application/pkcs7-mime; smime-type=certs-only")

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
        response = _error(refused, {"Retry-After": str(problem.retry_after)})
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
        return _error(refused, headers)


def _peer(request: Request) -> ChannelPeer:
    peer = request.scope["extensions"]["keyferry"]["peer"]
    assert isinstance(peer, ChannelPeer)
    return peer


def _factory_key(identified: Identified | None) -> str | None:
    if identified is None or identified.kind != "factory":
        return None
    return certificate_key(identified.certificate)


def _check_head(request: Request) -> None:
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 9 or int(length) > MAX_BODY:
        raise Refused("too-large", f"a body of {length[:20]} bytes")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/pkcs10":
        raise Refused(
            "unsupported", f"content type {kind!r}", "the content type must be application/pkcs10"
        )


async def _body(request: Request) -> bytes:
    """The body, of MAX_BODY bytes at most: what is beyond is never held."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise Refused("too-large", "the body goes on beyond the limit")
    except TimeoutError:
        raise Refused("timeout", "the body did not arrive in time") from None
    return bytes(body)


def _decode(body: bytes) -> bytes:
    # Section 4 has base64 with or without line breaks, and clients send both.
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        hint = "the body must be base64 of a DER request, without PEM's first and last line"
        raise Refused("malformed", "the body is not base64", hint) from None


def _encoded(body: bytes, media_type: str) -> Response:
    # No line breaks: some clients fail on them.
    headers = {"Content-Transfer-Encoding": "base64", "Content-Type": media_type}
    return Response(body, headers=headers)


def _error(refused: Refused, headers: dict[str, str]) -> Response:
    sentence = f"{refused.name}: {refused.text}"
    if refused.hint:
        sentence += f" ({refused.hint})"
    # The request's body may still be on its way. It is not read.
    headers = {**headers, "Connection": "close", "Content-Type": "text/plain; charset=utf-8"}
    status = _STATUS.get(refused.name, refused.http_status)
    return Response(sentence + "\n", status, headers)


def _slow_down(wait: int) -> Response:
    # Neither logged nor audited: that is what makes a flood of them cheap.
    refused = Refused("too-many", hint=f"try again in {wait} s")
    return _error(refused, {"Retry-After": str(wait)})


def _later(pending: Pending) -> Response:
    """Section 4.2.3: the same request, sent again later, may get its certificate."""
    headers = {"Retry-After": str(pending.retry_after), "Content-Type": "text/plain; charset=utf-8"}
    return Response("approval-pending: ask again later with the same key\n", 202, headers)


async def _no_such_operation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refused = Refused("unsupported", hint=error.detail)
    response = _error(refused, dict(error.headers or {}))
    response.status_code = error.status_code
    return response


def _network(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return address.exploded[:19]  # the first four groups of four digits
    return str(address)
