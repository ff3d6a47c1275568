"""A look at a board: which MicroPython, which image its boot code has checked, which board."""

import json
from dataclasses import dataclass
from pathlib import Path

from keyferry_firmware.flash.console import Console, clean
from keyferry_firmware.flash.failure import Failure

_LOOK = Path(__file__).parent.parent / "on_device" / "flash_look.py"


@dataclass(frozen=True)
class Seen:
    """What a board says of itself. ``image``: the hash that its boot code found, or ""."""

    version: str
    machine: str
    platform: str
    bytecode: int
    serial_number: str
    image: str
    refused: str
    free: int  # bytes of heap


def look(console: Console) -> Seen:
    """Ask a board that is at its raw prompt."""
    said = console.run(_LOOK.read_text())
    try:
        value = json.loads(said)
        texts = [str(value[key]) for key in ("version", "machine", "platform")]
        more = [str(value[key]) for key in ("serial_number", "image", "refused")]
        numbers = [int(value["bytecode"]), int(value["free"])]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Failure(
            "no-answer",
            f"the board does not say what it is ({clean(said)})",
            "flash it again",
            again=True,
        ) from None
    version, machine, platform = map(clean, texts)
    serial_number, image, refused = map(clean, more)
    return Seen(version, machine, platform, numbers[0], serial_number, image, refused, numbers[1])
