"""``keyferry demo`` as a user runs it: what it shows, what it leaves, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

DEMO = [sys.executable, "-m", "keyferry_manager", "demo"]
PHASES = [
    "A manager",
    "Two devices enrol, over mutual TLS",
    "What no rule allows is refused",
    "gauge-2 asks for pump-7: keys through the manager",
    "100 records each way",
    "What the manager saw",
]


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    """The demo in a process of its own, with its temporary files in ``folder``."""
    return subprocess.Popen(
        [*DEMO, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        start_new_session=True,
    )


def processes_of(folder: Path) -> list[str]:
    """The command lines of processes that name ``folder``, or have it in their environment."""
    found = []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit() or int(place.name) == os.getpid():
            continue
        try:
            said = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        except OSError:
            continue  # it ended in this moment
        if str(folder).encode() in said:
            found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def nothing_left(folder: Path) -> bool:
    """No file and, after a moment, no process of a demo that ran in ``folder``."""
    deadline = time.monotonic() + 5
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes_of(folder) == [] and list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("profile", "carrier"),
    [("cert", "mqtt"), ("rpk", "mqtt"), ("rpk", "sip"), ("cert", "mixed"), ("rpk", "mixed")],
)
def test_every_check_holds_and_nothing_is_left(tmp_path: Path, profile: str, carrier: str) -> None:
    options = ["--json"]
    if profile != "cert":
        options += ["--profile", profile]
    if carrier != "mqtt":
        options += ["--carrier", carrier]
    demo = started(tmp_path, *options)
    output, problems = demo.communicate(timeout=120)
    assert demo.returncode == 0, problems + output
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    result = lines[-1]
    assert result["event"] == "result"
    assert result["held"] is True
    assert result["failed"] == []
    assert [line["title"] for line in lines if line["event"] == "phase"] == PHASES
    checks = [line for line in lines if line["event"] == "check"]
    assert len(checks) == result["checks"] == (15 if profile == "cert" else 16)
    assert all(check["held"] for check in checks)
    links = [line["text"].split()[2] for line in lines if "link up" in line.get("text", "")]
    assert links == {"mqtt": ["MQTT"] * 2, "sip": ["SIP"] * 2, "mixed": ["MQTT", "SIP"]}[carrier]
    prints = {line["fingerprint"] for line in lines if "fingerprint" in line}
    assert len(prints) == 1
    sizes = [line["bytes"] for line in lines if "message" in line]
    # RFC 9528 with suite 3, method 0 with x5t or 3 with kid of 8 bytes; and the binding twice.
    alone = [37, 115, 98] if profile == "cert" else [37, 61, 44]
    assert sizes == [alone[0], alone[1] + 37, alone[2] + 37]
    denied = [line for line in lines if line["event"] == "detail" and not line["good"]]
    assert len(denied) == 2
    assert all(line["outcome"].startswith("access-denied") for line in denied)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_takes_everything_with_it_when_it_is_ended(tmp_path: Path, number: int) -> None:
    demo = started(tmp_path, "--json")
    assert demo.stdout is not None
    for line in demo.stdout:
        if "boots MicroPython" in line:
            break
    assert any("launcher" in process for process in processes_of(tmp_path))
    demo.send_signal(number)
    demo.communicate(timeout=30)
    if number == signal.SIGKILL:
        # Nobody is left to remove the files; no process stays behind all the same.
        for _ in range(100):
            if not processes_of(tmp_path):
                break
            time.sleep(0.05)
        assert processes_of(tmp_path) == []
    else:
        assert demo.returncode == 130
        assert nothing_left(tmp_path)


def test_it_can_be_ended_while_it_sets_up(tmp_path: Path) -> None:
    demo = started(tmp_path, "--json")
    assert demo.stdout is not None
    for line in demo.stdout:
        if "keyferry serve" in line:
            break  # commands and the compiler run side by side now
    time.sleep(0.3)
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert nothing_left(tmp_path)


def test_it_stays_when_asked_and_goes_with_ctrl_c(tmp_path: Path) -> None:
    demo = started(tmp_path, "--keep", "--records", "3")
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("Ctrl-C ends it"):
            break
    folder = next(tmp_path.glob("keyferry-demo-*"))
    listed = subprocess.run(
        [sys.executable, "-m", "keyferry_manager", "device", "list", "--json"],
        env={**os.environ, "KEYFERRY_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {device["name"] for device in json.loads(listed.stdout)} == {"gauge-2", "pump-7"}
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=30)
    assert demo.returncode == 0, "every check held, and Ctrl-C is how it ends"
    assert nothing_left(tmp_path)


def test_an_interpreter_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--json"],
        env={**os.environ, "TMPDIR": str(tmp_path), "MICROPYTHON": "/nowhere/micropython"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "MICROPYTHON=/nowhere/micropython: not an executable file" in done.stderr
    assert "Traceback" not in done.stderr
    assert nothing_left(tmp_path)
