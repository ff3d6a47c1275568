"""``keyferry sip``: raw SIP messages, judged as the manager judges them."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.text import Text

from keyferry_core import sip_check, sip_codec
from keyferry_core.sip_fields import SipError
from keyferry_manager.cli.base import (
    JsonOption,
    group,
    printable,
    report,
    write,
    write_json,
)

_REFUSED, _NOT_READ = 1, 2
_CHUNK = 65536
# A datagram cannot be longer; what is longer is refused unread.
_DATAGRAM = 65536

commands = group("sip", "Look at SIP messages as the manager does.")


@commands.callback()
def _group() -> None:
    """Look at SIP messages as the manager does."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one message. ``status`` is None and ``reason`` empty when it is accepted."""

    file: str
    message: int  # its place in the file, from 1
    kind: str  # "request", "response", or "" when that could not be read
    method: str  # of the request, or the one that CSeq of a response names
    outcome: str  # "accepted" or "refused"
    status: int | None
    phrase: str
    reason: str


@commands.command()
def check(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Raw messages; - is standard input."),
    ],
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Each file is a stream of messages, as a TLS link has them."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say of raw SIP messages whether they are accepted, or with which status they are refused.

    Each file is one datagram: the body goes to its end when there is no Content-Length, and what
    follows the message is dropped (RFC 3261, section 18.3). With *--stream* each file is what came
    over one connection: any number of messages, each with a Content-Length, and nothing is read
    behind one whose framing is broken.

    A refused response is dropped, not answered; the status says what is wrong with it.

    Exit code 0: all accepted. 1: one was refused. 2: a file could not be read.

    Examples:

        keyferry sip check tests/vectors/rfc4475/*.dat

        keyferry sip check --stream --json capture.raw
    """
    verdicts: list[Verdict] = []
    unread = False
    for name in files:
        try:
            if name == "-":
                verdicts += _judge("-", sys.stdin.buffer, stream)
            else:
                with Path(name).open("rb") as file:
                    verdicts += _judge(name, file, stream)
        except OSError as error:
            report(f"{printable(name)}: {error.strerror}.")
            unread = True
    if as_json:
        write_json([asdict(verdict) for verdict in verdicts])
    else:
        for verdict in verdicts:
            write(Text(printable(_line(verdict, stream))))
    if unread:
        raise typer.Exit(_NOT_READ)
    if any(verdict.outcome == "refused" for verdict in verdicts):
        raise typer.Exit(_REFUSED)


def _line(verdict: Verdict, numbered: bool) -> str:
    where = f"{verdict.file}:{verdict.message}" if numbered else verdict.file
    if verdict.outcome == "accepted":
        return f"{where}: accepted"
    dropped = ", a response: dropped" if verdict.kind == "response" else ""
    return f"{where}: {verdict.status} {verdict.phrase} ({verdict.reason}{dropped})"


def _judge(name: str, file: BinaryIO, stream: bool) -> Iterator[Verdict]:
    if stream:
        yield from _judge_stream(name, file)
        return
    message = None
    try:
        message = sip_codec.parse(file.read(_DATAGRAM + 1))
        sip_check.check(message)
    except SipError as error:
        yield _refused(name, 1, error)
        return
    yield _accepted(name, 1, message)


def _judge_stream(name: str, file: BinaryIO) -> Iterator[Verdict]:
    reader = sip_codec.Reader()
    place = 0
    while chunk := file.read(_CHUNK):
        reader.feed(chunk)
        while True:
            try:
                message = reader.next_message()
            except SipError as error:
                yield _refused(name, place + 1, error)
                return
            if message is None:
                break
            place += 1
            try:
                sip_check.check(message)
            except SipError as error:
                yield _refused(name, place, error)
            else:
                yield _accepted(name, place, message)
    if reader.waiting or not place:
        yield _refused(name, place + 1, SipError(400, "the stream ends inside a message"))


def _accepted(name: str, place: int, message: sip_codec.Message) -> Verdict:
    return Verdict(name, place, *_what(message), "accepted", None, "", "")


def _refused(name: str, place: int, error: SipError) -> Verdict:
    status = error.sip_status
    reason = error.detail.removeprefix("sip: ")
    phrase = sip_codec.reason_phrase(status)
    return Verdict(name, place, *_what(error.message), "refused", status, phrase, reason)


def _what(message: sip_codec.Message | None) -> tuple[str, str]:
    """Kind and method of a message, as far as they can be told."""
    if message is None or not (message.method or message.status):
        return "", ""
    if message.method:
        return "request", message.method.decode()
    try:
        return "response", message.cseq()[1].decode()
    except SipError:
        return "response", ""
