"""MicroPython's raw REPL and file system, by mpremote's SerialTransport."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mpremote.transport import TransportError, TransportExecError
from mpremote.transport_serial import SerialTransport

from keyferry_hil.board_files import lacks
from keyferry_hil.diagnosis import diagnose
from keyferry_hil.drivers.line import SerialLine
from keyferry_hil.problems import BenchProblem

# Seconds until the prompt, with all attempts; each attempt has a part of them.
ENTER_SECONDS = 12.0
_ATTEMPT_SECONDS = 4.0
# An operation of several steps may take so many times as long as the wait for one answer.
_TIMES = 3
_PROMPT = b"raw REPL; CTRL-B to exit\r\n>"


class _Transport(SerialTransport):
    """mpremote's transport on a line that is open already."""

    def __init__(self, line: SerialLine) -> None:
        self.in_raw_repl = False
        self.use_raw_paste = True
        self.device_name = line.path
        self.mounted = False
        self.is_pty = False  # read only what is there: the line has its own thread
        self.serial: Any = line


class Repl:
    """The raw REPL of one board. Errors of the board's code are BoardError."""

    def __init__(self, line: SerialLine) -> None:
        self._line = line
        self._transport = _Transport(line)
        self._attempt = _ATTEMPT_SECONDS

    def enter(self, *, soft_reset: bool = True, seconds: float = ENTER_SECONDS) -> None:
        """The raw prompt, whatever the board does now; with ``soft_reset``, and an empty heap.

        BenchProblem("no-answer"), ("garbage") or ("boot-loop") within ``seconds`` and 4 more.
        """
        end = time.monotonic() + seconds
        self._attempt = min(seconds, _ATTEMPT_SECONDS)
        seen = bytearray()
        while True:
            if self._prompt(seen) and (not soft_reset or self._soft_reset(seen)):
                self._line.unread(b">")  # mpremote waits for it before each command
                self._transport.in_raw_repl = True
                return
            if time.monotonic() >= end:
                raise diagnose(self._line.who, bytes(seen))

    def _prompt(self, seen: bytearray) -> bool:
        self._line.write(b"\r\x03\x03")  # interrupt what runs
        seen += self._line.read_some(0.05)
        self._line.write(b"\r\x01")
        return self._until(_PROMPT, seen)

    def _soft_reset(self, seen: bytearray) -> bool:
        self._line.write(b"\x04")
        return self._until(b"soft reboot\r\n", seen) and self._until(_PROMPT, seen)

    def _until(self, end: bytes, seen: bytearray) -> bool:
        begin = len(seen)
        limit = time.monotonic() + self._attempt
        while (left := limit - time.monotonic()) > 0:
            seen += self._line.read_some(min(left, 0.5))
            at = seen.find(end, begin)
            if at >= 0:
                # what came after it is the next step's
                rest = bytes(seen[at + len(end) :])
                del seen[at + len(end) :]
                self._line.unread(rest)
                return True
        return False

    def leave(self) -> None:
        """The friendly prompt."""
        with contextlib.suppress(BenchProblem):
            self._transport.exit_raw_repl()

    @contextmanager
    def _named(self, timeout: float = 10.0) -> Iterator[Any]:
        """mpremote's transport, with its errors under our names."""
        self._line.timeout = timeout
        self._line.limit(_TIMES * timeout)
        try:
            yield self._transport
        except TransportExecError as error:
            raise BoardError(self._line.who, error.error_output.strip()) from None
        except TransportError as error:
            raise BenchProblem("no-answer", self._line.who, str(error)) from None
        except (IndexError, ValueError, SyntaxError) as error:
            # struct.error is a ValueError; what the board sent is not what it should be
            raise BenchProblem("no-answer", self._line.who, f"torn answer ({error})") from None
        finally:
            self._line.timeout = None
            self._line.limit(None)

    def run(self, code: str, seconds: float = 30.0) -> str:
        """Run code, and give back what it printed."""
        with self._named(seconds) as transport:
            output, error = transport.exec_raw(code, timeout=seconds)
        if error:
            raise BoardError(self._line.who, error.decode(errors="replace").strip())
        return output.decode(errors="replace")

    def start(self, code: str) -> None:
        """Start code that goes on; the line is the program's from now on."""
        with self._named() as transport:
            transport.exec_raw_no_follow(code)

    # -- files --

    def write_secret(self, path: str, data: bytes) -> None:
        """Write a file whose content the log must not have."""
        with self._line.log.muted(f"{len(data)} bytes to {path}, which are not shown"):
            self.write_file(path, data)

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file with its folders, unless the board has it with these bytes."""
        with self._named(30.0) as transport:
            if not lacks(transport, path, data):
                return
            try:
                transport.fs_writefile(path, data)
            except OSError as error:
                raise BenchProblem("flash-full", self._line.who, f"{path}: {error}") from None

    def read_file(self, path: str) -> bytes:
        """FileNotFoundError when there is none."""
        with self._named(30.0) as transport:
            return bytes(transport.fs_readfile(path))

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with self._named() as transport, contextlib.suppress(OSError):
            transport.fs_rmfile(path)

    def flash(self, files: Mapping[str, bytes]) -> None:
        """The files of an application below /lib; those that are there already stay."""
        for name, data in files.items():
            self.write_file(f"/lib/{name}", data)


class BoardError(Exception):
    """The board's code ended with an exception; ``text`` is its traceback."""

    def __init__(self, who: str, text: str) -> None:
        self.who = who
        self.text = text
        super().__init__(f"{who}: {text}")
