"""Microseconds of processor time, in either runtime.

Not of the clock on the wall: the machine is rarely ours alone.
"""

import time

# MicroPython's Unix port has the old name, and whole milliseconds: see _ENOUGH
_seconds = time.process_time if hasattr(time, "process_time") else time.clock

_ENOUGH = 0.02


class Stopwatch:
    """Adds up the time of single calls, by the name of what they belong to."""

    def __init__(self):
        self.spent = {}

    def time(self, what, call, *arguments):
        """``call(*arguments)``; its time is added to ``what``."""
        start = _seconds()
        result = call(*arguments)
        self.spent[what] = self.spent.get(what, 0) + (_seconds() - start) * 1e6
        return result


def each(call):
    """Microseconds of one ``call()``, from as many in a row as take long enough to be measured."""
    repeat = 1
    while True:
        start = _seconds()
        for _ in range(repeat):
            call()
        spent = _seconds() - start
        if spent >= _ENOUGH:
            return spent * 1e6 / repeat
        repeat *= 2
