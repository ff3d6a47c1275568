"""The real esptool against the loader of an ESP32's ROM: what it writes, and how it fails."""

import json
from pathlib import Path

import pytest

from firmware import base_images
from keyferry_firmware import boards, build, images, output, record
from keyferry_firmware.firmware import Base
from support.command import command
from support.esp_loader import MAC, esp_loader

pytestmark = pytest.mark.timeout(600)

# A small layout: what is tested is written in seconds.
BOARD = """
name = "small"
title = "small ESP32"
family = "esp32"
flash = 0x400000
heap = 128
features = []
flashing = "keyferry firmware flash"
[firmware]
offset = 0x10000
size = 0x10000
[rom]
offset = 0x20000
size = 0x40000
[files]
offset = 0x60000
size = 0x10000
program = 32
[base]
micropython = "1.27"
chip = 0
sha256 = []
"""
PROVISIONED = {"config.json": b'{"name": "pump-7"}', "token": b"0123456789abcdef\n"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``out``, and ``devices`` with pump-7's file system."""
    place = tmp_path_factory.mktemp("esp")
    (place / "small.toml").write_text(BOARD)
    (place / "main.py").write_text("print('hello')\n")
    board = boards.load(str(place / "small.toml"))
    data = base_images.esp(0, place, more=2000, flash_size=2)
    made = build.build(board, place / "main.py", base=Base(data, record.digest(data), "1.29.0"))
    output.write_folder(place / "out", made.files)
    own = images.littlefs(PROVISIONED, board.files.size, program=32)
    log = {
        "board": "small",
        "application": record.digest(made.files[record.ROM]),
        "devices": [{"name": "pump-7"}],
    }
    files = {"pump-7/littlefs.img": own, "provisioned.json": json.dumps(log).encode()}
    output.write_folder(place / "devices", files, private=True)
    return place / "out"


def flash(tmp_path: Path, out: Path, port: str, *more: object, code: int = 0) -> dict:
    """One board flashed without a check: a loader has no console. The report."""
    line = ("firmware", "flash", out, "--unsigned", "--no-check", "--no-stub", "--baud", 115200)
    report = tmp_path / "report.json"
    done = command(tmp_path, *line, "--report", report, "--port", port, *more, code=code)
    assert "MD5" not in done.stdout or code
    return json.loads(report.read_text())["boards"][0]


def test_what_was_built_is_in_the_flash(out: Path, tmp_path: Path) -> None:
    with esp_loader() as loader:
        item = flash(tmp_path, out, loader.port)
        whole = (out / "firmware.bin").read_bytes()
        assert loader.flash[: len(whole)] == whole
    assert (item["ok"], item["attempts"], item["serial_number"]) == (True, 1, MAC)


def test_a_device_gets_its_own_files_and_keep_files_leaves_them(out: Path, tmp_path: Path) -> None:
    more = ("--provisioned", out.parent / "devices")
    with esp_loader() as loader:
        item = flash(tmp_path, out, f"{loader.port}=pump-7", *more)
        assert (item["ok"], item["device"]) == (True, "pump-7")
        before = bytes(loader.flash[0x60000:0x70000])
        assert images.read_littlefs(before) == PROVISIONED
        assert loader.flash[:0x60000] == (out / "firmware.bin").read_bytes()[:0x60000]
        assert flash(tmp_path, out, loader.port, "--keep-files")["ok"]
        assert loader.flash[0x60000:0x70000] == before
    assert "0123456789abcdef" not in (tmp_path / "report.json").read_text()


def test_a_wrong_chip_is_refused_at_once_and_nothing_is_written(out: Path, tmp_path: Path) -> None:
    with esp_loader("esp32s2") as loader:
        item = flash(tmp_path, out, loader.port, code=1)
        assert loader.blocks == 0
    assert (item["problem"], item["attempts"]) == ("wrong-chip", 1), item


def test_a_line_that_drops_in_the_middle_is_tried_again(out: Path, tmp_path: Path) -> None:
    with esp_loader() as loader:
        loader.silent_after = 40
        item = flash(tmp_path, out, loader.port)
        whole = (out / "firmware.bin").read_bytes()
        assert loader.flash[: len(whole)] == whole
    assert (item["ok"], item["attempts"]) == (True, 2), item


def test_flash_that_keeps_something_else_is_found_out(out: Path, tmp_path: Path) -> None:
    with esp_loader() as loader:
        loader.wrong_md5 = 2
        item = flash(tmp_path, out, loader.port, code=1)
    assert (item["problem"], item["attempts"]) == ("not-verified", 2), item
