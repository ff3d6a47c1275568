"""Time on a device: Unix seconds whatever the port's epoch, and time that no setting moves."""

import time

from keyferry_core._compat import CPYTHON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# No certificate of this software is older. A clock before it was never set: 2026-11-01.
BUILD_DATE = 1793491200
# Ports count from 1970 or from 2000.
_OFFSET = 946684800 if time.gmtime(0)[0] == 2000 else 0


def now() -> int:
    """Unix seconds (since 1970) of the device's clock."""
    return int(time.time()) + _OFFSET


def is_set(seconds: int) -> bool:
    """Whether a clock that shows ``seconds`` can be right: certificates depend on it."""
    return seconds >= BUILD_DATE


if not CPYTHON:

    def stopwatch() -> "Callable[[], int]":
        """A callable that gives the milliseconds since this call; it wraps after some days."""
        start = time.ticks_ms()
        return lambda: time.ticks_diff(time.ticks_ms(), start)

    _ticks = time.ticks_ms()
    _seconds = 0

    def uptime() -> int:
        """Seconds since the start, whatever the clock is set to. Call it every six days at least:
        the port's counter wraps.
        """
        global _ticks, _seconds
        passed = max(0, time.ticks_diff(time.ticks_ms(), _ticks)) // 1000
        _ticks = time.ticks_add(_ticks, 1000 * passed)
        _seconds += passed
        return _seconds

else:

    def uptime() -> int:
        """Seconds since some start, whatever the clock is set to."""
        return int(time.monotonic())

    def stopwatch() -> "Callable[[], int]":
        """A callable that gives the milliseconds since this call."""
        start = time.monotonic()
        return lambda: int((time.monotonic() - start) * 1000)
