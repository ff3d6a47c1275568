"""Flashing real MicroPython at a serial port: written through its REPL, then asked what it has."""

import json
import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import tty
from contextlib import ExitStack
from pathlib import Path

import pytest
import serial

from keyferry_firmware import boards, images, output, record, rom
from keyferry_firmware.flash import self_test
from support.command import command
from support.virtual_port import virtual_port

pytestmark = pytest.mark.timeout(600)

MAIN = "import sys\nprint('pump runs', sys.path)\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``out``: a signed build for the virtual board."""
    place = tmp_path_factory.mktemp("flash")
    (place / "main.py").write_text(MAIN)
    command(place, "firmware", "key", "new", place / "key", "--kind", "ed25519")
    line = ("firmware", "build", "--board", "virtual", "--app", place / "main.py", "--no-preflight")
    command(place, *line, "--key", place / "key", "-o", place / "out")
    return place


def test_three_boards_at_once_one_of_which_is_silent(place: Path, tmp_path: Path) -> None:
    silent, end = pty.openpty()
    tty.setraw(end)
    nobody = os.ttyname(end)
    with ExitStack() as stack:
        stack.callback(os.close, silent)
        stack.callback(os.close, end)
        ports = [stack.enter_context(virtual_port(tmp_path / name)) for name in ("one", "two")]
        report = tmp_path / "report.json"
        line = ("firmware", "flash", place / "out", "--key", place / "key.pub", "--report", report)
        for port in (ports[0], nobody, ports[1]):
            line += ("--port", port)
        done = command(tmp_path, *line, "--json", code=1)
    events = [json.loads(row) for row in done.stdout.splitlines()]
    assert events[-1]["event"] == "report"
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    found = json.loads(report.read_text())
    assert (found["flashed"], found["failed"]) == (2, 1)
    by_board = {item["board"]: item for item in found["boards"]}
    image = (place / "out" / record.ROM).read_bytes()
    for port in ports:
        item = by_board[str(port)]
        assert item["ok"], item
        assert item["attempts"] == 1
        assert item["image"] == image[32 : rom.HEAD].hex()
        assert item["self_test"] == len(self_test.VECTORS)
        assert item["micropython"].startswith("1.")
        assert len(item["serial_number"]) == 16
        assert f"keyferry boot: application image {item['image'][:16]}" in item["log"]
        assert any(row.startswith("pump runs ['/rom'") for row in item["log"])
    numbers = [item["serial_number"] for item in found["boards"]]
    assert numbers == sorted(numbers)
    assert len({*numbers}) == 3, "one without a number: it never answered"
    failed = by_board[nobody]
    assert (failed["ok"], failed["attempts"], failed["problem"]) == (False, 2, "no-answer")
    words = [event["event"] for event in events if event.get("board") == failed["board"]]
    assert words == ["start", "retry", "start", "failed"]
    words = [event["event"] for event in events if event.get("board") == str(ports[0])]
    assert (words[0], words[1], words[-2:]) == ("start", "progress", ["written", "done"])


def flash(tmp_path: Path, out: Path, *more: object, code: int = 1) -> str:
    """What a run without --json writes to standard error, and its table."""
    line = ("firmware", "flash", out, "--report", tmp_path / "report.json")
    done = command(tmp_path, *line, *more, code=code)
    return done.stderr + done.stdout


def test_devices_get_their_files_and_lose_those_of_others(place: Path, tmp_path: Path) -> None:
    flash_size = boards.load("virtual").files.size
    files = images.read_littlefs((place / "out" / record.FILES).read_bytes())
    files |= {"config.json": b"{}", "deep/er/token": b"0123456789abcdef\n"}
    log = {
        "board": "virtual",
        "application": record.digest((place / "out" / record.ROM).read_bytes()),
        "devices": [{"name": "pump-7"}],
    }
    made = {
        "pump-7/littlefs.img": images.littlefs(files, flash_size),
        "provisioned.json": json.dumps(log).encode(),
    }
    output.write_folder(tmp_path / "devices", made, private=True)
    board = tmp_path / "board"
    board.mkdir()
    old = {"old/secret": b"another device's", "main.py": b"while True:\n    pass\n"}
    (board / "flash.img").write_bytes(images.littlefs(old, 512 * 1024))
    more = ("--key", place / "key.pub", "--provisioned", tmp_path / "devices")
    with virtual_port(board) as port:
        (tmp_path / "list.csv").write_text(f"name,port\npump-7,{port}\n")
        said = flash(tmp_path, place / "out", *more, "--boards", tmp_path / "list.csv", code=0)
        assert images.read_littlefs((board / "flash.img").read_bytes()) == files
    assert "pump-7: written, checking" in said
    assert "1 of 1 boards flashed" in said
    assert "0123456789abcdef" not in said + (tmp_path / "report.json").read_text()


def test_a_port_in_use_or_missing_and_a_full_file_system_are_named(
    place: Path, tmp_path: Path
) -> None:
    key = ("--key", place / "key.pub")
    master, end = pty.openpty()
    try:
        with serial.Serial(os.ttyname(end), exclusive=True):
            said = flash(tmp_path, place / "out", *key, "--port", os.ttyname(end))
    finally:
        os.close(master)
        os.close(end)
    assert "another program has" in said
    assert "close the terminal or the test bench" in said
    said = flash(tmp_path, place / "out", *key, "--port", tmp_path / "nothing")
    assert "there is no port" in said
    board = tmp_path / "board"
    board.mkdir()
    (board / "flash.img").write_bytes(images.littlefs({}, 4 * 4096))
    with virtual_port(board) as port:
        said = flash(tmp_path, place / "out", *key, "--port", port)
        assert not (board / "rom.img").exists(), "nothing was written"
    assert "the board's file system has 16384 bytes" in said


def test_only_what_was_signed_and_fits_is_flashed(place: Path, tmp_path: Path) -> None:
    port = ("--port", tmp_path / "port")
    out = place / "out"
    said = flash(tmp_path, out, *port)
    assert "--key release.key.pub" in said
    command(tmp_path, "firmware", "key", "new", tmp_path / "other")
    said = flash(tmp_path, out, *port, "--key", tmp_path / "other.pub")
    assert "which is not yours" in said
    changed = tmp_path / "changed"
    shutil.copytree(out, changed)
    os.truncate(changed / record.ROM, 5000)
    assert "is cut short" in flash(tmp_path, changed, *port, "--key", place / "key.pub")
    assert "is cut short" in flash(tmp_path, changed, *port, "--unsigned")
    key = ("--key", place / "key.pub")
    said = flash(tmp_path, out, *key, *port, *port)
    assert "is there twice" in said
    said = flash(tmp_path, out, *key, "--port", f"{tmp_path / 'port'}=pump-9")
    assert "pump-9 is not among the provisioned devices" in said
    assert "use mpremote" in flash(tmp_path, out, *key, *port, "--method", "esptool")
    assert "no board was named" in flash(tmp_path, out, *key)
    (tmp_path / "list.csv").write_text("port,name\n/dev/a,b,c\n")
    assert "line 2: expected 2 cells" in flash(
        tmp_path, out, *key, "--boards", tmp_path / "list.csv"
    )
    output.write_folder(
        tmp_path / "devices",
        {"provisioned.json": b'{"board": "virtual", "application": "00", "devices": []}'},
    )
    more = ("--provisioned", tmp_path / "devices")
    assert "made with another build" in flash(tmp_path, out, *key, *port, *more)
    assert not (tmp_path / "report.json").exists()


def test_a_board_whose_arithmetic_is_wrong_is_failed_and_not_tried_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, operation, arguments, expected = self_test.VECTORS[1]
    wrong = (name, operation, arguments, expected[:-1] + ("0" if expected[-1] != "0" else "1"))
    monkeypatch.setattr(self_test, "VECTORS", (wrong, *self_test.VECTORS[2:5]))
    board = tmp_path / "board"
    with virtual_port(board) as port:
        said = flash(tmp_path, place / "out", "--key", place / "key.pub", "--port", port)
    (found,) = json.loads((tmp_path / "report.json").read_text())["boards"]
    assert (found["ok"], found["attempts"], found["problem"]) == (False, 1, "self-test")
    assert f"1 of 4 test vectors failed: {name}: expected" in found["text"]
    assert "do not use this board" in said


def test_ctrl_c_ends_it_and_says_what_became_of_the_board(place: Path, tmp_path: Path) -> None:
    program = "from keyferry_manager.cli import main; main()"
    report = tmp_path / "report.json"
    board = tmp_path / "board"
    with virtual_port(board) as port:
        line = ("firmware", "flash", place / "out", "--key", place / "key.pub", "--port", port)
        with subprocess.Popen(
            [sys.executable, "-c", program, *map(str, line), "--report", str(report), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for row in process.stdout:
                if json.loads(row)["event"] == "progress":
                    break
            process.send_signal(signal.SIGINT)
            rest, said = process.communicate(timeout=120)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        (found,) = json.loads(report.read_text())["boards"]
        assert (found["ok"], found["problem"]) == (False, "stopped"), rest
        # The board is as usable as before: the same command makes a whole one of it.
        flash(tmp_path, place / "out", "--key", place / "key.pub", "--port", port, code=0)
    assert (board / "rom.img").read_bytes()
