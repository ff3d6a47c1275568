"""All sessions of one device: attempts, half-open ones, and those that stand."""

import asyncio
import gc

from keyferry_agent import clock
from keyferry_agent.errors import LinkError, SessionEnded
from keyferry_agent.memory import forget
from keyferry_core import signalling as s
from keyferry_core._compat import CPYTHON
from keyferry_core.errors import (
    DecodeError,
    KeyferryError,
    LocalError,
    RemoteError,
    code_of,
    name_of,
)
from keyferry_core.names import matches, subject
from keyferry_core.session import SUITES, Initiator, Responder, rejection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keyferry_agent.direct import Path

# How long the link waits for a slow application, once, before its records are dropped.
STALL_SECONDS = 0.5
# Seconds after which a half-open session is given up.
HALF_OPEN_SECONDS = 60
# Seconds without a message after which there is time to make the next ephemeral key, and bytes of
# free heap below which there is no room for it: it is then made when it is needed.
QUIET_SECONDS = 0.25
AHEAD_FREE = 12288
# Bytes of free heap below which a handshake drops the modules of the role that it does not play.
ROOM = 40960
_INITIATOR = "keyferry_core.edhoc.initiator"
_RESPONDER = "keyferry_core.edhoc.responder"
# Seconds for message_2 to be on its way before its sender starts on what can be done meanwhile.
UNDER_WAY_SECONDS = 0.02
# Sessions that ended lately: late messages for them are no news.
_REMEMBERED = 8
# Errors about one message that say nothing about the session it belongs to.
_PASSING = ("peer-offline", "too-many", "too-large")


class PeerSession:
    """A session with ``peer``. ``fingerprint``: 16 bytes, equal on both sides, not secret.

    ``route``: two legs, the peer's way to the manager and the manager's to us, each [address,
    transport, mutually authenticated, verified by the manager]; [] when it told none.

    ``on_behalf_of``: the third party for which the initiator, a gateway, asked; or "".

    Records that come in wait in a queue of ``receive_queue``. When it is full the whole link
    waits STALL_SECONDS for ``recv``, then records for this session are dropped, counted in
    ``dropped`` and reported, until the application reads again.
    """

    def __init__(self, sessions: "Sessions", core, route: list) -> None:
        self.peer = core.peer
        self.on_behalf_of = core.on_behalf_of
        self.route = route
        self.session_id = core.session_id
        self.fingerprint = core.fingerprint
        self.dropped = 0
        self._sessions = sessions
        self._core = core
        self._queue: list[bytes] = []
        self._news = asyncio.Event()  # a record or the end
        self._room = asyncio.Event()
        self._stalled = False
        self._warning = ""
        self.path: Path | None = None  # while records go straight to the peer

    @property
    def ended(self) -> str:
        """Why the session is over: a name of the table of errors, or "" while it stands."""
        return self._core.ended

    async def send(self, data: bytes) -> None:
        """Send up to 8192 bytes. Waits while the link is down or its queue is full.

        SessionEnded when the session is over; RemoteError when an earlier message was lost on
        the way ("peer-offline", "too-many") and the session goes on.
        """
        if self.ended:
            raise SessionEnded(self.ended)
        if self._warning:
            name, self._warning = self._warning, ""
            raise RemoteError(name, "an earlier message did not arrive")
        try:
            message = self._core.seal(data)
        except LocalError as error:
            if error.name != "limit-reached":
                raise
            await self._sessions.finish(self, self._core.close(error.name))
            raise SessionEnded(error.name) from None
        if self.path is not None and self._core.confirmed and await self.path.send(message):
            return
        await self._sessions.send(message, True)

    async def recv(self) -> bytes:
        """The next record's data. SessionEnded after the last one."""
        while not self._queue:
            if self.ended:
                raise SessionEnded(self.ended)
            self._news.clear()
            await self._news.wait()
        data = self._queue.pop(0)
        self._stalled = False
        self._room.set()
        return data

    async def close(self) -> None:
        """Tell the peer and the manager that this is over. Nothing happens the second time."""
        messages = self._core.close()
        if messages:
            # where there is a direct path, the last record goes after those before it
            if self.path is not None and await self.path.finish(messages[0]):
                messages.pop(0)
            self._sessions.ended(self)
            for message in messages:
                await self._sessions.send(message, True)

    async def _take(self, data: bytes, limit: int) -> None:
        if len(self._queue) >= limit and not self._stalled:
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), STALL_SECONDS)
            except asyncio.TimeoutError:
                # not when it was the board that was busy, and the application reads now
                self._stalled = len(self._queue) >= limit
        if len(self._queue) >= limit:
            self.dropped += 1
            self._sessions.event("record-dropped", peer=self.peer, dropped=self.dropped)
            return
        self._queue.append(data)
        self._news.set()


class _Attempt:
    """A session that our side asked for and that is not confirmed yet.

    It alone holds the ``initiator``, some 10 KiB of it, and only until the answer: a frame or a
    traceback that an application keeps must not keep that alive.
    """

    def __init__(self, initiator: Initiator) -> None:
        self.peer = initiator.peer
        self.initiator: Initiator | None = initiator
        self.session: PeerSession | None = None
        self.suites: tuple = ()  # what the peer wants to be asked with instead
        self.error: KeyferryError | None = None
        self.done = asyncio.Event()

    def fail(self, error: KeyferryError) -> None:
        self.error = error
        self.done.set()


def _memory_short() -> bool:
    gc.collect()
    if CPYTHON:
        return False
    return gc.mem_free() < AHEAD_FREE


def _make_room(other: str) -> None:
    """Where memory is short, drop the module of the ``other`` role; it can be imported again."""
    gc.collect()
    if not CPYTHON and gc.mem_free() < ROOM:
        forget((other,))


class Sessions:
    """The table of sessions. ``send(message, keep, wait)`` brings a message to the manager;
    ``event`` reports. ``identity`` and ``trust`` may be replaced when a certificate is renewed.
    """

    def __init__(
        self,
        config,
        crypto,
        identity,
        trust,
        send: "Callable[..., Awaitable]",
        event: "Callable[..., None]",
    ) -> None:
        self.identity = identity
        self.trust = trust
        self.event = event
        self.send = send
        self.leg: list | None = None  # our own leg of the route, once the manager said it
        self._config = config
        self._crypto = crypto
        self.random = crypto.random
        self._standing: dict[bytes, PeerSession] = {}
        self._attempts: dict[bytes, _Attempt] = {}
        self._half_open: list[tuple[int, Responder]] = []  # (since, responder), oldest first
        self._gone: list[bytes] = []
        self._incoming: list[PeerSession] = []
        self._news = asyncio.Event()
        self._stopped = False
        self._telling = None
        self._looked = clock.uptime()
        self._ahead: tuple | None = None  # an ephemeral key pair for one session, in RAM alone
        self._making = None
        self._verifying = None
        self._quiet = False

    # -- for the application --

    def __aiter__(self) -> "Sessions":
        return self

    async def __anext__(self) -> PeerSession:
        """The next session that a peer began."""
        while not self._incoming:
            if self._stopped:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._incoming.pop(0)

    async def connect(
        self, peer: str, timeout: int, profile: int = s.PROFILE_CERT, on_behalf_of: str = ""
    ) -> PeerSession:
        """A confirmed session with ``peer``. RemoteError, LocalError."""
        until = clock.uptime() + timeout
        found = await self._connect(peer, timeout, profile, SUITES[:1], on_behalf_of)
        if isinstance(found, tuple):
            self.event("suite-refused", peer=peer, suites=list(found))
            left = max(1, until - clock.uptime())
            found = await self._connect(peer, left, profile, found, on_behalf_of)
            if isinstance(found, tuple):
                raise RemoteError("key-exchange-failed", "the peer refuses each suite")
        return found

    async def _connect(
        self, peer: str, timeout: int, profile: int, suites: tuple, on_behalf_of: str
    ) -> "PeerSession | tuple":
        """A session, or the suites to try it with once more."""
        if self._full():
            raise LocalError("too-many", "max_sessions are open")
        _make_room(_RESPONDER)
        initiator = Initiator(
            self.identity,
            self.trust,
            self._crypto,
            peer,
            profile,
            self._take_ahead(),
            suites,
            on_behalf_of,
        )
        session_id = initiator.session_id
        attempt = self._attempts[session_id] = _Attempt(initiator)
        message = initiator.connect(self.leg)
        del initiator
        try:
            self.event("connect-sent", peer=peer, session=session_id.hex())
            self.event("message-1", peer=peer, sent=True, bytes=len(message[s.MESSAGE_1]))
            await self.send(message)
            del message
            await asyncio.wait_for(attempt.done.wait(), timeout)
        except asyncio.TimeoutError:
            attempt.error = RemoteError("timeout", "no answer from " + peer)
        finally:
            del self._attempts[session_id]
            attempt.initiator = None
            session = attempt.session
            if session is not None and (attempt.error or not attempt.done.is_set()):
                self._end(session, attempt.error.name if attempt.error else "declined")
            if not attempt.done.is_set():
                # Given up, perhaps by a caller's cancellation: the peer learns it on the side.
                self._telling = asyncio.create_task(self._tell_end(peer, session_id, "timeout"))
        if attempt.suites:
            return attempt.suites
        if attempt.error is not None:
            raise attempt.error
        assert session is not None
        self._report_up(session, True)
        return session

    # -- for the agent --

    def count(self) -> int:
        """Sessions that stand."""
        return len(self._standing)

    def standing(self) -> list[PeerSession]:
        """The sessions that stand, in no order."""
        return list(self._standing.values())

    def end_all(self, error: str) -> None:
        """All sessions and attempts are over for ``error``."""
        for session in self.standing():
            self._end(session, error)
        for attempt in list(self._attempts.values()):
            attempt.fail(RemoteError(error))
        self._half_open = []

    def stop(self) -> None:
        """No more sessions come in."""
        self._stopped = True
        self._news.set()
        self.forget_ahead()

    async def expire(self) -> None:
        """Renew keys, and give up sessions that are too old. To be called now and then."""
        now = clock.uptime()
        passed, self._looked = now - self._looked, now
        for session in self.standing():
            await self.finish(session, session._core.elapse(passed))
        oldest = now - HALF_OPEN_SECONDS
        while self._half_open and self._half_open[0][0] < oldest:
            await self._drop_half_open("timeout")

    async def on_message(self, message: dict) -> None:
        """Take a checked message of any type that carries a session id. KeyferryError."""
        kind = message[s.TYPE]
        self._quiet = False
        if kind == s.CONNECT:
            await self._on_connect(message)
        elif kind == s.MESSAGE:
            await self._on_record(message)
        elif kind == s.ACCEPT:
            await self._on_accept(message)
        else:
            self._on_end(message)

    # -- asking --

    async def _on_accept(self, message: dict) -> None:
        attempt = self._attempts.get(message[s.SESSION])
        if attempt is None or attempt.initiator is None:
            raise DecodeError("accept: nothing was asked")
        initiator, attempt.initiator = attempt.initiator, None
        self.event("message-2", peer=attempt.peer, sent=False, bytes=len(message[s.MESSAGE_2]))
        gc.collect()
        try:
            core = initiator.on_accept(message, clock.now())
        except KeyferryError as error:
            attempt.fail(error)
            initiator = None
            await self._reject(message, error)
            return
        initiator = None
        session = attempt.session = PeerSession(self, core, message.get(s.ROUTE, []))
        self._standing[session.session_id] = session
        confirm = core.confirm()
        self.event("message-3", peer=core.peer, sent=True, bytes=len(confirm[s.MESSAGE_3]))
        await self.send(confirm, True, False)

    # -- being asked --

    async def _on_connect(self, message: dict) -> None:
        peer = message[s.FROM]
        if self._known(message[s.SESSION]):
            raise DecodeError("connect: this session exists")
        self.event("message-1", peer=peer, sent=False, bytes=len(message[s.MESSAGE_1]))
        error = ""
        said = b""
        answer = responder = None
        if self._stopped:
            error = "declined"
        elif not self._lets(message):
            error = "access-denied"
        elif self._full() or len(self._incoming) >= self._config.max_incoming:
            error = "too-many"
        else:
            _make_room(_INITIATOR)
            responder = Responder(self.identity, self.trust, self._crypto, self._take_ahead())
            try:
                answer = responder.on_connect(message, self.leg)
            except KeyferryError as failure:
                self.event("session-refused", peer=peer, error=failure.name, detail=failure.detail)
                error = failure.name
                said = getattr(failure, "message", b"")
        if answer is None or responder is None:
            await self.send(rejection(self.identity.name, message, error, said))
            return
        if len(self._half_open) >= self._config.max_half_open:
            await self._drop_half_open("too-many")
        self._half_open.append((clock.uptime(), responder))
        self.event("message-2", peer=peer, sent=True, bytes=len(answer[s.MESSAGE_2]))
        await self.send(answer)
        self._verifying = asyncio.create_task(self._verify_ahead(responder.session_id))

    def _lets(self, message: dict) -> bool:
        """Whether our own configuration lets a gateway ask for whom it names. EDHOC binds that."""
        if s.ON_BEHALF_OF not in message:
            return True
        asking = subject(message[s.FROM], message[s.ON_BEHALF_OF])
        for selector in self._config.third_parties:
            if matches(selector, asking):
                return True
        self.event("third-party-refused", peer=message[s.FROM], third_party=asking)
        return False

    async def _on_message_3(self, message: dict, at: int) -> None:
        responder = self._half_open[at][1]
        if s.MESSAGE_3 in message:
            size = len(message[s.MESSAGE_3])
            self.event("message-3", peer=responder.peer, sent=False, bytes=size)
            gc.collect()
        else:
            raise DecodeError("message: a record before message_3")
        del self._half_open[at]
        try:
            if self._full():
                raise RemoteError("too-many", "max_sessions are open")
            core = responder.on_message(message, clock.now())
            self._pin(core)
        except KeyferryError as error:
            self.event(
                "session-refused", peer=responder.peer, error=error.name, detail=error.detail
            )
            await self._reject(message, error)
            return
        session = PeerSession(self, core, responder.route)
        self._standing[session.session_id] = session
        self._report_up(session, False)
        # message_4 goes out at once: the peer must not wait for what the application will say
        await self.send(core.confirm(), True, False)
        self._incoming.append(session)
        self._news.set()
        if s.RECORD in message:
            await self._open(session, message)

    # -- talking --

    async def on_direct(self, session: PeerSession, record: bytes) -> None:
        """A record that came over a direct path, and is one of its session's. KeyferryError."""
        message = {s.FROM: session.peer, s.SESSION: session.session_id, s.RECORD: record}
        await self._open(session, message)

    async def _on_record(self, message: dict) -> None:
        session_id = message[s.SESSION]
        session = self._standing.get(session_id)
        if session is not None:
            await self._open(session, message)
            return
        for at in range(len(self._half_open)):
            if self._half_open[at][1].session_id == session_id:
                await self._on_message_3(message, at)
                return
        if session_id not in self._gone:
            # we forgot it, the peer did not: it should know
            self._remember(session_id)
            await self._tell_end(message[s.FROM], session_id, "unknown-session")

    async def _open(self, session: PeerSession, message: dict) -> None:
        if message[s.FROM] != session.peer:
            raise DecodeError("message: of another peer")
        try:
            data = session._core.open(message)
        except RemoteError:
            if session.ended:
                self.ended(session)
                if session.ended == "limit-reached":
                    await self._tell_end(session.peer, session.session_id, session.ended)
                return
            raise
        attempt = self._attempts.get(session.session_id)
        if attempt is not None and session._core.confirmed:
            try:
                self._pin(session._core)
            except KeyferryError as error:
                attempt.fail(error)
                await self._tell_end(session.peer, session.session_id, error.name)
                return
            attempt.done.set()
        if data is not None:
            await session._take(data, self._config.receive_queue)

    def _on_end(self, message: dict) -> None:
        """REJECT, END and ERROR: the session or the attempt is over."""
        session_id = message[s.SESSION]
        name = name_of(message[s.ERROR_CODE]) if s.ERROR_CODE in message else "session-closed"
        text = message.get(s.TEXT, "")
        session = self._standing.get(session_id)
        attempt = self._attempts.get(session_id)
        sender = message[s.FROM]
        if attempt is not None and sender in (s.MANAGER, attempt.peer):
            initiator, attempt.initiator = attempt.initiator, None
            if initiator is not None:
                try:
                    attempt.suites = initiator.on_reject(message)
                except KeyferryError as error:
                    text = error.detail
            attempt.fail(RemoteError(name, text))
        elif session is not None and sender in (s.MANAGER, session.peer):
            if message[s.TYPE] == s.ERROR and name in _PASSING:
                session._warning = name
                self.event("message-lost", peer=session.peer, error=name)
            else:
                self._end(session, name)
        else:
            for at in range(len(self._half_open)):
                responder = self._half_open[at][1]
                if responder.session_id == session_id and sender in (s.MANAGER, responder.peer):
                    del self._half_open[at]
                    self._remember(session_id)
                    self.event("half-open-dropped", peer=responder.peer, reason=name)
                    return

    # -- ahead of time --

    def make_ahead(self) -> None:
        """See to it that the next session finds an ephemeral key ready, once nothing is due."""
        if self._ahead is None and self._making is None and not self._stopped:
            self._making = asyncio.create_task(self._make_ahead())

    def forget_ahead(self) -> None:
        """Drop what was made ahead: the memory is needed, or the agent stops."""
        self._ahead = None
        if self._making is not None:
            self._making.cancel()
            self._making = None

    def _take_ahead(self) -> tuple | None:
        """The key pair, for one use; the next is made when there is time again."""
        pair, self._ahead = self._ahead, None
        self.make_ahead()
        return pair

    async def _verify_ahead(self, session_id: bytes) -> None:
        await asyncio.sleep(UNDER_WAY_SECONDS)
        self._verify(session_id)

    def _verify(self, session_id: bytes) -> None:
        # not in the coroutine, which would keep the responder for as long as its task is kept
        for _, responder in self._half_open:
            if responder.session_id == session_id:
                responder.verify_ahead(clock.now())

    async def _make_ahead(self) -> None:
        try:
            while not self._quiet or self._attempts or self._half_open:
                self._quiet = True
                await asyncio.sleep(QUIET_SECONDS)
            if not _memory_short():
                self._ahead = self._crypto.generate()
        except (KeyferryError, MemoryError):
            pass  # whoever needs a key makes one, and hears why that does not work
        self._making = None

    # -- inside --

    def ended(self, session: PeerSession) -> None:
        """The core session has ended: take it out of the table and tell all who wait."""
        if self._standing.pop(session.session_id, None) is None:
            return
        self._remember(session.session_id)
        session._news.set()
        session._room.set()
        if session.path is not None:
            session.path.close()
        attempt = self._attempts.get(session.session_id)
        if attempt is not None:
            attempt.fail(RemoteError(session.ended))
        self.event("session-ended", peer=session.peer, reason=session.ended)

    async def finish(self, session: PeerSession, messages: list) -> None:
        """The core session has ended with these last ``messages``; with none, it has not."""
        if messages:
            self.ended(session)
            for message in messages:
                await self.send(message, True, False)

    def _end(self, session: PeerSession, error: str) -> None:
        session._core.end(error)
        self.ended(session)

    async def _reject(self, message: dict, error: KeyferryError) -> None:
        """Answer with ``error``, and with EDHOC's own error message where it is one of EDHOC's."""
        said = getattr(error, "message", b"")
        await self.send(rejection(self.identity.name, message, error.name, said))

    async def _tell_end(self, peer: str, session_id: bytes, error: str) -> None:
        message = {
            s.TYPE: s.END,
            s.FROM: self.identity.name,
            s.TO: peer,
            s.SESSION: session_id,
            s.ERROR_CODE: code_of(error),
        }
        try:
            await self.send(message)
        except LinkError:
            pass  # then the manager tells the peer that our link is gone

    def _pin(self, core) -> None:
        """Keep the key of a peer that has proved to have it, where that is to be. KeyferryError."""
        if core.pin is None:
            return
        from keyferry_agent import pins

        pin, core.pin = core.pin, None
        try:
            pins.keep(self._config, self.trust.judge, self.event, pin)
        finally:
            del pins
            forget(("keyferry_agent.pins", "keyferry_agent.slots"))

    def _report_up(self, session: PeerSession, initiated: bool) -> None:
        self.event(
            "session-up",
            peer=session.peer,
            fingerprint=session.fingerprint.hex(),
            initiated=initiated,
        )

    def _full(self) -> bool:
        asked = 0
        for attempt in self._attempts.values():
            if attempt.session is None:  # else it is counted as standing
                asked += 1
        return len(self._standing) + asked >= self._config.max_sessions

    def _known(self, session_id: bytes) -> bool:
        if session_id in self._standing or session_id in self._attempts:
            return True
        for _, responder in self._half_open:
            if responder.session_id == session_id:
                return True
        return session_id in self._gone

    def _remember(self, session_id: bytes) -> None:
        self._gone.append(session_id)
        if len(self._gone) > _REMEMBERED:
            self._gone.pop(0)

    async def _drop_half_open(self, reason: str) -> None:
        _, responder = self._half_open.pop(0)
        self._remember(responder.session_id)
        self.event("half-open-dropped", peer=responder.peer, reason=reason)
        await self._tell_end(responder.peer, responder.session_id, reason)
