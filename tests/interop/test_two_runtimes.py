"""The second run inside MicroPython: what it catches, and how it reports."""

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent.parent / "support"

PLANTED = """
# heap: 128k
def test_inverse():
    assert pow(3, -1, 11) == 4, "the inverse is wrong"

def test_plain():
    print("seen")
    assert 1 + 1 == 2

def test_both():
    assert 1 + 1 == 3
"""


def run(folder: Path, source: str, *options: str, target: str = "tests") -> tuple[int, str]:
    """pytest over one planted tests/core file, as (exit status, output)."""
    place = folder / "tests" / "core"
    place.mkdir(parents=True, exist_ok=True)
    (place / "test_planted.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    environment = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    environment["PYTHONPATH"] = str(SUPPORT.parent)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"),
            *("-p", "support.micropython_plugin", *options, target),
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_planted_modular_inverse_fails_only_in_micropython(tmp_path: Path) -> None:
    status, output = run(tmp_path, PLANTED)
    assert status == 1
    assert "test_planted.py::test_inverse PASSED" in output
    assert "test_planted.py::test_inverse[micropython] FAILED" in output
    assert "test_planted.py::test_plain PASSED" in output
    assert "test_planted.py::test_plain[micropython] PASSED" in output
    assert "3 failed, 3 passed" in output


def test_a_failure_shows_message_traceback_and_source(tmp_path: Path) -> None:
    _, output = run(tmp_path, PLANTED, "-k", "test_inverse and micropython")
    assert "AssertionError: the inverse is wrong" in output
    assert "line 4, in test_inverse" in output
    assert "    assert pow(3, -1, 11) == 4" in output
    assert "1 failed, 5 deselected" in output


def test_a_function_can_be_named_on_the_command_line(tmp_path: Path) -> None:
    place = "tests/core/test_planted.py::test_plain[micropython]"
    status, output = run(tmp_path, PLANTED, target=place)
    assert status == 0
    assert "1 passed" in output


def test_it_works_with_workers(tmp_path: Path) -> None:
    status, output = run(tmp_path, PLANTED, "-n", "2", "--dist", "loadfile")
    assert status == 1
    assert "3 failed, 3 passed" in output


def test_a_file_that_does_not_import_fails_its_functions(tmp_path: Path) -> None:
    status, output = run(tmp_path, "import enum\ndef test_x():\n    assert enum\n")
    assert status == 1
    assert "test_planted.py::test_x PASSED" in output
    assert "test_planted.py::test_x[micropython] FAILED" in output
    assert "ImportError: no module named 'enum'" in output


def test_the_heap_limit_holds_and_the_next_function_still_runs(tmp_path: Path) -> None:
    source = (
        "# heap: 64k\ndef test_big():\n    assert len(bytearray(200000)) == 200000\n"
        "def test_small():\n    assert len(bytearray(2000)) == 2000\n"
    )
    status, output = run(tmp_path, source)
    assert status == 1
    assert "test_big[micropython] FAILED" in output
    assert "test_small[micropython] PASSED" in output
    assert "MemoryError" in output


def test_a_function_that_never_ends_is_stopped_and_the_next_one_runs(tmp_path: Path) -> None:
    source = (
        "# seconds: 1\nimport sys\ndef test_stuck():\n"
        "    while sys.implementation.name == 'micropython':\n        pass\n"
        "def test_after():\n    assert True is not False\n"
    )
    status, output = run(tmp_path, source)
    assert status == 1
    assert "test_stuck[micropython] FAILED" in output
    assert "no end within 1 s" in output
    assert "test_after[micropython] PASSED" in output


def test_an_interpreter_that_dies_is_reported_with_its_status(tmp_path: Path) -> None:
    source = (
        "import sys\ndef test_dies():\n    if sys.implementation.name == 'micropython':\n"
        "        import os\n        os.system('kill -9 $PPID')\n"
        "def test_after():\n    assert True is not False\n"
    )
    status, output = run(tmp_path, source)
    assert status == 1
    assert "the interpreter ended with status -9" in output
    assert "test_after[micropython] PASSED" in output


def test_what_cannot_run_there_is_refused_when_collected(tmp_path: Path) -> None:
    status, output = run(tmp_path, "def test_x(tmp_path):\n    assert tmp_path\n")
    assert status == 2
    assert "test_x: no arguments or decorators here" in output
