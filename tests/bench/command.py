"""What the benches of a manager have in common: options, a home, the cores, and how they end."""

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from support.manager_kit import Home


def options_parser(doc: str | None, parts: Sequence[str]) -> argparse.ArgumentParser:
    """``--part`` and ``--json``, for a bench whose module says ``doc``."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--part", action="append", choices=parts, help="only this; may be repeated")
    parser.add_argument("--json", action="store_true")
    return parser


@contextlib.contextmanager
def on_the_first_core() -> Iterator[int]:
    """This process on the first core; the number of the last."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    os.sched_setaffinity(0, {cores[0]})
    try:
        yield cores[-1]
    finally:
        os.sched_setaffinity(0, set(cores))


@contextlib.contextmanager
def bench_home(settings: dict[str, Any]) -> Iterator[tuple[Home, int]]:
    """A home with ``settings`` and the core for servers, with this process on another one."""
    with (
        tempfile.TemporaryDirectory(prefix="keyferry-bench-") as folder,
        on_the_first_core() as core,
    ):
        yield Home(Path(folder) / "home", **settings), core


def report(found: dict[str, Any], show: Callable[[dict[str, Any]], None], as_json: bool) -> None:
    """Print what was found. SystemExit 1 when a server to compare with was missing."""
    if as_json:
        print(json.dumps(found))
    else:
        show(found)
    if found["missing"]:
        raise SystemExit(1)
