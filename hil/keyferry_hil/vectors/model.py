"""Questions for a runtime, what their answers must be, and what came of it."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class VectorFileError(Exception):
    """A vector file that cannot be judged; the text says what is wrong with it, and where."""


class Outcome(enum.Enum):
    """What became of one case."""

    RIGHT = "right"  # the value that the vector says came out
    REFUSED = "refused"  # the core refused it, and it had to
    FAILED = "failed"
    NOT_OFFERED = "not-offered"  # the core has nothing of the kind, so there is no verdict


@dataclass(frozen=True)
class Answer:
    """What a runtime made of a question: a value, a refusal in the core's errors, or a crash."""

    value: Any = None
    refusal: str = ""
    crash: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.crash:
            return self.crash
        return f"refused ({self.refusal})" if self.refusal else shown(self.value)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one case, and for a failure: what was expected, and what came out."""

    outcome: Outcome
    expected: str = ""
    got: str = ""


Judge = Callable[[Answer], Verdict]


@dataclass(frozen=True)
class Check:
    """One case of a file. ``case`` names it there, ``comment`` is the file's own word on it."""

    case: str
    judge: Judge
    comment: str = ""


@dataclass(frozen=True)
class Question:
    """One call on the runtime, and the cases that its answer decides."""

    kind: str
    operation: str
    arguments: list[Any]
    checks: list[Check]


@dataclass(frozen=True)
class NotOffered:
    """Cases that there is nothing in the core to ask about, and why."""

    kind: str
    cases: int
    reason: str


@dataclass
class VectorFile:
    """A file that was understood."""

    name: str
    format: str
    questions: list[Question] = field(default_factory=list)
    not_offered: list[NotOffered] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """Cases that will be judged."""
        return sum(len(question.checks) for question in self.questions)

    @property
    def cases(self) -> int:
        return self.asked + sum(item.cases for item in self.not_offered)


def shown(value: Any) -> str:
    """A value of an answer or an expectation, for people."""
    if isinstance(value, bytes):
        return value.hex() or "no bytes"
    if isinstance(value, list):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    if isinstance(value, bool):
        return "accepted" if value else "refused"
    return str(value)


RIGHT = Verdict(Outcome.RIGHT)
REFUSED = Verdict(Outcome.REFUSED)


def failed(expected: Any, got: Any) -> Verdict:
    """A failure in words. An Answer's own words tell a refusal from a value."""
    return Verdict(
        Outcome.FAILED,
        expected if isinstance(expected, str) else shown(expected),
        got if isinstance(got, str) else str(got) if isinstance(got, Answer) else shown(got),
    )


def exactly(expected: Any) -> Judge:
    """The value and nothing else."""

    def judge(answer: Answer) -> Verdict:
        if answer.crash or answer.refusal or not same(answer.value, expected):
            return failed(expected, answer)
        return RIGHT

    return judge


def refused(why: str = "refused") -> Judge:
    """Only a refusal will do. False, from a signature's verification, is one."""

    def judge(answer: Answer) -> Verdict:
        if not answer.crash and (answer.refusal or answer.value is False):
            return REFUSED
        return failed(why, answer if answer.crash else f"accepted: {shown(answer.value)}")

    return judge


def exactly_or_refused(expected: Any) -> Judge:
    """What a suite calls acceptable: to refuse it is fine, but a result must be the right one."""

    def judge(answer: Answer) -> Verdict:
        if not answer.crash and (answer.refusal or answer.value is False):
            return REFUSED
        verdict = exactly(expected)(answer)
        if verdict.outcome is Outcome.FAILED:
            return failed(f"{shown(expected)}, or refused", answer)
        return verdict

    return judge


def part(key: Any, expected: Any) -> Judge:
    """One element of an answer that is a map or a list."""

    def judge(answer: Answer) -> Verdict:
        if answer.crash or answer.refusal:
            return failed(expected, answer)
        try:
            got = answer.value[key]
        except (KeyError, IndexError, TypeError):
            return failed(expected, "nothing of this name")
        return RIGHT if same(got, expected) else failed(expected, got)

    return judge


def same(a: Any, b: Any) -> bool:
    """Equality that tells True from 1, inside of lists too."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b
