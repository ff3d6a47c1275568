"""Enrolment over HTTPS: EST, RFC 7030.

What arrives is checked from cheap to dear, and who asks before what is asked: a stranger's body
is never read. Errors are one line of plain text (section 4.2.3): the error's name and a sentence.
"""

import base64
import logging

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from keyferry_core.errors import KeyferryError
from keyferry_manager import enrolment
from keyferry_manager.authority import Authority
from keyferry_manager.carriers.est_wire import (
    CSR_ATTRIBUTES,
    PREFIX,
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
from keyferry_manager.enrolment import Pending, Refused
from keyferry_manager.issuing import Admitted, Issuing
from keyferry_manager.problems import AuthorityUnavailable

_LOG = logging.getLogger("keyferry.est")


class Est:
    """The operations of EST for ``realm``."""

    def __init__(self, realm: str, authority: Authority, issuing: Issuing) -> None:
        self._realm = realm
        self._authority = authority
        self._issuing = issuing

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
        wait = self._issuing.wait(peer.host)
        if wait:
            return slow_down(wait)
        admitted = None
        try:
            check_head(request)
            if operation == "simpleenroll":
                admitted = await self._issuing.admit_first(
                    peer, request.headers.get("authorization")
                )
            else:
                admitted = await self._issuing.admit_renewal(peer)
            wait = self._issuing.wait_with(admitted)
            if wait:
                return slow_down(wait)
            der = decode_request(await read_body(request))
            certificate = await self._issuing.issue(admitted, der, peer)
        except Pending as pending:
            if admitted is not None:
                self._issuing.count_pending(admitted)
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
        return certificates_response(certificate)

    def _unavailable(
        self,
        operation: str,
        peer: ChannelPeer,
        admitted: Admitted | None,
        problem: AuthorityUnavailable,
    ) -> Response:
        """Whoever signs is away. It is not the device's fault: 503, and when to come again."""
        refused = self._issuing.unavailable(operation, peer, admitted, problem)
        response = error_response(refused, {"Retry-After": str(problem.retry_after)})
        response.status_code = 503
        return response

    def _refuse(
        self, operation: str, peer: ChannelPeer, admitted: Admitted | None, refused: Refused
    ) -> Response:
        self._issuing.refused(operation, peer, admitted, refused)
        headers = {}
        if refused.http_status == 401:
            headers["WWW-Authenticate"] = f'Basic realm="{self._realm}", charset="UTF-8"'
        return error_response(refused, headers)
