"""Which port is which board: USB serial numbers, patterns, and who has a port open."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from serial.tools import list_ports

from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import SerialPort


@dataclass(frozen=True)
class Plugged:
    """A serial port of this computer."""

    path: str
    serial_number: str = ""
    description: str = ""


def plugged() -> list[Plugged]:
    """The USB serial ports that are plugged in now."""
    return [
        Plugged(port.device, port.serial_number or "", port.description or "")
        for port in sorted(list_ports.comports())
        if port.vid is not None
    ]


def locate(who: str, port: SerialPort, known: list[Plugged] | None = None) -> str:
    """The path that ``port`` has now. BenchProblem("not-found") or ("same-serial")."""
    if port.path:
        if not os.path.exists(port.path) and "://" not in port.path:
            raise BenchProblem("not-found", who, f"{port.path} is not there")
        return port.path
    if port.serial_number:
        wanted = port.serial_number.lower()
        ports = plugged() if known is None else known
        found = [item.path for item in ports if item.serial_number.lower() == wanted]
    else:
        found = _matching(port.pattern)
    if not found:
        raise BenchProblem("not-found", who, f"no port has {port}")
    if len(found) > 1:
        name = "same-serial" if port.serial_number else "rig-wrong"
        raise BenchProblem(name, who, f"{port} fits {' and '.join(sorted(found))}")
    return found[0]


def _matching(pattern: str) -> list[str]:
    """Paths that fit, each device once."""
    found: dict[str, str] = {}
    for path in sorted(glob.glob(os.path.expanduser(pattern))):
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def holders(path: str) -> list[tuple[int, str]]:
    """The other processes that have ``path`` open, of those that this user may look into."""
    real = os.path.realpath(path)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid == os.getpid():
            continue
        try:
            if any(os.readlink(link) == real for link in (entry / "fd").iterdir()):
                found.append((pid, (entry / "comm").read_text().strip()))
        except OSError:
            continue  # not ours to see, or gone
    return sorted(found)
