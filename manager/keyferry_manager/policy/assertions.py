"""The tests inside a policy file. Names that no rule tells apart are tested as one."""

from collections.abc import Callable, Iterable, Iterator

from keyferry_core.names import matches
from keyferry_manager.policy.document import WHATS, Assertion, Policy
from keyferry_manager.policy.rules import Rules

Pair = tuple[str, str]


def failures(rules: Rules, names: Iterable[str]) -> list[str]:
    """What the policy of ``rules`` says about itself and does not keep, a sentence each.

    ``names`` are the devices there are, for patterns. The pairs of ``keyferry allow`` count: what
    must be denied must be denied in the whole.
    """
    known = frozenset(names) | rules.policy.names
    return [
        f"{assertion}: {failure}"
        for assertion in rules.policy.assertions
        if (failure := _failure(rules, assertion, known))
    ]


def forbidding(policy: Policy, initiator: str, responder: str) -> Assertion | None:
    """The first test that denies something to this pair, so that it cannot be allowed all."""
    for assertion in policy.assertions:
        if (
            assertion.deny
            and any(matches(selector, initiator) for selector in assertion.initiators)
            and any(matches(selector, responder) for selector in assertion.responders)
        ):
            return assertion
    return None


def _failure(rules: Rules, assertion: Assertion, known: frozenset[str]) -> str:
    initiators = _selected(assertion.initiators, known)
    responders = _selected(assertion.responders, known)
    if not any(True for _ in _pairs(initiators, responders)):
        return "there are no two devices that this is about"
    for what in WHATS:
        if what in assertion.deny:
            pair = _denied(rules, initiators, responders, what)
            if pair is not None:
                reason = rules.decide(*pair, what).reason
                return f"{pair[0]} -> {pair[1]} is allowed {what} ({reason})"
        elif what in assertion.allow:
            pair = _allowed(rules, initiators, responders, what)
            if pair is not None:
                reason = rules.decide(*pair, what).reason
                return f"{pair[0]} -> {pair[1]} is denied {what} ({reason})"
    return ""


def _denied(
    rules: Rules, initiators: frozenset[str], responders: frozenset[str], what: str
) -> Pair | None:
    """A pair that is allowed although it must not be."""
    for sources, targets in classes(rules.sources, initiators, rules.targets, responders):
        for pair in _pairs(sources, targets):
            # one pair speaks for its class, but for the pairs of keyferry allow below
            if pair not in rules.pairs:
                if rules.allows(*pair, what):
                    return pair
                break
    for pair in sorted(rules.pairs):
        if pair[0] in initiators and pair[1] in responders and rules.allows(*pair, what):
            return pair
    return None


def _allowed(
    rules: Rules, initiators: frozenset[str], responders: frozenset[str], what: str
) -> Pair | None:
    """A pair that is denied although it must not be."""
    for sources, targets in classes(rules.sources, initiators, rules.targets, responders):
        for pair in _pairs(sources, targets):
            if pair not in rules.pairs:
                if not rules.allows(*pair, what):
                    return pair
                break
    return None


def classes(
    source: Callable[[str], object],
    initiators: Iterable[str],
    target: Callable[[str], object],
    responders: Iterable[str],
) -> Iterator[tuple[list[str], list[str]]]:
    """Names grouped by what ``source`` and ``target`` say of them; each two groups."""
    sources = _grouped(source, initiators)
    targets = _grouped(target, responders)
    for left in sources:
        for right in targets:
            yield left, right


def _grouped(key: Callable[[str], object], names: Iterable[str]) -> list[list[str]]:
    groups: dict[object, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(key(name), []).append(name)
    return list(groups.values())


def _pairs(initiators: Iterable[str], responders: Iterable[str]) -> Iterator[Pair]:
    """Each two devices; a device is not its own peer."""
    targets = list(responders)
    return ((left, right) for left in initiators for right in targets if left != right)


def _selected(selectors: Iterable[str], known: frozenset[str]) -> frozenset[str]:
    found: set[str] = set()
    for selector in selectors:
        if "*" in selector:
            found.update(name for name in known if matches(selector, name))
        else:
            found.add(selector)
    return frozenset(found)
