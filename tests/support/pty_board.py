"""A board on a serial port, for tests: MicroPython's REPL behind a pseudo-terminal.

Two pairs of them, since one end can be opened by name only once the other end has it: MicroPython
has the inner pair as its terminal, the test opens ``port``, the outer one, and bytes are carried
across in between. Its file system is LittleFS in a file, mounted at ``/`` as on a board.
"""

import os
import pty
import select
import subprocess
import threading
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from keyferry_firmware import images
from keyferry_hil import interpreter

_BOOT = """
import gc, os, sys, vfs

class Flash:
    def __init__(self, path):
        self._blocks = os.stat(path)[6] // 4096
        self._file = open(path, "r+b")

    def readblocks(self, block, data, offset=0):
        self._file.seek(block * 4096 + offset)
        self._file.readinto(data)

    def writeblocks(self, block, data, offset=0):
        self._file.seek(block * 4096 + offset)
        self._file.write(data)

    def ioctl(self, operation, argument):
        return {4: self._blocks, 5: 4096, 6: 0}.get(operation)

flash = vfs.VfsLfs2(Flash(%r))
vfs.umount("/")
vfs.mount(flash, "/")
os.chdir("/")
sys.path[:] = ["", ".frozen", "/lib"]
del Flash, flash
gc.collect()
"""


class PtyBoard:
    """``port``: what a serial program opens. ``flash``: the file system, as a file."""

    def __init__(self, place: Path, heap: str, files: Mapping[str, bytes]) -> None:
        self.flash = place / "flash.img"
        self.flash.write_bytes(images.littlefs(files, 512 * 1024))
        boot = place / "boot.py"
        boot.write_text(_BOOT % str(self.flash))
        self._outer, self._outer_end = pty.openpty()
        self._inner, inner_end = pty.openpty()
        for end in (self._outer_end, inner_end):
            tty.setraw(end)
        self.port = os.ttyname(self._outer_end)
        self._process = subprocess.Popen(
            [*interpreter.command(), "-X", "heapsize=" + heap, "-i", str(boot)],
            stdin=inner_end,
            stdout=inner_end,
            stderr=inner_end,
            env={**os.environ, "MICROPYPATH": ".frozen"},
            start_new_session=True,
        )
        os.close(inner_end)
        self._stop, self._stopping = os.pipe()
        self._carrier = threading.Thread(target=self._carry)
        self._carrier.start()

    def files(self) -> dict[str, bytes]:
        """What is on its file system."""
        return images.read_littlefs(self.flash.read_bytes())

    def _carry(self) -> None:
        across = {self._outer: self._inner, self._inner: self._outer}
        while True:
            ready, _, _ = select.select([*across, self._stop], [], [])
            if self._stop in ready:
                return
            for source in ready:
                try:
                    data = os.read(source, 4096)
                    while data:
                        data = data[os.write(across[source], data) :]
                except OSError:
                    return  # MicroPython has ended, and its terminal with it

    def kill(self) -> None:
        """As when the board's plug is pulled."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        os.close(self._stopping)
        self._carrier.join()
        for end in (self._stop, self._outer, self._outer_end, self._inner):
            os.close(end)


@contextmanager
def pty_board(
    place: Path, *, heap: str = "256k", files: Mapping[str, bytes] | None = None
) -> Iterator[PtyBoard]:
    """A board with these files on it, switched on."""
    board = PtyBoard(place, heap, files or {})
    try:
        yield board
    finally:
        board.close()
