"""The suites that ship, a few of their tests: on a rig, and on a board known only by its port."""

import subprocess
import sys
from pathlib import Path

import pytest

from keyferry_hil.drivers.virtual import VirtualBoardProcess
from keyferry_hil.resources import BoardSpec, SerialPort, Virtual
from support.processes import environment

pytestmark = pytest.mark.timeout(600)  # a busy machine compiles for long
RIG = "[[board]]\nname = 'v1'\nvirtual = {}\n[[board]]\nname = 'v2'\nvirtual = {}\n"


def bench(place: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "keyferry_manager", "bench", "run", "-q", *words],
        cwd=place,
        env=environment(
            {
                "KEYFERRY_BENCH": str(place.parent / "state"),
                "KEYFERRY_LEASES": str(place / "leases"),
                "PYTEST_ADDOPTS": "-p no:cacheprovider",
            }
        ),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_boards_meet_by_a_rig(tmp_path: Path) -> None:
    (tmp_path / "rig.toml").write_text(RIG)
    said = bench(tmp_path, "--rig", "rig.toml", "-k", "carries and cert or repeated")
    assert "2 passed" in said
    assert (tmp_path / "build" / "hil" / "report.html").is_file()


def test_a_board_known_only_by_its_port(tmp_path: Path) -> None:
    """No rig names it: no reset, no power, nothing but a raw REPL on a serial port."""
    port = tmp_path / "somewhere" / "ttyX0"
    outside = VirtualBoardProcess(
        BoardSpec("x", "virtual", SerialPort(path=str(port)), virtual=Virtual())
    )
    try:
        said = bench(tmp_path, "--port", str(port), "-k", "by_token or carries and cert")
    finally:
        outside.stop()
    assert "1 passed, 1 skipped" in said


def test_boards_without_a_network_meet_over_their_serial_lines(tmp_path: Path) -> None:
    """One by what its rig says, the other by what the tests do."""
    (tmp_path / "rig.toml").write_text(RIG.replace("'v1'", "'v1'\nnetwork = 'serial'"))
    said = bench(tmp_path, "--rig", "rig.toml", "-k", "uart")
    assert "5 passed" in said
