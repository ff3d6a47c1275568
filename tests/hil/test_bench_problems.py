"""What can be wrong with a bench: each has its name, in its time, and the other boards go on."""

import errno
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import serial

from keyferry_hil import diagnosis, discovery, doctor, leases, rigs
from keyferry_hil.drivers.line import SerialLine
from keyferry_hil.drivers.power import NetworkRelay, Uhubctl
from keyferry_hil.drivers.repl import Repl
from keyferry_hil.drivers.serial_log import SerialLog
from keyferry_hil.drivers.virtual import VirtualBoardProcess, VirtualControl
from keyferry_hil.problems import REMEDIES, BenchProblem
from keyferry_hil.resources import BoardSpec, HubPort, Network, Relay, Rig, SerialPort, Virtual
from support.processes import environment, keyferry

SHORT = 3.0


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYFERRY_LEASES", str(tmp_path / "leases"))
    monkeypatch.setenv("KEYFERRY_BENCH", str(tmp_path / "bench"))


def virtual(place: Path, name: str, firmware: str = "") -> BoardSpec:
    port = SerialPort(path=str(place / name / "port"))
    return BoardSpec(name, "virtual", port, virtual=Virtual(), firmware=firmware)


def at(port: str, name: str = "b1") -> BoardSpec:
    return BoardSpec(name, "unknown", SerialPort(path=port))


def rig(place: Path, *boards: BoardSpec) -> Rig:
    return Rig("test", boards, Network(), place)


@contextmanager
def talker(say: Callable[[int], None]) -> Iterator[str]:
    """A port where ``say(descriptor)`` is what the other end does."""
    outer, end = pty.openpty()
    tty.setraw(end)
    os.set_blocking(outer, False)
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.02):
            try:
                os.read(outer, 4096)
            except BlockingIOError:
                pass
            try:
                say(outer)
            except BlockingIOError:
                pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield os.ttyname(end)
    finally:
        stop.set()
        thread.join()
        os.close(end)
        os.close(outer)


def repeat(call: Callable[[], object]) -> None:
    """Until it raises."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        call()
        time.sleep(0.05)


def problem(found: doctor.Finding) -> str:
    assert found.seconds < 2 * doctor.LIMIT
    assert found.problem is not None
    assert found.problem.remedy
    return found.problem.name


def test_silence_garbage_and_nothing_there_hold_no_board_up(tmp_path: Path) -> None:
    noise = bytes(range(128, 256))
    with talker(lambda fd: None) as silent, talker(lambda fd: os.write(fd, noise) and None) as loud:
        boards = rig(
            tmp_path,
            at(silent, "silent"),
            at(loud, "loud"),
            at("/dev/not-there", "absent"),
            virtual(tmp_path, "well"),
            virtual(tmp_path, "other", firmware="00000000"),
        )
        found = {item.board: item for item in doctor.examine(boards, patience=SHORT)}
    assert problem(found["silent"]) == "no-answer"
    assert problem(found["loud"]) == "garbage"
    assert problem(found["absent"]) == "not-found"
    assert problem(found["other"]) == "wrong-firmware"
    assert found["well"].problem is None
    assert found["well"].seen is not None


def test_a_boot_loop(tmp_path: Path) -> None:
    said = b"rst:0x10 (RTCWDT_RTC_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)\r\n"
    with talker(lambda fd: os.write(fd, said) and None) as port:
        (found,) = doctor.examine(rig(tmp_path, at(port)), patience=SHORT)
    assert problem(found) == "boot-loop"


def test_a_program_that_resets_the_board_is_interrupted_or_named(tmp_path: Path) -> None:
    spec = virtual(tmp_path, "v1")
    process = VirtualBoardProcess(spec)
    try:
        line = SerialLine("v1", spec.port.path, 115200, SerialLog())
        repl = Repl(line)
        repl.enter(seconds=60)
        repl.write_file("/boot.py", b"import machine\nmachine.reset()\n")
        line.close()
        VirtualControl("v1", process.folder).hard_reset()
        (found,) = doctor.examine(rig(tmp_path, spec), patience=SHORT)
        assert found.seen is not None or problem(found) == "boot-loop"
    finally:
        process.stop()


def test_a_port_in_use_is_named_with_its_process(tmp_path: Path) -> None:
    with talker(lambda fd: None) as port:
        code = f"import serial, sys, time; s = serial.Serial({port!r}, exclusive=True)\n"
        code += "print(1, flush=True); time.sleep(600)"
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        try:
            assert other.stdout is not None
            other.stdout.readline()
            (found,) = doctor.examine(rig(tmp_path, at(port)), patience=SHORT)
        finally:
            other.kill()
            other.communicate()
    assert problem(found) == "port-in-use"
    assert f"process {other.pid}" in str(found.problem)


def test_no_permission_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise serial.SerialException(errno.EACCES, "Permission denied")

    monkeypatch.setattr(serial, "Serial", refuse)
    port = tmp_path / "tty"
    port.touch()
    (found,) = doctor.examine(rig(tmp_path, at(str(port))), patience=SHORT)
    assert problem(found) == "no-permission"
    assert "group" in str(found.problem)
    assert "dialout" in str(found.problem)


def test_an_unplugged_board(tmp_path: Path) -> None:
    spec = virtual(tmp_path, "v1")
    process = VirtualBoardProcess(spec)
    line = SerialLine("v1", spec.port.path, 115200, SerialLog())
    try:
        repl = Repl(line)
        repl.enter(seconds=60)
        repl.start("while True: pass")
        unplug = threading.Timer(0.3, VirtualControl("v1", process.folder).order, ["unplug"])
        unplug.start()
        with pytest.raises(BenchProblem) as caught:
            repeat(lambda: line.read_some(5))
        assert caught.value.name == "port-lost"
        with pytest.raises(BenchProblem, match="port-lost"):
            line.write(b"x")
        unplug.join()
    finally:
        line.close()
        process.stop()


def test_two_boards_with_one_serial_number(tmp_path: Path) -> None:
    known = [discovery.Plugged("/dev/a", "7CDF"), discovery.Plugged("/dev/b", "7cdf")]
    with pytest.raises(BenchProblem) as caught:
        discovery.locate("b1", SerialPort(serial_number="7CDF"), known)
    assert caught.value.name == "same-serial"
    assert "/dev/a" in caught.value.detail
    # And by what they say of themselves, where USB gives them no number.
    link = tmp_path / "v1" / "other"
    process = VirtualBoardProcess(virtual(tmp_path, "v1"))
    try:
        link.symlink_to(process.port)
        one, two = at(str(process.port), "one"), at(str(link), "two")
        found = doctor.examine(rig(tmp_path, one), patience=SHORT)
        again = doctor.examine(rig(tmp_path, two), patience=SHORT)
        assert found[0].seen is not None
        assert again[0].seen is not None
        chips = [item.seen.chip for item in (*found, *again) if item.seen]
        assert chips[0] == chips[1]
    finally:
        process.stop()


def test_two_boards_with_one_chip_number_behind_two_ports(tmp_path: Path) -> None:
    """Cloned boards: each answers, and both are told from the third, which is well."""
    boards, started = [], []
    try:
        for name, chip in (("c1", "c0ffee00"), ("c2", "C0FFEE00"), ("c3", "c0ffee01")):
            port = tmp_path / name / "port"
            words = [str(tmp_path / name), "--port", str(port), "--unique-id", chip]
            process = subprocess.Popen(
                [sys.executable, "-m", "keyferry_hil.virtual_board", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.append(process)
            assert process.stdout is not None
            assert b"plugged" in process.stdout.readline()
            boards.append(at(str(port), name))
        found = doctor.examine(rig(tmp_path, *boards))
        problems = [item.problem for item in found]
        assert [problem.name for problem in problems[:2] if problem] == ["same-serial"] * 2
        assert all("c0ffee00" in problem.detail for problem in problems[:2] if problem)
        assert problems[2] is None
    finally:
        for process in started:
            process.communicate(timeout=30)


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (b"", "no-answer"),
        (b"\r\n\r\n", "no-answer"),
        (b"login: ", "no-answer"),
        (b"\xff\xfe\x00\x80\x91\x04\xe0\xaa" * 4, "garbage"),
        (b"rst:0x10 (RTCWDT_RTC_RESET),boot:0x13\r\n" * 5, "boot-loop"),
        (b"ets Jul 29 2019 12:21:46\r\n\r\n" * 4, "boot-loop"),
        (b"MPY: soft reboot\r\n" * 4, "boot-loop"),
    ],
)
def test_what_a_line_says_of_its_board(seen: bytes, name: str) -> None:
    found = diagnosis.diagnose("b1", seen)
    assert found.name == name
    assert found.name in REMEDIES


BAD_RIGS = {
    "not TOML": "[[board",
    "no boards": "name = 'x'",
    "unknown key": "[[board]]\nname = 'a'\nvirtual = {}\ncolour = 'red'",
    "a port that moves": "[[board]]\nname = 'a'\nport = '/dev/ttyUSB0'",
    "two ports": "[[board]]\nname = 'a'\nport = '/dev/serial/by-id/x'\nserial_number = '1'",
    "no port": "[[board]]\nname = 'a'",
    "a bad name": "[[board]]\nname = '../a'\nvirtual = {}",
    "one name twice": "[[board]]\nname = 'a'\nvirtual = {}\n[[board]]\nname = 'a'\nvirtual = {}",
    "a bad heap": "[[board]]\nname = 'a'\nvirtual = { heap = '-X' }",
    "a bad relay": "[[board]]\nname = 'a'\nport = '/dev/serial/x'\n"
    "power = { relay = { on = 'file:///etc/passwd', off = 'x' } }",
    "a bad hub": "[[board]]\nname = 'a'\nport = '/dev/serial/x'\n"
    "power = { uhubctl = { hub = '-a', port = 1 } }",
    "a bad reset": "[[board]]\nname = 'a'\nport = '/dev/serial/x'\nreset = 'hammer'",
    "a number as text": "[[board]]\nname = 'a'\nport = '/dev/serial/x'\nbaud = '9600'",
}


@pytest.mark.parametrize("text", BAD_RIGS.values(), ids=BAD_RIGS.keys())
def test_rig_files_are_checked_whole(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(text)
    with pytest.raises(BenchProblem) as caught:
        rigs.load(path)
    assert caught.value.name == "rig-wrong"


def test_the_rigs_that_ship_are_right() -> None:
    names = {path.stem for path in rigs.folder().glob("*.toml")}
    assert {"virtual-4", "example"} <= names
    for name in names:
        assert rigs.load(rigs.find(name)).boards


def test_a_lease_holds_renews_and_ends(tmp_path: Path) -> None:
    place = tmp_path / "shared"
    code = (
        "import sys, time; from pathlib import Path; from keyferry_hil.leases import Leases\n"
        f"Leases(Path({str(place)!r}), life=3).take(['b1', 'b2'])\n"
        "print(1, flush=True); time.sleep(600)"
    )

    def holder() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    mine = leases.Leases(place, life=3)
    first = holder()
    try:
        with pytest.raises(BenchProblem) as caught:
            mine.take(["b0", "b2"], wait=4)  # longer than a life: it is renewed
        assert caught.value.name == "lease-held"
        assert str(first.pid) in caught.value.detail
        first.kill()  # and a dead one holds nothing
        first.wait()
        mine.take(["b2", "b1"])
        mine.release()
        first.communicate()
        first = holder()
        first.send_signal(signal.SIGSTOP)  # nor one that has stopped, once its time is over
        mine.take(["b1"], wait=60)
        mine.check("b1")
    finally:
        first.kill()
        first.communicate()
        mine.release()


def test_who_lost_a_lease_hears_of_it(tmp_path: Path) -> None:
    mine = leases.Leases(tmp_path / "shared", life=0.4)
    mine.take(["b1"])
    for path in (tmp_path / "shared").glob("*.lease"):
        path.unlink()
    with pytest.raises(BenchProblem, match="lease-lost"):
        repeat(lambda: mine.check("b1"))
    mine.release()


def test_torn_lease_files_are_no_leases(tmp_path: Path) -> None:
    mine = leases.Leases(tmp_path / "shared")
    mine.take(["b1"])
    mine.release()
    for lock in (tmp_path / "shared").glob("*.lock"):
        lock.with_suffix(".lease").write_text('{"user": ')
    mine.take(["b1"])
    mine.release()


def test_power_switches_say_what_failed(tmp_path: Path) -> None:
    hub = tmp_path / "uhubctl"
    hub.write_text(
        "#!/bin/sh\necho \"$@\" >> '%s'\necho New status for hub\n" % (tmp_path / "said")
    )
    hub.chmod(0o755)
    switch = Uhubctl("b1", HubPort("1-1.4", 2), str(hub))
    switch.off()
    switch.on()
    assert (tmp_path / "said").read_text().splitlines() == [
        "-l 1-1.4 -p 2 -a off",
        "-l 1-1.4 -p 2 -a on",
    ]
    hub.write_text("#!/bin/sh\necho No compatible devices detected!\n")
    with pytest.raises(BenchProblem, match="No compatible"):
        switch.off()
    with pytest.raises(BenchProblem, match="not installed"):
        Uhubctl("b1", HubPort("1", 1), str(tmp_path / "no")).on()
    with pytest.raises(BenchProblem, match="control-failed"):
        NetworkRelay("b1", Relay("http://127.0.0.1:9/on", "http://127.0.0.1:9/off")).on()


def test_the_relay_is_asked_by_post(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(500 if self.path == "/broken" else 200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        NetworkRelay("b1", Relay(address + "/on", address + "/off")).off()
        with pytest.raises(BenchProblem, match="answered 500"):
            NetworkRelay("b1", Relay(address + "/broken", address)).on()
        server.shutdown()
        thread.join()
    assert asked == ["/off", "/broken"]


def test_the_command_lists_and_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "[[board]]\nname = 'v1'\nvirtual = {}\n"
        "[[board]]\nname = 's3'\nserial_number = 'NOT-PLUGGED-IN'\n"
    )
    places = {key: os.environ[key] for key in ("KEYFERRY_BENCH", "KEYFERRY_LEASES")}
    line = [sys.executable, "-m", "keyferry_manager", "bench"]
    done = subprocess.run(
        [*line, "list", "--rig", str(path), "--json"],
        env=environment(places),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    well, absent = json.loads(done.stdout)["boards"]
    assert well["problem"] is None
    assert well["answers"]["version"].startswith("1.2")
    assert absent["problem"]["name"] == "not-found"
    done = subprocess.run(
        [*line, "doctor", "--rig", str(path)],
        env=environment(places),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "s3: not-found" in done.stdout
    assert "1 of 2 boards are well." in done.stdout
    said = keyferry("bench", "doctor", "--rig", "no-such", code=2, more=places)
    assert "rig-wrong" in said
    assert "virtual-4" in said


def test_a_watched_list_looks_again_when_a_board_comes_or_goes(tmp_path: Path) -> None:
    port = tmp_path / "port"
    line = [sys.executable, "-m", "keyferry_manager", "bench", "list", "--watch", "--json"]
    places = {key: os.environ[key] for key in ("KEYFERRY_BENCH", "KEYFERRY_LEASES")}
    with subprocess.Popen(
        [*line, "--port", str(port)], env=environment(places), stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        try:
            (absent,) = json.loads(watching.stdout.readline())["boards"]
            assert absent["problem"]["name"] == "not-found"
            with talker(lambda _: None) as path:
                port.symlink_to(path)
                (silent,) = json.loads(watching.stdout.readline())["boards"]
                assert silent["problem"]["name"] == "no-answer"
                port.unlink()
                (gone,) = json.loads(watching.stdout.readline())["boards"]
                assert gone["problem"]["name"] == "not-found"
        finally:
            watching.send_signal(signal.SIGINT)
            watching.wait(30)
    assert watching.returncode == 0
