"""A board's official MicroPython image: checked by its hash and by what it says of itself, then
joined with the application into the one file that is flashed."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from keyferry_firmware import esp32, rp2
from keyferry_firmware.boards import Board
from keyferry_firmware.problems import FirmwareProblem

_LARGEST = 64 << 20
_VERSION = re.compile(
    rb"MicroPython v([0-9]{1,3})\.([0-9]{1,3})([.0-9A-Za-z+-]{0,40}) on 20[0-9]{2}-"
)
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Base:
    """A base image that fits its board."""

    data: bytes
    sha256: str
    version: str  # MicroPython's


def read_base(board: Board, path: Path, sha256: str = "") -> Base:
    """The base image in a file. FirmwareProblem when it is another, for another board, or too old.

    ``sha256``: what its publisher says; needed unless the board's own file knows the image.
    """
    if board.base is None:
        raise FirmwareProblem(f"{board.name} needs no base image: leave out --base.")
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise FirmwareProblem(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > _LARGEST:
        raise FirmwareProblem(f"{path} is too large for a firmware image.")
    found = hashlib.sha256(data).hexdigest()
    known = (sha256.lower(),) if sha256 else board.base.sha256
    if not known:
        raise FirmwareProblem(
            f"{board.name}.toml knows no base image: give --base-sha256 with the hash that the "
            "publisher of the image states."
        )
    if not all(_HASH.fullmatch(item) for item in known):
        raise FirmwareProblem("--base-sha256: expected 64 hexadecimal digits.")
    if found not in known:
        raise FirmwareProblem(
            f"{path} has the SHA-256 {found}, which is not the one expected: fetch it again."
        )
    program = esp32.program(board, data) if board.family == "esp32" else rp2.program(board, data)
    return Base(data, found, _version(board, program, path))


def _version(board: Board, program: bytes, path: Path) -> str:
    assert board.base is not None
    found = {match.groups() for match in _VERSION.finditer(program)}
    if len(found) != 1:
        raise FirmwareProblem(f"{path} does not say which MicroPython it is; take another.")
    major, minor, rest = found.pop()
    least = tuple(int(part) for part in board.base.micropython.split("."))
    if (int(major), int(minor)) < least:
        raise FirmwareProblem(
            f"{path} is MicroPython {int(major)}.{int(minor)}; {board.name} needs "
            f"{board.base.micropython} or later."
        )
    if b"VfsRom" not in program:
        raise FirmwareProblem(
            f"{path} has no VfsRom, so it cannot run code in place: take a build of MicroPython "
            "with MICROPY_VFS_ROM, or freeze with the build's manifest.py."
        )
    return f"{int(major)}.{int(minor)}{rest.decode()}"


def merge(board: Board, base: Base, rom: bytes, files: bytes) -> dict[str, bytes]:
    """The flashable file, and on ESP32 its partition table, by name."""
    if board.family == "esp32":
        return esp32.merge(board, base.data, rom, files)
    return rp2.merge(board, base.data, rom, files)
