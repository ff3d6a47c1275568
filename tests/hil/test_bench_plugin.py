"""The bench's pytest plugin: leases, logs, retries, quarantine, and what it reports."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from keyferry_hil.plugin import quarantine
from keyferry_hil.problems import BenchProblem
from support.processes import environment

RIG = """
[[board]]
name = "v1"
features = ["led"]
virtual = {}

[[board]]
name = "v2"
virtual = { heap = "128k" }
"""
pytestmark = pytest.mark.timeout(600)
PATIENCE = 500


class Run:
    """pytest with the plugin, in a folder of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "rig.toml").write_text(RIG)

    def __call__(self, *words: str, code: int | None = 0, **files: str) -> str:
        for name, text in files.items():
            (self.place / f"{name}.py").write_text(text)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "keyferry_hil.plugin"),
                *("-p", "no:cacheprovider", "--rig", "rig.toml", "--bench-report", "report"),
                *("-c", os.devnull, "--rootdir", "."),
                *words,
                *(f"{name}.py" for name in files),
            ],
            cwd=self.place,
            env=environment(
                {
                    "KEYFERRY_BENCH": str(self.place / "state"),
                    "KEYFERRY_LEASES": str(self.place / "leases"),
                }
            ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        wanted = (0, 1) if code is None else (code,)
        assert done.returncode in wanted, done.stdout + done.stderr
        return done.stdout + done.stderr

    def report(self) -> str:
        return (self.place / "report" / "report.html").read_text()

    def history(self) -> list[dict]:
        text = (self.place / "report" / "history.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


class Page(HTMLParser):
    """Text of a page, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


TWO = """
import pytest

def test_one(board, measure):
    assert "pong" in board.board.repl.run("print('pong')")
    measure("answer", 42, "ms", board)

def test_both(boards):
    a, b = boards(2)
    assert a.label != b.label

@pytest.mark.board(features=["led"])
def test_led(board):
    assert board.label == "v1"

@pytest.mark.board(features=["secure-element"])
def test_nobody_has_it(board):
    raise AssertionError("it must not run")

def test_fails(board):
    board.board.repl.run("print('<script>alert(1)</script> the last words')")
    raise AssertionError("<b>of the host</b>")
"""


def test_a_run_in_parallel_and_its_reports(run: Run) -> None:
    said = run("-n", "2", code=1, test_two=TWO)
    assert "1 failed, 3 passed, 1 skipped" in said
    assert "serial log of v" in said
    assert "no-board" in run.report()
    page = Page(run.report())
    assert page.loads == [], "it is one file"
    assert "<script>alert(1)" not in run.report()
    assert "<b>of the host</b>" not in run.report()
    assert "<script>alert(1)</script> the last words" in page.text
    assert "svg" in page.tags
    logs = list((run.place / "report" / "logs").glob("*test_fails*.log"))
    assert len(logs) == 1
    assert " < " in logs[0].read_text()
    root = ET.parse(run.place / "report" / "junit.xml").getroot()
    cases = {case.get("name"): case for case in root.iter("testcase")}
    one = {item.get("name"): item.get("value") for item in cases["test_one"].iter("property")}
    assert one["board"] in ("v1", "v2")
    assert one[f"{one['board']}.answer"] == "42 ms"
    assert {line["test"] for line in run.history()} >= {"test_two.py::test_one"}


RETRY = """
import pathlib, pytest
COUNT = pathlib.Path("count")

@pytest.mark.retry(2, reason="its radio takes a while")
def test_at_last(board):
    COUNT.write_text(COUNT.read_text() + "." if COUNT.exists() else ".")
    assert len(COUNT.read_text()) == 3

def test_once(board):
    COUNT.write_text(COUNT.read_text() + "o")
    raise AssertionError("once is enough")
"""


def test_only_who_says_so_is_tried_again(run: Run) -> None:
    run(code=1, test_retry=RETRY)
    assert (run.place / "count").read_text() == "...o"
    last, once = run.history()
    assert (last["outcome"], last["attempts"]) == ("passed", 3)
    assert (once["outcome"], once["attempts"]) == ("failed", 1)
    assert "67 % (2/3)" in run.report()
    said = run(code=4, test_bad="import pytest\n@pytest.mark.retry(2)\ndef test_x(): pass\n")
    assert "and why" in said


KNOWN = """
def test_known(board):
    raise AssertionError("as ever")

def test_healed(board):
    pass
"""


def entry(test: str, **more: str) -> str:
    fields = {"test": test, "reason": "issue 12", **more}
    return "[[quarantine]]\n" + "".join(f"{k} = '{v}'\n" for k, v in fields.items())


def test_the_quarantine_is_held_to_the_truth(run: Run) -> None:
    path = run.place / "quarantine.toml"
    path.write_text(entry("test_known.py::test_known"))
    said = run("--quarantine", str(path), test_known=KNOWN)
    assert "1 passed, 1 xfailed" in said
    assert "quarantined: issue 12" in run.report()
    path.write_text(
        entry("test_known.py::test_known")
        + entry("test_known.py::test_healed")
        + entry("test_known.py::test_gone")
    )
    said = run("--quarantine", str(path), code=1, test_known=KNOWN)
    assert "test_healed passes: remove its entry" in run.report()
    assert "quarantine-wrong: there is no test test_known.py::test_gone" in said


def test_an_entry_for_another_board_is_none(run: Run) -> None:
    path = run.place / "quarantine.toml"
    path.write_text(entry("test_known.py::test_known", board="v9"))
    assert "1 failed, 1 passed" in run("--quarantine", str(path), code=1, test_known=KNOWN)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[quarantine]]\ntest = 'x'\n", "reason"),
        ("quarantine = 3\n", "not iterable"),
        ("[[x]]\ny = 1\n", "unknown"),
        (entry("x") + "until = 'soon'\n", "a date"),
        (entry("x") + "until = 2020-01-01\n", "time was over"),
        ("[[quarantine", "Expected"),
    ],
)
def test_wrong_quarantine_lists_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "quarantine.toml"
    path.write_text(text)
    with pytest.raises(BenchProblem, match=said) as caught:
        quarantine.load(str(path))
    assert caught.value.name == "quarantine-wrong"


GONE = """
import pytest
from keyferry_hil.problems import BenchProblem

def test_unplugged(board):
    board.board.repl.start("while True: pass")
    board.board.virtual.order("unplug")
    board.board.line.read_some(30)
    while True:
        board.board.line.read_some(30)

def test_others_go_on(board):
    board.board.repl.run("pass")

def test_and_it_comes_back(boards):
    boards(2)
"""


def test_a_board_that_is_unplugged_ends_one_test(run: Run) -> None:
    said = run(code=1, test_gone=GONE)
    assert "1 failed, 2 passed" in said
    assert "port-lost" in said


def test_a_held_board_is_waited_for_and_named(run: Run) -> None:
    held = run.place / "leases"
    code = (
        "import sys, time; from pathlib import Path; from keyferry_hil import leases\n"
        f"place = Path({str(run.place / 'state')!r})\n"
        f"mine = leases.Leases(Path({str(held)!r}))\n"
        "mine.take([leases.key(str(place / 'rig' / name / 'port')) for name in ('v1', 'v2')])\n"
        "print(1, flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        said = run("--lease-wait", "1", code=1, test_held="def test_x(board): pass\n")
    finally:
        other.kill()
        other.communicate()
    assert "lease-held" in said
    assert str(other.pid) in said
    run("--lease-wait", "60", test_held="def test_x(board): pass\n")


KILLED = """
import pytest, time

@pytest.mark.parametrize("number", range(6))
def test_works(board, number):
    for _ in range(20):
        board.board.repl.run("print(sum(range(1000)))", seconds=3)
        time.sleep(0.05)
"""


def test_boards_killed_at_random_end_their_own_tests_only(run: Run) -> None:
    said = run("--kill-boards", "1.5", "--kill-seed", "4", code=None, test_k=KILLED)
    assert re.search("boards killed: [1-9]", said)
    lines = run.history()
    assert len(lines) == 6, "each test ended, and was reported"
    assert {line["outcome"] for line in lines} <= {"passed", "failed"}
    for line in said.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            assert "keyferry_hil" in line, line  # BenchProblem or BoardError, with its name


def test_wrong_words_are_usage_errors(run: Run) -> None:
    for words in (("--soak", "8"),):
        run(*words, code=4, test_x="def test_x(): pass\n")
    (run.place / "rig.toml").write_text("[[board]]\n")
    assert "rig-wrong" in run(code=4, test_x="def test_x(): pass\n")
