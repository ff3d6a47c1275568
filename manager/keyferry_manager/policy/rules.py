"""Evaluation: which rule lets one name do what with another, and the sentence that says so.

For each name it is worked out once which rules have it in ``from`` and which in ``to``, as the
bits of two numbers; a decision is then one "and" of three numbers, and its lowest bit the rule.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from keyferry_core.names import FOR, matches
from keyferry_manager.policy.document import EMPTY, WHATS, Policy, Rule

# Names whose bits are remembered: anybody may ask for names that do not exist.
_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it is allowed, and the sentence for the log and the audit trail."""

    allowed: bool
    reason: str


class _Side:
    """The rules that have a name in ``from``, or in ``to``: bit 0 is rule 1."""

    def __init__(self, rules: Iterable[Rule], side: Callable[[Rule], tuple[str, ...]]) -> None:
        self._exact: dict[str, int] = {}
        self._patterns: dict[str, int] = {}
        self._known: dict[str, int] = {}
        for rule in rules:
            bit = 1 << (rule.number - 1)
            for selector in side(rule):
                table = self._patterns if "*" in selector else self._exact
                table[selector] = table.get(selector, 0) | bit

    def __call__(self, name: str) -> int:
        mask = self._known.get(name)
        if mask is None:
            mask = self._exact.get(name, 0)
            for pattern, bits in self._patterns.items():
                if matches(pattern, name):
                    mask |= bits
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[name] = mask
        return mask


class Rules:
    """A policy and the pairs of ``keyferry allow``: a pair is allowed everything.

    An initiator is a device's name, or ``GATEWAY for NAME`` where a gateway asks for a third party;
    no rule about the gateway itself is about that. ``label`` stands in the reasons, in front of the
    policy's rules. Never changed once made.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[str, str]] = (),
        policy: Policy = EMPTY,
        label: str = "policy",
    ) -> None:
        self.pairs = frozenset(pairs)
        self.policy = policy
        self.label = label
        self.sources = _Side(policy.rules, lambda rule: rule.initiators)
        self.targets = _Side(policy.rules, lambda rule: rule.responders)
        self._what = {
            what: sum(1 << (rule.number - 1) for rule in policy.rules if what in rule.what)
            for what in WHATS
        }

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> "Rules":
        """Rules of pairs alone."""
        return cls(pairs)

    def allows(self, initiator: str, responder: str, what: str = "session") -> bool:
        """The bare answer, for where the reason is not wanted."""
        if _own(initiator, responder):
            return False
        mask = self.sources(initiator) & self.targets(responder) & self._what[what]
        return mask != 0 or (initiator, responder) in self.pairs

    def granted(self, initiator: str, responder: str) -> tuple[str, ...]:
        """All that is allowed, in the order of WHATS."""
        return tuple(what for what in WHATS if self.allows(initiator, responder, what))

    def by_file(self, initiator: str, responder: str) -> list[bool]:
        """What the policy alone grants two names, in the order of WHATS; a class of names that
        the same rules have speaks with one voice here."""
        mask = self.sources(initiator) & self.targets(responder)
        return [mask & self._what[what] != 0 for what in WHATS]

    def decide(self, initiator: str, responder: str, what: str = "session") -> Decision:
        """The answer and why: the first rule of the file that allows it, else the pair."""
        if _own(initiator, responder):
            return Decision(False, "a device is not its own peer")
        mask = self.sources(initiator) & self.targets(responder) & self._what[what]
        if mask:
            rule = self.policy.rules[(mask & -mask).bit_length() - 1]
            return Decision(True, f"{self.label}, {rule}")
        if (initiator, responder) in self.pairs:
            return Decision(True, f"rule {initiator} -> {responder}")
        return Decision(False, self._refusal(initiator, responder, what))

    def about(self, initiator: str, responder: str) -> list[Rule]:
        """Every rule of the file that is about this pair, whatever it allows."""
        mask = self.sources(initiator) & self.targets(responder)
        return [rule for rule in self.policy.rules if mask >> (rule.number - 1) & 1]

    def _refusal(self, initiator: str, responder: str, what: str) -> str:
        others = self.granted(initiator, responder)
        if others:
            return f"{initiator} -> {responder} is allowed {' and '.join(others)}, not {what}"
        if self.allows(responder, initiator, what):
            return f"only {responder} may ask for {initiator}"
        return f"no rule {initiator} -> {responder}"


def _own(initiator: str, responder: str) -> bool:
    return initiator == responder or initiator.startswith(responder + FOR)
