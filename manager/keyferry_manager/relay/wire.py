"""Signalling bytes to checked maps and back (docs/signalling.cddl), for bytes from strangers.

cbor2 does the decoding because it is ten times as fast as the core's own codec; the rules are
the same, and one comparison holds it to them: what was received must be what we would encode.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import cbor2

from keyferry_core import signalling
from keyferry_core.errors import DecodeError

# A map holds lists, which hold lists: routes. Nothing in the contract is deeper.
_MAX_DEPTH = 3


def _refuse(*_: object) -> NoReturn:
    raise ValueError("tags are not part of signalling")


class _NoTags(dict[int, Callable[..., Any]]):
    """cbor2 asks this for each tag it meets, before it does anything else with it: its own
    decoders compile regular expressions, parse dates and make huge numbers."""

    def __missing__(self, tag: int) -> Callable[..., Any]:
        return _refuse


_NO_TAGS = _NoTags()


def decode(payload: bytes) -> dict[int, Any]:
    """The checked map of one signalling message from a device.

    DecodeError: "too-large", or "malformed", "unsupported" and "bad-route" as the contract has it.
    """
    return signalling.check(decode_map(payload), True)


def decode_map(payload: bytes) -> dict[int, Any]:
    """The map alone: deterministic CBOR of at most MAX_MESSAGE bytes, not yet held to the tables.
    Raises DecodeError."""
    if len(payload) > signalling.MAX_MESSAGE:
        raise DecodeError(f"{len(payload)} bytes", "too-large")
    try:
        message = cbor2.loads(
            payload,
            max_depth=_MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_NO_TAGS,
        )
        if not isinstance(message, dict):
            raise DecodeError("signalling: expected a map")
        # Refuses trailing bytes, unsorted keys, and heads longer than necessary, so that what one
        # decoder accepts no other one reads differently.
        same = cbor2.dumps(message, canonical=True) == payload
    except DecodeError:
        raise
    except Exception as error:  # its own errors, and those of Python's types under it
        raise DecodeError(f"cbor: {type(error).__name__}") from None
    if not same:
        raise DecodeError("cbor: not deterministically encoded")
    return message


def encode(message: dict[int, Any]) -> bytes:
    """A message for a device."""
    return cbor2.dumps(message, canonical=True)
