"""What can be done with a board, whoever does it. ``fakes.py`` has a fake of each."""

from collections.abc import Mapping
from typing import Protocol


class Console(Protocol):
    """Bytes to and from a board. BenchProblem("port-lost") when the port goes away."""

    def write(self, data: bytes) -> object: ...

    def read_some(self, seconds: float) -> bytes:
        """What there is, after waiting ``seconds`` at most for the first byte; b"" for none."""
        ...


class Reset(Protocol):
    """A hard reset: as the board's own button."""

    def hard_reset(self) -> None: ...


class Power(Protocol):
    """The board's supply. BenchProblem("control-failed")."""

    def off(self) -> None: ...

    def on(self) -> None: ...


class Files(Protocol):
    """The board's file system; paths are absolute."""

    def write_file(self, path: str, data: bytes) -> None: ...

    def read_file(self, path: str) -> bytes: ...

    def remove(self, path: str) -> None: ...


class Flasher(Protocol):
    """Puts an application onto a board: ``{"package/module.mpy": bytecode}``."""

    def flash(self, files: Mapping[str, bytes]) -> None: ...
