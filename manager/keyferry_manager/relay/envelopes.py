"""The part of a session's messages that is the same in each, decoded and checked once.

A message that carries a record and nothing else is, in deterministic CBOR, a head that ends with
the key of the record, and then the record as a byte string. Where a link repeats, byte for byte, a
head that was decoded and checked before, what is left to check is that byte string: its length in
the shortest form, within bounds, and exactly up to the end of the payload. Whatever differs goes
the long way, and gets its error there.

A plain message and its report may come as a map, from a carrier that has made it of another form.
Of those the number and the data differ, and the rest is compared with one that was checked before.
"""

from typing import Any

from keyferry_core import signalling as sig
from keyferry_manager.registry import Link

# Heads that are remembered of one link, about 150 bytes each: a device has few sessions at a time.
PER_LINK = 4
_DIFFERS = (sig.ID, sig.DATA)
_KEYS = {sig.TYPE, sig.FROM, sig.TO, sig.SESSION, sig.RECORD}


class Envelopes:
    """What ``wire.decode`` would say, for payloads that begin as an earlier one of their link."""

    def __init__(self) -> None:
        self._known: dict[Link, list[tuple[bytes, dict[int, Any]]]] = {}
        self._made: dict[Link, list[dict[int, Any]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def decode(self, link: Link, payload: bytes) -> dict[int, Any] | None:
        """The checked map, or None where only ``wire.decode`` can tell."""
        for head, common in self._known.get(link, ()):
            if payload.startswith(head):
                record = _byte_string(payload, len(head))
                if record is None:
                    return None
                message = common.copy()
                message[sig.RECORD] = record
                return message
        return None

    def keep(self, link: Link, payload: bytes, message: dict[int, Any]) -> None:
        """Remember the head of a payload that ``wire.decode`` made ``message`` of."""
        if message.keys() != _KEYS:
            return
        record = message[sig.RECORD]
        # The byte string's own head has one byte, and one or two for a length above 23 or 255.
        prefix = 1 if len(record) < 24 else 2 if len(record) < 256 else 3
        head = payload[: len(payload) - len(record) - prefix]
        common = {key: value for key, value in message.items() if key != sig.RECORD}
        known = self._known.setdefault(link, [])
        known.insert(0, (head, common))
        del known[PER_LINK:]

    def check(self, link: Link, made: dict[int, Any]) -> dict[int, Any]:
        """What ``signalling.check`` says of a map from a device. Raises DecodeError."""
        common = {key: value for key, value in made.items() if key not in _DIFFERS}
        known = self._made.get(link)
        if (
            known is not None
            and common in known
            and type(made.get(sig.ID)) is int
            and 0 <= made[sig.ID] <= 0xFFFFFFFF
            and (
                made[sig.TYPE] == sig.DELIVERED
                if sig.DATA not in made
                else made[sig.TYPE] == sig.SEND
                and type(made[sig.DATA]) is bytes
                and len(made[sig.DATA]) <= sig.MAX_PLAIN
            )
        ):
            return made
        sig.check(made, True)
        known = self._made.setdefault(link, [])
        known.insert(0, common)
        del known[PER_LINK:]
        return made

    def forget(self, link: Link) -> None:
        """The link has ended."""
        self._known.pop(link, None)
        self._made.pop(link, None)


def _byte_string(payload: bytes, at: int) -> bytes | None:
    """The record that begins at ``at`` and ends with the payload; None for anything else."""
    have = len(payload)
    if have - at < 2:
        return None
    first = payload[at]
    if first == 0x59:
        start = at + 3
        if have < start:
            return None
        length = payload[at + 1] << 8 | payload[at + 2]
        if length < 256:
            return None
    elif first == 0x58:
        start = at + 2
        length = payload[at + 1]
        if length < 24:
            return None
    else:
        start = at + 1
        length = first - 0x40
        if not 0 < length < 24:
            return None
    if length != have - start or length > sig.MAX_RECORD:
        return None
    return payload[start:]
