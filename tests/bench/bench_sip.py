"""``make bench-sip``: the manager's SIP carrier against Kamailio, all in one run.

Each server has the last core for itself and the load generator, a process of its own, the first:
the same devices, messages and numbers on the way for both. The servers are up together and take
turns, round after round; the table has the medians, and a ratio is the median of the rounds'
ratios, so that a machine that is busy with other things for a while does not decide. What counts
is work for each second of the server's processor time. ``busy`` is how much of the time the server
had work, ``load`` how much the generator had: where the first is the larger, the generator did not
hold it up.
"""

import contextlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

from bench import rivals, sip_load
from bench.bench_manager import handshakes
from bench.command import bench_home, options_parser, report
from bench.kamailio import Kamailio
from bench.sip_load import CallsOf, Device, Messages, Registrations, Work
from bench.tables import show as show_table
from support.manager_kit import Home

PAIRS = 4
# Calls a second are of one core that does nothing else.
TARGETS = {
    "messages to kamailio": 1.0,
    "calls per processor second": 2000.0,
    "handshakes to bare": 0.9,
}
PARTS = ("messages", "calls", "registrations", "handshakes")
MANAGER, KAMAILIO, BARE = "manager", "kamailio", "bare TLS server"

Figures = dict[str, float]


class Run:
    """All measurements, in one home."""

    def __init__(self, home: Home, core: int, seconds: float, rounds: int) -> None:
        self.home = home
        self.core = core
        self.seconds = seconds
        self.rounds = rounds
        self.missing = ""

    @contextlib.contextmanager
    def servers(self, *more: str) -> Any:
        """The manager, Kamailio where it is, and ``more``: name, port and clock of each."""
        with contextlib.ExitStack() as stack:
            manager = rivals.python("manager", self.home, self.core)
            stack.callback(manager.stop)
            found: dict[str, tuple[int, Any]] = {MANAGER: (manager.sip_port, manager)}
            try:
                kamailio = Kamailio(self.home, self.core)
                stack.callback(kamailio.stop)
                found[KAMAILIO] = (kamailio.port, kamailio)
            except rivals.RivalMissing as missing:
                self.missing = str(missing)
            for kind in more:
                bare = rivals.python("tls", self.home, self.core)
                stack.callback(bare.stop)
                found[kind] = (bare.port, bare)
            yield found

    def _take_turns(self, works: dict[str, Callable[[], Figures]]) -> dict[str, list[Figures]]:
        found: dict[str, list[Figures]] = {what: [] for what in works}
        for number in range(self.rounds):
            # whoever went first goes last
            order = list(works) if number % 2 == 0 else list(reversed(works))
            for what in order:
                found[what].append(works[what]())
        return found

    def _loaded(self, part: str, make: Callable[..., list[Work]]) -> dict[str, list[Figures]]:
        names = [f"{part}-{side}{number}" for number in range(PAIRS) for side in "ab"]
        credentials = {name: self.home.device(name) for name in names}
        for caller, callee in zip(names[::2], names[1::2], strict=True):
            self.home.allow(caller, callee)
        with self.servers() as servers, contextlib.ExitStack() as stack:
            works: dict[str, Callable[[], Figures]] = {}
            for what, (port, server) in servers.items():
                devices = [Device(self.home, port, name, credentials[name]) for name in names]
                for device in devices:
                    stack.callback(device.socket.close)
                    Registrations(device).once()
                made = make(devices)
                works[what] = lambda made=made, server=server: sip_load.load(
                    made, self.seconds, server.cpu
                )
            return self._take_turns(works)

    def messages(self) -> dict[str, list[Figures]]:
        return self._loaded("message", lambda found: list(map(Messages, found[::2], found[1::2])))

    def calls(self) -> dict[str, list[Figures]]:
        return self._loaded("call", lambda found: list(map(CallsOf, found[::2], found[1::2])))

    def registrations(self) -> dict[str, list[Figures]]:
        return self._loaded("register", lambda found: list(map(Registrations, found)))

    def handshakes(self) -> dict[str, list[Figures]]:
        credentials = self.home.device("knocks")
        with self.servers(BARE) as servers:
            works: dict[str, Callable[[], Figures]] = {}
            for what, (port, server) in servers.items():
                works[what] = lambda port=port, server=server: handshakes(
                    self.home, server, credentials, self.seconds, port
                )
            return self._take_turns(works)


def measure(seconds: float, rounds: int, parts: list[str]) -> dict[str, Any]:
    """Everything in ``parts``: the rounds of each server, and the ratios."""
    limits = {"sip_port": 0, "messages_per_second": 1_000_000, "log_level": "error"}
    with bench_home(limits) as (home, core):
        run = Run(home, core, seconds, rounds)
        found: dict[str, Any] = {part: getattr(run, part)() for part in parts}
        found["missing"] = run.missing
    found["ratios"] = ratios(found)
    return found


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """What the targets are about: medians over the rounds."""
    result: dict[str, float] = {}
    for part in PARTS:
        rows = found.get(part, {})
        for other, name in ((KAMAILIO, "kamailio"), (BARE, "bare")):
            if rows.get(other):
                result[f"{part} to {name}"] = statistics.median(
                    mine["per_cpu_second"] / theirs["per_cpu_second"]
                    for mine, theirs in zip(rows[MANAGER], rows[other], strict=True)
                )
    if found.get("calls"):
        result["calls per processor second"] = statistics.median(
            row["per_cpu_second"] for row in found["calls"][MANAGER]
        )
    return result


def show(found: dict[str, Any]) -> None:
    """Print it as tables."""
    headings = ("a second", "per cpu second", "us each", "busy", "load")
    keys = ("per_second", "per_cpu_second", "us", "busy", "generator_busy")
    for part in PARTS:
        lines = []
        for what, rows in found.get(part, {}).items():
            cells = [statistics.median(row[key] for row in rows) for key in keys]
            lines.append([what, *cells])
        if lines:
            show_table(part, ("", *headings), lines)
    lines = [[what, ratio, TARGETS.get(what)] for what, ratio in found["ratios"].items()]
    show_table("ratios, by processor time", ("", "ratio", "target"), lines)
    if found["missing"]:
        print(found["missing"], file=sys.stderr)


def main() -> None:
    parser = options_parser(__doc__, PARTS)
    parser.add_argument("--seconds", type=float, default=2.0, help="load time of each round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each server")
    options = parser.parse_args()
    found = measure(options.seconds, options.rounds, options.part or list(PARTS))
    report(found, show, options.json)


if __name__ == "__main__":
    main()
