"""A serial port by pyserial: read all the time, so that no byte waits and each has its time."""

import errno
import os
import threading
import time

import serial

from keyferry_hil.discovery import holders
from keyferry_hil.drivers.serial_log import SerialLog
from keyferry_hil.problems import BenchProblem

_BUFFER = 1 << 20  # bytes that nobody has read yet
_STEP = 0.1
_WRITE_SECONDS = 10.0


class SerialLine:
    """An open port. It is a console, and what mpremote takes for a pyserial object.

    BenchProblem when it cannot be opened: "not-found", "no-permission", "port-in-use".
    """

    def __init__(self, who: str, path: str, baud: int, log: SerialLog) -> None:
        self.who = who
        self.path = path
        self.log = log
        self.timeout: float | None = None
        self._deadline: float | None = None
        try:
            self._port = serial.Serial(
                path, baud, timeout=_STEP, write_timeout=_WRITE_SECONDS, exclusive=True
            )
        except (OSError, ValueError) as error:
            raise _cannot_open(who, path, error) from None
        log.note(f"{path} opened at {baud} baud")
        self._news = threading.Condition()
        self._received = bytearray()
        self._lost = ""
        self._closing = False
        self._thread = threading.Thread(target=self._read_on, name=f"serial {who}", daemon=True)
        self._thread.start()

    def _read_on(self) -> None:
        while not self._closing:
            try:
                data = self._port.read(max(1, min(self._port.in_waiting, 65536)))
            except (OSError, TypeError) as error:  # TypeError: pyserial, closed meanwhile
                with self._news:
                    self._lost = str(error) or type(error).__name__
                    self._news.notify_all()
                self.log.note(f"port lost: {self._lost}")
                return
            if data:
                self.log.received(data)
                with self._news:
                    self._received += data
                    del self._received[:-_BUFFER]
                    self._news.notify_all()

    def _check(self) -> None:
        if self._lost and not self._received:
            raise BenchProblem("port-lost", self.who, f"{self.path}: {self._lost}")

    # -- a console --

    def write(self, data: bytes) -> int:
        self._check()
        if self._lost:
            raise BenchProblem("port-lost", self.who, f"{self.path}: {self._lost}")
        self.log.sent(data)
        try:
            return self._port.write(data) or 0
        except serial.SerialTimeoutException:
            raise BenchProblem("no-answer", self.who, "it takes no more input") from None
        except OSError as error:
            raise BenchProblem("port-lost", self.who, f"{self.path}: {error}") from None

    def read_some(self, seconds: float) -> bytes:
        with self._news:
            self._news.wait_for(lambda: self._received or self._lost, seconds)
            self._check()
            data = bytes(self._received)
            self._received.clear()
        return data

    def unread(self, data: bytes) -> None:
        """Give bytes back, to be read next."""
        with self._news:
            self._received[:0] = data
            self._news.notify_all()

    # -- for mpremote --

    def limit(self, seconds: float | None) -> None:
        """After so many seconds mpremote's reads end with BenchProblem("no-answer"). It counts
        from the last byte only, and a board that starts again and again always says something.
        """
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def _check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise BenchProblem("no-answer", self.who, "it speaks, and does not answer")

    def read(self, size: int = 1) -> bytes:
        self._check_deadline()
        end = None if self.timeout is None else time.monotonic() + self.timeout
        with self._news:
            while len(self._received) < size:
                self._check()
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._news.wait(_STEP if left is None else left)
                if self._lost and len(self._received) < size:
                    break
            data = bytes(self._received[:size])
            del self._received[:size]
        return data

    @property
    def in_waiting(self) -> int:
        self._check_deadline()
        with self._news:
            self._check()
            return len(self._received)

    def inWaiting(self) -> int:  # pyserial's old name, for mpremote
        return self.in_waiting

    # -- its other lines --

    def lines(self, *, dtr: bool | None = None, rts: bool | None = None) -> None:
        """Set control lines; a port without them ignores it."""
        try:
            if dtr is not None:
                self._port.dtr = dtr
            if rts is not None:
                self._port.rts = rts
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                raise BenchProblem("port-lost", self.who, f"{self.path}: {error}") from None

    def close(self) -> None:
        self._closing = True
        self._thread.join(10 * _STEP + _WRITE_SECONDS)
        self._port.close()
        self.log.note(f"{self.path} closed")


def _cannot_open(who: str, path: str, error: Exception) -> BenchProblem:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        try:
            owner = os.stat(path)
            detail = f"{path} belongs to user {owner.st_uid}, group {_group(owner.st_gid)}"
        except OSError:
            detail = f"{path}: {error}"
        return BenchProblem("no-permission", who, detail)
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return BenchProblem("not-found", who, f"{path} is not there")
    by = holders(path)
    if by or number in (errno.EBUSY, errno.EAGAIN) or "lock" in str(error):
        named = ", ".join(f"process {pid} ({name})" for pid, name in by) or "another program"
        return BenchProblem("port-in-use", who, f"{named} has {path} open")
    return BenchProblem("not-found", who, f"{path} is no serial port: {error}")


def _group(number: int) -> str:
    try:
        import grp

        return grp.getgrgid(number).gr_name
    except (ImportError, KeyError):
        return str(number)
