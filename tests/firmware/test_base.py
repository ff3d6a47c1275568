"""The board's own MicroPython joined with the application: ESP32 and RP2, and every wrong base."""

import hashlib
import json
import struct
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from firmware import base_images
from keyferry_firmware import boards, esp32, firmware, images, rom, rp2
from keyferry_firmware.boards import Board
from keyferry_firmware.problems import FirmwareProblem
from support.command import answer, command

ESP = ["esp32", "esp32-c3", "esp32-s3"]
RP = ["pico-w", "pico-2-w"]


def base_of(board: Board, folder: Path, **options: Any) -> bytes:
    assert board.base is not None
    if board.family == "esp32":
        return base_images.esp(board.base.chip, folder, **options)
    return base_images.uf2(board, **options)


def built(name: str, folder: Path) -> tuple[Board, bytes, Path]:
    board = boards.load(name)
    base = base_of(board, folder)
    (folder / "base").write_bytes(base)
    (folder / "main.py").write_text("print('hello')\n")
    answer(
        folder,
        *("firmware", "build", "--board", name, "--app", folder / "main.py", "--no-preflight"),
        *("--base", folder / "base", "--base-sha256", hashlib.sha256(base).hexdigest()),
        *("-o", folder / "out"),
    )
    return board, base, folder / "out"


@pytest.mark.parametrize("name", ESP)
def test_one_file_for_an_esp32(name: str, tmp_path: Path) -> None:
    board, base, out = built(name, tmp_path)
    assert board.base is not None
    flash = (out / "firmware.bin").read_bytes()
    start = esp32.CHIPS[board.base.chip][1]
    # boot loader and program are where they were
    assert flash[start : esp32.TABLE].rstrip(b"\xff") == base[: esp32.TABLE - start].rstrip(b"\xff")
    assert flash[esp32.PROGRAM :].startswith(base[esp32.PROGRAM - start :])
    sealed = (out / "rom.img").read_bytes()
    assert flash[board.rom.offset :].startswith(sealed)
    assert rom.unseal(flash[board.rom.offset : board.rom.end])
    files = flash[board.files.offset :].ljust(board.files.size, b"\xff")
    assert set(images.read_littlefs(files)) == {"boot.py", "keyferry_boot.mpy", "main.py"}
    assert images.read_littlefs(files)["boot.py"].endswith(b'start("partition")\n')
    record = json.loads((out / "build.json").read_text())
    assert record["base"]["micropython"] == "1.29.0"
    bill = json.loads((out / "sbom.cdx.json").read_text())
    assert [part["version"] for part in bill["components"] if part["name"] == "micropython"] == [
        "1.29.0"
    ]
    # the program is still what esptool takes for one
    (tmp_path / "program").write_bytes(esp32.program(board, base))
    line = [sys.executable, "-m", "esptool", "image-info", str(tmp_path / "program")]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "Project name: micropython" in said
    assert said.count("(valid)") == 2


@pytest.mark.parametrize("name", ESP)
def test_the_partition_table_is_read_as_it_was_meant(name: str) -> None:
    board = boards.load(name)
    table = esp32.partitions(board)
    assert len(table) == 0xC00
    entries = [table[at : at + 32] for at in range(0, 160, 32)]
    found = {}
    for entry in entries:
        magic, kind, subtype, offset, size, label, flags = struct.unpack("<HBBII16sI", entry)
        assert magic == 0x50AA
        assert flags == 0
        found[label.rstrip(b"\0").decode()] = (kind, subtype, offset, size)
    assert found["factory"][:3] == (0, 0, 0x10000)
    assert found["romfs"] == (1, 0x8F, board.rom.offset, board.rom.size)
    assert found["vfs"] == (1, 0x81, board.files.offset, board.files.size)
    ordered = sorted(found.values(), key=lambda item: item[2])
    for before, after in pairwise(ordered):
        assert before[2] + before[3] <= after[2]
    assert table[160:176] == b"\xeb\xeb" + b"\xff" * 14
    assert table[176:192] == hashlib.md5(table[:160]).digest()
    assert set(table[192:]) == {0xFF}


def flash_of(data: bytes, family: int, size: int) -> bytes:
    """What the boot ROM would write: read by a second reader, written for this test."""
    flash = bytearray(b"\xff" * size)
    numbers, totals = [], set()
    for at in range(0, len(data), 512):
        words = struct.unpack("<8I", data[at : at + 32])
        assert words[:2] == (0x0A324655, 0x9E5D5157)
        assert data[at + 508 : at + 512] == struct.pack("<I", 0x0AB16F30)
        if words[7] != family:
            continue
        numbers.append(words[5])
        totals.add(words[6])
        place = words[3] - 0x10000000
        flash[place : place + 256] = data[at + 32 : at + 288]
    assert numbers == list(range(len(numbers)))
    assert totals == {len(numbers)}
    return bytes(flash)


@pytest.mark.parametrize("name", RP)
def test_one_file_for_an_rp2(name: str, tmp_path: Path) -> None:
    board, base, out = built(name, tmp_path)
    assert board.base is not None
    merged = (out / "firmware.uf2").read_bytes()
    before = flash_of(base, board.base.chip, board.flash)
    flash = flash_of(merged, board.base.chip, board.flash)
    assert board.firmware is not None
    assert flash[: board.firmware.end] == before[: board.firmware.end]
    assert flash[board.rom.offset :].startswith((out / "rom.img").read_bytes())
    assert flash[board.files.offset : board.files.end] == (out / "littlefs.img").read_bytes()
    boot = images.read_littlefs(flash[board.files.offset : board.files.end])["boot.py"]
    assert f'start("xip", {0x10000000 + board.rom.offset:#x}, {board.rom.size:#x})' in boot.decode()
    if name == "pico-2-w":
        assert merged[:512] == base[:512], "the block for the erratum comes first, unchanged"


def refuse(board: Board, data: bytes, folder: Path, said: str) -> None:
    path = folder / "wrong"
    path.write_bytes(data)
    with pytest.raises(FirmwareProblem) as caught:
        firmware.read_base(board, path, hashlib.sha256(data).hexdigest())
    assert said in str(caught.value)


@pytest.mark.parametrize("name", [*ESP, *RP])
def test_a_base_that_is_not_right_is_refused(name: str, tmp_path: Path) -> None:
    board = boards.load(name)
    good = base_of(board, tmp_path)
    old = base_images.SAYS.replace(b"v1.29.0", b"v1.19.1")
    refuse(board, base_of(board, tmp_path, says=old), tmp_path, "needs 1.27 or later")
    refuse(board, base_of(board, tmp_path, says=b"other"), tmp_path, "which MicroPython it is")
    bare = base_images.SAYS.replace(b"VfsRom", b"VfsFat")
    refuse(board, base_of(board, tmp_path, says=bare), tmp_path, "has no VfsRom")
    for data in (b"", b"MicroPython", bytes(100_000), good[: len(good) // 2 + 1]):
        refuse(board, data, tmp_path, "")
    for other in (*ESP, *RP):
        if other != name:
            refuse(board, base_of(boards.load(other), tmp_path), tmp_path, "base image")


def test_an_image_for_another_chip_is_named(tmp_path: Path) -> None:
    refuse(
        boards.load("esp32-s3"),
        # its boot loader begins where an S3's does
        base_images.esp(5, tmp_path),
        tmp_path,
        "is for esp32c3, and esp32-s3 is an esp32s3",
    )
    refuse(
        boards.load("pico-w"),
        base_images.uf2(boards.load("pico-2-w")),
        tmp_path,
        "is for RP2350, and pico-w is an RP2040",
    )


def test_every_changed_byte_of_an_esp32_program_is_found(tmp_path: Path) -> None:
    board = boards.load("esp32-c3")
    good = base_images.esp(5, tmp_path, more=300)
    for at in range(esp32.PROGRAM + 24, len(good), 37):
        data = bytearray(good)
        data[at] ^= 0x10
        refuse(board, bytes(data), tmp_path, "")


def test_too_little_flash_is_refused(tmp_path: Path) -> None:
    esp = boards.load("esp32-s3")
    refuse(esp, base_images.esp(9, tmp_path, flash_size=2), tmp_path, "is for 4 MiB of flash")
    small = boards.Area(0x10000, 0x1000)
    assert esp.base is not None
    refuse(replace(esp, firmware=small), base_images.esp(9, tmp_path), tmp_path, "has 4096 for it")
    pico = boards.load("pico-w")
    tall = base_images.uf2(pico, more=0xE0000)
    refuse(pico, tall, tmp_path, "keeps the first 0xe0000 bytes of flash for it")


def test_a_uf2_out_of_order_or_twice_is_refused(tmp_path: Path) -> None:
    board = boards.load("pico-w")
    good = base_images.uf2(board)
    swapped = good[512:1024] + good[:512] + good[1024:]
    for data in (swapped, good + good[:512], good[:-512], good[512:], good[:-1]):
        refuse(board, data, tmp_path, "no whole UF2 file")
    assert len(rp2.read(good)) == len(good) // 512


def test_the_hash_must_be_given_and_must_fit(tmp_path: Path) -> None:
    board = boards.load("pico-w")
    path = tmp_path / "base.uf2"
    path.write_bytes(base_images.uf2(board))
    (tmp_path / "main.py").write_text("print('hello')\n")
    line = ("firmware", "build", "--board", "pico-w", "--app", tmp_path / "main.py")
    line = (*line, "-o", tmp_path / "out", "--base", path)
    assert "give --base-sha256" in command(tmp_path, *line, code=1).stderr
    wrong = ("--base-sha256", "00" * 32)
    assert "not the one expected" in command(tmp_path, *line, *wrong, code=1).stderr
    assert "64 hexadecimal" in command(tmp_path, *line, "--base-sha256", "x", code=1).stderr
    assert not (tmp_path / "out").exists()
    assert board.base is not None
    known = replace(
        board, base=replace(board.base, sha256=(hashlib.sha256(path.read_bytes()).hexdigest(),))
    )
    assert firmware.read_base(known, path).version == "1.29.0"
    with pytest.raises(FirmwareProblem, match="needs no base image"):
        firmware.read_base(boards.load("virtual"), path)
    with pytest.raises(FirmwareProblem, match="cannot be read"):
        firmware.read_base(board, tmp_path / "none", "00" * 32)
