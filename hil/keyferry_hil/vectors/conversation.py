"""The host's end of the lines that ``on_device/vector_answers/service.py`` speaks."""

import binascii
import time
from collections import deque
from collections.abc import Callable


class RuntimeLost(Exception):
    """The runtime under test ended, stayed silent, or said what is no answer."""


class Conversation:
    """Questions out, answers in, over any two callables that carry bytes.

    ``read(seconds)`` returns what has come within that time, at least a byte, or nothing when the
    time is over; it raises RuntimeLost at the end of the stream. ``piece``: bytes of a question
    in one line.
    """

    def __init__(
        self, write: Callable[[bytes], None], read: Callable[[float], bytes], piece: int
    ) -> None:
        self._write = write
        self._read = read
        self._piece = piece
        self._pending = b""
        # What the console said besides: a traceback, when things go wrong.
        self.console: deque[str] = deque(maxlen=20)

    def wait_ready(self, seconds: float) -> None:
        """Until the service says that it has started."""
        deadline = time.monotonic() + seconds
        while self._line(deadline, "no start") != "ready":
            pass

    def ask(self, question: bytes, seconds: float) -> bytes:
        """The answer to a question. ``seconds`` is for the whole of it."""
        deadline = time.monotonic() + seconds
        for start in range(0, len(question), self._piece):
            piece = binascii.b2a_base64(question[start : start + self._piece], newline=False)
            last = start + self._piece >= len(question)
            self._write((b"!" if last else b".") + piece + b"\n")
            if not last and self._marked(deadline) != ".":
                raise self._lost("an answer before the question was complete")
        parts = []
        while True:
            line = self._marked(deadline)
            try:
                parts.append(binascii.a2b_base64(line[1:], strict_mode=True))
            except ValueError:
                raise self._lost(f"no answer but {line[:60]!r}") from None
            if line[0] == "!":
                return b"".join(parts)

    def _marked(self, deadline: float) -> str:
        while True:
            line = self._line(deadline, "no answer")
            if line[:1] in (".", "!"):
                return line
            if line:
                self.console.append(line)

    def _line(self, deadline: float, missing: str) -> str:
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._lost(f"{missing} in time")
            try:
                self._pending += self._read(left)
            except RuntimeLost as error:
                self.console.extend(self._pending.decode(errors="replace").splitlines())
                raise self._lost(str(error)) from None
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode(errors="replace").strip("\r")

    def _lost(self, text: str) -> RuntimeLost:
        said = " | ".join(self.console)
        return RuntimeLost(f"{text}; the console said: {said}" if said else text)
