"""Bytes of each device module as .mpy, held to a budget. ``python -m keyferry_firmware.size``.

Compiled as for a device: numbers in place of their names (fold.py), no line numbers.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from keyferry_firmware import mpy, sources

# In the package as it is installed, beside it in the sources.
_INSTALLED = Path(__file__).parent / "budget.toml"
BUDGET = _INSTALLED if _INSTALLED.is_file() else _INSTALLED.parent.parent / "budget.toml"


@dataclass(frozen=True)
class Size:
    """One module: its bytes as .mpy, and the bytes it may have (None: no budget written)."""

    name: str
    bytes: int
    budget: int | None


def measure(budget: dict[str, int]) -> list[Size]:
    """Every device module, compiled as for a device."""
    compiled = mpy.compile_all(sources.everything())
    return [
        Size(name, len(code), budget.get(name.removesuffix(".mpy")))
        for name, code in compiled.items()
    ]


def problems(sizes: list[Size], budget: dict[str, int], totals: dict[str, int]) -> list[str]:
    """What breaks the budget: a module above its line or without one, a line without a module."""
    found = []
    for size in sizes:
        if size.budget is None:
            found.append(f"{size.name}: {size.bytes} bytes and no budget")
        elif size.bytes > size.budget:
            found.append(f"{size.name}: {size.bytes} bytes, budget {size.budget}")
    named = {size.name.removesuffix(".mpy") for size in sizes}
    found += [f"{name}: a budget for no module" for name in budget if name not in named]
    for package, limit in totals.items():
        total = total_of(sizes, package, totals)
        if total > limit:
            found.append(f"{package}: {total} bytes in all, budget {limit}")
    return found


def total_of(sizes: list[Size], package: str, packages: Iterable[str]) -> int:
    """Bytes of ``package`` without those of ``packages`` that are inside it."""
    inner = tuple(name + "/" for name in packages if name.startswith(package + "/"))
    return sum(
        size.bytes
        for size in sizes
        if size.name.startswith(package + "/") and not size.name.startswith(inner)
    )


def _print_table(sizes: list[Size], totals: dict[str, int]) -> None:
    width = max(len(size.name) for size in sizes)
    for size in sizes:
        print(f"{size.name:{width}} {size.bytes:6} of {size.budget or '-':>6}")
    for package, limit in totals.items():
        print(f"{package:{width}} {total_of(sizes, package, totals):6} of {limit:>6}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object in place of a table")
    options = parser.parse_args()
    with BUDGET.open("rb") as file:
        written = tomllib.load(file)
    sizes = measure(written["modules"])
    if options.json:
        print(json.dumps({size.name: size.bytes for size in sizes}))
    else:
        _print_table(sizes, written["totals"])
    found = problems(sizes, written["modules"], written["totals"])
    for problem in found:
        print("over budget: " + problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
