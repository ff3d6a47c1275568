# The virtual board's boot: mounts its flash at / and its application at /rom, then runs main.
# It runs inside MicroPython, once per start, as the first code of the process. A flash with a
# boot.py is a built image: then boot.py and main.py do the rest, as on a board.

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


def mount_flash() -> None:
    # A block device is what answers as one; the stubs want a base class that does not exist.
    flash = vfs.VfsLfs2(Flash(os.getenv("KEYFERRY_FLASH", "")))  # pyright: ignore[reportArgumentType]
    vfs.umount("/")
    vfs.mount(flash, "/")
    os.chdir("/")


def run_file(path: str) -> None:
    with open(path) as file:
        source = file.read()
    exec(source, {"__name__": "__main__"})


def mount_application(application: "vfs.VfsRom | vfs.VfsPosix") -> None:
    vfs.mount(application, "/rom")
    sys.path[:] = ["/rom", ".frozen"]


place = rom.mapped(os.getenv("KEYFERRY_ROM", ""))
mount_flash()
if "boot.py" in os.listdir("/"):
    os.putenv("KEYFERRY_ROM", place)  # for the boot code
    del sys.modules["rom"]
    sys.path[:] = ["", ".frozen", "/lib"]
    run_file("/boot.py")
    gc.collect()
    run_file("/main.py")
else:
    mount_application(rom.application(place))
    del sys.modules["rom"]
    gc.collect()  # before the application takes the heap
    # False in the place of the names to import: main is imported as "__main__", as -m runs it.
    __import__("main", None, None, False)  # pyright: ignore[reportArgumentType]
