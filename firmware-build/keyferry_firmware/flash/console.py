"""A board's serial console: the port, its log after a reset, and MicroPython's raw REPL."""

import errno
import os
import re
import time
from typing import Any

import serial
from mpremote.transport import TransportError, TransportExecError
from mpremote.transport_serial import SerialTransport

from keyferry_firmware.flash.failure import Failure

# What every step may take, in seconds.
FIRST, PROMPT, ANSWER, BACK, LOG = 12, 30, 60, 40, 40
_QUIET = 1.0  # without a byte after the boot code's line: the log has begun
_MOST_LINES, _LONGEST_LINE = 20, 200
_RAW = b"raw REPL; CTRL-B to exit\r\n"
_BOOTED = b"keyferry boot: "
# What may move a terminal's cursor, before a log is kept.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\x20-\x7e\xa0-\U0010ffff]")


class _Transport(SerialTransport):
    """mpremote's transport on a port that is open already, and that says why it did not open."""

    def __init__(self, port: str, opened: Any) -> None:
        self.in_raw_repl = False
        self.use_raw_paste = True
        self.device_name = port
        self.mounted = False
        self.is_pty = False  # reads only what is there
        self.serial = opened


def open_port(port: str, baud: int = 115200) -> Any:
    """The port, for us alone. Failure says why not, and what to do."""
    try:
        return serial.Serial(port, baud, timeout=0.2, write_timeout=10, exclusive=True)
    except (OSError, ValueError) as error:  # SerialException is an OSError
        raise _why(port, error) from None


def _why(port: str, error: Exception) -> Failure:
    number = getattr(error, "errno", None)
    text = str(error)
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO) or not os.path.exists(port):
        return Failure(
            "no-port", f"there is no port {port}", "plug the board in, or name the port that it has"
        )
    if number in (errno.EACCES, errno.EPERM):
        return Failure(
            "no-permission",
            f"you may not open {port}",
            "become a member of its group (often dialout), and log in again",
        )
    if number in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in text:
        return Failure(
            "port-in-use",
            f"another program has {port} open",
            "close the terminal or the test bench that uses it",
        )
    return Failure("port-failed", f"{port} cannot be opened", "check that it is a serial port")


class Console:
    """A board at its console. Every method ends within the times above, or raises Failure."""

    def __init__(self, port: str, baud: int = 115200, *, wait: float = 0) -> None:
        """``wait``: seconds in which the port may appear."""
        self._port, self._baud = port, baud
        self._transport = self._opened(wait)

    def _opened(self, wait: float) -> _Transport:
        end = time.monotonic() + wait
        while True:
            try:
                return _Transport(self._port, open_port(self._port, self._baud))
            except Failure:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.2)

    def close(self) -> None:
        try:
            self._transport.serial.close()
        except OSError:
            pass  # it is gone

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the raw REPL --

    def enter(self) -> None:
        """The raw prompt with an empty heap, after boot.py and without main.py."""
        end = time.monotonic() + FIRST
        heard = False
        try:
            while True:
                self._write(b"\r\x03\x03")
                time.sleep(0.1)
                waiting = self._transport.serial.in_waiting
                heard = bool(self._transport.serial.read(waiting)) or heard if waiting else heard
                self._write(b"\r\x01")
                if self._until(_RAW, 3):
                    self._write(b"\x04")
                    if self._until(b"soft reboot\r\n", 10) and self._until(_RAW, PROMPT):
                        self._transport.in_raw_repl = True
                        return
                if time.monotonic() >= end:
                    break
        except OSError as error:
            raise _lost(self._port, error) from None
        raise Failure(
            "no-answer",
            f"no MicroPython prompt at {self._port}" + (", but other output" if heard else ""),
            "check cable and power; a board without MicroPython is flashed with esptool or UF2",
            again=True,
        )

    def _write(self, data: bytes) -> None:
        self._transport.serial.write(data)

    def _until(self, ending: bytes, seconds: int) -> bool:
        got = self._transport.read_until(1, ending, timeout=seconds, timeout_overall=seconds)
        return got.endswith(ending)

    def run(self, code: str, seconds: int = ANSWER) -> str:
        """What the code printed. Failure when it raised or did not end."""
        try:
            output, error = self._transport.exec_raw(code, timeout=seconds)
        except (TransportError, OSError, ValueError) as problem:
            raise _lost(self._port, problem) from None
        if error:
            last = error.decode(errors="replace").strip().splitlines()[-1:]
            raise Failure(
                "board-error",
                f"the board says {clean(' '.join(last))}",
                "flash it again; if that does not help, its MicroPython is another than expected",
                again=True,
            )
        return output.decode(errors="replace")

    def start(self, code: str) -> None:
        """Start code that ends the prompt, such as a reset."""
        try:
            self._transport.exec_raw_no_follow(code)
        except (TransportError, OSError) as problem:
            raise _lost(self._port, problem) from None

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file with its folders."""
        folder = ""
        try:
            for name in path.strip("/").split("/")[:-1]:
                folder += "/" + name
                if not self._transport.fs_exists(folder):
                    self._transport.fs_mkdir(folder)
            self._transport.fs_writefile(path, data)
        except (TransportError, TransportExecError, ValueError) as problem:
            raise _lost(self._port, problem) from None
        except OSError as error:
            if isinstance(error, serial.SerialException) or error.errno != errno.ENOSPC:
                raise _lost(self._port, error) from None
            raise Failure(
                "flash-full",
                f"there is no room for {path} on the board",
                "build for a board with more flash, or make the application smaller",
            ) from None

    # -- a reset --

    def reset(self) -> list[str]:
        """Reset the board from the raw prompt; the first lines of its log."""
        self.start("import machine; machine.reset()")
        return self.log()

    def log(self) -> list[str]:
        """The lines from a reset until the boot code has spoken and it is quiet, or LOG is over."""
        begin = last = time.monotonic()
        seen = b""
        while (now := time.monotonic()) - begin < LOG:
            booted = _BOOTED in seen
            if booted and (now - last > _QUIET or seen.count(b"\n") >= _MOST_LINES):
                break
            try:
                data = self._transport.serial.read(max(1, self._transport.serial.in_waiting))
            except OSError:  # a USB port goes away with its board, and comes back
                self.close()
                self._transport = self._opened(BACK)
                continue
            if data:
                last = time.monotonic()
                seen = (seen + data)[-(_MOST_LINES * _LONGEST_LINE) :]
        lines = [clean(line) for line in seen.decode(errors="replace").splitlines()]
        return [line for line in lines if line][:_MOST_LINES]


def clean(text: str) -> str:
    """A line of a board's output without what could move a cursor, 200 characters at most."""
    return _CONTROL.sub("", text)[:_LONGEST_LINE].strip()


def _lost(port: str, problem: Exception) -> Failure:
    return Failure(
        "line-dropped",
        f"the board at {port} stopped answering ({clean(str(problem)) or 'no bytes'})",
        "check cable and power",
        again=True,
    )
