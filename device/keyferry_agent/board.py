"""Everything that differs between boards, behind one interface.

``Agent(board=Board())`` is for boards whose radio the agent shall keep joined. A module
``keyferry_board`` on the board may have a function of the name of any method: it takes that
method's place, with the same arguments. So a new board is a module, and neither a subclass nor a
change here. docs/boards.md says what was run on what.
"""

import asyncio
import os

from keyferry_agent import clock
from keyferry_core.suite import Crypto, for_board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from keyferry_agent.agent import Agent
    from keyferry_agent.radio import Radio

# Seconds for the agent's goodbye before a sleep.
STOP_TIMEOUT = 10
# machine's constants for what ended the last run; a port has those that it can tell apart.
_CAUSES = (
    ("DEEPSLEEP_RESET", "deep-sleep"),
    ("WDT_RESET", "watchdog"),
    ("PWRON_RESET", "power"),
    ("HARD_RESET", "reset"),
    ("SOFT_RESET", "soft-reset"),
)


def _module(name: str) -> "Any":
    """A module that not every port has, or None."""
    try:
        return __import__(name)
    except ImportError:
        return None


def _own(name: str) -> "Callable | None":
    """What the board's own module has in place of a method."""
    return getattr(_module("keyferry_board"), name, None)


class Board:
    """The board that this runs on, as MicroPython's ``machine`` and ``network`` show it.

    What a board lacks does nothing, so the same program runs on all of them.
    """

    def __init__(self) -> None:
        self._lamp: Any = None

    def crypto(self, random: "Callable[[int], bytes]") -> Crypto:
        """The cryptography of this board: ``suite.for_board``."""
        return for_board(random)

    def set_time(self, seconds: int) -> bool:
        """Set what ``time.time()`` and TLS read to Unix ``seconds``. False: there is no clock."""
        return clock.set_rtc(seconds)

    def radio(self) -> "Radio | None":
        """What has the methods of ``network.WLAN`` as a station, or None without a radio."""
        own = _own("radio")
        if own is not None:
            return own()
        network = _module("network")
        if network is None or not hasattr(network, "WLAN"):
            return None
        return network.WLAN(network.STA_IF)

    def led(self, on: bool) -> None:
        """The signal lamp. By default the pin called LED, as Pico W and others have it."""
        own = _own("led")
        if own is not None:
            own(on)
            return
        if self._lamp is None:
            self._lamp = self._pin() or False  # looked for once
        if self._lamp:
            self._lamp.value(1 if on else 0)

    @staticmethod
    def _pin() -> "Any":
        machine = _module("machine")
        try:
            return machine.Pin("LED", machine.Pin.OUT)
        except (AttributeError, ValueError, TypeError, OSError):
            return None  # no machine, no pins, or none of that name

    def woke(self) -> str:
        """Why this run began: deep-sleep, watchdog, power, reset, soft-reset, or "" for unknown.

        RP2 wakes from a deep sleep by its watchdog, and says that.
        """
        own = _own("woke")
        if own is not None:
            return own()
        machine = _module("machine")
        if not hasattr(machine, "reset_cause"):
            return ""
        cause = machine.reset_cause()
        for constant, name in _CAUSES:
            if getattr(machine, constant, None) == cause:
                return name
        return ""

    def deep_sleep(self, ms: int) -> None:
        """Sleep for ``ms`` milliseconds; the board then starts anew, so this does not return."""
        own = _own("deep_sleep")
        if own is not None:
            own(ms)
            return
        machine = _module("machine")
        if hasattr(machine, "deepsleep"):
            machine.deepsleep(ms)

    async def sleep(self, agent: "Agent", ms: int) -> None:
        """End the sessions and the link, switch the radio off, and sleep deeply for ``ms``.

        Does not return, but on a board without deep sleep. Whatever goes wrong with the goodbye:
        a board that does not sleep empties its battery.
        """
        try:
            await asyncio.wait_for(agent.stop(), STOP_TIMEOUT)
        except Exception:
            pass  # the manager notices by itself
        radio = self.radio()
        if radio is not None:
            switch_off(radio)
        if hasattr(os, "sync"):
            os.sync()
        self.deep_sleep(ms)


def switch_off(radio: "Radio") -> None:
    """Leave the network and take the radio's power."""
    # RP2's driver lets its chip go only by the last; ESP32 has no such method
    for method, arguments in (("disconnect", ()), ("active", (False,)), ("deinit", ())):
        try:
            getattr(radio, method)(*arguments)
        except (OSError, AttributeError):
            pass  # it was off already
