"""A board on a serial port, through MicroPython's raw REPL.

What answers the questions is copied into a folder of the board's file system and removed at the
end. The core is the one that the board has, or with ``install`` the one of this project, copied
to /lib, where it stays.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from mpremote.transport import TransportError, TransportExecError
from mpremote.transport_serial import SerialTransport
from serial import SerialException

from keyferry_hil.board_files import lacks
from keyferry_hil.vectors.conversation import Conversation, RuntimeLost
from keyferry_hil.vectors.runtimes import PACKAGE, RuntimeProblem, about, compiled

_FOLDER = "/keyferry_vectors"
_LIBRARY = "/lib"
_START_SECONDS = 30.0
# A line of 194 characters: the smallest console buffers hold 256.
_PIECE = 144
_STEP = 0.25
_ENTER_SECONDS = 10
_STOP_SECONDS = 2


class Board:
    """A board whose raw REPL runs the service."""

    def __init__(self, transport: SerialTransport, seconds: float) -> None:
        self._transport = transport
        self._serial: Any = transport.serial
        self._seconds = seconds
        self._talk = Conversation(self._write, self._read, _PIECE)

    def start(self) -> None:
        code = (
            f"import sys; sys.path.insert(0, {_FOLDER!r})\n"
            f"from {PACKAGE.name}.service import serve; serve()"
        )
        self._transport.exec_raw_no_follow(code)
        try:
            self._talk.wait_ready(_START_SECONDS)
        except RuntimeLost as error:
            raise RuntimeProblem(_hint(str(error))) from None

    def stop(self) -> None:
        """End the service, when it is listening; a busy one is interrupted afterwards."""
        self._write(b"q\n")
        self._transport.follow(_STOP_SECONDS)

    def _write(self, data: bytes) -> None:
        try:
            self._serial.write(data)
        except SerialException as error:
            raise RuntimeLost(f"the port failed: {error}") from None

    def _read(self, seconds: float) -> bytes:
        serial = self._serial
        serial.timeout = min(seconds, _STEP)
        try:
            data = serial.read(max(1, serial.in_waiting))
        except SerialException as error:
            raise RuntimeLost(f"the port failed: {error}") from None
        if b"\x04" in data:  # the raw REPL's mark: what ran has ended
            text = data.replace(b"\x04", b"\n") + self._rest()
            raise RuntimeLost(
                "the board stopped: " + " | ".join(text.decode(errors="replace").split("\n"))
            )
        return data

    def _rest(self) -> bytes:
        """The traceback that the raw REPL sends between two marks."""
        serial = self._serial
        serial.timeout = 1
        return bytes(serial.read(4096)).replace(b"\x04", b"\n")

    def ask(self, question: bytes) -> bytes:
        return self._talk.ask(question, self._seconds)

    def restart(self) -> bool:
        return False


def _hint(text: str) -> str:
    if "no module named 'keyferry_core" in text:
        return "the board has no keyferry_core: add --install to copy it there"
    if "incompatible .mpy" in text:
        return (
            "the board's MicroPython is another than 1.29 or newer: it takes no .mpy of this kind"
        )
    return text


@contextmanager
def board(
    port: str,
    *,
    baud: int = 115200,
    install: bool = False,
    reset: bool = True,
    seconds: float = 120.0,
) -> Iterator[Board]:
    """The board at ``port``, answering for as long as the context lasts.

    ``reset``: begin with a soft reset, for a heap that nothing is left in.
    """
    try:
        transport = SerialTransport(port, baudrate=baud, timeout=5)
    except (TransportError, SerialException, OSError) as error:
        raise RuntimeProblem(str(error)) from None
    try:
        _enter(transport, reset)
        files = compiled()
        with _copied(transport, files, install):
            answering = Board(transport, seconds)
            answering.start()
            try:
                if install:
                    _check_installed(answering)
                yield answering
            finally:
                _quietly(answering.stop)
        _quietly(transport.exit_raw_repl)
    except TransportExecError as error:
        last = error.error_output.strip().splitlines()[-1:] or ["an error without text"]
        raise RuntimeProblem(f"the board says {_hint(last[0])}") from None
    except (TransportError, SerialException) as error:
        raise RuntimeProblem(str(error)) from None
    finally:
        _quietly(transport.close)


def _enter(transport: SerialTransport, reset: bool) -> None:
    """The raw REPL's prompt, whatever the board is doing now."""
    # mpremote prints what it read when it fails; our output has its own form.
    with redirect_stdout(io.StringIO()):
        transport.enter_raw_repl(soft_reset=reset, timeout_overall=_ENTER_SECONDS)


def _check_installed(answering: Board) -> None:
    core = about(answering).core
    if not core.startswith(_LIBRARY + "/"):
        raise RuntimeProblem(
            f"the board imports keyferry_core from {core} and not from {_LIBRARY}: its firmware"
            " or another folder has one; leave --install out to test that"
        )


def _quietly(call: Any) -> None:
    try:
        call()
    except (TransportError, SerialException, OSError, RuntimeLost):
        pass  # on the way out: the first error is the one to hear of


@contextmanager
def _copied(transport: SerialTransport, files: dict[str, bytes], install: bool) -> Iterator[None]:
    places = {}
    for name in files:
        if name.startswith(PACKAGE.name + "/"):
            places[name] = f"{_FOLDER}/{name}"
        elif install:
            places[name] = f"{_LIBRARY}/{name}"
    try:
        for name, place in places.items():
            if lacks(transport, place, files[name]):
                transport.fs_writefile(place, files[name])
        yield
    finally:
        own = [place for place in places.values() if place.startswith(_FOLDER + "/")]
        _quietly(lambda: _remove(transport, own))


def _remove(transport: SerialTransport, places: list[str]) -> None:
    _enter(transport, reset=False)  # this ends what is still running
    for place in places:
        transport.fs_rmfile(place)
    transport.fs_rmdir(f"{_FOLDER}/{PACKAGE.name}")
    transport.fs_rmdir(_FOLDER)
