"""The virtual board, addressed as a real port: by mpremote's transport and by pyserial."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial
from mpremote.transport_serial import SerialTransport

from keyferry_hil.drivers.virtual import VirtualBoardProcess, VirtualControl
from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import BoardSpec, SerialPort, Virtual

PATIENCE = 60.0


def spec(place: Path, name: str = "v1", **virtual: object) -> BoardSpec:
    port = SerialPort(path=str(place / name / "port"))
    return BoardSpec(name, "virtual", port, virtual=Virtual(**virtual))  # pyright: ignore


@pytest.fixture
def board(tmp_path: Path) -> Iterator[VirtualBoardProcess]:
    process = VirtualBoardProcess(spec(tmp_path))
    yield process
    process.stop()


def control(board: VirtualBoardProcess) -> VirtualControl:
    return VirtualControl("v1", board.folder)


def prompt(port: Path, *, soft_reset: bool = True) -> SerialTransport:
    """At the raw prompt, as mpremote goes there, with its retry for a busy machine."""
    transport = SerialTransport(str(port), timeout=PATIENCE)
    transport.enter_raw_repl(soft_reset=soft_reset, timeout_overall=PATIENCE)
    return transport


def until(port: serial.Serial, text: bytes) -> bytes:
    seen = b""
    end = time.monotonic() + PATIENCE
    while text not in seen:
        assert time.monotonic() < end, seen
        seen += port.read(max(1, port.in_waiting))
    return seen


def read_on(port: serial.Serial) -> None:
    for _ in range(100):
        port.read(1)


def test_files_stay_through_resets_and_power_cuts(board: VirtualBoardProcess) -> None:
    transport = prompt(board.port)
    content = os.urandom(9000)
    transport.fs_writefile("/a.bin", content)
    transport.close()
    for act in (control(board).hard_reset, control(board).off):
        act()
        control(board).on()
        transport = prompt(board.port)
        assert transport.fs_readfile("/a.bin") == content
        transport.close()
    assert (board.folder / "flash.img").stat().st_mode & 0o77 == 0


def test_a_soft_reset_empties_the_heap_and_stays_in_the_raw_repl(
    board: VirtualBoardProcess,
) -> None:
    transport = prompt(board.port)
    transport.exec("kept = 1")
    transport.enter_raw_repl(soft_reset=True, timeout_overall=PATIENCE)
    assert transport.exec("print('kept' in globals())") == b"False\r\n".replace(b"\r", b"")
    assert transport.exec("import machine; print(machine.reset_cause())").strip() == b"5"
    transport.close()


@pytest.mark.parametrize("paste", [True, False])
def test_ctrl_c_interrupts_a_program(board: VirtualBoardProcess, paste: bool) -> None:
    transport = prompt(board.port)
    transport.use_raw_paste = paste
    transport.exec_raw_no_follow("print('runs')\nwhile True: pass")
    assert transport.read_until(1, b"runs\n", timeout=PATIENCE).endswith(b"runs\n")
    transport.enter_raw_repl(soft_reset=False, timeout_overall=PATIENCE)
    assert transport.exec("print(2)").strip() == b"2"
    transport.close()


def test_main_runs_at_each_start_and_is_interrupted(board: VirtualBoardProcess) -> None:
    transport = prompt(board.port)
    transport.fs_writefile("/main.py", b"import time\nprint('main')\nwhile 1: time.sleep(1)\n")
    transport.exec_raw_no_follow("import machine; machine.reset()")
    transport.serial.timeout = 1
    seen = until(transport.serial, b"main\n")
    assert b"rst:0x2" in seen
    transport.enter_raw_repl(soft_reset=True, timeout_overall=PATIENCE)
    assert transport.exec("import machine; print(machine.reset_cause())").strip() == b"5"
    transport.close()


def test_the_watchdog_resets(board: VirtualBoardProcess) -> None:
    transport = prompt(board.port)
    transport.exec_raw_no_follow("import machine; machine.WDT(timeout=200)\nwhile True: pass")
    transport.serial.timeout = 1
    until(transport.serial, b"rst:0x3")
    transport.close()


def test_heap_limit_and_unique_id(tmp_path: Path) -> None:
    boards = [VirtualBoardProcess(spec(tmp_path, name, heap="128k")) for name in ("v1", "v2")]
    try:
        chips = set()
        for one in boards:
            transport = prompt(one.port)
            code = "import gc, machine; print(gc.mem_alloc() + gc.mem_free(), machine.unique_id())"
            total, chip = transport.exec(code).split(b" ", 1)
            assert 120_000 < int(total) < 132_000
            chips.add(chip)
            transport.close()
        assert len(chips) == 2
    finally:
        for one in boards:
            one.stop()


def test_unplugged_the_port_is_gone_for_who_has_it_open(board: VirtualBoardProcess) -> None:
    port = serial.Serial(str(board.port), timeout=1)
    control(board).order("unplug")
    with pytest.raises(serial.SerialException):
        read_on(port)
    port.close()
    assert not board.port.exists()
    control(board).order("plug")
    control(board).on()
    prompt(board.port).close()


def test_the_clock_stays_wrong_until_the_power_goes(board: VirtualBoardProcess) -> None:
    transport = prompt(board.port)
    transport.exec("import machine; machine.RTC().datetime((2030, 1, 1, 0, 0, 0, 0, 0))")
    transport.enter_raw_repl(soft_reset=True, timeout_overall=PATIENCE)
    assert int(transport.exec("import time; print(int(time.time()))")) >= 1893450000
    transport.close()
    control(board).off()
    control(board).on()
    transport = prompt(board.port)
    assert abs(int(transport.exec("import time; print(int(time.time()))")) - time.time()) < 3600
    transport.close()


def test_a_board_runs_once(board: VirtualBoardProcess, tmp_path: Path) -> None:
    with pytest.raises(BenchProblem, match="lease-held"):
        VirtualBoardProcess(spec(tmp_path))


def test_it_ends_with_who_started_it(tmp_path: Path) -> None:
    """However that ends: a killed test run leaves no board behind."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from keyferry_hil.drivers.virtual import VirtualBoardProcess\n"
        "from keyferry_hil.resources import BoardSpec, SerialPort, Virtual\n"
        f"port = SerialPort(path={str(tmp_path / 'v1' / 'port')!r})\n"
        "board = VirtualBoardProcess(BoardSpec('v1', 'virtual', port, virtual=Virtual()))\n"
        "print(board._process.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    handle = os.pidfd_open(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    ended, _, _ = select.select([handle], [], [], PATIENCE)
    os.close(handle)
    parent.stdout.close()
    assert ended


def test_bad_orders_are_refused(board: VirtualBoardProcess) -> None:
    plug = control(board)
    for order, fields in (("explode", {}), ("cut_at", {"where": 1}), ("noise", {})):
        with pytest.raises(BenchProblem, match="control-failed"):
            plug.order(order, **fields)
    assert json.dumps(plug.order("status"))
