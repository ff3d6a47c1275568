"""Fuzz: ``python tests/fuzz/run.py [TARGET …] [--seconds N] [--jobs N] [--keep]``.

Each target is run for so many seconds, ``--jobs`` of them at a time. A finding stops its target,
stays in build/fuzz/TARGET/findings and makes the status 1. ``--keep`` afterwards merges what was
reached into the committed corpus, as few and short inputs as cover the same code.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "tests")]

from fuzz import inputs, targets  # noqa: E402

WORK = ROOT / "build" / "fuzz"
LONGEST = 4096
# Seconds for one input before it counts as a finding, and megabytes of the process.
TIMEOUT = 10
MEMORY = 1024
HANDSHAKES = ("edhoc", "session", "records")


@dataclass(frozen=True)
class Outcome:
    name: str
    status: int
    runs: int
    seconds: float
    inputs: int
    findings: tuple[Path, ...]


def _store(folder: Path, inputs: list[bytes]) -> None:
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:20]).write_bytes(data)


def _load(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()]


def _engine(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(HERE / "engine.py"), name, *arguments]


def _log(folder: Path) -> Path:
    return folder / "log.txt"


def fuzz(name: str, seconds: int) -> Outcome:
    """Run one target. Its corpus grows in build/fuzz, from the seeds and what is committed."""
    folder = WORK / name
    reached = folder / "corpus"
    findings = folder / "findings"
    for each in (reached, findings):
        each.mkdir(parents=True, exist_ok=True)
    _store(reached, [*targets.load(name).seeds(), *inputs.read_all(name)])
    started = time.monotonic()
    with _log(folder).open("w") as log:
        done = subprocess.run(
            _engine(
                name,
                f"-max_total_time={seconds}",
                f"-max_len={LONGEST}",
                f"-timeout={TIMEOUT}",
                f"-rss_limit_mb={MEMORY}",
                f"-artifact_prefix={findings}/",
                "-print_final_stats=1",
                str(reached),
            ),
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    found = re.search(r"number_of_executed_units: (\d+)", _log(folder).read_text(errors="replace"))
    return Outcome(
        name,
        done.returncode,
        int(found[1]) if found else 0,
        time.monotonic() - started,
        len(list(reached.iterdir())),
        tuple(sorted(findings.iterdir())),
    )


def keep(name: str) -> int:
    """Write the committed corpus of a target anew, by coverage. Its size in bytes."""
    reached = WORK / name / "corpus"
    merged = WORK / name / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    # Counting how often an edge was passed keeps some five times as many inputs: too many where
    # each is a handshake, and MicroPython has to play them all.
    counted = name not in HANDSHAKES
    with (WORK / name / "merge.txt").open("w") as log:
        subprocess.run(
            _engine(name, "-merge=1", f"-use_counters={int(counted)}", str(merged), str(reached)),
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    return inputs.write(name, _load(merged))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests/fuzz/run.py", description="Fuzz the decoders.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(targets.NAMES))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (1)")
    parser.add_argument("--keep", action="store_true", help="merge into the committed corpus")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.targets) - set(targets.NAMES))
    if unknown:
        parser.error("no such target: " + ", ".join(unknown))
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is missing: it is packaged for Linux on x86-64, Python 3.11 to 3.13")
    names = chosen.targets or list(targets.NAMES)
    os.nice(10)
    status = 0
    print(f"{'target':<16}{'runs':>10}{'seconds':>9}{'inputs':>8}  findings")
    with ThreadPoolExecutor(max(1, chosen.jobs)) as pool:
        for outcome in pool.map(lambda name: fuzz(name, chosen.seconds), names):
            print(
                f"{outcome.name:<16}{outcome.runs:>10}{outcome.seconds:>9.0f}{outcome.inputs:>8}  "
                f"{len(outcome.findings)}",
                flush=True,
            )
            for path in outcome.findings:
                print(f"  {path.relative_to(ROOT)}")
            if outcome.status or outcome.findings:
                status = 1
                print(f"  {_log(WORK / outcome.name).relative_to(ROOT)}")
    if chosen.keep:
        for name in names:
            print(f"{name:<16}{keep(name):>10} bytes kept")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
