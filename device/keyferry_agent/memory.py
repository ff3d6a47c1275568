"""Modules that have done their work give their memory back."""

import gc
import sys

from keyferry_core._compat import CPYTHON


def forget(names: tuple) -> None:
    """Drop the modules ``names``, and collect. They can be imported again."""
    if not CPYTHON:
        for name in names:
            if sys.modules.pop(name, None) is not None:
                package, _, leaf = name.rpartition(".")
                delattr(sys.modules[package], leaf)
    gc.collect()
