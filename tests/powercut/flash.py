"""Cuts on a block device that stops after N writes, in the real interpreter."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from keyferry_hil import interpreter

ROOT = Path(__file__).parent.parent.parent
SUBJECT = Path(__file__).parent / "on_device" / "flash_subject.py"
_SECONDS = 1800


def rows(step: str = "all") -> list[dict[str, Any]]:
    """Each case and tear: {"case", "tear", "cells", "lost": [[write, why]]}."""
    folders = [ROOT / "shared", ROOT / "device", ROOT / "tests"]
    path = ":".join([*map(str, folders), ".frozen"])
    done = subprocess.run(
        [*interpreter.command(), "-X", "heapsize=1m", str(SUBJECT), step],
        env=os.environ | {"MICROPYPATH": path},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    # the rest is what MicroPython says of files that it finds open after their disk has gone
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found or found.pop() != {"done": True}:
        raise RuntimeError(f"{SUBJECT.name}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return found
