"""Leases: several people and processes share the boards of one computer.

A lease is a file that says who has the board and until when. Its holder renews it; one that has
run out, or whose process is gone, is free for the next. A lock on a second file (flock, which
the kernel gives back when its holder ends) guards the moment of looking and writing.
"""

import fcntl
import getpass
import hashlib
import json
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from keyferry_hil.problems import BenchProblem

LIFE = 60.0  # seconds that a lease lives without being renewed
_RENEWALS = 4  # in that time
_POLL = 0.2


@dataclass(frozen=True)
class Holder:
    """Who has a board. ``began``: when its process did, as the kernel counts."""

    user: str
    host: str
    pid: int
    began: str
    until: float  # Unix seconds

    def __str__(self) -> str:
        until = time.strftime("%H:%M:%S", time.localtime(self.until))
        return f"{self.user}'s process {self.pid} on {self.host} has it until {until}"

    @property
    def alive(self) -> bool:
        """Whether it may still use the board."""
        if self.until <= time.time():
            return False
        return self.host != socket.gethostname() or _began(self.pid) == self.began


def _began(pid: int) -> str:
    """The kernel's start time of a process, "" when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def folder() -> Path:
    """Where all users of this computer look: ``KEYFERRY_LEASES``, or a folder in /tmp."""
    return Path(os.environ.get("KEYFERRY_LEASES") or Path(tempfile.gettempdir(), "keyferry-leases"))


def key(port: str) -> str:
    """What a port's lease is called: one for each device, whatever name it goes by."""
    real = os.path.realpath(port)
    # A virtual board gets another terminal at each start.
    return os.path.abspath(port) if real.startswith("/dev/pts/") else real


class Leases:
    """The leases of this process, renewed by a thread while there are any."""

    def __init__(self, place: Path | None = None, life: float = LIFE) -> None:
        self._place = place or folder()
        self._life = life
        self._mine: dict[str, Path] = {}
        self._lost: dict[str, str] = {}
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = _began(os.getpid())
        try:
            self._place.mkdir(mode=0o1777, parents=True)
            self._place.chmod(0o1777)  # whatever the umask says: it is for all users
        except FileExistsError:
            pass

    def take(self, keys: Sequence[str], wait: float = 0.0) -> None:
        """Take all of ``keys`` or none. BenchProblem("lease-held") after ``wait`` seconds."""
        end = time.monotonic() + wait
        while True:
            held = self._try(sorted(keys))
            if held is None:
                return
            if time.monotonic() >= end:
                raise BenchProblem("lease-held", held[0], str(held[1]))
            time.sleep(_POLL)

    def take_some(self, keys: Sequence[str], count: int, wait: float) -> list[str]:
        """Take ``count`` of ``keys``, whichever are free. BenchProblem("lease-held")."""
        end = time.monotonic() + wait
        while True:
            taken: list[str] = []
            held: tuple[str, Holder] | None = None
            for key in keys:
                if len(taken) == count:
                    break
                if key in self._mine:
                    continue
                held = self._try([key]) or held
                if key in self._mine:
                    taken.append(key)
            if len(taken) == count:
                return taken
            self.release(taken)  # all or none: who waits must hold nobody up
            if time.monotonic() >= end:
                detail = str(held[1]) if held else "this process has them already"
                raise BenchProblem("lease-held", held[0] if held else keys[0], detail)
            time.sleep(_POLL * (0.5 + random.random()))

    def _try(self, keys: Sequence[str]) -> tuple[str, Holder] | None:
        taken = []
        for key in keys:
            held = self._try_one(key)
            if held is not None:
                self.release(taken)
                return key, held
            taken.append(key)
        self._renew_on()
        return None

    def _try_one(self, key: str) -> Holder | None:
        path = self._path(key)
        with _locked(path):
            holder = read(path)
            if holder is not None and holder.alive and key not in self._mine:
                return holder
            self._write(path)
        with self._guard:
            self._mine[key] = path
            self._lost.pop(key, None)
        return None

    def check(self, key: str) -> None:
        """BenchProblem("lease-lost") when somebody else took the board meanwhile."""
        if key in self._lost:
            raise BenchProblem("lease-lost", key, self._lost[key])

    def release(self, keys: Sequence[str] | None = None) -> None:
        """Give these back, or all."""
        for key in list(self._mine) if keys is None else keys:
            with self._guard:
                path = self._mine.pop(key, None)
                self._lost.pop(key, None)
            if path is not None:
                with _locked(path):
                    holder = read(path)
                    if holder is not None and self._is_me(holder):
                        path.unlink(missing_ok=True)
        with self._guard:
            thread = self._thread if not self._mine else None
            if thread is not None:
                self._thread = None
                self._stop.set()
        if thread is not None:
            thread.join()

    def _is_me(self, holder: Holder) -> bool:
        return (holder.host, holder.pid, holder.began) == (
            socket.gethostname(),
            os.getpid(),
            self._began,
        )

    def _path(self, key: str) -> Path:
        return self._place / (hashlib.sha256(key.encode()).hexdigest()[:24] + ".lease")

    def _write(self, path: Path) -> None:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        until = time.time() + self._life
        holder = Holder(user, socket.gethostname(), os.getpid(), self._began, until)
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        temporary.write_text(json.dumps(asdict(holder)))
        os.replace(temporary, path)

    def _renew_on(self) -> None:
        with self._guard:
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)
                self._thread.start()

    def _renew(self) -> None:
        stop = self._stop
        while not stop.wait(self._life / _RENEWALS):
            with self._guard:
                mine = dict(self._mine)
            for key, path in mine.items():
                with _locked(path):
                    with self._guard:
                        if key not in self._mine or key in self._lost:
                            continue  # given back meanwhile
                    holder = read(path)
                    if holder is None or not self._is_me(holder):
                        self._lost[key] = str(holder) if holder else "its lease was removed"
                    else:
                        self._write(path)


def read(path: Path) -> Holder | None:
    """What a lease file says; None when there is none, or nothing that can be read."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_suffix(".lock")
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        if os.fstat(handle).st_uid == os.getuid():
            os.fchmod(handle, 0o666)  # whatever the umask says
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
