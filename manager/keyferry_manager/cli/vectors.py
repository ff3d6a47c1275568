"""``keyferry vectors``: published test vectors against the core, here or on a board."""

import re
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from keyferry_manager.cli.base import (
    JsonOption,
    app,
    printable,
    report,
    warn,
    write,
    write_json,
    write_table,
)

if TYPE_CHECKING:
    from keyferry_hil.vectors.model import VectorFile
    from keyferry_hil.vectors.run import Failure, Report
    from keyferry_hil.vectors.runtimes import About, Runtime

_FAILED, _NOT_JUDGED = 1, 2
# Characters of an expectation or a result in a line; --json has all of them.
_SHOWN = 160


def _heap(text: str) -> str:
    match = re.fullmatch(r"([1-9][0-9]{0,8})([kKmM]?)", text)
    if not match:
        raise typer.BadParameter("write bytes, or such as 128k or 1m.")
    return text.lower()


def _runtime(text: str) -> str:
    if text in ("cpython", "micropython") or "/" in text or re.fullmatch("COM[0-9]+", text):
        return text
    raise typer.BadParameter("write cpython, micropython, or a serial port such as /dev/ttyACM0.")


@app.command()
def vectors(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Vector files, JSON.", show_default=False),
    ],
    runtime: Annotated[
        str,
        typer.Option(
            parser=_runtime,
            metavar="RUNTIME",
            help="Where the core runs: cpython, micropython, or a board's serial port.",
        ),
    ] = "cpython",
    heap: Annotated[
        str, typer.Option(parser=_heap, metavar="SIZE", help="micropython: its heap.")
    ] = "128k",
    install: Annotated[
        bool, typer.Option("--install", help="Board: copy this project's core to /lib first.")
    ] = False,
    baud: Annotated[int, typer.Option(min=300, help="Board: the serial port's speed.")] = 115200,
    reset: Annotated[
        bool, typer.Option("--reset/--no-reset", help="Board: begin with a soft reset.")
    ] = True,
    timeout: Annotated[
        float, typer.Option(min=1, max=3600, metavar="SECONDS", help="Longest wait for an answer.")
    ] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Prove a build of the core with published test vectors.

    Takes project Wycheproof's JSON (ECDH, ECDSA, AES-CCM, HKDF, HMAC), the EDHOC traces of
    RFC 9529 and of interop runs, COSE working group examples, OSCORE's (RFC 8613), RFC 6979,
    AES-CCM of RFC 3610 and NIST, and CBOR's appendix A.

    What a file expects stays here: the runtime gets inputs only, and its results are judged on
    this side. *Passed* is the right value, or a refusal where the vector asks for one (*refused*
    counts these). *Not offered* is what the core does not have, such as other curves: it is in
    neither number, and the reason is below the table.

    The last line is "N passed, N failed". Exit code 0: nothing failed. 1: something failed.
    2: a file or the runtime could not be used.

    Examples:

        keyferry vectors tests/vectors/wycheproof_*.json

        keyferry vectors --runtime micropython --heap 256k tests/vectors/edhoc_*.json

        keyferry vectors --runtime /dev/ttyACM0 --install tests/vectors/cbor_appendix_a.json
    """
    # Only this command needs these: the others start without them.
    from keyferry_hil.vectors import formats, runtimes
    from keyferry_hil.vectors.conversation import RuntimeLost
    from keyferry_hil.vectors.model import VectorFileError
    from keyferry_hil.vectors.run import Report, run

    known: list[VectorFile] = []
    problems: list[tuple[str, str]] = []
    for path in files:
        try:
            known.append(formats.load(path))
        except VectorFileError as error:
            problems.append((str(path), str(error)))
    for name, problem in problems:
        report(f"{printable(name)}: {printable(problem)}.")
    if any("not known here" in problem for _, problem in problems):
        report("known formats: " + "; ".join(formats.NAMES) + ".")

    outcome, who = Report(), None
    if known:
        try:
            place = _place(runtime, heap, install, baud, reset, timeout)
            with place as answering:
                who = runtimes.about(answering)
                outcome = _with_progress(known, answering, as_json, run)
        except (runtimes.RuntimeProblem, RuntimeLost) as error:
            problems.append((runtime, str(error)))
            report(f"{runtime}: {printable(str(error))}.")
    if outcome.abandoned:
        report(
            f"{runtime} was given up: {printable(outcome.abandoned)}."
            f" {outcome.unjudged} cases were not judged."
        )
    if as_json:
        write_json(_as_json(known, outcome, who, problems))
    else:
        _show(known, outcome, who)
    line = f"{outcome.passed} passed, {outcome.failed} failed"
    typer.echo(line, err=as_json)
    if outcome.failed:
        raise typer.Exit(_FAILED)
    if problems or outcome.abandoned:
        raise typer.Exit(_NOT_JUDGED)


def _place(
    runtime: str, heap: str, install: bool, baud: int, reset: bool, timeout: float
) -> "AbstractContextManager[Runtime]":
    from keyferry_hil.vectors import runtimes

    if runtime == "cpython":
        return nullcontext(runtimes.InProcess())
    try:
        if runtime == "micropython":
            return runtimes.micropython(heap, timeout)
        from keyferry_hil.vectors.board import board

        return board(runtime, baud=baud, install=install, reset=reset, seconds=timeout)
    except ImportError as error:
        raise runtimes.RuntimeProblem(f"{error.name} is missing; {runtimes.EXTRA}") from None


def _with_progress(known: "list[VectorFile]", answering: "Runtime", quiet: bool, run) -> "Report":
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return run(known, answering)
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        total = sum(file.asked for file in known)
        task = progress.add_task("", total=total)

        def step(file: "VectorFile", cases: int) -> None:
            progress.update(task, advance=cases, description=printable(Path(file.name).name))

        return run(known, answering, step)


def _show(known: "list[VectorFile]", outcome: "Report", who: "About | None") -> None:
    if outcome.rows:
        write_table(
            ("FILE", "KIND", "PASSED", "REFUSED", "FAILED", "NOT OFFERED", "TIME"),
            [
                (
                    Path(row.file).name,
                    row.kind,
                    str(row.passed),
                    str(row.refused),
                    str(row.failed),
                    str(row.not_offered),
                    _time(row.seconds, row.questions),
                )
                for row in outcome.rows
            ],
            "",
        )
        write()
        for line in _reasons(known):
            write(Text(line))
    for file in known:
        for note in file.notes:
            warn(f"{printable(file.name)}: {printable(note)}.")
        if not file.questions:
            warn(f"{printable(file.name)}: nothing in it could be asked, so nothing was judged.")
    for failure in outcome.failures:
        _show_failure(failure)
    if any("MemoryError" in failure.got for failure in outcome.failures):
        warn("a heap was too small for some cases; for micropython, --heap gives it more.")
    if who is not None:
        write(Text(f"{printable(str(who))}, {outcome.seconds:.1f} s"))


def _show_failure(failure: "Failure") -> None:
    comment = f" ({printable(failure.comment)})" if failure.comment else ""
    text = Text("FAILED ", style="bold red")
    text.append(f"{printable(failure.file)}: {printable(failure.case)}{comment}", style="default")
    write(text)
    write(Text(f"    expected: {_short(failure.expected)}"))
    write(Text(f"    came out: {_short(failure.got)}"))


def _short(text: str) -> str:
    text = printable(text)
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}... ({len(text)} characters, --json has them all)"


def _time(seconds: float, questions: int) -> str:
    """Seconds in all, and milliseconds for one question."""
    return f"{seconds:.2f} s, {1000 * seconds / questions:.2f} ms each" if questions else ""


def _reasons(known: "list[VectorFile]") -> list[str]:
    reasons: Counter[tuple[str, str]] = Counter()
    for file in known:
        for item in file.not_offered:
            reasons[file.name, item.reason] += item.cases
    return [
        f"not offered: {printable(Path(name).name)}, {count} of {printable(reason)}"
        for (name, reason), count in reasons.items()
    ]


def _as_json(
    known: "list[VectorFile]",
    outcome: "Report",
    who: "About | None",
    problems: list[tuple[str, str]],
) -> dict[str, object]:
    return {
        "runtime": None
        if who is None
        else {
            "name": who.runtime,
            "version": who.version,
            "platform": who.platform,
            "core": who.core,
        },
        "seconds": round(outcome.seconds, 3),
        "passed": outcome.passed,
        "failed": outcome.failed,
        "not_offered": outcome.not_offered,
        "not_judged": outcome.unjudged,
        "results": [
            {
                "file": row.file,
                "kind": row.kind,
                "passed": row.passed,
                "refused": row.refused,
                "failed": row.failed,
                "not_offered": row.not_offered,
                "seconds": round(row.seconds, 6),
            }
            for row in outcome.rows
        ],
        "failures": [
            {
                "file": failure.file,
                "case": failure.case,
                "comment": failure.comment,
                "expected": failure.expected,
                "got": failure.got,
            }
            for failure in outcome.failures
        ],
        "reasons": [
            {"file": file.name, "cases": item.cases, "kind": item.kind, "reason": item.reason}
            for file in known
            for item in file.not_offered
        ],
        "notes": [{"file": file.name, "note": note} for file in known for note in file.notes],
        "problems": [{"what": what, "problem": problem} for what, problem in problems],
    }
