"""The proxy between a board's serial line and its manager.

It holds the TCP and TLS connection for the board, and neither its key nor the keys of its sessions:
it asks the board to sign each handshake, and what is in its sessions is ciphertext to it.
"""

import contextlib
import queue
import select
import socket
import threading
import time
from collections.abc import Callable

from keyferry_core import hdlc
from keyferry_core import serial_link as sl
from keyferry_core.errors import KeyferryError
from keyferry_hil.problems import BenchProblem
from keyferry_hil.protocols import Console
from keyferry_hil.uart.tls import Link, TlsProblem

# Seconds for the board's signature.
_SIGN_SECONDS = 30.0
# Frames on their way to the board above which no more is read from the manager.
_QUEUE = 8
_TEXT = 1 << 20
_STEP = 0.1


class _GaveUp(TlsProblem):
    """The board began anew, or ended the connection, while it was being made."""

    def __init__(self) -> None:
        super().__init__("peer-gone", "the board gave up")


class Proxy:
    """Stands between a console and who uses it: the frames are its own, the rest is passed on.

    So it is a console itself. ``to``: the manager's address; ``ports``: those of the manager that
    a board may reach, by number. ``seen``: given each message to and from the board, so all that
    the proxy ever has; ``note``: told of each connection, in words.
    """

    def __init__(
        self,
        console: Console,
        host: str,
        ports: set[int],
        *,
        seen: Callable[[bytes], object] = lambda data: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._console = console
        self._host = host
        self._ports = ports
        self._seen = seen
        self._note = note
        self._news = threading.Condition()
        self._text = bytearray()
        self._problem: BenchProblem | None = None
        self._frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._end: sl.End | None = None
        self._link: Link | None = None
        self._closing = False
        self._ticked = time.monotonic()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._threads = [
            threading.Thread(target=self._listen, name="proxy line", daemon=True),
            threading.Thread(target=self._carry, name="proxy link", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # -- a console --

    def write(self, data: bytes) -> None:
        """Text to the board, never in the middle of a frame."""
        with self._writing:
            self._console.write(data)

    def read_some(self, seconds: float) -> bytes:
        with self._news:
            self._news.wait_for(lambda: self._text or self._problem, seconds)
            if self._problem is not None and not self._text:
                raise self._problem
            data = bytes(self._text)
            self._text.clear()
        return data

    def close(self) -> None:
        """End the link; the console stays open."""
        self._closing = True
        self._wake.send(b"\0")
        for thread in self._threads:
            thread.join()
        self._drop()
        self._wake.close()
        self._woken.close()

    # -- the line --

    def _listen(self) -> None:
        decoder = hdlc.Decoder(sl.MAX_FRAME)
        while not self._closing:
            try:
                data = self._console.read_some(_STEP)
            except BenchProblem as problem:
                with self._news:
                    self._problem = problem
                    self._news.notify_all()
                return
            for is_frame, piece in decoder.feed(data):
                if is_frame:
                    self._frames.put(piece)
                    with contextlib.suppress(OSError):
                        self._wake.send(b"\0")
                else:
                    with self._news:
                        self._text += piece
                        del self._text[:-_TEXT]
                        self._news.notify_all()

    def _send(self, frame: bytes) -> None:
        self.write(hdlc.encode(frame))

    # -- the link; all from here on in its own thread --

    def _carry(self) -> None:
        while not self._closing and self._problem is None:
            try:
                self._step()
            except KeyferryError as error:
                self._note(f"link ended: {error}")
                self._drop(tell=True)
            except _GaveUp:
                self._note("the board gave up")
            except TlsProblem as problem:
                with contextlib.suppress(BenchProblem):
                    self._finish(problem.name, problem.detail)
            except BenchProblem as problem:
                # the listener, which has the port's errors, tells who uses the console
                self._note(f"line: {problem}")
                self._drop()

    def _step(self) -> None:
        end = self._end
        reads: list[socket.socket] = [self._woken]
        room = end is not None and end.waiting < _QUEUE
        if self._link is not None and room:
            reads.append(self._link.socket)
        ready, _, _ = select.select(reads, [], [], _STEP)
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        self._take_frames()
        if self._link is not None and self._link.socket in ready:
            self._read_link()
        self._tick()

    def _take_frames(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._take(self._frames.get_nowait())
                if message is not None:
                    self._message(*message)

    def _take(self, frame: bytes) -> tuple[int, bytes] | None:
        """The message that a frame completes; ACKs go out."""
        if len(frame) < 3:
            return None
        kind, connection, number = frame[:3]
        end = self._end
        opening = kind & ~sl.MORE == sl.OPEN and number == 0
        if end is None or end.connection != connection:
            if not opening:
                if kind not in (sl.ACK, sl.RESET):
                    self._send(sl.reset(connection))
                return None
            self._drop()
            self._end = end = sl.End(connection)
        message = end.receive(frame)
        self._flush()
        return message

    def _flush(self) -> None:
        while self._end is not None and self._end.out:
            self._send(self._end.out.pop(0))

    def _tick(self) -> None:
        now = time.monotonic()
        while now - self._ticked >= sl.TICK:
            self._ticked += sl.TICK
            if self._end is not None:
                self._end.tick()
        self._flush()

    def _message(self, kind: int, data: bytes) -> None:
        self._seen(data)
        if kind == sl.OPEN and self._link is None:
            self._open(data)
        elif kind == sl.DATA and self._link is not None:
            self._link.write(data)
        elif kind == sl.RESET:
            self._note("closed by the board")
            self._drop()
        elif self._link is not None:
            raise TlsProblem("malformed", f"kind {kind}, and the link is open")

    def _open(self, data: bytes) -> None:
        port, realm, certificate, roots = sl.parse_open(data)
        if port not in self._ports:
            raise TlsProblem("access-denied", f"port {port} is none of the manager's")
        self._note(f"to {realm} at {self._host}:{port}, {len(certificate)} bytes of certificate")
        self._link = Link((self._host, port), realm, roots, certificate, self._ask_board)
        self._put(sl.OPENED)

    def _ask_board(self, transcript: bytes) -> bytes:
        """Have the board sign. In the middle of a handshake: nothing else goes on meanwhile."""
        asked = self._end
        self._put(sl.SIGN, transcript)
        limit = time.monotonic() + _SIGN_SECONDS
        while time.monotonic() < limit and not self._closing:
            with contextlib.suppress(queue.Empty):
                message = self._take(self._frames.get(timeout=sl.TICK))
                if self._end is not asked or (message is not None and message[0] == sl.RESET):
                    raise _GaveUp
                if message is not None and message[0] == sl.SIGNATURE:
                    self._note("the board signed a handshake")
                    self._seen(message[1])
                    return message[1]
            self._tick()
        raise TlsProblem("timeout", "the board does not sign")

    def _read_link(self) -> None:
        link, end = self._link, self._end
        while link is not None and end is not None and end.waiting < _QUEUE:
            data = link.read()
            if data is None:
                return
            if not data:
                self._finish("session-closed", "")
                return
            self._put(sl.DATA, data)

    def _put(self, kind: int, data: bytes = b"") -> None:
        if self._end is not None:
            self._seen(data)
            self._end.send(kind, data)
            self._flush()

    def _finish(self, name: str, text: str) -> None:
        """The link is over; the board is told after all data."""
        self._note(f"link over: {name} {text}")
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._put(sl.CLOSE, sl.end_of(name, "".join(c for c in text if " " <= c <= "~")))

    def _drop(self, *, tell: bool = False) -> None:
        """Forget the connection, and with ``tell`` say so."""
        link, self._link = self._link, None
        end, self._end = self._end, None
        if link is not None:
            link.close()
        if tell and end is not None:
            with contextlib.suppress(BenchProblem):
                self._send(sl.reset(end.connection))
