"""UF2 onto a folder that acts as a boot drive."""

import json
import os
from pathlib import Path

import pytest

from firmware import base_images
from keyferry_firmware import boards, build, images, output, record, rp2
from keyferry_firmware.firmware import Base
from keyferry_firmware.flash import uf2
from support.command import command


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("uf2")
    (place / "main.py").write_text("print('hello')\n")
    board = boards.load("pico-w")
    data = base_images.uf2(board)
    made = build.build(board, place / "main.py", base=Base(data, record.digest(data), "1.29.0"))
    output.write_folder(place / "out", made.files)
    own = images.littlefs({"token": b"pump-7's"}, board.files.size, program=board.program)
    log = {
        "board": "pico-w",
        "application": record.digest(made.files[record.ROM]),
        "devices": [{"name": "pump-7"}],
    }
    files = {"pump-7/littlefs.img": own, "provisioned.json": json.dumps(log).encode()}
    output.write_folder(place / "devices", files, private=True)
    return place / "out"


def drive(place: Path, name: str = "RPI-RP2") -> Path:
    place.mkdir()
    (place / "INFO_UF2.TXT").write_bytes(
        f"UF2 Bootloader v3.0\r\nModel: Raspberry Pi\r\nBoard-ID: {name}\r\n".encode()
    )
    return place


def flash(tmp_path: Path, out: Path, *more: object, code: int = 0) -> dict:
    report = tmp_path / "report.json"
    line = ("firmware", "flash", out, "--unsigned", "--no-check", "--report", report)
    command(tmp_path, *line, *more, code=code)
    return json.loads(report.read_text())["boards"][0]


def area(data: bytes, offset: int, size: int) -> bytes:
    """What a UF2 file leaves in an area of erased flash."""
    flash = bytearray(b"\xff" * size)
    for page in rp2.read(data):
        at = page.address - 0x10000000 - offset
        if 0 <= at < size:
            flash[at : at + 256] = page.data
    return bytes(flash)


def test_the_drive_gets_the_build(out: Path, tmp_path: Path) -> None:
    place = drive(tmp_path / "drive")
    assert flash(tmp_path, out, "--drive", place)["ok"]
    assert (place / "firmware.uf2").read_bytes() == (out / "firmware.uf2").read_bytes()


def test_a_device_gets_one_file_with_its_own_file_system(out: Path, tmp_path: Path) -> None:
    place, board = drive(tmp_path / "drive"), boards.load("pico-w")
    (tmp_path / "list.csv").write_text(f"name,drive\npump-7,{place}\n")
    more = ("--provisioned", out.parent / "devices", "--boards", tmp_path / "list.csv")
    assert flash(tmp_path, out, *more)["device"] == "pump-7"
    copied, built = (place / "firmware.uf2").read_bytes(), (out / "firmware.uf2").read_bytes()
    files = area(copied, board.files.offset, board.files.size)
    assert images.read_littlefs(files) == {"token": b"pump-7's"}
    before = (0, board.files.offset)
    assert area(copied, *before) == area(built, *before)
    assert flash(tmp_path, out, "--drive", place, "--keep-files")["ok"]
    kept = area((place / "firmware.uf2").read_bytes(), board.files.offset, board.files.size)
    assert set(kept) == {0xFF}


def test_other_boards_folders_and_full_drives_are_refused(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = drive(tmp_path / "other", "RP2350")
    item = flash(tmp_path, out, "--drive", other, code=1)
    assert (item["problem"], item["attempts"]) == ("wrong-chip", 1)
    assert not (other / "firmware.uf2").exists()
    item = flash(tmp_path, out, "--drive", tmp_path, code=1)
    assert item["problem"] == "no-drive"
    place = drive(tmp_path / "drive")
    real = os.statvfs
    values = list(real(place))
    values[4] = 1  # f_bavail
    monkeypatch.setattr(uf2.os, "statvfs", lambda path: os.statvfs_result(values))
    item = flash(tmp_path, out, "--drive", place, code=1)
    assert item["problem"] == "flash-full"
    assert not (place / "firmware.uf2").exists()


def test_a_drive_without_a_port_cannot_be_checked(out: Path, tmp_path: Path) -> None:
    line = ("firmware", "flash", out, "--unsigned", "--drive", tmp_path)
    assert "name the board's --port as well" in command(tmp_path, *line, code=1).stderr
