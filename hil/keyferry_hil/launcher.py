"""Runs MicroPython inside this CPython process, with a ROMFS image in memory.

``python -m keyferry_hil.launcher IMAGE [MicroPython's own arguments]``. The pinned interpreter is
an extension module, so it shares this process's memory: the image is mapped here, and the
environment variable KEYFERRY_ROM tells its ``address:size``. That costs no MicroPython heap, as
flash that is executed in place costs none on a board.
"""

import ctypes
import mmap
import os
import sys
from pathlib import Path

from keyferry_hil.bench import end_with_parent


def main() -> int:
    end_with_parent()
    image = Path(sys.argv[1])
    with image.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    os.environ["KEYFERRY_ROM"] = f"{address}:{len(memory)}"

    # An extension module, without stubs.
    from micropython_unix import run_main  # pyright: ignore[reportAttributeAccessIssue]

    return run_main(["micropython", *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
