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


# (Unix seconds, uptime then, whether it was signed, whether NTP said it) once there is a time to
# count from.
_anchor: tuple | None = None
# Uptime before which the NTP server is not asked again.
ntp_at = 0


def rtc() -> int:
    """Unix seconds of the board's own clock, which anybody may have set, or nobody."""
    return int(time.time()) + _OFFSET


def trust(seconds: int, signed: bool, ntp: bool = False) -> None:
    """Count from here on, by a counter that no setting of the board's clock moves."""
    global _anchor
    _anchor = (seconds, uptime(), signed, ntp)


def signed() -> bool:
    """Whether the time goes back to one that the manager signed."""
    return _anchor is not None and _anchor[2]


def by_ntp() -> bool:
    """Whether the time goes back to one that an NTP server said, and nobody signed."""
    return _anchor is not None and _anchor[3]


def now() -> int:
    """Unix seconds (since 1970): the trusted time, or the board's clock until there is one."""
    if _anchor is None:
        return rtc()
    return _anchor[0] + uptime() - _anchor[1]


def set_rtc(seconds: int) -> bool:
    """Set the board's clock, by which TLS checks dates. False where there is none to set.

    ``keyferry_board.set_time``, where a board has that, comes before ``machine.RTC``.
    """
    try:
        set_time = __import__("keyferry_board").set_time
    except (ImportError, AttributeError):
        try:
            real = __import__("machine").RTC()
        except (ImportError, AttributeError):
            return False
        at = time.gmtime(seconds - _OFFSET)
        real.datetime((at[0], at[1], at[2], at[6], at[3], at[4], at[5], 0))
        return True
    set_time(seconds)
    return True


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
