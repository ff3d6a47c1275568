"""Which state a board is wanted in, and the steps to it: one table.

off → booted (at its prompt) → flashed (with the bench's application) → enrolled (the application
runs, with a certificate and a link) → in-session (with another board). A step up does what is
missing; what a board lost by a reset or a power cut, it gets again.
"""

import json
from collections.abc import Callable

from keyferry_hil.app import PATIENCE, Event
from keyferry_hil.board import Board
from keyferry_hil.manager import Manager
from keyferry_hil.problems import BenchProblem

STATES = ("off", "booted", "flashed", "enrolled", "in-session")
# What a device's identity is in, on its flash.
_OWN = ("identity.0", "identity.1", "token", "factory.crt", "factory.key", "config.json")
_SECRET = ("token", "factory.key", "wifi.json")
_FORGET = f"""import os
for name in {_OWN!r}:
    if name in os.listdir("/"):
        os.remove("/" + name)
"""


class Strategy:
    """Brings one board to a state. ``name``: what the manager calls it, once it is enrolled."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.name = ""
        self._state = "off"
        self._steps: dict[str, Callable[[], None]] = {
            "booted": self._boot,
            "flashed": self._flash,
            "enrolled": self._enrol,
            "in-session": self._meet,
        }
        self._manager: Manager | None = None
        self._files: dict[str, bytes] = {}
        self._peer: Strategy | None = None
        self._reach: tuple[str, set[int]] | None = None

    @property
    def state(self) -> str:
        """Where it is, as far as it has not told otherwise."""
        running = self.board.app is not None and not self.board.app.ended
        if STATES.index(self._state) > STATES.index("flashed") and not running:
            return "flashed"
        return self._state

    def to(self, state: str) -> None:
        """Bring it there. BenchProblem names what went wrong."""
        if state not in STATES:
            raise ValueError(f"{state!r}: expected one of {', '.join(STATES)}")
        if state == "off":
            self.board.power_off()
            self._state = "off"
            return
        wanted = STATES.index(state)
        if STATES.index(self.state) > wanted:
            self._state = "off"  # from its prompt up again
        for step in STATES[STATES.index(self.state) + 1 : wanted + 1]:
            self._steps[step]()
            self._state = step

    def enrolling(self, manager: Manager, name: str, files: dict[str, bytes]) -> None:
        """As whom it will enrol, and where: ``files`` is what ``Manager.add`` gave."""
        self._manager = manager
        if "config.json" in files:
            settings = json.loads(files["config.json"])
            ports = {settings[key] for key in ("mqtt_port", "est_port")}
            self._reach = settings["host"], ports
            self.over_serial(self.board.spec.network == "serial")
        self.name = name
        self._files = files

    def over_serial(self, wanted: bool) -> None:
        """Whether its application, from its next start on, has its link over its serial line and
        no network: as the rig says, or as a test wants it."""
        self.board.manager = self._reach if wanted else None

    def meeting(self, peer: "Strategy") -> None:
        """With whom it will have a session; the manager must allow it."""
        self._peer = peer

    def restart(self) -> Event:
        """Start the application again on what is on the flash; its event "ready"."""
        app = self.board.start_app()
        event = app.wait_for("ready", "start-failed", seconds=PATIENCE)
        if event["event"] != "ready":
            raise BenchProblem("app-ended", self.board.name, f"it does not start: {event}")
        self._state = "enrolled"
        return event

    def _boot(self) -> None:
        if self.board.virtual is not None:
            self.board.virtual.order("plug")
            self.board.virtual.on()
        try:
            self.board.to_prompt()
        except BenchProblem:
            if self.board.power is None:
                raise
            # Once: a board that hangs may only want its power cut.
            self.board.power_off()
            self.board.power_on()
            self.board.to_prompt()

    def _flash(self) -> None:
        self.board.flash()
        self.board.set_clock()  # certificates have dates, and boards forget the time

    def _enrol(self) -> None:
        if self._manager is None:
            raise ValueError("enrolling() first: with which manager?")
        if self._files:
            self.give(self._files, wipe=True)
            self._files = {}  # once: afterwards its flash has more than they
        self.restart()

    def give(self, files: dict[str, bytes], *, wipe: bool = False) -> None:
        """Files at the top of its flash. ``wipe``: it forgets who it was before."""
        self.board.to_prompt()
        if wipe:
            self.board.repl.run(_FORGET)
        for name, data in files.items():
            write = self.board.repl.write_secret if name in _SECRET else self.board.repl.write_file
            write("/" + name, data)

    def _meet(self) -> None:
        if self._peer is None:
            raise ValueError("meeting() first: with whom?")
        self._peer.to("enrolled")
        self.connect(self._peer)

    def connect(self, peer: "Strategy") -> Event:
        """A session with a peer that runs; the event "connected", with "took" milliseconds."""
        app, other = self.board.app, peer.board.app
        assert app is not None
        assert other is not None
        theirs = len(other.events)
        at = app.send("connect", to=peer.name)
        event = app.wait_for("connected", "connect-failed", after=at, peer=peer.name)
        if event["event"] != "connected":
            raise BenchProblem("app-ended", self.board.name, f"no session: {event['error']}")
        accepted = other.wait_for("accepted", after=theirs, peer=self.name)
        if accepted["fingerprint"] != event["fingerprint"]:
            raise AssertionError("two ends of one session have different keys")
        took = app.wait_for("connect-done", after=at, peer=peer.name)["took"]
        return {**event, "took": took}
