"""``keyferry vectors`` and what answers it: runtimes that die, boards, and what is missing."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from check_portable import check_sources
from typer.testing import CliRunner

from keyferry_core import cbor
from keyferry_hil.vectors import formats, run, runtimes
from keyferry_hil.vectors.conversation import RuntimeLost
from keyferry_manager.cli import app
from support.pty_board import pty_board
from support.vectors_command import ALL, VECTORS, document, keyferry, last_line, write


class Dying:
    """A runtime that gives no answer to some questions."""

    def __init__(self, dies: Callable[[int], bool], restarts: bool) -> None:
        self._dies = dies
        self._restarts = restarts
        self._asked = 0

    def ask(self, question: bytes) -> bytes:
        self._asked += 1
        if self._dies(self._asked):
            raise RuntimeLost("it ended")
        return runtimes.InProcess().ask(question)

    def restart(self) -> bool:
        return self._restarts


def test_a_runtime_that_dies_fails_the_case_and_goes_on():
    file = formats.load(VECTORS / "aes_ccm_rfc3610_nist.json")
    report = run.run([file], Dying(lambda n: n in (3, 7, 8), restarts=True))
    assert (report.passed, report.failed, report.abandoned) == (12, 3, "")
    assert report.failures[0].case == "RFC3610 #3"
    assert report.failures[0].got == "no answer: it ended"
    report = run.run([file], Dying(lambda n: n > 4, restarts=True))
    assert (report.passed, report.failed, report.unjudged) == (4, 3, 8)
    assert report.abandoned == "it ended"
    report = run.run([file], Dying(lambda n: n == 5, restarts=False))
    assert (report.passed, report.failed, report.unjudged) == (4, 1, 10)


def test_answers_that_are_none():
    file = formats.load(VECTORS / "rfc6979_p256_sha256.json")
    for answer in (b"", b"\xff", b"\x00", b"\x80", cbor.encode([0, 0]), cbor.encode({})):

        class Babbling:
            def ask(self, question: bytes, answer: bytes = answer) -> bytes:
                return answer

            def restart(self) -> bool:
                return True

        report = run.run([file], Babbling())
        assert (report.passed, report.failed) == (0, 2)
        with pytest.raises(RuntimeLost):
            runtimes.about(Babbling())
    for value in (None, [], 5, "text", {}, [b"", b"", b""]):

        class Odd:
            def ask(self, question: bytes, value: Any = value) -> bytes:
                return cbor.encode([0, 0, value])

            def restart(self) -> bool:
                return True

        whole = [formats.load(path) for path in ALL if "wycheproof" not in path.name]
        assert run.run(whole, Odd()).passed == 0


def test_a_heap_that_is_too_small_is_said(tmp_path):
    path = VECTORS / "rfc6979_p256_sha256.json"
    result = keyferry("--runtime", "micropython", "--heap", "16k", path, code=2)
    assert "a heap of 16k does not start" in result.stderr
    result = keyferry("--runtime", "micropython", "--heap", "40k", path, code=1)
    assert "--heap gives it more" in result.stderr
    assert "MemoryError" in result.stdout


def test_wrong_usage():
    for arguments in (
        ("--runtime", "esp32", ALL[0]),
        ("--heap", "much", ALL[0]),
        ("--timeout", "0", ALL[0]),
        (),
    ):
        result = CliRunner().invoke(app, ["vectors", *map(str, arguments)])
        assert result.exit_code == 2


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpremote.transport_serial", None)
    monkeypatch.delitem(sys.modules, "keyferry_hil.vectors.board", raising=False)
    result = keyferry("--runtime", "/dev/ttyNone", ALL[0], code=2)
    assert "pip install 'keyferry[hil]'" in result.stderr
    monkeypatch.setenv("MICROPYTHON", "/no/such/file")
    result = keyferry("--runtime", "micropython", ALL[0], code=2)
    assert "MICROPYTHON=/no/such/file" in result.stderr


def test_the_other_commands_do_not_load_it():
    code = (
        "import sys; from keyferry_manager.cli import app;"
        "print([name for name in sys.modules if name.startswith(('keyferry_hil', 'mpremote'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_answers_on_a_device_is_portable():
    sources = {str(path): path.read_text() for path in sorted(runtimes.PACKAGE.glob("*.py"))}
    assert len(sources) == 6
    assert check_sources(sources) == []


def test_a_board_on_a_serial_port(tmp_path):
    files = [VECTORS / f"{name}.json" for name in ("cbor_appendix_a", "edhoc_rfc9529")]
    files.append(VECTORS / "wycheproof_hkdf_sha256.json")
    with pty_board(tmp_path) as board:
        port = ("--runtime", board.port, "--no-reset")
        result = keyferry(*port, files[0], code=2)
        assert "the board has no keyferry_core: add --install" in result.stderr
        assert board.files() == {}
        answer = json.loads(keyferry(*port, "--install", "--json", *files).stdout)
        assert (answer["passed"], answer["failed"], answer["failures"]) == (356, 0, [])
        assert answer["runtime"]["core"] == "/lib/keyferry_core/__init__.mpy"
        # The core stays, what asked it does not.
        assert {path.split("/")[1] for path in board.files()} == {"keyferry_core"}
        planted = document("cbor_appendix_a")
        planted["tests"][4]["decoded"] = 25
        result = keyferry(*port, write(tmp_path, planted), code=1)
        assert last_line(result) == "81 passed, 1 failed"
        assert "MicroPython 1." in result.stdout


def test_a_board_with_another_core_of_its_own(tmp_path):
    files = {"keyferry_core/__init__.py": b"", "keyferry_core/cbor.py": b"import nothing\n"}
    with pty_board(tmp_path, files=files) as board:
        port = ("--runtime", board.port, "--no-reset", VECTORS / "cbor_appendix_a.json")
        result = keyferry(*port, code=2)
        assert "no module named 'nothing'" in result.stderr


def test_a_board_that_is_unplugged(tmp_path):
    with pty_board(tmp_path) as board:
        port = ("--runtime", board.port, "--no-reset", "--timeout", "2")
        keyferry(*port, "--install", VECTORS / "rfc6979_p256_sha256.json")
        board.kill()
        result = keyferry(*port, VECTORS / "rfc6979_p256_sha256.json", code=2)
        assert "could not enter raw repl" in result.stderr
    result = keyferry("--runtime", "/dev/absent", VECTORS / "rfc6979_p256_sha256.json", code=2)
    assert "/dev/absent" in result.stderr
