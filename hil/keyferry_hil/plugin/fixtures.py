"""What tests ask for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from keyferry_hil.liar import Liar
from keyferry_hil.manager import Manager
from keyferry_hil.path import NetworkPath
from keyferry_hil.plugin.bench import BENCH, Bench
from keyferry_hil.plugin.records import Record, record_of
from keyferry_hil.problems import BenchProblem
from keyferry_hil.strategies import Strategy

_STATES = ("booted", "flashed")


class Leased(Strategy):
    """A board of a test: ``board`` has its drivers, ``to(state)`` its strategy."""

    def __init__(self, board, bench: Bench, record: Record) -> None:
        super().__init__(board)
        self._bench = bench
        self._record = record

    @property
    def label(self) -> str:
        """Its name in the rig."""
        return self.board.name

    def join(self, manager: Manager, *, serial: bool = False, **how) -> "Leased":
        """Enrol at a manager as a new device, by a token or a factory identity. ``serial``: over
        its serial line, as boards do that the rig knows to have no network."""
        name = self._bench.device_name(self.board)
        self.enrolling(manager, name, {**manager.add(name, **how), **self._bench.wifi(self.board)})
        if serial:
            self.over_serial(True)
        self.to("flashed")
        self.to("enrolled")
        return self

    def restart(self) -> dict:
        event = super().restart()
        assert self.board.app is not None
        for enrolled in self.board.app.all("enrolled"):
            self._record.device(self.board, enrolled["serial"])
        return event

    def events(self, name: str) -> list[dict]:
        """The events of one name so far."""
        assert self.board.app is not None
        self.board.app.pump()
        return self.board.app.all(name)


@pytest.fixture
def boards(request: pytest.FixtureRequest) -> Iterator[Callable[[int], list[Leased]]]:
    """``a, b = boards(2)``: so many boards that have what the marker ``board`` asks for."""
    bench = request.config.stash[BENCH]
    record = record_of(request.node)
    features: set[str] = set()
    state = _STATES[0]
    for mark in request.node.iter_markers("board"):
        features |= set(mark.kwargs.get("features", ()))
        state = mark.kwargs.get("state", state)
    if state not in _STATES:
        raise pytest.UsageError(f"board(state={state!r}): expected {' or '.join(_STATES)}")
    with ExitStack() as stack:

        def take(count: int) -> list[Leased]:
            leased = bench.leased(count, frozenset(features), request.node.nodeid)
            try:
                found = stack.enter_context(leased)
            except BenchProblem as problem:
                if problem.name == "no-board":
                    pytest.skip(str(problem))
                raise
            ready = []
            for board in found:
                record.uses(board)
                one = Leased(board, bench, record)
                try:
                    one.to(state)
                except BenchProblem:
                    bench.failed(board.name)
                    raise
                bench.works(board.name)
                record.seen(board)
                ready.append(one)
            return ready

        yield take


@pytest.fixture
def board(boards: Callable[[int], list[Leased]]) -> Leased:
    """One board."""
    return boards(1)[0]


@pytest.fixture
def manager(request: pytest.FixtureRequest) -> Manager:
    """A manager that serves: one of each test process, for all its tests."""
    return request.config.stash[BENCH].manager()


@pytest.fixture
def network_path(request: pytest.FixtureRequest, manager: Manager) -> Iterator[NetworkPath]:
    """A way to the manager that can be cut: ``join(manager, mqtt_port=network_path.port)``."""
    with NetworkPath(manager.network, manager.ports["mqtt_port"]) as path:
        yield path


@pytest.fixture
def liar(manager: Manager) -> Iterator[Liar]:
    """A manager with the realm's own key that does to messages what the test says."""
    with Liar(manager) as lying:
        yield lying


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``measure("handshake", 212, "ms", board)``: a figure for the report and its history."""
    record = record_of(request.node)

    def take(name: str, value: float, unit: str, board: Leased | None = None) -> None:
        record.measure(name, value, unit, board.label if board else "")

    return take


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> float:
    """Seconds that a soak test lasts: --soak."""
    return request.config.option.soak
