"""Board files: those that come with Keyferry, and every way to write one wrongly."""

from pathlib import Path

import pytest

from keyferry_firmware import boards
from keyferry_firmware.problems import FirmwareProblem
from support.command import answer, command

GOOD = (boards.folder() / "pico-w.toml").read_text()


def test_the_boards_that_are_promised_are_there() -> None:
    assert boards.names() == ["esp32", "esp32-c3", "esp32-s3", "pico-2-w", "pico-w", "virtual"]
    for name in boards.names():
        board = boards.load(name)
        assert board.name == name
        assert max(board.rom.end, board.files.end) <= board.flash


def test_the_command_lists_them(tmp_path: Path) -> None:
    assert [item["name"] for item in answer(tmp_path, "firmware", "boards")] == boards.names()
    assert "Raspberry Pi Pico W" in command(tmp_path, "firmware", "boards").stdout


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "pico-w"', 'name = "Pico"', "name: expected lower-case"),
        ('name = "pico-w"', 'name = "other"', "expected 'board', as the file is called"),
        ("heap = 160", "heap = true", "heap: expected 32 to"),
        ("heap = 160", "heap = 16", "heap: expected 32 to"),
        ("heap = 160", "heap = 160\nhaep = 1", "haep: unknown key"),
        ("heap = 160", "", "heap: expected"),
        ('family = "rp2"', 'family = "rp3"', "family: expected one of"),
        ('features = ["wifi"', 'features = [7, "wifi"', "features: expected texts"),
        ("offset = 0xe0000", "offset = 0xe0001", "rom: expected multiples of 4096"),
        ("offset = 0xe0000", "offset = 0xd0000", "firmware and rom overlap"),
        ("size = 0x4c000", "size = 0x5c000", "rom and files overlap"),
        ("size = 0xd4000", "size = 0xd5000", "files: expected an end within the flash"),
        ("program = 256", "program = 48", "files.program: expected a power of two"),
        ("program = 256", "program = 256\nspeed = 1", "files.speed: unknown key"),
        ('micropython = "1.27"', 'micropython = "new"', "base.micropython: expected a version"),
        ("sha256 = []", 'sha256 = ["12"]', "base.sha256: expected texts"),
        ("[base]", "[bass]", "base: expected a table"),
        ("[base]", "]", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "board.toml"
    assert old in GOOD
    text = GOOD.replace(old, new)
    path.write_text(text.replace('name = "pico-w"', 'name = "board"'))
    with pytest.raises(FirmwareProblem) as caught:
        boards.load(str(path))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_board_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('name = "pico-w"', 'name = "mine"'))
    assert boards.load(str(path)).rom == boards.load("pico-w").rom


def test_an_unknown_board_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(FirmwareProblem, match="choose one of esp32, "):
        boards.load("esp8266")
    with pytest.raises(FirmwareProblem, match="cannot be read"):
        boards.load(str(tmp_path / "none.toml"))
