"""``make powercut``: a device loses its power at every write, and must come back whole.

The last line says how many cells there were and how many lost something; the exit status is 1 when
any did.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from powercut import board, flash


def show(rows: list[dict[str, Any]]) -> None:
    """A line for each case and way to tear, and one for each loss."""
    for row in rows:
        lost = row["lost"]
        print(f"  {row['case']:24} {row['tear']:8} {row['cells']:5} {len(lost):5}", flush=True)
        for number, why in lost:
            print(f"    LOST at write {number}: {why}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make powercut", description=__doc__)
    parser.add_argument("--part", choices=("flash", "board", "all"), default="all")
    parser.add_argument("--step", type=int, default=1, help="cut every STEP-th write of a board")
    options = parser.parse_args()
    print("  case                     torn     cells  lost")
    rows: list[dict[str, Any]] = []
    if options.part != "board":
        rows += flash.rows()
        show(rows)
    if options.part != "flash":
        with tempfile.TemporaryDirectory() as place:
            more = asyncio.run(board.rows(Path(place), options.step))
        show(more)
        rows += more
    cells = sum(row["cells"] for row in rows)
    lost = sum(len(row["lost"]) for row in rows)
    print(f"{cells} cells, {lost} lost")
    return 1 if lost or not cells else 0


if __name__ == "__main__":
    sys.exit(main())
