"""Cursors: where the next page of a list begins, as a text that means nothing to its reader."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from keyferry_manager.problems import Invalid

# Rows of one page, where nothing else is asked for, and at most.
PAGE = 100
MAX_PAGE = 500
# Characters of a cursor.
MAX_CURSOR = 400
_MAX_INTEGER = 2**53


def encode(position: Sequence[object]) -> str:
    """The cursor for the rows behind ``position``."""
    text = json.dumps(list(position), ensure_ascii=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str | None, *kinds: type) -> list[Any] | None:
    """The position of a cursor, one value of each of ``kinds`` (str, int or float).

    None for no cursor. Invalid for one that this list did not give.
    """
    if cursor is None:
        return None
    try:
        if len(cursor) > MAX_CURSOR or not cursor.isascii():
            raise ValueError
        padded = cursor + "=" * (-len(cursor) % 4)
        position = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(position, list) or len(position) != len(kinds):
            raise ValueError
        return [_checked(value, kind) for value, kind in zip(position, kinds, strict=True)]
    except (ValueError, binascii.Error, RecursionError):
        raise Invalid("the cursor is not one that this list gave: begin without one.") from None


def _checked(value: object, kind: type) -> object:
    if isinstance(value, bool):
        raise ValueError
    if kind is float and isinstance(value, int):
        value = float(value) if abs(value) <= _MAX_INTEGER else None
    if not isinstance(value, kind):
        raise ValueError
    if isinstance(value, str) and not value.isprintable():
        raise ValueError
    if isinstance(value, int) and abs(value) > _MAX_INTEGER:
        raise ValueError
    if isinstance(value, float) and not abs(value) <= _MAX_INTEGER:  # not a number, too
        raise ValueError
    return value


def page(items: list[dict[str, Any]], limit: int, last: Sequence[object] | None) -> dict[str, Any]:
    """A page as it is answered; ``last`` is the position of its last row."""
    more = len(items) >= limit and last is not None
    return {"items": items, "next": encode(last) if more and last is not None else None}
