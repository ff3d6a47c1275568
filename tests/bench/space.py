"""``make size``, its second half: heap of MicroPython, and the least that suffices.

The interpreter has 64 bits: each pointer takes twice the bytes of a board's.
"""

import argparse
import asyncio
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from bench import heap
from bench.life import Lives
from bench.tables import Cell, show
from keyferry_firmware.size import BUDGET

# KiB within which the least heap for a life is looked for.
LIFE = (96, 160)


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


def show_all(found: dict[str, Any], budget: dict[str, int]) -> None:
    lines: list[list[Cell]] = [
        [heap.FORMS[form], *sizes.values()] for form, sizes in found["imported"].items()
    ]
    show("Heap after import (bytes)", ["from", "core", "core and agent"], lines)
    lines = [[role, size] for role, size in found["peak"].items()]
    show("Live heap at the peak of a run of EDHOC, over that (bytes)", ["role", ""], lines)
    names = {
        "initiator": "EDHOC, initiator",
        "responder": "EDHOC, responder",
        "both": "EDHOC, both roles",
        "introduction": "both sides, from signalling to records",
    }
    lines = [
        [
            name,
            found["least"]["mpy"][what],
            budget.get(what + "-mpy"),
            found["least"]["rom"][what],
            budget.get(what + "-rom"),
        ]
        for what, name in names.items()
    ]
    if "life" in found["least"]:
        life = "the agent: enrol, link, two sessions"
        lines.append([life, None, None, found["least"]["life"], budget.get("life-rom")])
    headings = ["", ".mpy", "budget", "ROMFS", "budget"]
    show("Least heap that suffices (KiB)", headings, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object in place of tables")
    parser.add_argument("--no-life", action="store_true", help="leave out the agent's life")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyferry-size-") as folder:
        found = measure(heap.Place(Path(folder)))
    if not options.no_life:
        found["least"]["life"] = asyncio.run(least_life())
    if options.json:
        print(json.dumps(found))
    else:
        show_all(found, tomllib.loads(BUDGET.read_text())["heap"])


if __name__ == "__main__":
    main()
