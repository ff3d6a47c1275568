"""Boards: where things lie in flash, how much heap there is, and how files get onto them.

One TOML file a board, in ``firmware-build/boards`` or named by its path. Offsets count bytes from
the start of flash. Everything is checked when it is read: a wrong layout would not be seen before
it overwrites something.
"""

import re
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from keyferry_firmware.problems import FirmwareProblem

SECTOR = 4096
FAMILIES = ("esp32", "rp2", "process")
_MOST_FLASH = 1 << 27
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Area:
    """A piece of flash: its first byte and how many there are."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Base:
    """What an official MicroPython image for the board must say of itself."""

    micropython: str  # the oldest that will do: "1.29"
    chip: int  # esp32: chip id in the image header; rp2: family id of UF2
    sha256: tuple[str, ...]  # known good files; empty: the command line says it


@dataclass(frozen=True)
class Board:
    """One kind of board, its layout checked."""

    name: str
    title: str
    family: str
    flash: int
    heap: int  # KiB
    features: tuple[str, ...]
    flashing: str
    firmware: Area | None  # None: the board is a process of this machine
    rom: Area
    files: Area
    program: int  # bytes that its LittleFS writes at once
    base: Base | None


def folder() -> Path:
    """Where the boards are: in the package as it is installed, beside it in the sources."""
    inside = Path(__file__).parent / "boards"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "boards"


def names() -> list[str]:
    """The boards that come with Keyferry."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def load(name: str) -> Board:
    """The board of this name, or the one in a file: ``path/to/board.toml``."""
    if name.endswith(".toml"):
        return read(Path(name))
    if name not in names():
        raise FirmwareProblem(
            f"no board is called {name!r}: choose one of {', '.join(names())}, or name a .toml "
            "file."
        )
    return read(folder() / f"{name}.toml")


def read(path: Path) -> Board:
    """The board in a file. FirmwareProblem names the file and the key that is wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FirmwareProblem(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # TOML's own, and what is no UTF-8
        raise FirmwareProblem(f"{path} is not TOML: {error}.") from None
    board = _Reader(path, values).board()
    if path.stem != board.name:
        raise FirmwareProblem(f"{path}: name: expected {path.stem!r}, as the file is called.")
    return board


class _Reader:
    """Takes keys out of a table one by one; what is left over at the end is unknown."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self._path = path
        self._values = values

    def _fail(self, key: str, expected: str) -> FirmwareProblem:
        return FirmwareProblem(f"{self._path}: {key}: expected {expected}.")

    def _take(self, table: dict[str, Any], key: str, kind: type, expected: str) -> Any:
        name = key.rpartition(".")[2]
        value = table.pop(name, None)
        if type(value) is not kind:
            raise self._fail(key, expected)
        return value

    def _text(self, table: dict[str, Any], key: str, most: int = 400) -> str:
        value = self._take(table, key, str, "a text")
        if not 0 < len(value) <= most or not value.isprintable():
            raise self._fail(key, f"one line of 1 to {most} characters")
        return value

    def _number(self, table: dict[str, Any], key: str, low: int, high: int) -> int:
        value = self._take(table, key, int, f"{low} to {high}")
        if not low <= value <= high:
            raise self._fail(key, f"{low} to {high}")
        return value

    def _texts(self, table: dict[str, Any], key: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
        value = self._take(table, key, list, "a list of texts")
        if not all(isinstance(item, str) and pattern.fullmatch(item) for item in value):
            raise self._fail(key, f"texts like {pattern.pattern}")
        return tuple(value)

    def _done(self, table: dict[str, Any], where: str = "") -> None:
        for key in table:
            raise FirmwareProblem(f"{self._path}: {where}{key}: unknown key; remove it.")

    def _area(self, name: str, flash: int, more: dict[str, Any] | None = None) -> Area:
        table = self._take(self._values, name, dict, "a table with offset and size")
        offset = self._number(table, f"{name}.offset", 0, flash)
        size = self._number(table, f"{name}.size", SECTOR, flash)
        if more is not None:
            more.update(table)
        else:
            self._done(table, f"{name}.")
        if offset % SECTOR or size % SECTOR:
            raise self._fail(name, f"multiples of {SECTOR}")
        if offset + size > flash:
            raise self._fail(name, f"an end within the flash of {flash} bytes")
        return Area(offset, size)

    def _base(self, family: str) -> Base:
        table = self._take(self._values, "base", dict, "a table: what MicroPython images say")
        version = self._text(table, "base.micropython")
        if not _VERSION.fullmatch(version):
            raise self._fail("base.micropython", 'a version such as "1.29"')
        chip = self._number(table, "base.chip", 0, 0xFFFF if family == "esp32" else 0xFFFFFFFF)
        known = self._texts(table, "base.sha256", _HASH)
        self._done(table, "base.")
        return Base(version, chip, known)

    def board(self) -> Board:
        values = self._values
        name = self._text(values, "name", 40)
        if not _NAME.fullmatch(name):
            raise self._fail("name", "lower-case letters and digits, with single hyphens")
        title = self._text(values, "title")
        family = self._text(values, "family")
        if family not in FAMILIES:
            raise self._fail("family", f"one of {', '.join(FAMILIES)}")
        flash = self._number(values, "flash", 2 * SECTOR, _MOST_FLASH)
        heap = self._number(values, "heap", 32, 1 << 20)
        features = self._texts(values, "features", re.compile(r"[a-z0-9-]{1,30}"))
        flashing = self._text(values, "flashing")
        real = family != "process"
        firmware = self._area("firmware", flash) if real else None
        rom = self._area("rom", flash)
        more: dict[str, Any] = {}
        files = self._area("files", flash, more)
        program = self._number(more, "files.program", 16, SECTOR)
        if program & (program - 1):
            raise self._fail("files.program", "a power of two")
        self._done(more, "files.")
        base = self._base(family) if real else None
        self._done(values)
        areas = {"rom": rom, "files": files}
        if firmware is not None:
            areas["firmware"] = firmware
        _no_overlap(self._path, areas)
        if family == "esp32" and firmware is not None and firmware.offset != 0x10000:
            raise self._fail("firmware.offset", "65536, where the boot loader looks for it")
        if family == "rp2" and firmware is not None and firmware.offset != 0:
            raise self._fail("firmware.offset", "0, where the boot ROM starts")
        return Board(
            name,
            title,
            family,
            flash,
            heap,
            features,
            flashing,
            firmware,
            rom,
            files,
            program,
            base,
        )


def _no_overlap(path: Path, areas: dict[str, Area]) -> None:
    ordered = sorted(areas.items(), key=lambda item: item[1].offset)
    for (name, area), (other, following) in pairwise(ordered):
        if area.end > following.offset:
            raise FirmwareProblem(f"{path}: {name} and {other} overlap; move one of them.")
