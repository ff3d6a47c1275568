"""Images as MicroPython publishes them, in the real formats, with a program that says the same of
itself. The ESP32 ones are made by esptool's own classes, checksums and hash included."""

import struct
from pathlib import Path
from typing import Any

from esptool import bin_image

from keyferry_firmware import esp32, rp2
from keyferry_firmware.boards import Board

SAYS = b"3.4.0; MicroPython v1.29.0 on 2026-07-01\0VfsRom\0"
_CLASSES: dict[int, Any] = {
    0: bin_image.ESP32FirmwareImage,
    5: bin_image.ESP32C3FirmwareImage,
    9: bin_image.ESP32S3FirmwareImage,
}
# Memory of each chip: data that stays in flash, data in RAM.
_MEMORY = {0: (0x3F400020, 0x3FFB0000), 5: (0x3C000020, 0x3FC80000), 9: (0x3C000020, 0x3FC88000)}


def _segment(address: int, data: bytes) -> Any:
    return bin_image.ELFSection(b"part", address, data, 0)


def _esp_image(chip: int, place: Path, flash: bytes, ram: bytes, flash_size: int = 3) -> bytes:
    image = _CLASSES[chip]()
    if flash:
        image.segments.append(_segment(_MEMORY[chip][0], flash))
    image.segments.append(_segment(_MEMORY[chip][1], ram))
    image.flash_size_freq = flash_size << 4
    image.entrypoint = _MEMORY[chip][1]
    image.save(str(place))
    return place.read_bytes()


def descriptor(version: str = "v1.29.0") -> bytes:
    """ESP-IDF's description of a program, 256 bytes."""
    return struct.pack(
        "<2I2I32s32s16s16s32s32s20I",
        *(0xABCD5432, 0, 0, 0, version.encode(), b"micropython", b"12:00:00", b"Jul  1 2026"),
        *(b"v5.5.1", bytes(32), *[0] * 20),
    )


def esp(
    chip: int, folder: Path, *, says: bytes = SAYS, more: int = 20000, flash_size: int = 3
) -> bytes:
    """Boot loader, partition table and program. ``flash_size``: 2 is 4 MiB, 3 is 8."""
    start = esp32.CHIPS[chip][1]
    loader = _esp_image(chip, folder / "loader.bin", b"", b"boot loader" * 100, flash_size)
    program = _esp_image(
        chip, folder / "program.bin", descriptor() + says + bytes(more), b"data" * 50
    )
    image = loader.ljust(esp32.TABLE - start, b"\xff") + b"\xaa\x50\x00\x00".ljust(0xC00, b"\xff")
    return image.ljust(esp32.PROGRAM - start, b"\xff") + program


def uf2(board: Board, *, says: bytes = SAYS, more: int = 20000, family: int = 0) -> bytes:
    """A program at the start of flash; RP2350's begin with the block for its boot ROM's erratum."""
    assert board.base is not None
    family = family or board.base.chip
    program = (b"\x11\x22" * 128 + says).ljust(256 + more, b"\x33")
    head = b""
    if family == 0xE48BFF59:
        head = rp2._HEAD.pack(*rp2._MAGIC, 0x2000, 0x10FFFF00, 256, 0, 2, rp2.ABSOLUTE)
        head += (b"\xef" * 256).ljust(476, b"\0") + rp2._END
    return head + rp2.write(family, {0: program})
