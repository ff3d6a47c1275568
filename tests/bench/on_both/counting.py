"""Counts scalar multiplications, by wrapping the three functions of the core that make them."""

from keyferry_core import p256

KINDS = ("fixed", "variable", "double")
_FUNCTIONS = ("multiply_base", "multiply", "multiply_both")


class Counter:
    """While ``running``, ``counts`` has each kind of multiplication since ``take``."""

    def __init__(self):
        self.counts = [0, 0, 0]
        self._kept = []

    def _wrap(self, kind, function):
        def counted(*arguments):
            self.counts[kind] += 1
            return function(*arguments)

        return counted

    def start(self):
        for kind, name in enumerate(_FUNCTIONS):
            function = getattr(p256, name)
            self._kept.append(function)
            setattr(p256, name, self._wrap(kind, function))

    def stop(self):
        for name in reversed(_FUNCTIONS):
            setattr(p256, name, self._kept.pop())

    def take(self):
        """The counts since the last call."""
        counts, self.counts = self.counts, [0, 0, 0]
        return counts
