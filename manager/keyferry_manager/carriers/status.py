"""``GET /crl`` and ``/ocsp``: anybody may ask which certificates are revoked, with no certificate.

The database is the truth, asked for each answer; a list is signed anew only when it says something
else, or when half of its life is over.
"""

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import SQLAlchemyError

from keyferry_manager.authority import Signer, Signers
from keyferry_manager.authority.status import Question, Responder, refusal
from keyferry_manager.config import Config
from keyferry_manager.logs import log
from keyferry_manager.store import Revoked, Store

_LOG = logging.getLogger("keyferry.status")
_HOUR = 3600.0
# Bytes of an OCSP request: one with a nonce is about 120.
_MAX_REQUEST = 4096
# Seconds that an OCSP response may be kept by who asked, and that its request may take to arrive.
_OCSP_LIFE = 3600.0
_BODY_TIMEOUT = 10.0
# Seconds that a list may be kept by caches on the way.
_CACHED = 300


@dataclass(slots=True)
class _List:
    """A revocation list as it was last signed, DER, and what it says."""

    crl: bytes = b""
    listed: list[Revoked] = field(default_factory=list)
    this_update: float = 0.0


class Status:
    """The state of certificates, as revocation lists and OCSP responses."""

    def __init__(
        self,
        config: Config,
        store: Store,
        authority: Signers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock
        self._life = config.crl_hours * _HOUR
        self._signing = asyncio.Lock()
        # By the generation of the CA: there are two while it rolls over.
        self._lists: dict[str, _List] = {}
        self._responders: dict[str, Responder] = {}

    def adopt(self, config: Config) -> None:
        """Other settings, from the next list on."""
        self._life = config.crl_hours * _HOUR

    def add_to(self, app: FastAPI) -> None:
        """Take the paths of an application."""
        app.add_api_route("/crl", self.crl, methods=["GET"])
        app.add_api_route("/crl/{generation}", self.crl, methods=["GET"])
        app.add_api_route("/ocsp", self.ocsp_post, methods=["POST"])
        app.add_api_route("/ocsp/{encoded:path}", self.ocsp_get, methods=["GET"])

    async def crl(self, generation: str = "") -> Response:
        """A generation's list, DER (RFC 5280; media type of RFC 2585)."""
        signer = self._signers().get(generation)
        if signer is None:
            return Response("not-offered: there is no such CA, or it is not in use any more\n", 404)
        async with self._signing:
            now = self._clock()
            found = self._lists.setdefault(generation, _List())
            try:
                await self._refresh(signer, found, now)
            except (SQLAlchemyError, OSError) as error:
                log(_LOG, logging.ERROR, "store-unavailable", error=type(error).__name__)
                if not found.crl or now >= found.this_update + self._life:
                    return Response("internal: try again later\n", 503)
            headers = {
                "Content-Type": "application/pkix-crl",
                "Last-Modified": formatdate(found.this_update, usegmt=True),
                "Expires": formatdate(found.this_update + self._life, usegmt=True),
                "Cache-Control": f"public, max-age={_CACHED}",
            }
            return Response(found.crl, headers=headers)

    def _signers(self) -> dict[str, Signer]:
        return {signer.name: signer for signer in self._authority.signers()}

    async def _refresh(self, signer: Signer, found: _List, now: float) -> None:
        # One life more: whoever verifies something signed before the end still finds it.
        listed = await self._store.life.all_revoked(now - self._life)
        age = now - found.this_update
        if found.crl and listed == found.listed and 0 <= age < self._life / 2:
            return
        number = await self._store.life.next_crl_number()
        # In a thread: a long list takes a while, and messages must go on.
        crl = await asyncio.to_thread(
            signer.sign_revocations, listed, number, now, now + self._life
        )
        found.crl, found.listed, found.this_update = crl.public_bytes(Encoding.DER), listed, now
        log(_LOG, logging.INFO, "crl-signed", number=number, certificates=len(listed))

    async def ocsp_post(self, request: Request) -> Response:
        """RFC 6960, appendix A.1, by POST."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/ocsp-request":
            return Response("unsupported: send application/ocsp-request\n", 415)
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_TIMEOUT):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > _MAX_REQUEST:
                        headers = {"Connection": "close"}
                        return Response("too-large: this is no OCSP request\n", 413, headers)
        except TimeoutError:
            headers = {"Connection": "close"}
            return Response("timeout: the request did not arrive\n", 408, headers)
        return await self._answer(bytes(body), cached=False)

    async def ocsp_get(self, request: Request) -> Response:
        """The same by GET: base64 of the request, URL-encoded, in the path."""
        # The path as it came: in the decoded one, a '/' of base64 is gone when it was the second.
        raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
        encoded = unquote_to_bytes(raw.partition(b"?")[0].partition(b"/ocsp/")[2])
        try:
            der = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            der = b""
        return await self._answer(der, cached=True)

    async def _answer(self, der: bytes, cached: bool) -> Response:
        now = self._clock()
        question: Question | ocsp.OCSPResponseStatus = ocsp.OCSPResponseStatus.UNAUTHORIZED
        body = b""
        for signer in self._authority.signers():
            responder = await self._current_responder(signer, now)
            question = responder.read(der)
            if question is ocsp.OCSPResponseStatus.UNAUTHORIZED:
                continue  # it may be about the other generation
            if isinstance(question, Question):
                try:
                    body = await self._say(signer, responder, question, now)
                except (SQLAlchemyError, OSError) as error:
                    log(_LOG, logging.ERROR, "store-unavailable", error=type(error).__name__)
                    question = ocsp.OCSPResponseStatus.TRY_LATER
            break
        headers = {"Content-Type": "application/ocsp-response", "Cache-Control": "no-store"}
        if not isinstance(question, Question):
            return Response(refusal(question), headers=headers)
        if cached and question.nonce is None:
            headers["Cache-Control"] = f"public, max-age={_CACHED}"
        return Response(body, headers=headers)

    async def _say(
        self, signer: Signer, responder: Responder, question: Question, now: float
    ) -> bytes:
        known = await self._store.certificate_by_serial(question.serial)
        if known is not None:
            issuer = x509.load_der_x509_certificate(known.der).issuer
            known = known if issuer == signer.issuing.subject else None
        revoked = None
        if known is not None:
            revoked = await self._store.life.revoked(serial=known.serial, key=known.key)
        return responder.answer(question, known is not None, revoked, now, now + _OCSP_LIFE)

    async def _current_responder(self, signer: Signer, now: float) -> Responder:
        """One with a key of its own, in memory only, made anew before its certificate ends."""
        responder = self._responders.get(signer.name)
        if responder is not None:
            start = responder.certificate.not_valid_before_utc.timestamp()
            end = responder.certificate.not_valid_after_utc.timestamp()
            if start <= now and end - now > (end - start) / 3:
                return responder
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = await asyncio.to_thread(signer.issue_responder, key.public_key(), now)
        responder = self._responders[signer.name] = Responder(signer.issuing, key, certificate)
        return responder
