"""``keyferry audit``: the trail shown, followed, verified and exported."""

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    LimitOption,
    Value,
    app,
    ending_quietly,
    follow_changes,
    name_parser,
    printable,
    rows,
    show_list,
    table,
    warn,
    when,
    with_store,
    write,
    write_json,
    write_line,
)
from keyferry_manager.config import Config
from keyferry_manager.problems import ConfigProblem
from keyferry_manager.store import AuditEntry
from keyferry_manager.store.chain import Chain, ChainBroken

if TYPE_CHECKING:
    from cryptography import x509

    from keyferry_manager.store import Store

_PAGE = 1000
# Of a line of an export: an entry's fields are bounded by what the manager writes.
_MAX_LINE = 1 << 20
_TEXTS = ("event", "outcome", "name", "address", "detail", "previous", "hash")

commands = typer.Typer(help="What happened: show it, prove it whole, export it.")
app.add_typer(commands, name="audit")

OfOption = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", parser=name_parser, help="Of this device only."),
]
EventOption = Annotated[
    str, typer.Option(metavar="EVENT", help="Only this event, as in enrolment-refused.")
]
FollowOption = Annotated[
    bool,
    typer.Option("--follow", "-f", "--watch", help="Go on with what is new, until Ctrl-C."),
]


@commands.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    limit: LimitOption = 50,
    device: OfOption = None,
    event: EventOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show the end of the audit trail, newest last; with a command, see there."""
    if context.invoked_subcommand is None:
        tail(limit, device, event, False, home, as_json)


@commands.command()
def tail(
    limit: LimitOption = 50,
    device: OfOption = None,
    event: EventOption = "",
    follow: FollowOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show the end of the audit trail, newest last. With --follow and --json, a line an entry."""

    async def ask(admin: Admin, size: int, cursor: str | None) -> dict[str, Any]:
        return await admin.audit(size, cursor, device=device, event=event or None)

    async def newest(admin: Admin) -> Value:
        return (await rows(partial(ask, admin), limit))[::-1]

    if not follow:
        show_list(home, newest, _table, as_json=as_json)
        return
    last: int | None = None

    async def new(admin: Admin) -> Value:
        nonlocal last
        if last is None:
            # What comes after this is new, whatever device or event it is of.
            last = until = max((item["id"] for item in (await admin.audit(1))["items"]), default=0)
            return [item for item in await newest(admin) if item["id"] <= until]
        since = last
        found = await rows(lambda size, cursor: admin.audit(size, cursor, after=since))
        last = max((item["id"] for item in found), default=last)
        return [
            item
            for item in found
            if (not device or item["name"] == device) and (not event or item["event"] == event)
        ]

    with ending_quietly():
        follow_changes(home, new, lambda found: _show_lines(found, as_json))


@commands.command()
def head(
    home: HomeOption = DEFAULT_HOME,
    as_json: Annotated[
        bool, typer.Option("--json", help="With the manager's signature, for verify --kept.")
    ] = False,
) -> None:
    """Show the number and the hash of the newest entry: keep it where nobody of here can write.

    ``keyferry audit verify --head HASH`` then finds a trail that was cut off, or written anew.
    """

    async def work(_config: Config, store: "Store") -> list[AuditEntry]:
        return await store.audit_entries(1)

    config, entries = with_store(home, work)
    number, digest = (entries[0].id, entries[0].hash) if entries else (0, "0" * 64)
    if as_json:
        write_json(_signed(config, number, digest))
    else:
        write(Text(f"entry {number}, {digest}"))


@commands.command()
def verify(
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="An export instead of the database."
        ),
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option("--head", metavar="HASH", help="A hash that must be among its entries."),
    ] = None,
    kept: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A signed head, of keyferry audit head --json.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="The root CA, where no home is."
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Verify that no entry was changed, removed, or put elsewhere, and that none is missing at
    the end.

    The end is held to the head that the manager signed into its home, to that of the export, and
    to every --head and --kept.
    """
    from keyferry_manager.audit import heads as signed  # takes long

    for text in heads or ():
        if len(text) != 64 or not set(text.lower()) <= set("0123456789abcdef"):
            raise typer.BadParameter(f"{text!r} is no hash: 64 hexadecimal digits.")
    anchors = _roots(root, home)
    known = [*(heads or ()), *(signed.read(path, *anchors).hash for path in kept or ())]
    if file is not None:
        found = _verify_file(file, known, anchors)
    else:
        here = home / signed.FILE_NAME
        if here.exists():
            known.append(signed.read(here, *anchors).hash)

        async def work(_config: Config, store: "Store") -> Chain:
            chain = Chain(known)
            async for entry in _from(store, 0):
                chain.follow(entry)
            chain.finish()
            return chain

        _, found = with_store(home, work)
    if as_json:
        result = {"entries": found.entries, "last": found.last, "head": found.head}
        write_json({**result, "heads_checked": len(known), "signatures_checked": bool(anchors)})
        return
    write(Text(f"{found.entries} entries, unbroken. The head is entry {found.last},"))
    write(Text(found.head))
    if not anchors:
        warn("there is no root CA to check signatures with: name it with --root or --home.")
    elif not known and file is None:
        warn(
            "no head was kept, so that a cut end would not show: see 'keyferry audit head --help'."
        )


@commands.command()
def export(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A file that does not exist yet, of mode 0600."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Write the whole trail as JSON lines, each entry with its hash, the signed head at the end.

    ``keyferry audit verify --file FILE`` verifies it, on any machine.
    """

    async def work(config: Config, store: "Store") -> int:
        with _output(file) as out:
            number, digest, count = 0, "0" * 64, 0
            async for entry in _from(store, 0):
                number, digest, count = entry.id, entry.hash, count + 1
                out.write(json.dumps(_whole(entry)) + "\n")
            out.write(json.dumps({"head": _signed(config, number, digest)}) + "\n")
            out.flush()
        return count

    _, count = with_store(home, work)
    if file is not None:
        write(Text(f"{count} entries in {file}."))


# inside


async def _from(store: "Store", last: int) -> AsyncIterator[AuditEntry]:
    while True:
        entries = await store.audit_chain(last, _PAGE)
        for entry in entries:
            last = entry.id
            yield entry
        if len(entries) < _PAGE:
            return


def _output(file: Path | None) -> Any:
    if file is None:
        return nullcontext(sys.stdout)
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        return os.fdopen(os.open(file, flags, 0o600), "w", encoding="ascii")
    except OSError as error:
        raise ConfigProblem(f"{file} cannot be made: {error.strerror}.") from None


def _signed(config: Config, number: int, digest: str) -> dict[str, Any]:
    from keyferry_manager.audit.heads import Head, sign
    from keyferry_manager.authority.chain import SERVER_FILE

    head = Head(number, digest, round(time.time(), 3))
    return sign(head, config.realm, config.home / SERVER_FILE)


def _roots(root: Path | None, home: Path) -> "list[x509.Certificate]":
    from keyferry_manager.authority import files
    from keyferry_manager.authority.chain import CA_FOLDER
    from keyferry_manager.authority.generations import every_root

    return every_root(home / CA_FOLDER) if root is None else files.load_certificates(root)


def _verify_file(file: Path, heads: list[str], roots: "list[x509.Certificate]") -> Chain:
    """Verify an export: its entries, then the signed head in its last line."""
    from keyferry_manager.audit import heads as signed

    chain = Chain(heads)
    ended: signed.Head | None = None
    for number, line in enumerate(_lines(file), 1):
        if ended is not None:
            raise ChainBroken(f"{file}, line {number}: there is more after the head.")
        if isinstance(line, dict) and "head" in line:
            ended = signed.check(line["head"], *roots)
        else:
            chain.follow(_entry(line, f"{file}, line {number}"))
    if ended is None:
        raise ChainBroken(f"{file} ends without a head: its end was cut off.", chain.last)
    if ended.hash != chain.head:
        raise ChainBroken(
            f"{file} ends with entry {chain.last}, and its signed head is entry {ended.entry}: "
            "entries at its end were removed.",
            chain.last,
        )
    chain.finish()
    return chain


def _lines(file: Path) -> Iterator[object]:
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(_MAX_LINE + 1):
            number += 1
            try:
                yield json.loads(line[:_MAX_LINE])
            except (ValueError, RecursionError):
                raise ChainBroken(f"{file}, line {number} is no JSON.") from None


def _entry(line: object, where: str) -> AuditEntry:
    keys = {"id", "at", "fields", *_TEXTS}
    if (
        not isinstance(line, dict)
        or line.keys() != keys
        or not all(isinstance(line[key], str) for key in _TEXTS)
        or type(line["id"]) is not int
        or type(line["at"]) not in (int, float)
        or not isinstance(line["fields"], dict)
    ):
        raise ChainBroken(f"{where} is not an entry of an audit trail.")
    return AuditEntry(**line)


def _whole(entry: AuditEntry) -> dict[str, Any]:
    names = ("id", "at", *_TEXTS)
    return {name: getattr(entry, name) for name in names} | {"fields": dict(entry.fields)}


def _show_lines(found: Value, as_json: bool) -> None:
    for entry in found:
        if as_json:
            write_line(entry)
        else:
            write(Text("  ".join(printable(cell) for cell in _row(entry) if cell)))
    sys.stdout.flush()


def _table(found: Value) -> Table | Text:
    columns = ("TIME", "EVENT", "OUTCOME", "NAME", "ADDRESS", "DETAIL")
    return table(columns, [_row(entry) for entry in found], "Nothing has happened yet.")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    fields = entry["fields"].items()
    return (
        when(entry["at"]),
        entry["event"],
        entry["outcome"],
        entry["name"],
        entry["address"],
        entry["detail"] or " ".join(f"{key}={json.dumps(value)}" for key, value in fields),
    )
