"""Fakes of the protocols, for tests of what stands above them."""

import time
from collections import deque
from collections.abc import Callable, Mapping

from keyferry_hil.problems import BenchProblem


class FakeConsole:
    """A console that says what a test wrote down.

    ``said`` comes out piece by piece; ``answer(data)`` may add to it for each write. ``lost``: the
    port goes away when all has been read.
    """

    def __init__(
        self,
        said: list[bytes] | None = None,
        answer: Callable[[bytes], bytes] = lambda data: b"",
        *,
        lost: bool = False,
    ) -> None:
        self.said = deque(said or [])
        self.written = bytearray()
        self._answer = answer
        self._lost = lost

    def write(self, data: bytes) -> None:
        self.written += data
        answer = self._answer(data)
        if answer:
            self.said.append(answer)

    def read_some(self, seconds: float) -> bytes:
        if self.said:
            return self.said.popleft()
        if self._lost:
            raise BenchProblem("port-lost", "fake", "gone")
        time.sleep(min(seconds, 0.01))
        return b""


class FakePower:
    """A switch that keeps what was done; also a reset button."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def off(self) -> None:
        self.done.append("off")

    def on(self) -> None:
        self.done.append("on")

    def hard_reset(self) -> None:
        self.done.append("reset")


class FakeFiles(dict[str, bytes]):
    """A file system in memory."""

    def write_file(self, path: str, data: bytes) -> None:
        self[path] = data

    def read_file(self, path: str) -> bytes:
        try:
            return self[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def remove(self, path: str) -> None:
        del self[path]

    def flash(self, files: Mapping[str, bytes]) -> None:
        self.update({f"/lib/{name}": data for name, data in files.items()})
