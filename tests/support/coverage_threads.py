"""Keeps greenlets of ended threads, when coverage is measured.

coverage's tracer looks each frame's greenlet up in a table of weak references. When a thread ends,
greenlet frees the thread's main one between two instructions of another thread; the callback of
the weak reference is traced in turn, and the tracer never returns (coverage 7, greenlet 3, Python
3.11). So none is freed: there are a few hundred in a run.
"""

import sys
import threading

import pytest

_KEPT: list[object] = []


def pytest_configure(config: pytest.Config) -> None:
    """Only where the run is measured."""
    if "coverage" not in sys.modules or sys.gettrace() is None:
        return
    import greenlet

    run = threading.Thread.run

    def kept(self: threading.Thread) -> None:
        _KEPT.append(greenlet.getcurrent())
        run(self)

    threading.Thread.run = kept  # type: ignore[method-assign]
