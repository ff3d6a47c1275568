"""The command line through a running manager and on the store alone: the same, and watched."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from keyferry_manager.api.guard import user_name
from keyferry_manager.cli import app
from keyferry_manager.store import SessionRow
from support.command import answer, command
from support.manager_kit import PAUSE, REALM, Home

# Ctrl-C is ignored in what a shell without job control starts in the background.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from keyferry_manager.cli import main; main()"
)
POLICY = '[[allow]]\nfrom = "pump-*"\nto = "valve-1"\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.device("pump-7")
    home.add("valve-1")
    home.allow("pump-7", "valve-1")
    row = SessionRow("0" * 32, "pump-7", "valve-1", "ended", 1000.0, 1001.0, "session-closed", 2, 9)
    home.store(lambda store: store.write(sessions=[row]))
    ask = ("valve-1", "0" * 64, "token", "192.0.2.1:1", time.time())
    assert home.store(lambda store: store.approvals.ask(*ask))
    return home


READS = [
    ("device", "list"),
    ("device", "show", "pump-7"),
    ("links",),
    ("sessions",),
    ("sessions", "--device", "valve-1", "-n", "1"),
    ("approvals", "list"),
    ("allow",),
    ("policy", "history"),
    ("policy", "explain", "pump-7", "valve-1"),
    ("token", "list"),
]
WRONG = [
    ("device", "show", "nobody"),
    ("device", "add", "pump-7", "--token"),
    ("device", "revoke", "nobody"),
    ("approvals", "approve", "nobody"),
    ("approvals", "approve", "a/../b"),
    ("approvals", "approve", ".."),
    ("approvals", "approve", ""),
    ("allow", "valve-1", "pump-7", "--remove"),
    ("policy", "show"),
    ("policy", "rollback"),
    ("token", "remove", "nobody"),
]


def test_with_a_manager_and_without_it_lists_say_the_same(home: Home):
    command(home.folder, "token", "add", "robot", "--scope", "devices:read")
    alone = [answer(home.folder, *words) for words in READS]
    shown = [command(home.folder, *words).stdout for words in READS]
    with home.running():
        assert [answer(home.folder, *words) for words in READS] == alone
        assert [command(home.folder, *words).stdout for words in READS] == shown
    assert all(alone[index] for index in (0, 3, 4, 5, 6, 9))


def test_with_a_manager_and_without_it_refusals_say_the_same(home: Home):
    alone = [command(home.folder, *words, code=1).stderr for words in WRONG]
    with home.running():
        through = [command(home.folder, *words, code=1).stderr for words in WRONG]
    assert through == alone


def test_verbose_says_who_was_asked(home: Home):
    said = command(home.folder, "--verbose", "device", "list").stderr
    assert "no manager serves" in said
    with home.running():
        assert "asking the manager" in command(home.folder, "-v", "device", "list").stderr
        assert command(home.folder, "device", "list").stderr == ""


@pytest.mark.parametrize("serving", [False, True])
def test_changes_are_made_and_written_down(home: Home, tmp_path: Path, serving: bool):
    with home.running() if serving else contextlib.nullcontext():
        added = answer(home.folder, "device", "add", "pump-8", "--token")
        assert added["token"].startswith("kft_")
        out = tmp_path / "pump-9"
        made = answer(home.folder, "device", "add", "pump-9", "--factory", "--out", out,
                      "--mqtt-port", "1", "--est-port", "2")  # fmt: skip
        assert (out / "factory.key").exists()
        shown = answer(home.folder, "device", "show", "pump-9")
        assert [item["serial"] for item in shown["factory"]] == [made["factory_serial"]]
        assert answer(home.folder, "allow", "pump-8", "valve-1")["changed"]
        file = tmp_path / "policy.toml"
        file.write_text(POLICY)
        assert answer(home.folder, "policy", "check", file)["rules"] == 1
        assert answer(home.folder, "policy", "diff", file)["pairs"]
        assert answer(home.folder, "policy", "apply", file, "--by", "ann")["by"] == "ann"
        assert answer(home.folder, "policy", "show")["text"] == POLICY
        assert answer(home.folder, "policy", "rollback", "0")["restores"] == 0
        assert answer(home.folder, "approvals", "approve", "valve-1")["state"] == "approved"
        wait = () if serving else ("--wait", "0")
        assert answer(home.folder, "device", "revoke", "pump-7", *wait)["certificates"] == 1
        assert answer(home.folder, "device", "remove", "pump-8", *wait)["name"] == "pump-8"
        secret = answer(home.folder, "token", "add", "robot", "--scope", "realm:read")["token"]
        assert secret not in command(home.folder, "token", "list").stdout
        command(home.folder, "token", "remove", "robot")
    for event in ("device-added", "rule-added", "policy-applied", "policy-rolled-back",
                  "approval-approved", "device-revoked", "device-removed", "api-token-added",
                  "api-token-removed"):  # fmt: skip
        assert home.audit(event, actor=f"user:{user_name()}"), event


def test_wrong_tokens_are_not_made(home: Home):
    assert (
        "not a scope" in command(home.folder, "token", "add", "a", "--scope", "all", code=1).stderr
    )
    assert (
        "name is"
        in command(home.folder, "token", "add", "A B", "--scope", "realm:read", code=1).stderr
    )
    for life in ("0m", "367d", "9", "x"):
        command(
            home.folder, "token", "add", "a", "--scope", "realm:read", "--expires", life, code=2
        )
    assert answer(home.folder, "token", "list") == []


def test_the_document_is_openapi_3_1_and_whole(tmp_path: Path):
    document = json.loads(command(tmp_path, "api", "openapi").stdout)
    assert document["openapi"].startswith("3.1.")
    operations = [
        operation for methods in document["paths"].values() for operation in methods.values()
    ]
    assert len(operations) == 30
    for operation in operations:
        assert operation["security"][0]["token"]
        assert min(len(operation[key]) for key in ("summary", "operationId", "tags"))
        assert {"401", "403", "422", "500"} <= set(operation["responses"])
    text = json.dumps(document)
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in document["components"]["schemas"]


# watching


@contextlib.contextmanager
def watching(home: Home | Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    folder = home if isinstance(home, Path) else home.folder
    arguments = [sys.executable, "-c", PROGRAM, *words, "--watch", "--home", str(folder)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
            process.send_signal(signal.SIGINT)
            _, problems = process.communicate(timeout=PAUSE)
            assert (problems, process.returncode) == ("", 0)
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_lists_are_watched_while_managers_come_and_go(home: Home):
    with watching(home, "device", "list", "--json") as process:
        states = {item["name"]: item["online"] for item in line(process)}
        assert states == {"pump-7": False, "valve-1": False}
        for _ in range(2):
            with home.running() as manager, manager.device("pump-7"):
                while not {item["name"]: item["online"] for item in line(process)}["pump-7"]:
                    pass
            while {item["name"]: item["online"] for item in line(process)}["pump-7"]:
                pass


def test_sessions_and_approvals_are_watched(home: Home):
    with watching(home, "sessions", "--json") as process:
        assert [item["state"] for item in line(process)] == ["ended"]
        row = SessionRow("1" * 32, "pump-7", "valve-1", "offered", 2000.0)
        home.store(lambda store: store.write(sessions=[row]))
        assert [item["state"] for item in line(process)] == ["offered", "ended"]
    with home.running(), watching(home, "approvals", "list", "--json") as process:
        assert [item["state"] for item in line(process)] == ["waiting"]
        command(home.folder, "approvals", "deny", "valve-1")
        assert [item["state"] for item in line(process)] == ["denied"]


def test_rules_and_what_stands_apart_are_watched(home: Home, tmp_path: Path):
    with watching(home, "allow", "--json") as process:
        assert [(rule["from"], rule["to"]) for rule in line(process)] == [("pump-7", "valve-1")]
        home.allow("valve-1", "pump-7")
        assert len(line(process)) == 2
    assert (
        "--watch is for the list"
        in command(home.folder, "allow", "pump-7", "valve-1", "--watch", code=2).stderr
    )
    for role in ("ca", "directory"):
        folder = tmp_path / role
        command(folder, "init", folder, "--realm", REALM, "--role", role)
    ca = tmp_path / "ca"
    with watching(ca, "ca", "list", "--json") as process:
        assert line(process) == []
        words = ("manager-1", "--host", "kf.plant.example", "--out", str(tmp_path / "token"))
        command(ca, "ca", "add", *words)
        (manager,) = line(process)
        assert (manager["name"], manager["hosts"]) == ("manager-1", ["kf.plant.example"])
    shown = command(ca, "ca", "list").stdout
    assert shown.split()[:4] == ["MANAGER", "HOSTS", "ADDED", "CERTIFICATE"]
    assert "none yet" in shown
    with watching(tmp_path / "directory", "directory", "list", "--json") as process:
        assert line(process) == []


def test_every_list_is_json_on_demand_and_watched_where_it_changes():
    """By walking the commands: what lists takes --json, and --watch unless it never changes."""
    lists = {}

    def walk(command: click.Command, words: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))
        options = {option for parameter in command.params for option in parameter.opts}
        if words and words[-1] in ("list", "history", "tail", "links", "sessions", "boards"):
            lists[" ".join(words)] = options

    walk(typer.main.get_command(app), ())
    assert len(lists) >= 10, sorted(lists)
    for name, options in lists.items():
        assert "--json" in options, name
        assert "--watch" in options or name == "firmware boards", name


def test_the_audit_trail_is_followed_while_managers_come_and_go(home: Home):
    words = ("audit", "tail", "-n", "1000", "--event", "device-added", "--json")
    with watching(home, *words) as process:
        for number in range(6):
            name = f"robot-{number}"
            with home.running() if number % 2 else contextlib.nullcontext():
                command(home.folder, "device", "add", name, "--token")
                command(home.folder, "allow", name, "valve-1")  # not of this event
                assert line(process)["name"] == name


def test_a_reader_that_goes_away_ends_a_watch(home: Home):
    arguments = [sys.executable, "-c", PROGRAM, "sessions", "--watch", "--json"]
    with subprocess.Popen(
        [*arguments, "--home", str(home.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert line(process)
            assert process.stdout is not None
            process.stdout.close()
            row = SessionRow("1" * 32, "pump-7", "valve-1", "offered", 2000.0)
            home.store(lambda store: store.write(sessions=[row]))
            assert process.wait(PAUSE) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_on_a_terminal_the_table_is_drawn_in_place(home: Home):
    master, slave = pty.openpty()
    arguments = [sys.executable, "-c", PROGRAM, "device", "list", "--watch"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(
        [*arguments, "--home", str(home.folder)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(slave)
        try:
            first = read_until(master, b"valve-1")
            assert b"NAME" in first
            home.add("pump-8")
            second = read_until(master, b"pump-8")
            assert b"\x1b[1A" in second  # back up, over what stood there
            process.send_signal(signal.SIGINT)
            rest = read_until(master, None)
            assert process.wait(PAUSE) == 0
            assert b"Traceback" not in rest
        finally:
            process.kill()
            os.close(master)


def read_until(master: int, wanted: bytes | None) -> bytes:
    """What a terminal shows, until ``wanted`` is in it, or to its end."""
    data = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the other side is closed
            chunk = b""
        data += chunk
        if not chunk or (wanted is not None and wanted in data):
            break
    assert wanted is None or wanted in data, data
    return data
