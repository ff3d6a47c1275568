"""A part of ``make powercut``: all cuts on a disk in memory, and a few on a real agent's board."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from powercut import board, flash


def test_no_cut_of_a_write_to_flash_loses_anything() -> None:
    rows = flash.rows()
    assert len(rows) >= 36
    for row in rows:
        assert row["cells"] >= 4, row
        assert row["lost"] == [], row


def test_the_matrix_finds_a_store_that_removes_what_it_has_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keyferry_agent").mkdir()
    source = flash.ROOT / "device" / "keyferry_agent"
    for name in ("__init__", "pins", "store", "slots"):
        text = (source / f"{name}.py").read_text()
        if name == "slots":
            place = "        body = _pieces(state)\n"
            assert place in text
            removal = (
                "        if self._read(1 - slot):\n            os.remove(self._file(1 - slot))\n"
            )
            text = text.replace(place, removal + place)
        (tmp_path / "keyferry_agent" / f"{name}.py").write_text(text)
    (tmp_path / "shared").symlink_to(flash.ROOT / "shared")
    (tmp_path / "tests").symlink_to(flash.ROOT / "tests")
    (tmp_path / "device").symlink_to(tmp_path)
    monkeypatch.setattr(flash, "ROOT", tmp_path)
    assert sum(len(row["lost"]) for row in flash.rows("3")) > 5


def test_a_board_that_is_killed_at_some_writes_comes_back(tmp_path: Path) -> None:
    for row in asyncio.run(board.rows(tmp_path, step=23)):
        assert row["cells"] >= 1, row
        assert row["lost"] == [], row


def test_the_command_counts(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from powercut import __main__ as command

    rows = [{"case": "x", "tear": "half", "cells": 3, "lost": [[2, "gone"]]}]
    monkeypatch.setattr("sys.argv", ["powercut", "--part", "flash"])
    monkeypatch.setattr(flash, "rows", lambda: rows)
    assert command.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "3 cells, 1 lost"
    rows[0]["lost"] = []
    assert command.main() == 0
    monkeypatch.setattr(
        flash, "rows", lambda: (_ for _ in ()).throw(subprocess.TimeoutExpired("x", 1))
    )
    with pytest.raises(subprocess.TimeoutExpired):
        command.main()
