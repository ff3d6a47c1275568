# The virtual board's boot: mounts its flash at / and its application at /rom, then runs main.
# It runs inside MicroPython, once per start, as the first code of the process.

import gc
import os
import sys

import rom  # beside this file
import vfs

_BLOCK = 4096


class Flash:
    """A block device over a file of the host: what the flash driver is on a board.

    The file is opened anew by every process; writes reach the host before a call returns, so a
    killed process leaves what a power cut leaves.
    """

    def __init__(self, path: str) -> None:
        self._blocks = os.stat(path)[6] // _BLOCK
        self._file = open(path, "r+b")  # noqa: SIM115  # open as long as the board runs

    def readblocks(self, block: int, data: bytearray, offset: int = 0) -> None:
        self._file.seek(block * _BLOCK + offset)
        self._file.readinto(data)

    def writeblocks(self, block: int, data: bytes, offset: int = 0) -> None:
        self._file.seek(block * _BLOCK + offset)
        self._file.write(data)

    def ioctl(self, operation: int, _argument: int) -> int | None:
        if operation == 4:
            return self._blocks
        if operation == 5:
            return _BLOCK
        if operation == 6:
            return 0  # blocks need no erasing
        return None


def mount() -> None:
    # A block device is what answers as one; the stubs want a base class that does not exist.
    flash = vfs.VfsLfs2(Flash(os.getenv("KEYFERRY_FLASH", "")))  # pyright: ignore[reportArgumentType]
    application = rom.application(os.getenv("KEYFERRY_ROM", ""))
    vfs.umount("/")
    vfs.mount(flash, "/")
    vfs.mount(application, "/rom")
    os.chdir("/")
    sys.path[:] = ["/rom", ".frozen"]


mount()
del sys.modules["rom"]
gc.collect()  # before the application takes the heap
# False in the place of the names to import: main is imported as "__main__", as a board runs it.
__import__("main", None, None, False)  # pyright: ignore[reportArgumentType]
