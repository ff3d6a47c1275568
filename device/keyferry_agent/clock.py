"""Time on a device: Unix seconds whatever the port's epoch, and milliseconds since the start."""

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

else:

    def stopwatch() -> "Callable[[], int]":
        """A callable that gives the milliseconds since this call."""
        start = time.monotonic()
        return lambda: int((time.monotonic() - start) * 1000)
