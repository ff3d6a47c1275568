"""The core's own tests, run in MicroPython with the core as it stands in an image."""

import ast
import os
import subprocess
from pathlib import Path

from keyferry_hil import interpreter

TESTS = Path(__file__).parents[1]
# Modules of tests/core that find in an image what a tool got wrong.
NAMES = (
    "test_session",
    "test_session_profiles",
    "test_edhoc",
    "test_records",
    "test_signalling",
    "test_x509",
)
# What these import, in tests/support.
SUPPORT = ("portable.py", "session_kit.py", "micropython_runner.py")


def write(folder: Path, texts: dict[str, bytes]) -> None:
    """Put modules, by their paths in an image, into ``folder``."""
    for path, text in texts.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)


def run(name: str, image: Path, folder: Path = TESTS / "core") -> None:
    """Run each test of ``folder``/``name``.py with the modules in ``image``, 2 MiB of heap.

    AssertionError with what was printed when one did not pass.
    """
    module = ast.parse((TESTS / "core" / f"{name}.py").read_text())
    functions = [
        node.name
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    done = subprocess.run(
        [
            *interpreter.command(),
            *("-X", "heapsize=2m", str(TESTS / "support" / "micropython_runner.py")),
            *(str(folder), name),
        ],
        env={**os.environ, "MICROPYPATH": f"{image}:{TESTS}:.frozen"},
        input="\n".join(functions) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.split("\n")  # splitlines() would split at the mark
    verdicts = [line.partition("\x1e")[2] for line in lines if "\x1e" in line]
    assert verdicts == ["passed"] * (1 + len(functions)), done.stdout[-2000:]
