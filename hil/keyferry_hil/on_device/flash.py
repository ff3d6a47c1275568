# A virtual board's flash: a file of the host. It runs inside MicroPython, before the application.

import os

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


def mount(device: Flash) -> None:
    """Mount it at /, and go there; KEYFERRY_FLASH_READONLY: as a flash that takes no more."""
    # A block device is what answers as one; the stubs want a base class that does not exist.
    flash = vfs.VfsLfs2(device)  # pyright: ignore[reportArgumentType]
    vfs.umount("/")
    vfs.mount(flash, "/", readonly=bool(os.getenv("KEYFERRY_FLASH_READONLY")))
    os.chdir("/")
