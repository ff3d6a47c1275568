"""One run of the interpreter: from a reset to the next."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
import tty
from collections.abc import Mapping
from pathlib import Path

from keyferry_hil import interpreter

_BOOT = Path(__file__).parent.parent / "on_device" / "board_boot.py"


class Child:
    """MicroPython with a terminal of its own; ``fd`` is the other end of that."""

    def __init__(self, heap: str, rom: Path, environment: Mapping[str, str]) -> None:
        self.fd, end = pty.openpty()
        tty.setraw(end)
        options = ["-X", "heapsize=" + heap, "-i", str(_BOOT)]
        if rom.is_file():
            line, added = interpreter.command_with_rom(rom, options)
        else:
            line, added = [*interpreter.command(), *options], {}

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._process = subprocess.Popen(
            line,
            stdin=end,
            stdout=end,
            stderr=end,
            env={**os.environ, **environment, **added, "MICROPYPATH": ".frozen"},
            preexec_fn=take_terminal,  # the master has one thread
        )
        os.close(end)
        os.set_blocking(self.fd, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether a program runs, and it is not the prompt that waits: only then does the
        interpreter catch SIGINT."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return False  # it has ended
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught >> (signal.SIGINT - 1) & 1)

    def interrupt(self) -> None:
        """What Ctrl-C does to a program."""
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> int | None:
        """Its exit status (negative: a signal), or None."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self.kill()
        os.close(self.fd)
