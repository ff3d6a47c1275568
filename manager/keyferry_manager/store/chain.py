"""The audit trail's chain: what is hashed, how an entry follows the one before, and who breaks it.

An entry's hash is the SHA-256 of the ASCII JSON text of the list ``[previous, id, at, event,
outcome, name, address, detail, fields]``, keys sorted, without spaces; ``previous`` is the hash of
the entry before, 64 zeros for the first. Plain values only, no database.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from keyferry_manager.problems import Problem
from keyferry_manager.store.records import AuditEntry

START = "0" * 64
# The longest detail kept, in characters: part of it can come from outside.
MAX_DETAIL = 1000


class ChainBroken(Problem):
    """The audit trail was changed. ``entry`` is the number of the entry where it shows."""

    def __init__(self, sentence: str, entry: int = 0) -> None:
        super().__init__(sentence)
        self.entry = entry


def entry_hash(entry: AuditEntry) -> str:
    """What the hash of an entry, with its number and what it follows, must be."""
    content = [
        entry.previous,
        entry.id,
        float(entry.at),
        entry.event,
        entry.outcome,
        entry.name,
        entry.address,
        entry.detail,
        dict(entry.fields),
    ]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def chained(entries: Iterable[AuditEntry], number: int, head: str) -> list[dict[str, Any]]:
    """The rows of new entries that follow entry ``number``, whose hash is ``head``."""
    rows = []
    for entry in entries:
        number += 1
        plain = AuditEntry(
            at=float(entry.at),
            event=_text(entry.event, 64),
            outcome=entry.outcome,
            name=_text(entry.name, 255),
            address=_text(entry.address, 64),
            detail=_text(entry.detail, MAX_DETAIL),
            # As it will be read back: lists for tuples, texts for what JSON has no number for.
            fields=json.loads(json.dumps(dict(entry.fields), default=str), parse_constant=str),
            id=number,
            previous=head,
        )
        head = entry_hash(plain)
        rows.append({name: getattr(plain, name) for name in _COLUMNS} | {"hash": head})
    return rows


class Chain:
    """Follows a trail from its first entry on.

    ``heads`` are hashes that must be among its entries, because somebody saw or kept them:
    ``finish`` finds a trail that was cut off, or written anew, before one of them.
    """

    def __init__(self, heads: Iterable[str] = ()) -> None:
        self.entries = 0
        self.last = 0
        self.head = START
        self._missing = {head.lower(): None for head in heads}

    def follow(self, entry: AuditEntry) -> None:
        """Take the next entry; ChainBroken when it is not the one that was written."""
        if entry_hash(entry) != entry.hash:
            raise ChainBroken(
                f"entry {entry.id} of the audit trail is not what was written: it was changed.",
                entry.id,
            )
        if entry.id <= self.last:
            raise ChainBroken(
                f"entry {entry.id} of the audit trail stands after entry {self.last}: the order "
                "was changed.",
                entry.id,
            )
        if entry.previous != self.head:
            where = f"entry {self.last}" if self.last else "the start"
            raise ChainBroken(
                f"entry {entry.id} of the audit trail does not follow {where}: what stood between "
                "them was removed, or one of them was replaced.",
                entry.id,
            )
        self.entries += 1
        self.last, self.head = entry.id, entry.hash
        self._missing.pop(entry.hash, None)

    def finish(self) -> None:
        """Say that there are no more; ChainBroken when a head did not come."""
        for head in self._missing:
            if head == START:
                continue
            raise ChainBroken(
                f"the audit trail ends with entry {self.last} and does not contain the head "
                f"{head}: its end was cut off, or it was written anew.",
                self.last,
            )


_COLUMNS = (
    "id",
    "at",
    "event",
    "outcome",
    "name",
    "address",
    "detail",
    "fields",
    "previous",
)


def _text(text: str, length: int) -> str:
    # PostgreSQL has no character 0 in its texts, and no database has half a surrogate pair.
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:length]
