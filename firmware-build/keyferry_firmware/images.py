"""Images: the application as ROMFS (read-only, run in place), and LittleFS with device files."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from littlefs import LittleFS
from mpremote.romfs import VfsRomWriter

from keyferry_firmware import mpy, sources

# LittleFS as MicroPython's VfsLfs2 expects it by default, on flash with 4 KiB sectors.
BLOCK = 4096
_READ = _PROGRAM = 32


def romfs(files: Mapping[str, bytes]) -> bytes:
    """A ROMFS image of ``{"folder/file": content}``. The same files give the same bytes."""
    writer = VfsRomWriter()
    opened: list[str] = []
    for path in sorted(files, key=lambda path: path.split("/")):
        *folders, name = path.split("/")
        shared = 0
        while shared < min(len(opened), len(folders)) and opened[shared] == folders[shared]:
            shared += 1
        while len(opened) > shared:
            writer.closedir()
            opened.pop()
        for folder in folders[shared:]:
            writer.opendir(folder)
            opened.append(folder)
        writer.mkfile(name, files[path])
    for _ in opened:
        writer.closedir()
    return bytes(writer.finalise())


def application(main: Path, *, optimise: int = 3) -> dict[str, bytes]:
    """The files of a device's application: core, agent and ``main``, compiled."""
    return mpy.compile_all({**sources.modules([main]), "main.py": main}, optimise)


def littlefs(
    files: Mapping[str, bytes], size: int = 256 * 1024, *, program: int = _PROGRAM
) -> bytes:
    """A LittleFS image of ``size`` bytes (a multiple of 4096) that holds ``files``.

    ``program``: bytes that the flash writes at once. The same files give the same bytes.
    """
    if size % BLOCK:
        raise ValueError(f"littlefs: the size is a multiple of {BLOCK}")
    system = LittleFS(
        block_size=BLOCK,
        block_count=size // BLOCK,
        read_size=_READ,
        prog_size=program,
    )
    for path, content in sorted(files.items()):
        folder = str(PurePosixPath("/", path).parent)
        if folder != "/":
            system.makedirs(folder, exist_ok=True)
        with system.open(path, "wb") as file:
            file.write(content)
    return bytes(system.context.buffer)


def read_littlefs(image: bytes) -> dict[str, bytes]:
    """The files in a LittleFS image, by their path without the leading slash."""
    system = LittleFS(
        block_size=BLOCK,
        block_count=len(image) // BLOCK,
        read_size=_READ,
        prog_size=_PROGRAM,
        mount=False,
    )
    system.context.buffer[:] = image
    system.mount()
    found = {}
    for folder, _, names in system.walk("/"):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            with system.open(path, "rb") as file:
                found[path.lstrip("/")] = file.read()
    return found
