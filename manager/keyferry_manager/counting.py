"""Counts of what is open, by whom it belongs to: who has nothing open takes no memory."""

from collections.abc import Hashable, MutableMapping
from typing import TypeVar

_Key = TypeVar("_Key", bound=Hashable)


def count_down(counts: MutableMapping[_Key, int], key: _Key) -> None:
    """One less of ``key``, which is forgotten with the last."""
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
