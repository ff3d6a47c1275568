"""What another policy would change: which pairs gain access, and which lose it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from keyferry_manager.policy.assertions import classes
from keyferry_manager.policy.rules import Rules


@dataclass(frozen=True, slots=True)
class Change:
    """A pair, and what of session, message and resolve it gains and loses."""

    initiator: str
    responder: str
    gains: tuple[str, ...]
    loses: tuple[str, ...]


def changes(before: Rules, after: Rules, names: Iterable[str]) -> Iterator[Change]:
    """Every pair whose access differs, among ``names`` and all names that the rules mention.

    Pairs come as they are found: there can be as many as the square of the names.
    """
    known = set(names) | before.policy.names | after.policy.names
    for pair in before.pairs | after.pairs:
        known.update(pair)
    apart = before.pairs ^ after.pairs
    seen: set[tuple[str, str]] = set()
    for initiators, responders in classes(
        lambda name: (before.sources(name), after.sources(name)),
        known,
        lambda name: (before.targets(name), after.targets(name)),
        known,
    ):
        # What the files grant is the same for all of these; only the pairs may tell them apart.
        one = initiators[0], responders[0]
        if before.by_file(*one) == after.by_file(*one):
            continue
        for initiator in initiators:
            for responder in responders:
                change = _change(before, after, initiator, responder)
                if change is not None:
                    seen.add((initiator, responder))
                    yield change
    for pair in sorted(apart - seen):
        change = _change(before, after, *pair)
        if change is not None:
            yield change


def _change(before: Rules, after: Rules, initiator: str, responder: str) -> Change | None:
    had = before.granted(initiator, responder)
    has = after.granted(initiator, responder)
    if had == has:
        return None
    gains = tuple(what for what in has if what not in had)
    loses = tuple(what for what in had if what not in has)
    return Change(initiator, responder, gains, loses)
