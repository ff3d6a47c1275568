# Where a virtual board's application lies. It runs inside MicroPython.

import os

import vfs

try:
    import ffi  # only the Unix port has it, and only where it was built with libffi
except ImportError:
    ffi = None


def mapped(place: str) -> str:
    """``address:size`` of the ROMFS image at ``place``, in this process and outside the heap.

    That is what the launcher says, or ``place`` is the path of ``NAME.img``, which is mapped here
    where the interpreter can call C functions. Elsewhere the path comes back.
    """
    if ":" in place or ffi is None:
        return place
    return ":".join([str(number) for number in _map(place)])


def application(place: str) -> "vfs.VfsRom | vfs.VfsPosix":
    """The file system of the application at ``place``.

    An interpreter that cannot map an image imports the same files from the folder ``NAME``, into
    its heap.
    """
    address, separator, size = mapped(place).partition(":")
    if not separator:
        return vfs.VfsPosix(place[: -len(".img")])
    import uctypes

    return vfs.VfsRom(memoryview(uctypes.bytearray_at(int(address), int(size))))


def _map(path: str) -> tuple[int, int]:
    """Address and size of the file's bytes in this process, outside MicroPython's heap."""
    size = os.stat(path)[6]
    library = ffi.open(None)
    handle = library.func("i", "open", "si")(path, 0)
    # readable and writable (uctypes wants it so), private to this process
    return library.func("p", "mmap", "pIiiii")(None, size, 3, 2, handle, 0), size
