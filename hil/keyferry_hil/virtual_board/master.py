"""The board around the interpreter: power, resets, watchdog, clock, and the way of each byte."""

import asyncio
import os
import secrets
from collections.abc import Callable

from keyferry_firmware import images
from keyferry_hil.virtual_board.child import Child
from keyferry_hil.virtual_board.marks import Marks
from keyferry_hil.virtual_board.outer import OuterPort
from keyferry_hil.virtual_board.settings import Settings

# What a UART that nobody reads would lose: bytes kept for a reader who is slow.
_OUTPUT = 64 * 1024
# Bytes of input kept while the board cannot take them; then whoever writes has to wait.
_INPUT = 4096
_RAW = b"raw REPL; CTRL-B to exit\r\n>"
_PROMPT = b">>> "
_INTERRUPT = 0x03
# Seconds for which bytes after a Ctrl-C wait for the prompt: its terminal forgets what came before.
_TO_PROMPT = 0.5
_POLL = 0.005
# Seconds between two starts of a program that ends at once.
_BREATH = 0.05
POWER_ON, HARD, WATCHDOG, _, SOFT = range(1, 6)


class Master:
    """One virtual board. All methods are called in one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._outer: OuterPort | None = None
        self._child: Child | None = None
        self._marks = Marks("")
        self._output = bytearray()
        self._input = bytearray()
        self._raw = False  # which prompt the board has, or had at the reset
        self._seen = b""  # the last bytes of output
        self._hidden: bytes | None = None  # output of the way to the raw prompt
        self._ready = False  # takes input
        self._held_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._clock = "0"
        self._cut_write = 0
        self._cut_text = b""
        self.powered = False
        self.starts = 0
        self.cuts = 0
        self.on_cut: Callable[[], None] = lambda: None

    # -- what a hand can do --

    def plug(self) -> None:
        """The port is there."""
        if self._outer is None:
            self._outer = OuterPort(self._settings.port)
            self._loop.add_reader(self._outer.fd, self._from_host)

    def unplug(self) -> None:
        """The port is gone, and the power with it."""
        self.power_off()
        if self._outer is not None:
            self._loop.remove_reader(self._outer.fd)
            self._loop.remove_writer(self._outer.fd)
            self._outer.close()
            self._outer = None
        self._output.clear()

    def power_on(self) -> None:
        """Power, and a cold start."""
        if not self.powered:
            self._provide_flash()
            self.powered = True
            self._clock = "0"
            self._restart(POWER_ON)

    def power_off(self) -> None:
        """Cut the power: SIGKILL, in the middle of whatever it does."""
        if self.powered:
            self.powered = False
            self.cuts += 1
            self._end()
        self._input.clear()

    def reset(self) -> None:
        """The reset button."""
        if self.powered:
            self._restart(HARD)

    def cut_at(self, *, write: int = 0, text: str = "") -> None:
        """Cut the power in the middle of the ``write``-th write to flash after the latest start, or
        as soon as the console shows ``text``; 0 and "" mean not at all."""
        self._cut_write = write
        self._cut_text = text.encode()

    def noise(self, data: bytes) -> None:
        """Bytes on the line that the board never sent."""
        self._to_host(data)

    def status(self) -> dict[str, object]:
        return {
            "powered": self.powered,
            "plugged": self._outer is not None,
            "starts": self.starts,
            "cuts": self.cuts,
            "pid": self._child.pid if self._child else None,
        }

    # -- starts and ends --

    def _provide_flash(self) -> None:
        flash = self._settings.flash
        if not flash.exists():
            temporary = flash.with_suffix(".new")
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(images.littlefs({}, self._settings.flash_size))
            os.replace(temporary, flash)

    def _end(self) -> None:
        for timer in (self._timer, self._watchdog):
            if timer is not None:
                timer.cancel()
        self._timer = self._watchdog = None
        self._ready = False
        self._hidden = None
        if self._child is not None:
            self._loop.remove_reader(self._child.fd)
            self._loop.remove_writer(self._child.fd)
            self._child.close()
            self._child = None

    def _restart(self, cause: int, delay: float | None = None) -> None:
        self._end()
        if cause == SOFT:
            self._to_host(b"MPY: soft reboot\r\n")
        else:
            # What a chip's loader says, and what a look for boot loops counts.
            self._raw = False
            self._input.clear()
            self._to_host(b"\r\nrst:0x%x (keyferry virtual board)\r\n" % cause)
        if delay is None:
            delay = _BREATH if cause == SOFT else self._settings.boot_ms / 1000
        self._timer = self._loop.call_later(delay, self._start, cause)

    def _start(self, cause: int) -> None:
        self._timer = None
        self.starts += 1
        nonce = secrets.token_hex(8)
        self._marks = Marks(nonce)
        self._seen = b""
        environment = {
            "KEYFERRY_FLASH": str(self._settings.flash),
            "KEYFERRY_NONCE": nonce,
            "KEYFERRY_RAW": "1" if self._raw else "",
            "KEYFERRY_CAUSE": str(cause),
            "KEYFERRY_CLOCK": self._clock,
            "KEYFERRY_CUT": str(self._cut_write),
            "KEYFERRY_UNIQUE_ID": self._settings.serial_number,
            "KEYFERRY_ROM": "",
        }
        try:
            self._child = Child(self._settings.heap, self._settings.rom, environment)
        except (OSError, ValueError) as error:  # no memory, no such program
            self._to_host(f"\r\nvirtual board: {error}\r\n".encode())
            return
        self._loop.add_reader(self._child.fd, self._from_board)

    def _ended(self) -> None:
        """The interpreter is gone by itself."""
        assert self._child is not None
        status = self._child.ended()
        if status is None:  # its terminal is closed before it can be waited for
            self._loop.remove_reader(self._child.fd)
            self._timer = self._loop.call_later(_POLL, self._ended)
        else:
            self._restart(SOFT if status >= 0 else HARD)

    # -- bytes --

    def _from_board(self) -> None:
        assert self._child is not None
        try:
            data = os.read(self._child.fd, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended()
            return
        child = self._child
        for piece in self._marks.feed(data):
            if self._child is not child:
                return  # a mark has ended it
            if isinstance(piece, str):
                self._mark(*piece.partition(" ")[::2])
            elif self._hidden is not None:
                self._to_raw_prompt(piece)
            else:
                self._shown(piece)

    def _shown(self, data: bytes) -> None:
        self._to_host(data)
        self._seen = (self._seen + data)[-256:]
        raw, friendly = self._seen.rfind(_RAW), self._seen.rfind(b"\r\n" + _PROMPT)
        if max(raw, friendly) >= 0:
            self._raw = raw > friendly
        if self._cut_text and self._cut_text in self._seen:
            self._cut_text = b""
            self.power_off()
            self.on_cut()

    def _to_raw_prompt(self, data: bytes) -> None:
        """After a soft reset in the raw REPL a board is in the raw REPL again."""
        assert self._hidden is not None
        assert self._child is not None
        before = self._hidden
        self._hidden = (before + data)[-1024:]
        if self._hidden.endswith(_PROMPT) and b"\x01" not in self._hidden:
            os.write(self._child.fd, b"\x01")
            self._hidden = b"\x01"  # said
        elif self._hidden.endswith(_RAW):
            self._hidden = None
            self._shown(_RAW)
            self._accept()

    def _mark(self, word: str, argument: str) -> None:
        if word == "boot":
            if not self._raw:
                self._accept()
        elif word == "repl":
            if self._raw:
                self._hidden = b""
        elif word == "reset":
            self._restart(HARD)
        elif word == "cut":
            self._cut_write = 0
            self.power_off()
            self.on_cut()
        elif word == "clock":
            self._clock = argument
        elif word == "watchdog":
            if self._watchdog is not None:
                self._watchdog.cancel()
            seconds = int(argument) / 1000
            self._watchdog = self._loop.call_later(seconds, self._restart, WATCHDOG)

    def _to_host(self, data: bytes) -> None:
        if self._outer is None:
            return
        self._output += data
        del self._output[:-_OUTPUT]
        self._write_host()

    def _write_host(self) -> None:
        if self._outer is None:
            return
        try:
            while self._output:
                del self._output[: os.write(self._outer.fd, self._output)]
        except BlockingIOError:
            self._loop.add_writer(self._outer.fd, self._write_host)
            return
        self._loop.remove_writer(self._outer.fd)

    def _from_host(self) -> None:
        assert self._outer is not None
        try:
            data = os.read(self._outer.fd, _INPUT)
        except BlockingIOError:
            return
        if not self.powered:
            return
        self._input += data
        if len(self._input) >= _INPUT:
            self._loop.remove_reader(self._outer.fd)
        self._write_board()

    def _accept(self) -> None:
        self._ready = True
        self._write_board()

    def _write_board(self) -> None:
        """Bytes to the board; after a Ctrl-C only when its prompt has come, or none is to come."""
        child = self._child
        if child is None or not self._ready:
            return
        while self._input:
            if self._held_until:
                if child.running and self._loop.time() < self._held_until:
                    self._loop.call_later(_POLL, self._write_board)
                    return
                self._held_until = 0.0
            at = self._input.find(_INTERRUPT)
            if at == 0 and child.running:
                del self._input[0]
                child.interrupt()
                self._held_until = self._loop.time() + _TO_PROMPT
                continue
            # At the prompt Ctrl-C is a byte as any other; bytes after one wait for its effect.
            size = max(at, 1) if at >= 0 else len(self._input)
            try:
                del self._input[: os.write(child.fd, self._input[:size])]
            except BlockingIOError:
                self._loop.add_writer(child.fd, self._write_board)
                return
            except OSError:
                return  # it ends; reading tells
        self._loop.remove_writer(child.fd)
        if self._outer is not None:
            self._loop.add_reader(self._outer.fd, self._from_host)

    def close(self) -> None:
        """Switch it off and take the port away."""
        self.unplug()
