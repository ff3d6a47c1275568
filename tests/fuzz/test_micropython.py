"""The committed inputs in MicroPython: no more memory than a board has, and the same result."""

import os
import subprocess
from pathlib import Path

import pytest

from fuzz import inputs, kit, targets
from keyferry_hil import interpreter

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Heap of the interpreter, with all sources compiled in it: a board's. Of CBOR and MQTT the target
# holds several readings of one input at a time, of a session both sides.
HEAPS = {"cbor": "192k", "mqtt": "224k", "session": "256k", "sip": "384k", "sip_device": "512k"}
# The sources lie in it as bytecode with their names, so how it is filled depends on where they are:
# of 144 KiB the certificates' target found no 3 KiB in one piece in some folders.
HEAP = "160k"
# A whole session takes a tenth of a second here, so only every third of them is played.
EVERY = {"session": 3}


@pytest.mark.parametrize("name", targets.NAMES)
def test_on_micropython(name: str) -> None:
    """Nothing but the core's errors, no MemoryError in a board's heap, and the same result."""
    folders = [ROOT / "shared", ROOT / "tests"]
    environment = dict(os.environ)
    environment["MICROPYPATH"] = ":".join([*map(str, folders), ".frozen"])
    done = subprocess.run(
        [
            *interpreter.command(),
            *("-X", "heapsize=" + HEAPS.get(name, HEAP)),
            str(HERE / "on_micropython.py"),
            name,
            str(EVERY.get(name, 1)),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    *read, last = done.stdout.splitlines() or [""]
    known = list(inputs.read_all(name))[:: EVERY.get(name, 1)]
    assert last == f"{name} {len(known)} passed", done.stdout + done.stderr
    target = targets.load(name)
    for data, there in zip(known, read, strict=True):
        assert kit.digest(target.decode(data)) == there, data.hex()
