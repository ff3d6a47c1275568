"""The processes that are measured: one for each runtime and backend, asked for a case at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from keyferry_hil import interpreter

HERE = Path(__file__).parent
WORKER = HERE / "on_both" / "worker.py"
VECTORS = HERE.parent / "vectors" / "identities.json"


class Worker:
    """A process with its cases ready."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.cases = frozenset(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            return json.loads(line)
        except ValueError:
            rest = line + self._process.stdout.read()
            raise RuntimeError("a worker ended: " + rest.strip()[-2000:]) from None

    def run(self, case: str) -> Any:
        """Run a case once: microseconds, or four steps of them, or of counts."""
        assert self._process.stdin is not None
        self._process.stdin.write(case + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def cpython(backend: str) -> Worker:
    """CPython with the core's own arithmetic (``core``) or OpenSSL's (``cryptography``)."""
    return Worker([sys.executable, str(WORKER), backend, str(VECTORS)], {})


def micropython(modules: Path, heap: str) -> Worker:
    """MicroPython with the core and the worker as compiled modules in the folder ``modules``."""
    return Worker(
        [*interpreter.command(), "-X", "heapsize=" + heap, "-m", "worker", "core", str(VECTORS)],
        {"MICROPYPATH": f"{modules}:.frozen"},
    )
