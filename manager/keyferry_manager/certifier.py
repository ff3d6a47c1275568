"""Certificates over links: what a device asks for in signalling is done beside the relay, which
never waits, and answered on the link that it came on.

Any carrier that hands signalling to the relay has it: a CERTIFY with a PKCS#10 request becomes a
CERTIFIED with the certificate, or an ERROR with the same id.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keyferry_core import signalling as sig
from keyferry_core.errors import RemoteError
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.enrolment import Refused
from keyferry_manager.registry import Link
from keyferry_manager.relay import Relay

_LOG = logging.getLogger("keyferry.enrolment")
# Requests that are worked on at once, in all; of one device it is one.
_AT_ONCE = 64


class Certifier:
    """Answers CERTIFY. ``renew`` makes the certificate or raises Refused (``Issuing.renew``), and
    ``issuers`` are the CA certificates, one of which signed it. ``count`` is told the
    status that EST would have answered, and the seconds."""

    def __init__(
        self,
        relay: Relay,
        renew: Callable[[ChannelPeer, bytes], Awaitable[x509.Certificate]],
        issuers: Callable[[], list[x509.Certificate]],
        count: Callable[[int, float], None] = lambda status, seconds: None,
    ) -> None:
        self._relay = relay
        self._renew = renew
        self._issuers = issuers
        self._count = count
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """How many requests wait for their answer."""
        return len(self._tasks)

    def begin(self, link: Link, number: int, request: bytes) -> None:
        """Work on the PKCS#10 ``request``, and answer it as ``number``. RemoteError("too-many")."""
        if link.name in self._tasks:
            raise RemoteError("too-many", "an earlier request is worked on")
        if len(self._tasks) >= _AT_ONCE:
            raise RemoteError("too-many", "requests for certificates")
        task = asyncio.get_running_loop().create_task(self._answer(link, number, request))
        self._tasks[link.name] = task
        task.add_done_callback(lambda _: self._tasks.pop(link.name, None))

    async def stop(self) -> None:
        """Leave what is not done. Whoever asked hears nothing, and asks again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, link: Link, number: int, request: bytes) -> None:
        began, status = time.perf_counter(), 500
        try:
            leaf = await self._renew(ChannelPeer(link.address, link.certificate_der), request)
            issuer = next(ca for ca in self._issuers() if ca.subject == leaf.issuer)
            answer = {
                sig.TYPE: sig.CERTIFIED,
                sig.ID: number,
                sig.CREDENTIAL: leaf.public_bytes(Encoding.DER),
                sig.ISSUER: issuer.public_bytes(Encoding.DER),
            }
            self._relay.answer(link, answer)
            status = 200
        except Refused as refused:
            status = refused.http_status
            self._relay.refuse(link, number, refused, refused.hint)
        except Exception:
            _LOG.exception("certify-failed", extra={"fields": {"name": link.name}})
            self._relay.refuse(link, number, RemoteError("internal"))
        self._count(status, time.perf_counter() - began)
