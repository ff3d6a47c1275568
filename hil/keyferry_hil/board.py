"""One board in somebody's hands: its drivers, put together as the rig says."""

import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from keyferry_hil import application, discovery, probe
from keyferry_hil.app import App
from keyferry_hil.drivers.line import SerialLine
from keyferry_hil.drivers.power import EsptoolReset, NetworkRelay, Uhubctl
from keyferry_hil.drivers.repl import Repl
from keyferry_hil.drivers.serial_log import SerialLog
from keyferry_hil.drivers.virtual import VirtualControl
from keyferry_hil.problems import BenchProblem
from keyferry_hil.protocols import Console, Flasher, Power, Reset
from keyferry_hil.resources import BoardSpec, HubPort, Relay

if TYPE_CHECKING:
    from keyferry_hil.uart.proxy import Proxy

# Seconds until a port that went away with the power is there again.
_COME_BACK = 30.0
_CARRIED = 1000
# Ports count from 1970 or 2000. A port without a real-time clock has the computer's time.
_SET_CLOCK = """
import time
offset = 946684800 if time.gmtime(0)[0] == 2000 else 0
if abs(time.time() + offset - {wanted}) > 60:
    import machine
    machine.RTC().datetime({values})
"""


class Board:
    """A leased board. ``virtual``: what only a virtual one has, or None.

    ``line`` is open from ``open`` to ``close``. ``seen``: what it said of itself when it came to
    its prompt the last time. ``manager``: the address and the ports that a proxy reaches for it,
    when its application is to have no network of its own; ``carried``: all that the proxies had,
    in pieces, the newest 1000.
    """

    def __init__(self, spec: BoardSpec, log: SerialLog, state: Path) -> None:
        self.spec = spec
        self.name = spec.name
        self.log = log
        self._state = state
        self._line: SerialLine | None = None
        self._repl: Repl | None = None
        self.app: App | None = None
        self.manager: tuple[str, set[int]] | None = None
        self.carried: deque[bytes] = deque(maxlen=_CARRIED)
        self._proxy: Proxy | None = None
        self.seen: probe.Seen | None = None
        self.virtual: VirtualControl | None = None
        self.power: Power | None = None
        self.reset: Reset | None = None
        if spec.virtual is not None:
            self.virtual = VirtualControl(spec.name, Path(spec.port.path).parent)
            self.power = self.reset = self.virtual
        elif isinstance(spec.power, HubPort):
            self.power = Uhubctl(spec.name, spec.power)
        elif isinstance(spec.power, Relay):
            self.power = NetworkRelay(spec.name, spec.power)

    @property
    def features(self) -> frozenset[str]:
        """The rig's features, and those that come with its controls."""
        found = set(self.spec.features)
        if self.power is not None:
            found.add("power")
        if self.virtual is not None:
            found |= {"virtual", "reset"}
        if self.spec.reset:
            found.add("reset")
        return frozenset(found)

    # -- the line --

    def open(self) -> None:
        if self._line is None:
            path = discovery.locate(self.name, self.spec.port)
            self._line = SerialLine(self.name, path, self.spec.port.baud, self.log)
            self._repl = Repl(self._line)
            if self.spec.reset == "esptool":
                self.reset = EsptoolReset(self._line)

    def close(self) -> None:
        self.forget_app()
        line, self._line, self._repl = self._line, None, None
        if line is not None:
            line.close()

    @property
    def line(self) -> SerialLine:
        self.open()
        assert self._line is not None
        return self._line

    @property
    def repl(self) -> Repl:
        self.open()
        assert self._repl is not None
        return self._repl

    # -- power and resets --

    def power_off(self) -> None:
        """BenchProblem("no-control") when the rig names no switch."""
        self._need("power", self.power).off()
        self.log.note("power off")
        self.forget_app()

    def power_on(self) -> None:
        """Power, and the port open; a USB board's port comes back with it."""
        self._need("power", self.power).on()
        self.log.note("power on")
        self.reopen()

    def hard_reset(self) -> None:
        """By its button or lines, or else by its own ``machine.reset()``."""
        self.forget_app()
        if self.reset is not None:
            self.reset.hard_reset()
        else:
            self.to_prompt(soft_reset=False)
            self.repl.start("import machine; machine.reset()")
            time.sleep(0.5)  # a USB port goes away before it comes back
        self.reopen()

    def reopen(self) -> None:
        """Open the port anew where it went away."""
        end = time.monotonic() + _COME_BACK
        while True:
            try:
                if self._line is not None:
                    _ = self._line.in_waiting
                self.open()
                return
            except BenchProblem:
                self.close()
                if time.monotonic() >= end:
                    raise
            time.sleep(0.1)

    def _need(self, what: str, driver: Power | None) -> Power:
        if driver is None:
            raise BenchProblem("no-control", self.name, f"the rig names no {what} for it")
        return driver

    # -- its prompt --

    def to_prompt(self, *, soft_reset: bool = True) -> probe.Seen:
        """The raw prompt; what the board is."""
        self.forget_app()
        self.repl.enter(soft_reset=soft_reset)
        if self.seen is None:
            self.seen = probe.look(self.name, self.repl)
        return self.seen

    def set_clock(self, seconds: float | None = None) -> None:
        """Set its clock, at its prompt: to ``seconds`` since 1970, or right if it is not."""
        wanted = time.time() if seconds is None else seconds
        moment = time.gmtime(wanted)
        values = (*moment[:3], moment.tm_wday, *moment[3:6], 0)
        self.repl.run(_SET_CLOCK.format(wanted=int(wanted), values=values))

    # -- its application --

    def flash(self) -> None:
        """Put the bench's application on it, unless it has it. BenchProblem("flash-full")."""
        files = application.compiled(self._state)
        if self.seen is not None and self.seen.firmware == probe.hash_of(files):
            return
        self.log.note("flashing")
        flasher: Flasher = self.virtual if self.virtual is not None else self.repl
        flasher.flash(files)
        if self.virtual is not None:
            self.reopen()
        self.seen = None
        seen = self.to_prompt()
        if seen.firmware != probe.hash_of(files):
            raise BenchProblem(
                "wrong-firmware",
                self.name,
                f"it has other files in /lib or /rom than were written ({seen.firmware[:12]})",
            )

    def start_app(self) -> App:
        """Start the application on an empty heap, and wait until it says so."""
        self.to_prompt()
        self.app = app = App(self.name, self.line)
        if self.manager is None:
            app.start(self.repl, application.START)
        else:
            app.start(self.repl, application.START_SERIAL, through=self._through)
        return app

    def _through(self, console: Console) -> Console:
        assert self.manager is not None
        from keyferry_hil.uart.proxy import Proxy

        self.log.framed(True)
        self._proxy = Proxy(console, *self.manager, seen=self.carried.append, note=self.log.note)
        return self._proxy

    def forget_app(self) -> None:
        """It runs no longer, or will not: its line is free for others."""
        proxy, self._proxy, self.app = self._proxy, None, None
        if proxy is not None:
            proxy.close()
            self.log.framed(False)
