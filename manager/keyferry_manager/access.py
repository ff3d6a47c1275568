"""What is in force: the applied policy, and the rules of ``keyferry allow`` added to it."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from keyferry_manager.policy import Rules, parse
from keyferry_manager.store.records import AppliedPolicy

if TYPE_CHECKING:
    from keyferry_manager.store import Store


def combined(pairs: Iterable[tuple[str, str]], applied: AppliedPolicy | None) -> Rules:
    """The rules of both. PolicyProblem when this version cannot read what was applied."""
    if applied is None:
        return Rules(pairs)
    source = f"policy {applied.id}"
    return Rules(pairs, parse(applied.text, source), source)


async def in_force(store: "Store") -> Rules:
    """The rules that a manager on this store decides by."""
    pairs = [(rule.initiator, rule.responder) for rule in await store.rules()]
    applied = await store.policies.get()
    # A file of a megabyte takes a second to read: a manager's relay goes on meanwhile.
    return await asyncio.to_thread(combined, pairs, applied)
