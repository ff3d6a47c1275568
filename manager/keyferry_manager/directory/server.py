"""The directory as a process: its own database, behind a Unix socket that only its owner opens.

It takes no field on trust: what it keeps of a certificate is read from the certificate, and an
agreement key must be endorsed by a key that it has a certificate of the same device for.
"""

import asyncio
import base64
import contextlib
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from cryptography import x509
from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect

from keyferry_core import p256, rpk
from keyferry_core.errors import KeyferryError, RemoteError
from keyferry_core.names import check_name
from keyferry_core.suite_cryptography import CryptographyCrypto
from keyferry_core.x509 import parse
from keyferry_manager.authority import record
from keyferry_manager.authority.files import UNREADABLE
from keyferry_manager.carriers.http import HttpEndpoint
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.config import Config
from keyferry_manager.directory.remote import PAGE, key_document
from keyferry_manager.logs import log
from keyferry_manager.problems import ConfigProblem
from keyferry_manager.store import Admission, AgreementKey, Store

_LOG = logging.getLogger("keyferry.directory")
_MAX_BODY = 1024 * 1024
_BODY_SECONDS = 10.0
SOCKET = "directory.sock"


class DirectoryServer:
    """``keyferry directory serve``: a home of the role ``directory``. ``start`` raises Problem."""

    def __init__(self, home: Path | str, path: Path | None = None) -> None:
        self.config = Config.load(home)
        if self.config.role != "directory":
            raise ConfigProblem(
                f"{home} is not the home of a directory: make one with 'keyferry init --role "
                "directory'."
            )
        self.path = path or self.config.home.absolute() / SOCKET
        self._crypto = CryptographyCrypto(os.urandom)
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Open the database and the socket."""
        async with contextlib.AsyncExitStack() as stack:
            self._store = await stack.enter_async_context(Store.open(self.config.database_url))
            await self._store.migrate()
            endpoint = HttpEndpoint(self.app())
            listening = self._bind()
            server = await asyncio.get_running_loop().create_unix_server(
                lambda: endpoint(ChannelPeer("unix", None)), sock=listening
            )
            stack.callback(self.path.unlink, missing_ok=True)
            stack.push_async_callback(endpoint.stop)
            stack.callback(server.close)
            self._stack = stack.pop_all()
        log(_LOG, logging.INFO, "directory-started", socket=str(self.path))

    async def stop(self) -> None:
        """Close everything."""
        await self._stack.aclose()
        log(_LOG, logging.INFO, "directory-stopped")

    def app(self) -> FastAPI:
        """The ASGI application."""
        app = FastAPI(title="Keyferry directory", docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/certificates", self.publish, methods=["POST"])
        app.add_api_route("/certificates/{serial}", self.certificate, methods=["GET"])
        app.add_api_route("/keys", self.keys, methods=["GET"])
        app.add_api_route("/keys", self.publish_keys, methods=["POST"])
        return app

    async def certificate(self, serial: str) -> Response:
        """One certificate, by its serial."""

        async def work() -> Response:
            found = await self._store.certificate_by_serial(serial)
            if found is None:
                return Response(status_code=404)
            return _json({**asdict(found), "der": base64.b64encode(found.der).decode()})

        return await self._answer(work)

    async def publish(self, request: Request) -> Response:
        """Register a certificate. The same one again is no error."""

        async def work() -> Response:
            document = await _document(request)
            certificate, admission, issued_at = _stated(document)
            taken = await self._store.published.certificate(
                record(certificate, admission, issued_at)
            )
            return Response(status_code=204 if taken else 409)

        return await self._answer(work)

    async def keys(self, after: str = "") -> Response:
        """A page of keys, of devices whose names come after ``after``."""

        async def work() -> Response:
            found = await self._store.presences.keys()
            page = [key_document(item) for item in found if item.device > after][:PAGE]
            return _json(page)

        return await self._answer(work)

    async def publish_keys(self, request: Request) -> Response:
        """Register keys: all of them, or none."""

        async def work() -> Response:
            document = await _document(request)
            if not isinstance(document, list) or not 0 < len(document) <= PAGE:
                raise RemoteError("malformed", f"not a list of 1 to {PAGE} keys")
            keys = [await self._checked(item) for item in document]
            await self._store.write(keys=keys)
            return Response(status_code=204)

        return await self._answer(work)

    async def _checked(self, document: Any) -> AgreementKey:
        """A key whose endorsement holds, by a certificate of the same device that is here."""
        endorsed, signer = _bytes(document, "endorsed"), _bytes(document, "signer")
        name, credential = rpk.open_endorsed(self._crypto, signer, endorsed)
        p256.check_public(credential.public)
        for certificate in await self._store.certificates(name):
            if parse(certificate.der).public_key == signer:
                key_id = rpk.key_id(credential.public).hex()
                return AgreementKey(name, key_id, endorsed, signer, time.time())
        raise RemoteError("authentication-failed", f"no certificate of {name} endorsed this key")

    async def _answer(self, work: Callable[[], Awaitable[Response]]) -> Response:
        try:
            return await work()
        except KeyferryError as error:
            log(_LOG, logging.WARNING, "refused", error=error.name, detail=error.detail)
            return Response(f"{error.name}: {error.text}\n", error.http_status)
        except (SQLAlchemyError, OSError) as error:
            log(_LOG, logging.ERROR, "store-unavailable", error=type(error).__name__)
            return Response("internal: try again later\n", 503)
        except ClientDisconnect:
            return Response(status_code=400)

    def _bind(self) -> socket.socket:
        """The socket, with mode 0600 before anybody can connect."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(self.path.lstat().st_mode) and not _answers(self.path):
                self.path.unlink()  # what a killed process left
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(self.path))
            # Nobody can connect before listen.
            self.path.chmod(0o600)
            listening.listen(64)
        except OSError as error:
            listening.close()
            raise ConfigProblem(
                f"cannot listen on {self.path}: {error.strerror}. Choose another with --socket, or "
                "stop what has it."
            ) from None
        return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


async def _document(request: Request) -> Any:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise RemoteError("too-large")
        return json.loads(body)
    except TimeoutError:
        raise RemoteError("timeout") from None
    except (ValueError, RecursionError):
        raise RemoteError("malformed", "not JSON") from None


def _stated(document: Any) -> tuple[x509.Certificate, Admission, float]:
    der = _bytes(document, "der")
    admission, issued_at = document.get("admission"), document.get("issued_at")
    if admission not in get_args(Admission) or isinstance(issued_at, bool):
        raise RemoteError("malformed", "no such admission")
    if not isinstance(issued_at, int | float):
        raise RemoteError("malformed", "issued_at is not a time")
    try:
        certificate = x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        raise RemoteError("malformed", f"certificate: {error}") from None
    parsed = parse(der)  # of the shape that devices have: DecodeError
    check_name(parsed.common_name or "")
    return certificate, admission, float(issued_at)


def _bytes(document: Any, name: str) -> bytes:
    try:
        return base64.b64decode(document[name], validate=True)
    except (KeyError, TypeError, ValueError):
        raise RemoteError("malformed", f"{name} is not base64") from None


def _json(value: object) -> Response:
    return Response(json.dumps(value), media_type="application/json")
