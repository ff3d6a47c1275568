"""What went over a board's serial line, with the host's time for every line."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from keyferry_core import hdlc
from keyferry_core import serial_link as sl

_KEPT = 4000  # lines in memory, for reports
_LONGEST = 2000  # characters of a line
_KINDS = {getattr(sl, name): name for name in ("OPEN", "SIGN", "SIGNATURE", "OPENED", "DATA")}
_KINDS |= {sl.CLOSE: "CLOSE", sl.ACK: "ACK", sl.RESET: "RESET"}
_LARGEST = 64 << 20  # bytes of a file: a board in a loop must not fill a disk


class SerialLog:
    """``<`` from the board, ``>`` to it, ``!`` what the bench did."""

    def __init__(self, path: Path | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._count = 0
        self._written = 0
        self._partial = bytearray()
        self._began = 0.0
        self._muted = False
        self._frames: dict[str, hdlc.Decoder] = {}
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def framed(self, on: bool) -> None:
        """Whether there are frames on the line from now on (``hdlc``). Of them the log has kind and
        length only: a token may be in them, and there are many."""
        self._frames = {way: hdlc.Decoder(sl.MAX_FRAME) for way in "<>"} if on else {}

    def _text(self, way: str, data: bytes) -> bytes:
        if way not in self._frames:
            return data
        text = b""
        for is_frame, piece in self._frames[way].feed(data):
            if is_frame:
                kind = _KINDS.get(piece[0] & ~sl.MORE, "frame")
                self._add(way, f"[{kind}, {len(piece) - 3} bytes]".encode(), time.time())
            else:
                for line in piece.splitlines(keepends=True):
                    if hdlc.FLAG in line:
                        self._add(way, f"[torn frame, {len(line)} bytes]".encode(), time.time())
                    else:
                        text += line
        return text

    def received(self, data: bytes) -> None:
        """Bytes from the board; a line has the time of its first byte."""
        data = self._text("<", data)
        if not self._partial:
            self._began = time.time()
        self._partial += data
        while True:
            line, newline, rest = self._partial.partition(b"\n")
            if not newline and len(line) < _LONGEST:
                return
            self._add("<", line[:_LONGEST], self._began)
            self._partial = rest if newline else line[_LONGEST:]
            self._began = time.time()

    def sent(self, data: bytes) -> None:
        """Bytes to the board."""
        if not self._muted and (data := self._text(">", data)):
            self._add(">", data, time.time())

    @contextmanager
    def muted(self, what: str) -> Iterator[None]:
        """Keep what is sent meanwhile out of the log: it has a secret."""
        self.note(what)
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    def note(self, text: str) -> None:
        """Something that the bench did or saw."""
        self._add("!", text.encode(), time.time())

    def position(self) -> int:
        """A place to read from later on."""
        return self._count

    def since(self, position: int = 0) -> list[str]:
        """The lines after ``position`` that are still there, and the beginning of the next."""
        skip = max(0, len(self._lines) - (self._count - position))
        lines = list(self._lines)[skip:]
        if self._partial:
            lines.append(_line("<", bytes(self._partial), self._began))
        return lines

    def close(self) -> None:
        if self._partial:
            self._add("<", bytes(self._partial), self._began)
            self._partial.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, direction: str, data: bytes | bytearray, when: float) -> None:
        line = _line(direction, data, when)
        self._lines.append(line)
        self._count += 1
        if self._file is not None and self._written < _LARGEST:
            self._written += len(line) + 1
            self._file.write(line + "\n")
            self._file.flush()


def _line(direction: str, data: bytes | bytearray, when: float) -> str:
    stamp = time.strftime("%H:%M:%S", time.localtime(when)) + f".{int(when * 1000) % 1000:03d}"
    text = bytes(data[:_LONGEST]).rstrip(b"\r").decode("utf-8", "backslashreplace")
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return f"{stamp} {direction} {shown}"
