"""Tests whose programs are missing: left out by name, and an error where CI=true."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent.parent / "support"
PLANTED = """
import pytest

@pytest.mark.needs("no-such-program")
def test_with_it():
    assert False

@pytest.mark.needs("sh")
def test_without_it():
    assert True
"""


def run(folder: Path, ci: str, *options: str) -> tuple[int, str]:
    (folder / "test_planted.py").write_text(PLANTED)
    environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    environment |= {"PYTHONPATH": str(SUPPORT.parent), "CI": ci}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "support.system_parts"),
            *("-p", "no:cacheprovider", "-c", os.devnull, *options, "test_planted.py"),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "workers"])
def test_it_is_left_out_and_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, output = run(tmp_path, "", *options)
    assert status == 0
    assert output.count("test_planted.py::test_with_it: needs no-such-program") == 1
    assert "1 passed" in output


def test_in_ci_it_is_an_error(tmp_path: Path) -> None:
    status, output = run(tmp_path, "true")
    assert status == 1
    assert "not on this machine: no-such-program" in output
    assert "1 passed, 1 error" in output
