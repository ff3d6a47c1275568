"""Records of a session straight to the peer, over TCP: the manager introduced the two, and carries
nothing any more.

    connection = hello, frame, frame…        frame = length, 2 bytes | record
    hello      = label, 8 bytes | frame      label = SHA-256("keyferry direct" | fingerprint)[:8]

The frame of the hello is a PATH record with a challenge, and the first frame back one with the
same; only then does either side send anything of the application's. Records, replay window and keys
are the session's, whichever way they come. Later PATH records say how many records came in; what
was not acknowledged when the connection breaks goes by the relay, and what comes twice is dropped.
"""

import asyncio

from keyferry_agent.errors import LinkError
from keyferry_core import signalling as s
from keyferry_core._compat import equal, sha256
from keyferry_core.errors import DecodeError, KeyferryError, RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from keyferry_agent.sessions import PeerSession, Sessions

# Seconds to connect, and for the hello; and until a peer that acknowledges nothing is given up.
CONNECT_SECONDS = 5
HELLO_SECONDS = 5
STALL_SECONDS = 10
# Connections that did not say yet which session they are of, and bad hellos for one session.
MAX_STRANGERS = 4
MAX_BAD = 64
# Records on their way that were not acknowledged, and how many come in until that is said.
WINDOW = 8
ACKNOWLEDGE = 4
LABEL_LENGTH = 8
CHALLENGE_LENGTH = 8
_MAX_HELLO = 64  # bytes of its record
_PATH = 0x40  # in a record's first byte


def label(session: "PeerSession") -> bytes:
    """What names ``session`` to its other side, and tells nobody else whose it is."""
    return sha256(b"keyferry direct", session.fingerprint)[:LABEL_LENGTH]


async def _frame(reader: "Any", most: int) -> bytes:
    length = int.from_bytes(await reader.readexactly(2), "big")
    if not 0 < length <= most:
        raise DecodeError("frame: length")
    return await reader.readexactly(length)


class Path:
    """A connection that both sides know to be of ``session``. ``only``: it has no relay."""

    def __init__(
        self, sessions: "Sessions", session: "PeerSession", stream: tuple, only: bool = False
    ) -> None:
        self._sessions = sessions
        self._session = session
        self._reader, self._writer = stream
        self._only = only
        self._sent = 0
        self._waiting: list[dict] = []  # sent and not acknowledged
        self._received = 0
        self._room = asyncio.Event()
        self._closed = False
        self._busy = False  # with a record that must not get lost
        self._done = asyncio.Event()
        session.path = self
        self._task = asyncio.create_task(self._run())
        sessions.event("direct-up", peer=session.peer)

    async def send(self, message: dict) -> bool:
        """Send a record; False when it is for the relay."""
        while len(self._waiting) >= WINDOW and not self._closed:
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), STALL_SECONDS)
            except asyncio.TimeoutError:
                self.close()
        if self._closed:
            await self._done.wait()  # what was on its way goes first
            return False
        self._waiting.append(message)
        self._sent += 1
        try:
            await asyncio.wait_for(self._write(message[s.RECORD]), STALL_SECONDS)
        except (OSError, asyncio.TimeoutError):
            self.close()
        return True  # if it did not go, it waits for the relay with the others

    async def finish(self, message: dict) -> bool:
        """Send the session's last record, and wait until the other side has read it and went."""
        if not await self.send(message):
            return False
        try:
            await asyncio.wait_for(self._done.wait(), STALL_SECONDS)
        except asyncio.TimeoutError:
            pass
        return True

    def close(self) -> None:
        """The connection is over; ``_run`` sees to what was on its way."""
        if not self._closed:
            self._closed = True
            self._room.set()
            if not self._busy:
                self._task.cancel()

    async def _write(self, record: bytes) -> None:
        self._writer.write(len(record).to_bytes(2, "big") + record)
        await self._writer.drain()

    async def _run(self) -> None:
        session = self._session
        reason = "peer-gone"
        try:
            while not self._closed:
                record = await _frame(self._reader, s.MAX_RECORD)
                if session.ended:
                    continue  # we said goodbye, and wait until the other side has read it
                if record[0] & _PATH:
                    self._acknowledged(session._core.open_path(record))
                    continue
                self._busy = True
                await self._sessions.on_direct(session, record)
                self._busy = False
                self._received += 1
                if not session.ended and self._received % ACKNOWLEDGE == 0:
                    count = (self._received & 0xFFFFFFFF).to_bytes(4, "big")
                    await self._write(session._core.seal_path(count))
        except (OSError, EOFError):
            pass
        except asyncio.CancelledError:
            pass
        except KeyferryError as error:
            reason = error.name
        self._closed = True
        self._room.set()
        if session.path is self:
            session.path = None
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass
        self._sessions.event("direct-down", peer=session.peer, reason=session.ended or reason)
        if self._only and not session.ended:
            await session.close()
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            if not session.ended:
                try:
                    await self._sessions.send(message, True)
                except LinkError:
                    break
        self._done.set()

    def _acknowledged(self, data: bytes) -> None:
        if len(data) != 4:
            raise DecodeError("path: not a count")
        late = self._sent - int.from_bytes(data, "big")
        if not 0 <= late <= len(self._waiting):
            raise DecodeError("path: more than was sent")
        del self._waiting[: len(self._waiting) - late]
        self._room.set()


async def go(
    session: "PeerSession",
    sessions: "Sessions",
    resolve: "Callable[[str], Awaitable[dict]]",
    only: bool,
) -> None:
    """A direct path for ``session``, to the first address that answers as its peer. With ``only``
    RemoteError when there is none, and the session is over.
    """
    try:
        addresses = (await resolve(session.peer))["addresses"]
    except RemoteError as error:
        sessions.event("direct-failed", peer=session.peer, error=error.name)
        addresses = []
    for address in addresses:
        try:
            await _dial(session, sessions, address, only)
            return
        except (OSError, EOFError, asyncio.TimeoutError):
            error = "timeout"
        except KeyferryError as failure:
            error = failure.name
        sessions.event("direct-failed", peer=session.peer, address=address, error=error)
    if only:
        await session.close()
        raise RemoteError("peer-offline", "no direct path to " + session.peer)


async def _dial(session: "PeerSession", sessions: "Sessions", address: str, only: bool) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise DecodeError("address: HOST:PORT")
    opening = asyncio.open_connection(host.strip("[]"), int(port))
    reader, writer = await asyncio.wait_for(opening, CONNECT_SECONDS)
    try:
        challenge = sessions.random(CHALLENGE_LENGTH)
        record = session._core.seal_path(challenge)
        writer.write(label(session) + len(record).to_bytes(2, "big") + record)
        await writer.drain()
        answer = await asyncio.wait_for(_frame(reader, _MAX_HELLO), HELLO_SECONDS)
        if not equal(session._core.open_path(answer), challenge):
            raise DecodeError("path: the answer to another challenge")
    except BaseException:
        writer.close()
        raise
    Path(sessions, session, (reader, writer), only)


class Listener:
    """Takes connections of peers that have a session with us already; nobody else's."""

    def __init__(self, sessions: "Sessions") -> None:
        self._sessions = sessions
        self._strangers = 0
        self._bad: list[list] = []  # [label, count] of sessions that stand
        self._server = None

    async def start(self, port: int) -> None:
        """Listen on all addresses. OSError."""
        self._server = await asyncio.start_server(self._accept, "0.0.0.0", port)

    def stop(self) -> None:
        """Take no more."""
        if self._server is not None:
            self._server.close()

    async def _accept(self, reader: "Any", writer: "Any") -> None:
        if self._strangers >= MAX_STRANGERS:
            writer.close()
            await writer.wait_closed()
            return
        self._strangers += 1
        taken = False
        try:
            taken = await asyncio.wait_for(self._admit(reader, writer), HELLO_SECONDS)
        except (OSError, EOFError, asyncio.TimeoutError, KeyferryError):
            pass  # whoever it was shows nothing of a session of ours
        finally:
            self._strangers -= 1
            if not taken:
                writer.close()
                try:
                    await writer.wait_closed()
                except OSError:
                    pass

    async def _admit(self, reader: "Any", writer: "Any") -> bool:
        wanted = await reader.readexactly(LABEL_LENGTH)
        record = await _frame(reader, _MAX_HELLO)
        found = None
        for session in self._sessions.standing():
            if equal(label(session), wanted):
                found = session
        if found is None or not self._may_try(wanted):
            return False
        challenge = found._core.open_path(record)
        if len(challenge) != CHALLENGE_LENGTH:
            raise DecodeError("path: not a challenge")
        self._bad = [entry for entry in self._bad if entry[0] != wanted]
        answer = found._core.seal_path(challenge)
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        if found.path is not None:
            found.path.close()
        Path(self._sessions, found, (reader, writer))
        return True

    def _may_try(self, wanted: bytes) -> bool:
        """Count a hello; one that verifies is forgotten again."""
        standing = [label(session) for session in self._sessions.standing()]
        self._bad = [entry for entry in self._bad if entry[0] in standing]
        for entry in self._bad:
            if entry[0] == wanted:
                entry[1] += 1
                return entry[1] <= MAX_BAD
        self._bad.append([wanted, 1])
        return True
