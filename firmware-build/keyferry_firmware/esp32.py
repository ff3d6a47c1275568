"""ESP32 boards: MicroPython's image taken apart and checked, the partition table, the merged file.

An image that MicroPython publishes begins at the boot loader and holds the partition table at
0x8000 and the program at 0x10000. esptool joins the pieces; it runs as a program of its own.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from keyferry_firmware.boards import Board
from keyferry_firmware.problems import FirmwareProblem

TABLE = 0x8000
PROGRAM = 0x10000
# Chip id in the image header: esptool's name for it, and where the boot ROM looks.
CHIPS = {
    0: ("esp32", 0x1000),
    2: ("esp32s2", 0x1000),
    5: ("esp32c3", 0),
    9: ("esp32s3", 0),
    13: ("esp32c6", 0),
}
_IMAGE = 0xE9
_DESCRIPTOR = b"\x32\x54\xcd\xab"  # at 32, behind the headers of the image and its first segment
_SECONDS = 120


def _chip(image: bytes, what: str) -> int:
    """The chip that an ESP image is for; FirmwareProblem when it is none."""
    if len(image) < 288 or image[0] != _IMAGE or not 0 < image[1] <= 16:
        raise FirmwareProblem(f"the base image's {what} is no image for an ESP32; take another.")
    return int.from_bytes(image[12:14], "little")


def program(board: Board, base: bytes) -> bytes:
    """The program in a base image, checked: chip, descriptor, checksums, and room for it."""
    assert board.base is not None
    assert board.firmware is not None
    name, start = CHIPS.get(board.base.chip, ("", 0))
    if not name:
        raise FirmwareProblem(f"{board.name}: no chip has the id {board.base.chip}.")
    found = base[PROGRAM - start :]
    chips = {_chip(base, "boot loader"), _chip(found, "program")}
    if chips != {board.base.chip}:
        others = ", ".join(CHIPS.get(chip, (f"chip {chip}", 0))[0] for chip in sorted(chips))
        raise FirmwareProblem(
            f"the base image is for {others}, and {board.name} is an {name}: take the image for it."
        )
    flash = (1 << 20) << (base[3] >> 4)  # what the boot loader takes the chip to have
    if flash < board.files.end:
        raise FirmwareProblem(
            f"the base image is for {flash >> 20} MiB of flash, and {board.name} uses "
            f"{board.files.end >> 20}: take another image, or a layout in a board file of your own."
        )
    table = base[TABLE - start : TABLE - start + 2]
    if table != b"\xaa\x50":
        raise FirmwareProblem("the base image has no partition table where MicroPython has it.")
    if found[32:36] != _DESCRIPTOR:
        raise FirmwareProblem("the base image's program has no descriptor; take another image.")
    length = _length(found)
    if length > board.firmware.size:
        raise FirmwareProblem(
            f"the base image's program has {length} bytes, and {board.name} has "
            f"{board.firmware.size} for it: change the layout in a board file of your own."
        )
    return found[:length]


def _length(image: bytes) -> int:
    """Bytes of an ESP image, with checksum and hash verified. FirmwareProblem when it is broken."""
    broken = FirmwareProblem("the base image's program is cut short or changed; fetch it again.")
    at, check = 24, 0xEF
    for _ in range(image[1]):
        size = int.from_bytes(image[at + 4 : at + 8], "little")
        at += 8
        if at + size > len(image):
            raise broken
        for byte in image[at : at + size]:
            check ^= byte
        at += size
    at += 15 - at % 16  # padding up to the checksum, the last byte of a line of 16
    if at >= len(image) or image[at] != check:
        raise broken
    at += 1
    if image[23] == 1:
        if hashlib.sha256(image[:at]).digest() != image[at : at + 32]:
            raise broken
        at += 32
    return at


def _entry(kind: int, subtype: int, offset: int, size: int, label: str) -> bytes:
    head = b"\xaa\x50" + bytes((kind, subtype))
    name = label.encode().ljust(16, b"\0")
    return head + offset.to_bytes(4, "little") + size.to_bytes(4, "little") + name + bytes(4)


def partitions(board: Board) -> bytes:
    """The partition table: entries of 32 bytes, then their MD5, padded to 3072 bytes."""
    assert board.firmware is not None
    entries = b"".join(
        (
            _entry(1, 0x02, 0x9000, 0x6000, "nvs"),
            _entry(1, 0x01, 0xF000, 0x1000, "phy_init"),
            _entry(0, 0x00, board.firmware.offset, board.firmware.size, "factory"),
            _entry(1, 0x8F, board.rom.offset, board.rom.size, "romfs"),
            _entry(1, 0x81, board.files.offset, board.files.size, "vfs"),
        )
    )
    digest = hashlib.md5(entries, usedforsecurity=False).digest()  # the boot loader's checksum
    return (entries + b"\xeb\xeb" + b"\xff" * 14 + digest).ljust(0xC00, b"\xff")


def merge(board: Board, base: bytes, rom: bytes, files: bytes) -> dict[str, bytes]:
    """``firmware.bin``, to be written to offset 0, and ``partitions.bin``."""
    assert board.base is not None
    name, start = CHIPS[board.base.chip]
    table = partitions(board)
    pieces = {
        start: base[: TABLE - start],
        TABLE: table,
        PROGRAM: program(board, base),
        board.rom.offset: rom,
        board.files.offset: used(files),
    }
    with tempfile.TemporaryDirectory(prefix="keyferry-merge-") as folder:
        output = Path(folder, "firmware.bin")
        line = [sys.executable, "-m", "esptool", "--chip", name, "merge-bin", "-o", str(output)]
        for offset, data in pieces.items():
            part = Path(folder, f"{offset:x}.bin")
            part.write_bytes(data)
            line += [hex(offset), str(part)]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise FirmwareProblem("esptool did not end; try again.") from None
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip().splitlines()[-1:]
            raise FirmwareProblem("esptool could not join the parts: " + " ".join(said))
        merged = output.read_bytes()
    for offset, data in pieces.items():
        if merged[offset : offset + len(data)] != data:
            raise FirmwareProblem("esptool changed a part; use the locked version of it.")
    return {"firmware.bin": merged, "partitions.bin": table}


def used(files: bytes) -> bytes:
    """A file system without the erased flash at its end."""
    blocks = len(files.rstrip(b"\xff")) + 4095
    return files[: blocks // 4096 * 4096]
