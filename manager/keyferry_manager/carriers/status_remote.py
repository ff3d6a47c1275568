"""``GET /crl`` and ``/ocsp`` of a manager whose CA stands apart: what the CA says, passed on."""

import base64
import binascii
import logging
from urllib.parse import unquote_to_bytes

from cryptography.x509 import ocsp
from fastapi import FastAPI, Request, Response

from keyferry_core.errors import KeyferryError
from keyferry_manager.authority.remote import RemoteAuthority
from keyferry_manager.authority.status import refusal
from keyferry_manager.carriers.est_wire import read_body
from keyferry_manager.logs import log
from keyferry_manager.problems import AuthorityUnavailable

_LOG = logging.getLogger("keyferry.status")
_MAX_REQUEST = 4096
_CACHED = 60


class RemoteStatus:
    """The state of certificates, as the CA signs it."""

    def __init__(self, authority: RemoteAuthority) -> None:
        self._authority = authority

    def add_to(self, app: FastAPI) -> None:
        """Take the two paths of an application."""
        app.add_api_route("/crl", self.crl, methods=["GET"])
        app.add_api_route("/ocsp", self.ocsp_post, methods=["POST"])
        app.add_api_route("/ocsp/{encoded:path}", self.ocsp_get, methods=["GET"])

    async def crl(self) -> Response:
        """The CA's last list, DER, fetched now when there is none that still holds."""
        if not self._authority.revocation_list:
            try:
                await self._authority.list_now()
            except AuthorityUnavailable as problem:
                log(_LOG, logging.ERROR, "ca-unavailable", detail=str(problem))
                headers = {"Retry-After": str(problem.retry_after)}
                return Response("internal: try again later\n", 503, headers)
        headers = {
            "Content-Type": "application/pkix-crl",
            "Cache-Control": f"public, max-age={_CACHED}",
        }
        return Response(self._authority.revocation_list, headers=headers)

    async def ocsp_post(self, request: Request) -> Response:
        """RFC 6960, appendix A.1, by POST."""
        try:
            return await self._ask(await read_body(request))
        except KeyferryError:  # too large, or too slow
            return _ocsp(refusal(ocsp.OCSPResponseStatus.MALFORMED_REQUEST))

    async def ocsp_get(self, request: Request) -> Response:
        """By GET: base64 of the request in the path."""
        encoded = request.scope["raw_path"].partition(b"/ocsp/")[2]
        try:
            return await self._ask(base64.b64decode(unquote_to_bytes(encoded), validate=True))
        except binascii.Error:
            return _ocsp(refusal(ocsp.OCSPResponseStatus.MALFORMED_REQUEST))

    async def _ask(self, der: bytes) -> Response:
        if not 0 < len(der) <= _MAX_REQUEST:
            return _ocsp(refusal(ocsp.OCSPResponseStatus.MALFORMED_REQUEST))
        try:
            return _ocsp(await self._authority.ocsp(der))
        except AuthorityUnavailable as problem:
            log(_LOG, logging.ERROR, "ca-unavailable", detail=str(problem))
            return _ocsp(refusal(ocsp.OCSPResponseStatus.TRY_LATER))


def _ocsp(body: bytes) -> Response:
    headers = {"Content-Type": "application/ocsp-response", "Cache-Control": "no-store"}
    return Response(body, headers=headers)
