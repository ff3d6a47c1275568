"""A policy file (TOML) to checked values: names, tags, allow rules and the tests of the file.

Selectors stand in ``from`` and ``to`` and in tags: a device's name, a pattern with one ``*``, and,
but not in a tag, ``tag:NAME``. In ``from`` and tags also ``GATEWAY for THIRD-PARTY``, each a name
or a pattern. Tags are replaced by their members here, so that whoever evaluates
a policy knows names and patterns only.
"""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

from keyferry_core.errors import DecodeError
from keyferry_core.names import FOR, MAX_NAME, check_name
from keyferry_manager.problems import Problem

FILE_NAME = "policy.toml"
# Bytes of a file, and items in it: what one operator can oversee, and evaluation stays fast.
MAX_FILE = 1 << 20
MAX_RULES = 2000
MAX_SELECTORS = 100_000
_MAX_NOTE = 120

What = Literal["session", "message", "resolve"]
WHATS: tuple[What, ...] = get_args(What)

_TAG = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_PREFIX = "tag:"

TEMPLATE = """\
# Who may do what with whom. What no rule allows is refused; a rule has one direction.
# Try a change with 'keyferry policy check' and 'keyferry policy diff', and bring it into force
# with 'keyferry policy apply'. Rules of 'keyferry allow' are added to those that stand here.
#
# [tags]                          # members: names, and patterns with one *
# pumps = ["pump-*"]
# valves = ["valve-1", "valve-2"]
#
# [names]                         # the same from the other side: tags of a name
# gate-1 = ["valves"]
#
# [[allow]]
# from = "tag:pumps"              # a name, a pattern, tag:NAME, or a list of them
# to = "tag:valves"
# what = ["session", "message", "resolve"]    # all three when it is left out
# note = "pumps open their valves"
#
# [[allow]]                       # what a gateway may do for a third party that it lets in
# from = "gw-1 for alice"         # and nothing for itself: docs/gateway.md
# to = "pump-7"
#
# [[assert]]                      # tests: a file that does not keep them is not applied
# from = "pump-7"
# to = "valve-2"
# allow = ["session"]
#
# [[assert]]
# from = "tag:valves"
# to = "tag:pumps"
# deny = ["session", "message", "resolve"]
"""


class PolicyProblem(Problem):
    """A policy file says something impossible, or does not keep its own tests."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One ``[[allow]]``: counted from 1, as written, and with its tags replaced."""

    number: int
    text: str
    initiators: tuple[str, ...]
    responders: tuple[str, ...]
    what: frozenset[str]

    def __str__(self) -> str:
        return f"rule {self.number}: {self.text}"


@dataclass(frozen=True, slots=True)
class Assertion:
    """One ``[[assert]]``: each pair of it is allowed ``allow`` and denied ``deny``."""

    number: int
    text: str
    initiators: tuple[str, ...]
    responders: tuple[str, ...]
    allow: frozenset[str]
    deny: frozenset[str]

    def __str__(self) -> str:
        return f"assert {self.number}: {self.text}"


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked file. ``names`` are all that it mentions by their whole name: devices, and third
    parties as ``GATEWAY for NAME``."""

    rules: tuple[Rule, ...] = ()
    assertions: tuple[Assertion, ...] = ()
    names: frozenset[str] = frozenset()


EMPTY = Policy()


def digest(text: str) -> str:
    """SHA-256 of a file's text, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def parse(text: str, source: str = FILE_NAME) -> Policy:
    """The policy in ``text``. PolicyProblem, beginning with ``source``, says what to change."""
    if len(text.encode()) > MAX_FILE:
        raise PolicyProblem(f"{source} is larger than {MAX_FILE} bytes.")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyProblem(f"{source} is not valid TOML: {error}.") from None
    except RecursionError:
        raise PolicyProblem(f"{source} is not valid TOML: nested too deeply.") from None
    return _Reader(source).read(document)


class _Reader:
    """Holds a document to what a policy is; ``source`` stands in front of each problem."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tags: dict[str, list[str]] = {}
        self._names: set[str] = set()
        self._selectors = 0

    def read(self, document: Mapping[str, Any]) -> Policy:
        self._known(document, ("names", "tags", "allow", "assert"), "")
        self._read_tags(self._table(document, "tags"))
        self._read_names(self._table(document, "names"))
        rules = tuple(
            self._rule(number, item)
            for number, item in enumerate(self._array(document, "allow"), start=1)
        )
        assertions = tuple(
            self._assertion(number, item)
            for number, item in enumerate(self._array(document, "assert"), start=1)
        )
        return Policy(rules, assertions, frozenset(self._names))

    def _read_tags(self, table: Mapping[str, Any]) -> None:
        for tag, members in table.items():
            where = f"tags.{tag}"
            self._check_tag(tag, where)
            if not isinstance(members, list):
                self._fail(where, 'expected a list of names, as in ["pump-7", "valve-*"]')
            self._tags[tag] = [self._selector(member, where) for member in members]

    def _read_names(self, table: Mapping[str, Any]) -> None:
        for name, tags in table.items():
            where = f"names.{name}"
            if isinstance(tags, dict):
                self._fail(where, "a name with dots stands in quotes")
            self._name(name, where)
            if not isinstance(tags, list):
                self._fail(where, 'expected a list of tags, as in ["pumps"]')
            for tag in tags:
                self._check_tag(tag, where)
                members = self._tags.setdefault(tag, [])
                if name not in members:
                    members.append(name)

    def _rule(self, number: int, item: Mapping[str, Any]) -> Rule:
        where = f"allow {number}"
        self._known(item, ("from", "to", "what", "note"), where)
        text, initiators, responders = self._pair(item, where)
        what = self._what(item["what"], f"{where}: what") if "what" in item else frozenset(WHATS)
        if not what:
            self._fail(f"{where}: what", "it allows nothing; leave it out for all")
        note = item.get("note", "")
        if not isinstance(note, str) or len(note) > _MAX_NOTE or not note.isprintable():
            self._fail(f"{where}: note", f"expected a line of at most {_MAX_NOTE} characters")
        if note:
            text += f" ({note})"
        return Rule(number, text, initiators, responders, what)

    def _assertion(self, number: int, item: Mapping[str, Any]) -> Assertion:
        where = f"assert {number}"
        self._known(item, ("from", "to", "allow", "deny"), where)
        text, initiators, responders = self._pair(item, where)
        allow = self._what(item.get("allow", []), f"{where}: allow")
        deny = self._what(item.get("deny", []), f"{where}: deny")
        if not allow and not deny:
            self._fail(where, 'it tests nothing; write allow = ["session"], or deny')
        if allow & deny:
            self._fail(where, f"{sorted(allow & deny)[0]!r} cannot be both allowed and denied")
        return Assertion(number, text, initiators, responders, allow, deny)

    def _pair(
        self, item: Mapping[str, Any], where: str
    ) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        sides: list[tuple[str, ...]] = []
        texts: list[str] = []
        for key in ("from", "to"):
            if key not in item:
                self._fail(where, f"{key} is missing")
            value = item[key]
            written = value if isinstance(value, list) else [value]
            if not written:
                self._fail(f"{where}: {key}", "it names nobody")
            sides.append(tuple(self._resolved(written, f"{where}: {key}")))
            if key == "to" and any(FOR in selector for selector in sides[-1]):
                self._fail(f"{where}: {key}", "a third party asks, and is never asked for")
            texts.append(", ".join(written))
        return f"{_short(texts[0])} -> {_short(texts[1])}", sides[0], sides[1]

    def _resolved(self, written: Iterable[object], where: str) -> list[str]:
        found: dict[str, None] = {}
        for selector in written:
            if not isinstance(selector, str):
                self._fail(where, "expected a name, a pattern, tag:NAME, or a list of them")
            if not selector.startswith(_PREFIX):
                found[self._selector(selector, where)] = None
                continue
            tag = selector.removeprefix(_PREFIX)
            if tag not in self._tags:
                close = difflib.get_close_matches(tag, list(self._tags), 1)
                hint = f"; did you mean {_PREFIX}{close[0]}?" if close else ""
                self._fail(where, f"there is no tag {tag!r}{hint}")
            found.update(dict.fromkeys(self._tags[tag]))
        self._count(len(found))
        return list(found)

    def _selector(self, selector: object, where: str) -> str:
        if not isinstance(selector, str):
            self._fail(where, "expected texts")
        self._count(1)
        if FOR in selector:
            gateway, _, party = selector.partition(FOR)
            self._check_part(gateway, selector, where)
            self._check_part(party, selector, where)
        else:
            self._check_part(selector, selector, where)
        if "*" not in selector:
            self._names.add(selector)
        return selector

    def _check_part(self, part: str, selector: str, where: str) -> None:
        if "*" not in part:
            self._check(part, where)
            return
        # Whatever the star stands for, the rest must be part of a name.
        rest = part.replace("*", "x", 1)
        try:
            check_name(rest.strip("-."))
        except DecodeError:
            rest = "*"
        if "*" in rest or len(part) > MAX_NAME:
            self._fail(where, f"{selector!r} is not a pattern: parts of a name, and one *")

    def _check(self, name: str, where: str) -> None:
        try:
            check_name(name)
        except DecodeError as error:
            reason = error.detail.partition(": ")[2]
            self._fail(where, f"{name!r} is not a device's name ({reason})")

    def _name(self, name: str, where: str) -> str:
        self._check(name, where)
        self._names.add(name)
        return name

    def _what(self, value: object, where: str) -> frozenset[str]:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(item in WHATS for item in items):
            self._fail(where, f"expected a list of {', '.join(WHATS)}")
        return frozenset(items)

    def _check_tag(self, tag: object, where: str) -> None:
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            self._fail(where, f"{tag!r} is not a tag: lower-case letters, digits, - and _")

    def _count(self, more: int) -> None:
        self._selectors += more
        if self._selectors > MAX_SELECTORS:
            raise PolicyProblem(f"{self._source}: more than {MAX_SELECTORS} names; use patterns.")

    def _table(self, document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        table = document.get(key, {})
        if not isinstance(table, dict):
            self._fail(key, f"expected a table: [{key}]")
        return table

    def _array(self, document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
        items = document.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            self._fail(key, f"expected tables: [[{key}]]")
        if len(items) > MAX_RULES:
            self._fail(key, f"more than {MAX_RULES}")
        return items

    def _known(self, item: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
        for key in item:
            if key not in keys:
                close = difflib.get_close_matches(key, keys, 1)
                hint = f"did you mean {close[0]}?" if close else f"it may be {', '.join(keys)}"
                self._fail(where or key, f"{key!r} is not known here; {hint}")

    def _fail(self, where: str, what: str) -> NoReturn:
        end = "" if what.endswith("?") else "."
        raise PolicyProblem(f"{self._source}: {where}: {what}{end}")


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
