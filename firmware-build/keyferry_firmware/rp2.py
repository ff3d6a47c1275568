"""RP2 boards: UF2 in, UF2 out. A UF2 block has 512 bytes, 256 of them for one page of flash."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from keyferry_firmware.boards import SECTOR, Board
from keyferry_firmware.device_files import XIP
from keyferry_firmware.problems import FirmwareProblem

BLOCK = 512
PAGE = 256
# RP2350 images begin with one block of this family, which works round an erratum of its boot ROM.
ABSOLUTE = 0xE48BFF57
FAMILIES = {0xE48BFF56: "RP2040", 0xE48BFF59: "RP2350", 0xE48BFF5A: "RP2350, RISC-V"}
_HEAD = struct.Struct("<8I")
_MAGIC = (0x0A324655, 0x9E5D5157)
_END = (0x0AB16F30).to_bytes(4, "little")
_HAS_FAMILY = 0x2000


@dataclass(frozen=True)
class Page:
    """One block: what it writes, and where."""

    flags: int
    address: int
    family: int
    data: bytes
    raw: bytes


def read(data: bytes) -> list[Page]:
    """The blocks of a UF2 file. FirmwareProblem when it is none, cut short or out of order."""
    broken = FirmwareProblem("the base image is no whole UF2 file; fetch it again.")
    if not data or len(data) % BLOCK:
        raise broken
    found = []
    counted: dict[int, tuple[int, int]] = {}  # family: blocks seen, blocks in all
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        first, second, flags, address, size, number, total, family = _HEAD.unpack(block[:32])
        if (first, second) != _MAGIC or block[-4:] != _END or size != PAGE or address % PAGE:
            raise broken
        if not flags & _HAS_FAMILY:
            raise FirmwareProblem("the base image names no family of chips; take another.")
        if family != ABSOLUTE:
            seen, before = counted.get(family, (0, total))
            if number != seen or total != before:
                raise broken
            counted[family] = (seen + 1, total)
        found.append(Page(flags, address, family, block[32 : 32 + PAGE], block))
    if any(seen != total for seen, total in counted.values()):
        raise broken
    return found


def program(board: Board, base: bytes) -> bytes:
    """The program in a base image, checked: family, place, and room for it."""
    assert board.base is not None
    assert board.firmware is not None
    pages = read(base)
    families = {page.family for page in pages} - {ABSOLUTE}
    if families != {board.base.chip}:
        others = ", ".join(FAMILIES.get(family, hex(family)) for family in sorted(families))
        raise FirmwareProblem(
            f"the base image is for {others or 'no chip'}, and {board.name} is an "
            f"{FAMILIES.get(board.base.chip, hex(board.base.chip))}: take the image for it."
        )
    own = [page for page in pages if page.family == board.base.chip]
    seen = set()
    for page in own:
        offset = page.address - XIP
        if not 0 <= offset <= board.firmware.size - PAGE:
            raise FirmwareProblem(
                f"the base image writes to offset {offset:#x}, and {board.name} keeps the first "
                f"{board.firmware.size:#x} bytes of flash for it: change the layout in a board "
                "file of your own."
            )
        if offset in seen:
            raise FirmwareProblem("the base image writes a page twice; fetch it again.")
        seen.add(offset)
    if 0 not in seen:
        raise FirmwareProblem("the base image has nothing at the start of flash; take another.")
    ordered = sorted(own, key=lambda page: page.address)
    return b"".join(page.data for page in ordered)


def pages(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Address and contents of each page of an area; sectors that stay erased are left out."""
    for at in range(0, len(data), SECTOR):
        sector = data[at : at + SECTOR].ljust(SECTOR, b"\xff")
        if sector.count(0xFF) == SECTOR:
            continue
        for inside in range(0, SECTOR, PAGE):
            yield XIP + offset + at + inside, sector[inside : inside + PAGE]


def write(family: int, areas: dict[int, bytes]) -> bytes:
    """A UF2 file that fills these areas (by offset) and leaves the rest of the flash alone."""
    everything = [item for offset in sorted(areas) for item in pages(offset, areas[offset])]
    return _blocks(family, everything)


def _blocks(family: int, everything: list[tuple[int, bytes]]) -> bytes:
    total = len(everything)
    return b"".join(
        _HEAD.pack(*_MAGIC, _HAS_FAMILY, address, PAGE, number, total, family)
        + data.ljust(BLOCK - 36, b"\0")
        + _END
        for number, (address, data) in enumerate(everything)
    )


def merge(board: Board, base: bytes, rom: bytes, files: bytes) -> dict[str, bytes]:
    """``firmware.uf2``: the base image, the application and the file system."""
    assert board.base is not None
    blocks = read(base)
    head = b"".join(page.raw for page in blocks if page.family == ABSOLUTE)
    everything = [(page.address, page.data) for page in blocks if page.family == board.base.chip]
    for offset, data in ((board.rom.offset, rom), (board.files.offset, files)):
        everything += pages(offset, data)
    return {"firmware.uf2": head + _blocks(board.base.chip, everything)}


def with_area(uf2: bytes, family: int, offset: int, size: int, data: bytes) -> bytes:
    """The same UF2 file with ``data`` in an area of flash, and nothing else of that area."""
    blocks = read(uf2)
    head = b"".join(page.raw for page in blocks if page.family == ABSOLUTE)
    area = range(XIP + offset, XIP + offset + size)
    everything = [
        (page.address, page.data)
        for page in blocks
        if page.family == family and page.address not in area
    ]
    everything += pages(offset, data)
    return head + _blocks(family, everything)
