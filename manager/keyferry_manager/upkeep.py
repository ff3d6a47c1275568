"""What a manager does again and again while it runs, and how it goes on when that fails."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from keyferry_core.errors import KeyferryError
from keyferry_manager.audit import AuditTrail
from keyferry_manager.authority import Authority
from keyferry_manager.changes import Changes
from keyferry_manager.relay import Relay
from keyferry_manager.store import Store

_LOG = logging.getLogger("keyferry.manager")
# Seconds until it is tried again when it failed.
_RETRY = 2.0


def every(
    stack: contextlib.AsyncExitStack,
    seconds: float,
    action: Callable[[], Awaitable[None]],
    faults: Counter[str],
) -> None:
    """Do ``action`` again and again until the stack is closed.

    ``faults`` counts the times it failed under its name, which is a label of the metrics.
    """

    async def run() -> None:
        pause = seconds
        while True:
            await asyncio.sleep(pause)
            pause = seconds
            try:
                await action()
            except Exception:  # a database that is away, say: what is known stays in force
                _LOG.exception("background-failed")
                faults[action.__name__.strip("_")] += 1
                pause = max(seconds, _RETRY)

    task = asyncio.get_running_loop().create_task(run())

    async def end() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)


class Upkeep:
    """The relay's clock, a CA's roll-over and the manager's own certificate.

    ``renew_contexts()`` lets every listener do its next handshakes with the certificates that
    there are then.
    """

    def __init__(
        self,
        store: Store,
        relay: Relay,
        authority: Authority,
        changes: Changes,
        trail: AuditTrail,
        renew_contexts: Callable[[], None],
    ) -> None:
        self._store = store
        self._relay = relay
        self._authority = authority
        self._changes = changes
        self._trail = trail
        self._renew_contexts = renew_contexts
        self._rolling_over = False

    async def tick(self) -> None:
        """End what has waited too long, and write down which CA certificates devices stated."""
        self._relay.tick()
        self._trail.tick()
        stated = self._relay.anchors.take()
        if stated:
            try:
                await self._store.presences.state_anchors(stated, time.time())
            except BaseException:
                self._relay.anchors.put_back(stated)
                raise

    async def roll_over(self) -> None:
        """Go on with another phase of a CA's roll-over, when an operator began one."""
        if not self._authority.reread() and not self._rolling_over:
            return
        self._rolling_over = True  # until all of it is done, also when the database is away now
        await self._authority.keep_server()
        await self._changes.sign_anew()
        self._renew_contexts()
        self._end_unbelieved()
        self._relay.anchors.current = self._authority.cacerts_digest()
        state = self._authority.state
        phase = state.phase or "aborted"
        self._rolling_over = False
        self._trail.ok("ca-rollover-taken-over", "", "", phase, generation=state.current or "1")

    async def renew(self) -> None:
        """Renew our own certificate when it is due, without a restart."""
        reason = await self._authority.keep_server()
        if reason:
            self._renew_contexts()
            self._trail.ok("server-certificate-renewed", "", "", reason)

    def _end_unbelieved(self) -> None:
        """End the links whose certificate no CA of ours stands over any more."""
        for presence in self._relay.registry:
            if presence.link is None:
                continue
            try:
                self._authority.identify(presence.link.certificate_der)
            except KeyferryError:
                self._relay.end_device(presence.name, "authentication-failed")
