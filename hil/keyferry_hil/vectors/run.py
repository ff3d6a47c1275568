"""Put every question of the files to a runtime, and judge the answers."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from keyferry_hil.vectors.conversation import RuntimeLost
from keyferry_hil.vectors.model import Answer, Outcome, Question, VectorFile, Verdict, failed
from keyferry_hil.vectors.runtimes import Runtime, ask

# Losses in a row after which a runtime is given up.
_LOSSES = 3


@dataclass
class Row:
    """One kind of case in one file. ``seconds`` is what the runtime needed for its questions."""

    file: str
    kind: str
    right: int = 0
    refused: int = 0
    failed: int = 0
    not_offered: int = 0
    questions: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> int:
        return self.right + self.refused


@dataclass(frozen=True)
class Failure:
    """One case that failed: which, what was expected and what came out."""

    file: str
    case: str
    comment: str
    expected: str
    got: str


@dataclass
class Report:
    """What came of a run. ``abandoned``: why it ended before its end, if it did."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    abandoned: str = ""
    unjudged: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> int:
        return sum(row.passed for row in self.rows)

    @property
    def failed(self) -> int:
        return sum(row.failed for row in self.rows)

    @property
    def not_offered(self) -> int:
        return sum(row.not_offered for row in self.rows)


def run(
    files: Sequence[VectorFile],
    runtime: Runtime,
    progress: Callable[[VectorFile, int], None] | None = None,
) -> Report:
    """Judge all files. ``progress`` is told after each question how many cases it decided."""
    report = Report()
    start = time.monotonic()
    losses = 0
    for file in files:
        rows: dict[str, Row] = {}

        def row(kind: str, file: VectorFile = file, rows: dict[str, Row] = rows) -> Row:
            if kind not in rows:
                rows[kind] = Row(file.name, kind)
                report.rows.append(rows[kind])
            return rows[kind]

        for question in file.questions:
            if report.abandoned:
                report.unjudged += len(question.checks)
                continue
            try:
                answer = _asked(runtime, question)
                losses = 0
            except RuntimeLost as error:
                losses += 1
                answer = Answer(crash=f"no answer: {error}")
                if losses == _LOSSES or not runtime.restart():
                    report.abandoned = str(error)
            _judge(report, file, row(question.kind), question, answer)
            if progress is not None:
                progress(file, len(question.checks))
        for item in file.not_offered:
            row(item.kind).not_offered += item.cases
    report.seconds = time.monotonic() - start
    return report


def _asked(runtime: Runtime, question: Question) -> Answer:
    """The answer; a full heap is no verdict yet where a new one can be had."""
    answer = ask(runtime, question.operation, question.arguments)
    if answer.crash.startswith("raised MemoryError") and runtime.restart():
        answer = ask(runtime, question.operation, question.arguments)
    return answer


def _judge(report: Report, file: VectorFile, row: Row, question: Question, answer: Answer) -> None:
    row.questions += 1
    row.seconds += answer.seconds
    for check in question.checks:
        try:
            verdict = check.judge(answer)
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
            # The answer has another shape than any that the core gives.
            verdict = failed("an answer to the question", answer)
        _count(row, verdict)
        if verdict.outcome is Outcome.FAILED:
            report.failures.append(
                Failure(file.name, check.case, check.comment, verdict.expected, verdict.got)
            )


def _count(row: Row, verdict: Verdict) -> None:
    if verdict.outcome is Outcome.RIGHT:
        row.right += 1
    elif verdict.outcome is Outcome.REFUSED:
        row.refused += 1
    else:
        row.failed += 1
