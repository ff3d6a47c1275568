"""What the device is about, for who stands before it: a code in the log, and blinks of a lamp.

    signal = Signal(show, board.led)
    agent = Agent(events=signal, board=board)
    asyncio.create_task(signal.blink())

The state is taken from the agent's events, here and nowhere else. Each change of it is an event of
its own, ``state``, with its ``code``. docs/boards.md has the table.
"""

import asyncio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# state: (code in the log, short flashes in a row). Up has one, and after a longer pause.
STATES = {
    "up": ("K00", 1),
    "starting": ("K10", 2),
    "connecting": ("K20", 3),
    "enrolling": ("K30", 4),
    "no-wifi": ("K40", 5),
    "wifi-password": ("K41", 5),
    "clock": ("K50", 6),
    "refused": ("K60", 7),
    "config-error": ("K70", 8),
    "storage-error": ("K80", 9),
    "stopped": ("K90", 0),
}
# Milliseconds of a flash, of the dark between two, and of the pause after them, when up and else.
FLASH = 60
DARK = 240
PAUSES = (4000, 1500)

# Which event leads to which state. What is not here changes none.
_LEADS = {
    "enrol-start": "enrolling",
    "enrol-failed": "enrolling",
    "enrolled": "connecting",
    "enrol-refused": "refused",
    "wifi-up": "connecting",
    "wifi-down": "no-wifi",
    "time-failed": "clock",
    "clock-not-set": "clock",
    "link-up": "connecting",
    "link-down": "connecting",
    "registered": "up",
    "store-failed": "storage-error",
    "start-failed": "refused",
    "factory-reset": "starting",
    "stopped": "stopped",
}
# And where the event's error or reason says more.
_BY_ERROR = {
    "wrong-password": "wifi-password",
    "clock-wrong": "clock",
    "authentication-failed": "refused",
    "revoked": "refused",
    "access-denied": "refused",
    "bad-argument": "config-error",
    "storage-failed": "storage-error",
}
_SAYS_WHY = ("wifi-down", "link-down", "enrol-failed", "enrol-refused", "start-failed")


class Signal:
    """Takes an agent's events, and passes them on to ``events``. ``lamp(on)`` is the board's LED.

    ``state`` is the present one. Without a radio's first word, it is "starting".
    """

    def __init__(
        self,
        events: "Callable[..., None] | None" = None,
        lamp: "Callable[[bool], None] | None" = None,
    ) -> None:
        self.state = "starting"
        self._events = events
        self._lamp = lamp
        self._away = False  # the radio is off the network: whatever fails meanwhile, fails of that

    def __call__(self, event: str, **fields: object) -> None:
        if self._events is not None:
            self._events(event, **fields)
        state = self._next(event, fields)
        if state and state != self.state:
            self.state = state
            if self._events is not None:
                self._events("state", state=state, code=STATES[state][0])

    def _next(self, event: str, fields: dict) -> str:
        """The state that an event leads to, or ""."""
        up = self.state == "up"
        if event in ("wifi-up", "wifi-down"):
            self._away = event == "wifi-down"
            if event == "wifi-up" and up:
                return ""
        elif self._away and event in ("link-down", "time-failed", "enrol-failed"):
            return ""
        if event == "time-failed" and not fields.get("retry_ms"):
            return ""  # the clock can be right, and nobody waits
        if event == "time":
            return "connecting" if self.state == "clock" else ""
        if event in ("link-up", "factory-reset") and up:
            return ""
        state = _LEADS.get(event, "")
        if event in _SAYS_WHY:
            return _BY_ERROR.get(fields.get("reason", fields.get("error")), state)
        return state

    async def blink(self) -> None:
        """Show the state, until cancelled: the flashes of one state, then those of the next."""
        lamp = self._lamp
        if lamp is None:
            return
        try:
            while True:
                state = self.state
                for _ in range(STATES[state][1]):
                    lamp(True)
                    await asyncio.sleep(FLASH / 1000)
                    lamp(False)
                    await asyncio.sleep(DARK / 1000)
                await asyncio.sleep(PAUSES[state != "up"] / 1000)
        finally:
            lamp(False)
