"""pytest plugin: runs each test of tests/core and tests/agent a second time in MicroPython.

One interpreter process serves one file, with a heap limit; one pytest item stands for each
function, so a failure is named ``test_x[micropython]``. In a file's first lines, ``# heap: 2m``
sets its heap (256k otherwise) and ``# seconds: 120`` the time for one function (60 otherwise).
"""

import ast
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyferry_hil import interpreter

SUPPORT = Path(__file__).parent
RUNNER = SUPPORT / "micropython_runner.py"
MARK = b"\x1e"
FOLDERS = ("core", "agent")
HEAP = "256k"
SECONDS = 60.0
_DIRECTIVE = re.compile(r"^#\s*(heap|seconds):\s*(\S+)\s*$")
_FRAME = re.compile(r'^(\s*File "([^"]+)", line (\d+), in .*)$')


class Failed(Exception):
    """The test failed inside MicroPython; the text is what the interpreter printed."""


class Interpreter:
    """One MicroPython process that has imported one test file."""

    def __init__(self, path: Path, heap: str, seconds: float) -> None:
        root = SUPPORT.parent.parent
        folders = [root / "shared", root / "device", root / "tests"]
        environment = dict(os.environ)
        environment["MICROPYPATH"] = ":".join([*map(str, folders), ".frozen"])
        self._seconds = seconds
        self._heap = heap
        self._pending = b""
        self._process = subprocess.Popen(
            [
                *interpreter.command(),
                *("-X", "heapsize=" + heap),
                str(RUNNER),
                str(path.parent),
                path.stem,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=root,
        )
        self.alive = True
        try:
            self._verdict("importing " + path.name)
        except BaseException:
            self.close()
            raise

    def run(self, function: str) -> str:
        """Run one function and return what it printed. Failed when it failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(function.encode() + b"\n")
            self._process.stdin.flush()
            return self._verdict(function)
        except Failed:
            raise
        except BaseException:
            self.close()
            raise

    def _verdict(self, what: str) -> str:
        output = b""
        deadline = time.monotonic() + self._seconds
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if newline:
                self._pending = rest
                before, mark, verdict = line.partition(MARK)
                if not mark:
                    output += line + b"\n"
                    continue
                text = (output + before).decode(errors="replace")
                if verdict.strip() == b"passed":
                    return text
                raise Failed(text)
            chunk = self._read(deadline)
            if not chunk:
                text = (output + self._pending).decode(errors="replace")
                late = time.monotonic() >= deadline
                self.close()
                reason = (
                    f"no end within {self._seconds:g} s"
                    if late
                    else f"the interpreter ended with status {self._process.returncode}"
                )
                raise Failed(f"{text}{what}: {reason} (heap {self._heap})\n")
            self._pending += chunk

    def _read(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([descriptor], [], [], left)
        return os.read(descriptor, 65536) if ready else b""

    def close(self) -> None:
        if not self.alive:
            return
        self.alive = False
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # unsent input of a process that is gone


class MicroPythonFile(pytest.File):
    """The functions of one test file, to be run in MicroPython."""

    interpreter: Interpreter | None = None

    def collect(self) -> Iterator[pytest.Item]:
        source = self.path.read_text(encoding="utf-8")
        self.settings = {"heap": HEAP, "seconds": str(SECONDS)}
        for line in source.splitlines()[:10]:
            found = _DIRECTIVE.match(line)
            if found:
                self.settings[found[1]] = found[2]
        functions: dict[str, ast.FunctionDef] = {}
        for node in ast.parse(source, str(self.path)).body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                raise self.CollectError(f"{node.name}: plain functions only, for MicroPython")
            if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test_"):
                raise self.CollectError(f"{node.name}: no async tests; use asyncio.run inside")
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                arguments = node.args
                if arguments.args or arguments.kwonlyargs or node.decorator_list:
                    raise self.CollectError(f"{node.name}: no arguments or decorators here")
                functions[node.name] = node
        for name, node in functions.items():
            yield MicroPythonItem.from_parent(
                self, name=name + "[micropython]", function=name, line=node.lineno - 1
            )

    def running(self) -> Interpreter:
        """The file's interpreter, started now if it is not running."""
        if self.interpreter is None or not self.interpreter.alive:
            self.interpreter = Interpreter(
                self.path, self.settings["heap"], float(self.settings["seconds"])
            )
        return self.interpreter

    def teardown(self) -> None:
        if self.interpreter is not None:
            self.interpreter.close()


class MicroPythonItem(pytest.Item):
    """One function, run in the interpreter of its file."""

    def __init__(self, *, function: str, line: int, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self._function = function
        self._line = line
        self.add_marker("micropython")

    def runtest(self) -> None:
        assert isinstance(self.parent, MicroPythonFile)
        output = self.parent.running().run(self._function)
        if output:
            self.add_report_section("call", "stdout", output)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style=None):
        if isinstance(excinfo.value, Failed):
            return "in MicroPython:\n" + with_source(str(excinfo.value))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self._line, self.name


def with_source(traceback: str) -> str:
    """MicroPython's traceback with the source line below each frame, as CPython prints it."""
    lines = []
    for line in traceback.splitlines():
        lines.append(line)
        frame = _FRAME.match(line)
        if frame:
            try:
                source = Path(frame[2]).read_text(encoding="utf-8").splitlines()
                lines.append("    " + source[int(frame[3]) - 1].strip())
            except (OSError, IndexError):
                continue  # a frozen module: its source is not here
    return "\n".join(lines)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "micropython: runs inside the MicroPython interpreter")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    folder = file_path.parent
    if (
        file_path.name.startswith("test_")
        and file_path.suffix == ".py"
        and folder.name in FOLDERS
        and folder.parent.name == "tests"
    ):
        return MicroPythonFile.from_parent(parent, path=file_path)
    return None
