"""A look at a board: who answers, with which MicroPython, and which application it has."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keyferry_hil.drivers.repl import BoardError, Repl
from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import BoardSpec

_LOOK = Path(__file__).parent / "on_device" / "look.py"
_OLDEST = (1, 29)
_SECONDS = 30.0


@dataclass(frozen=True)
class Seen:
    """What a board said. ``firmware``: the hash of its application's files, "" without any;
    ``free`` and ``used``: bytes of heap."""

    version: str
    machine: str
    platform: str
    chip: str
    firmware: str
    files: int
    free: int
    used: int


def look(who: str, repl: Repl) -> Seen:
    """Ask a board that is at its raw prompt. BenchProblem("wrong-firmware") when it is not
    MicroPython 1.29 or newer, ("no-answer") when it does not say."""
    try:
        said = json.loads(repl.run(_LOOK.read_text(), _SECONDS))
        name = said.pop("name")
        seen = Seen(**said)
    except BoardError as error:
        last = error.text.splitlines()[-1:] or ["an exception"]
        raise BenchProblem("wrong-firmware", who, f"it cannot say what it is: {last[0]}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BenchProblem("no-answer", who, "it does not say what it is") from None
    number = re.match(r"([0-9]+)\.([0-9]+)", seen.version)
    if name != "micropython" or number is None or tuple(map(int, number.groups())) < _OLDEST:
        raise BenchProblem("wrong-firmware", who, f"it runs {name} {seen.version}")
    return seen


def check_firmware(spec: BoardSpec, seen: Seen) -> None:
    """BenchProblem("wrong-firmware") when the rig names another build."""
    if spec.firmware and not seen.firmware.startswith(spec.firmware):
        has = seen.firmware[:12] or "no application"
        raise BenchProblem("wrong-firmware", spec.name, f"it has {has}, not {spec.firmware[:12]}")


def hash_of(files: Mapping[str, bytes]) -> str:
    """The hash that a board with these files alone says."""
    whole = hashlib.sha256()
    for name, data in sorted(files.items()):
        whole.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    return whole.hexdigest()
