"""Words of the board to its master, in the stream of its console; nothing else sees them."""

from collections.abc import Iterator

_END = b"\x1b\\"
_LONGEST = 64


class Marks:
    """Takes marks with this board's secret nonce out of what it writes."""

    def __init__(self, nonce: str) -> None:
        self._start = b"\x1b_kf:" + nonce.encode() + b":"
        self._held = b""

    def feed(self, data: bytes) -> Iterator[bytes | str]:
        """The console's bytes, and between them the marks as str, in their order."""
        data = self._held + data
        self._held = b""
        while data:
            at = data.find(self._start)
            if at < 0:
                keep = self._partial(data)
                self._held = data[len(data) - keep :]
                if len(data) > keep:
                    yield data[: len(data) - keep]
                return
            if at:
                yield data[:at]
            rest = data[at + len(self._start) :]
            end = rest.find(_END)
            if end < 0:
                if len(rest) > _LONGEST:  # broken off, by an interrupt
                    data = rest
                    continue
                self._held = data[at:]
                return
            yield rest[:end].decode("ascii", "replace")
            data = rest[end + len(_END) :]

    def _partial(self, data: bytes) -> int:
        """How many bytes at the end may be the beginning of a mark."""
        for length in range(min(len(self._start) - 1, len(data)), 0, -1):
            if self._start.startswith(data[-length:]):
                return length
        return 0
