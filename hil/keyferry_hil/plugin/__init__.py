"""pytest plugin of the bench: ``pytest -p keyferry_hil.plugin --rig FILE``.

Fixtures: ``board``, ``boards(n)``, ``manager``, ``network_path``, ``liar``, ``measure``, ``soak``.
Markers: ``board``, ``retry``. Options and what comes of a run are in docs/hil.md. The parts are
modules of their own: ``bench`` (rig and leases of this process), ``fixtures``, ``retry``,
``quarantine``, ``records`` (what is known of each test), ``history`` (of earlier runs) and
``report`` (HTML).
"""

import argparse
import os
import random
import re
from pathlib import Path

import pytest

from keyferry_hil import rigs
from keyferry_hil.plugin import quarantine, records, retry
from keyferry_hil.plugin.bench import BENCH, Bench
from keyferry_hil.plugin.chaos import Chaos
from keyferry_hil.plugin.fixtures import board, boards, liar, manager, measure, network_path, soak
from keyferry_hil.problems import BenchProblem

__all__ = ["board", "boards", "liar", "manager", "measure", "network_path", "soak"]

_UNITS = {"s": 1, "m": 60, "h": 3600}
DEFAULT_RIG = "virtual-4"
_SHORT_SOAK = 5.0
_CHAOS = pytest.StashKey[Chaos]()


def _duration(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([smh])", text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError("write a time such as 30s, 20m or 8h")
    return float(int(match[1]) * _UNITS[match[2]])


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "boards on serial ports")
    group.addoption("--rig", metavar="FILE", default=DEFAULT_RIG, help="the rig file, or its name")
    group.addoption(
        "--port", action="append", metavar="PATH", help="a board at this port, without a rig file"
    )
    group.addoption("--baud", type=int, default=115200, help="speed of --port")
    group.addoption(
        "--bench-report", metavar="DIR", default="build/hil", help="where report and logs go"
    )
    group.addoption(
        "--lease-wait", type=float, default=120.0, metavar="SECONDS", help="wait for a free board"
    )
    group.addoption(
        "--soak", type=_duration, default=_SHORT_SOAK, metavar="TIME", help="length of soak tests"
    )
    group.addoption(
        "--kill-boards",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="cut a virtual board's power at random, about so often",
    )
    group.addoption("--kill-seed", type=int, metavar="NUMBER", help="repeat such a run")
    group.addoption("--quarantine", metavar="FILE", help="tests that are known to fail (TOML)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "board(features=[...], state='booted'): what the boards of this test must have, and the"
        " state they are brought to: booted or flashed",
    )
    config.addinivalue_line(
        "markers", "retry(times, reason=...): this test may be tried again so many times"
    )
    # tlslite-ng imports it where there still is one; the bench does not use it
    config.addinivalue_line(
        "filterwarnings", "ignore:The asyncore module is deprecated:DeprecationWarning"
    )
    if config.option.help or config.option.markers:
        return
    place = Path(config.option.bench_report).absolute()
    if config.option.xmlpath is None and not hasattr(config, "workerinput"):
        config.option.xmlpath = str(place / "junit.xml")
    if not getattr(config.option, "timeout", None) and config.pluginmanager.hasplugin("timeout"):
        config.option.timeout = 600.0
    ports = config.option.port
    try:
        if ports:
            rig = rigs.only_ports(ports, config.option.baud)
        else:
            rig = rigs.load(rigs.find(config.option.rig))
        known = quarantine.load(config.option.quarantine)
    except BenchProblem as problem:
        raise pytest.UsageError(str(problem)) from None
    config.stash[BENCH] = bench = Bench(rig, place, config.option.lease_wait)
    config.pluginmanager.register(quarantine.Plugin(config, known), "bench-quarantine")
    config.pluginmanager.register(retry.Plugin(), "bench-retry")
    config.pluginmanager.register(records.Plugin(bench), "bench-records")
    if not hasattr(config, "workerinput"):
        # Imported here: workers of pytest-xdist write no report.
        from keyferry_hil.plugin.report import Plugin

        config.pluginmanager.register(Plugin(config, bench), "bench-report")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    try:
        config.stash[BENCH].plug_in()
    except BenchProblem as problem:
        raise pytest.UsageError(str(problem)) from None
    if config.option.kill_boards > 0:
        seed = config.option.kill_seed
        seed = random.randrange(1 << 31) if seed is None else seed
        config.stash[_CHAOS] = chaos = Chaos(
            config.stash[BENCH].rig, config.option.kill_boards, seed
        )
        chaos.start()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    chaos = config.stash.get(_CHAOS, None)
    if chaos is not None:
        chaos.stop()
    bench = config.stash.get(BENCH, None)
    if bench is not None:
        bench.close()


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    chaos = config.stash.get(_CHAOS, None)
    if chaos is not None:
        terminalreporter.line(f"boards killed: {chaos.kills} (--kill-seed {chaos.seed})")


def pytest_report_header(config: pytest.Config) -> str:
    bench = config.stash[BENCH]
    names = ", ".join(spec.name for spec in bench.rig.boards)
    return f"bench: {bench.rig.name}: {names}; report: {os.path.relpath(bench.place)}"
