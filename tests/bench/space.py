"""``make size``, its second half: heap of MicroPython, and the least that suffices.

The pinned interpreter has 64 bits: each pointer takes twice the bytes of a board's. When there is a
32-bit one (``tools/micropython32`` fetches it, ``MICROPYTHON32=PATH`` names another), everything is
measured with it as well.
"""

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from bench import heap
from bench.life import Lives
from bench.tables import Cell, show
from keyferry_firmware.size import BUDGET

# KiB within which the least heap for a life is looked for.
LIFE = (48, 160)
FETCHED = heap.ROOT / "build" / "micropython32" / "micropython"
LEAST = {
    "initiator": "EDHOC, initiator",
    "responder": "EDHOC, responder",
    "both": "EDHOC, both roles",
    "introduction": "both sides, from signalling to records",
    "life": "the agent: enrol, link, two sessions",
}


def narrow() -> Path | None:
    """A 32-bit interpreter, if there is one. ValueError when what is named has other integers."""
    named = os.environ.get("MICROPYTHON32", "")
    path = Path(named).absolute() if named else FETCHED
    if not named and not path.exists():
        return None
    line = "import sys; print(sys.maxsize)"
    done = subprocess.run([path, "-c", line], capture_output=True, text=True)
    if done.stdout.strip() != str((1 << 31) - 1):
        raise ValueError(f"{path}: not a 32-bit MicroPython")
    return path


def measure(place: heap.Place) -> dict[str, Any]:
    """Bytes after import and at the peak of a run; KiB for the least heaps."""
    imported = {
        form: {
            "core": heap.imported(place, form, heap.CORE),
            "core and agent": heap.imported(place, form, heap.CORE + heap.AGENT),
        }
        for form in heap.FORMS
    }
    peaks = {role: heap.peak(place, role) for role in heap.ROLES}
    least: dict[str, dict[str, int]] = {}
    for form in ("mpy", "rom"):
        least[form] = {
            role: heap.smallest(
                lambda kib, form=form, role=role: heap.completes_role(place, form, kib, role)
            )
            for role in heap.ROLES
        }
        least[form]["introduction"] = heap.smallest(
            lambda kib, form=form: heap.completes_introduction(place, form, kib)
        )
    return {"imported": imported, "peak": peaks, "least": least}


async def least_life() -> int:
    """KiB for enrolment, link and two sessions, from ROMFS."""
    low, high = LIFE
    async with Lives() as lives:
        if not await lives.completes(high):
            raise RuntimeError(f"no life in {high} KiB")
        while high - low > 1:
            middle = (low + high) // 2
            if await lives.completes(middle):
                high = middle
            else:
                low = middle
    return high


def measure_all(life: bool) -> dict[str, Any]:
    """By each interpreter that is here, all that it can tell; ``life``: the agent's too."""
    found = {}
    given = os.environ.get("MICROPYTHON", "")
    for bits, path in (("64-bit", given), ("32-bit", narrow())):
        if path is None:
            continue
        os.environ["MICROPYTHON"] = str(path)
        try:
            with tempfile.TemporaryDirectory(prefix="keyferry-size-") as folder:
                found[bits] = measure(heap.Place(Path(folder)))
            if life:
                found[bits]["least"]["rom"]["life"] = asyncio.run(least_life())
        finally:
            os.environ["MICROPYTHON"] = given
    return found


def show_all(found: dict[str, Any], budget: dict[str, int]) -> None:
    lines: list[list[Cell]] = [
        [f"{heap.FORMS[form]}, {bits}", *sizes.values()]
        for bits, one in found.items()
        for form, sizes in one["imported"].items()
    ]
    show("Heap after import (bytes)", ["from", "core", "core and agent"], lines)
    lines = [[role, *(one["peak"][role] for one in found.values())] for role in heap.ROLES]
    title = "Live heap at the peak of a run of EDHOC, over that (bytes)"
    show(title, ["role", *found], lines)
    for form in ("mpy", "rom"):
        lines = [
            [
                LEAST[what],
                budget.get(f"{what}-{form}"),
                *(one["least"][form].get(what) for one in found.values()),
            ]
            for what in LEAST
        ]
        title = f"Least heap that suffices, from {heap.FORMS[form]} (KiB)"
        show(title, ["", "budget, 64-bit", *found], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object in place of tables")
    parser.add_argument("--no-life", action="store_true", help="leave out the agent's life")
    options = parser.parse_args()
    found = measure_all(not options.no_life)
    if options.json:
        print(json.dumps(found))
    else:
        show_all(found, tomllib.loads(BUDGET.read_text())["heap"])


if __name__ == "__main__":
    main()
