"""``keyferry policy``: the file that says who may do what with whom, tried, applied and undone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from keyferry_core.names import FOR
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    Value,
    WatchOption,
    group,
    home_option,
    name_parser,
    rows,
    show_list,
    table,
    user_name,
    warn,
    when,
    with_admin,
    write,
    write_json,
    write_table,
)
from keyferry_manager.policy import FILE_NAME, PolicyProblem

_SHOWN = 40
_MAX_WARNINGS = 10

commands = group("policy", "Say who may do what with whom, in one file with its own tests.")


def _subject_parser(text: str) -> str:
    name, found, party = text.partition(FOR)
    return name_parser(name) + FOR + name_parser(party) if found else name_parser(text)


FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help=f"Default: {FILE_NAME} in the home.", dir_okay=False),
]
ByOption = Annotated[
    str,
    typer.Option("--by", metavar="WHO", help="Who applies it, for the history. Default: the user."),
]


def _read(home: Path, file: Path | None) -> tuple[str, str]:
    """A file's text, and what it is called in sentences."""
    path = file or home / FILE_NAME
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except FileNotFoundError:
        raise PolicyProblem(
            f"there is no file {path}: write one (docs/policy.md), or name another."
        ) from None
    except UnicodeDecodeError:
        raise PolicyProblem(f"{path} is not UTF-8 text.") from None
    except OSError as error:
        raise PolicyProblem(f"{path} cannot be read: {error.strerror}.") from None


@commands.command()
def check(
    file: FileArgument = None, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Check a policy file, and run the tests inside it. Nothing changes."""
    text, source = _read(home, file)

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.policy_check(text, source)

    found = with_admin(home, work)
    if as_json:
        write_json(found)
        return
    _warn_of(found["unknown"])
    write(Text(f"{source} is good: {found['rules']} rules, {found['tests']} tests kept."))


@commands.command()
def diff(
    file: FileArgument = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show every pair.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show which pairs a file would give access or take it from, and which sessions would end."""
    text, source = _read(home, file)

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.policy_diff(text, source)

    difference = with_admin(home, work)
    if as_json:
        write_json(difference)
        return
    _show_difference(difference, show_all, "would end")


@commands.command()
def apply(
    file: FileArgument = None,
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Bring a policy file into force, when it keeps its own tests.

    A running manager follows within half a second, and ends the sessions that lost their access.
    """
    text, source = _read(home, file)

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.policy_apply(text, source, note=by or user_name())

    found = with_admin(home, work)
    unknown = found.pop("unknown")
    if as_json:
        write_json(found if found["changed"] else _without_changes(found))
        return
    _warn_of(unknown)
    if not found["changed"]:
        write(Text(f"Policy {found['id']} is this file already: nothing to do."))
        return
    _show_difference(found, False, "end now")
    write(Text(f"Policy {found['id']} is in force.", style="bold"))


@commands.command()
def rollback(
    number: Annotated[
        int | None,
        typer.Argument(
            metavar="[ID]", min=0, help="Which one, of the history. Default: the one before."
        ),
    ] = None,
    by: ByOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Bring an earlier policy back into force, as a new entry of the history; 0 is none at all.

    Its tests do not hold it up: the devices may have changed since, and they only warn.
    """

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.policy_rollback(number, note=by or user_name())

    found = with_admin(home, work)
    if as_json:
        write_json(found)
        return
    for item in found["broken"][:_MAX_WARNINGS]:
        warn(f"{item}.")
    _show_difference(found, False, "end now")
    what = f"policy {found['restores']} again" if found["restores"] else "no policy at all"
    write(Text(f"Policy {found['id']} is in force: {what}.", style="bold"))
    write(
        Text(
            f"{FILE_NAME} was not changed: 'keyferry policy show{home_option(home)}' writes what "
            "is in force."
        )
    )


@commands.command()
def history(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)] = 50,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """List the policies that were applied: which, when, by whom."""

    async def work(admin: Admin) -> Value:
        return await rows(admin.policy_history, limit)

    show_list(home, work, _listed, as_json=as_json, watch=watch)


def _listed(found: Value) -> Table | Text:
    lines: list[Sequence[str]] = []
    for position, item in enumerate(found):
        note = "in force" if position == 0 else ""
        if item["restores"] is not None:
            back = f"back to {item['restores'] or 'none'}"
            note = f"{note}, {back}" if note else back
        lines.append(
            (str(item["id"]), when(item["applied"]), item["by"], item["sha256"][:16], note)
        )
    return table(
        ("ID", "APPLIED", "BY", "SHA-256", ""),
        lines,
        "No policy yet: only 'keyferry allow' lets anybody ask for anybody.",
    )


@commands.command()
def show(
    number: Annotated[
        int | None, typer.Argument(metavar="[ID]", min=1, help="Default: the one in force.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write the text of an applied policy."""

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.policy(number)

    found = with_admin(home, work)
    if as_json:
        write_json(found)
        return
    typer.echo(found["text"], nl=False)


@commands.command()
def explain(
    initiator: Annotated[
        str,
        typer.Argument(
            metavar="FROM",
            parser=_subject_parser,
            help="The device that asks, or 'GATEWAY for NAME'.",
        ),
    ],
    responder: Annotated[
        str, typer.Argument(metavar="TO", parser=name_parser, help="The device it asks for.")
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="As if this file were in force.", dir_okay=False
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Say what FROM may do with TO, and which rule decides."""

    text, source = (None, FILE_NAME) if file is None else _read(home, file)

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.policy_explain(initiator, responder, text, source)

    found = with_admin(home, work)
    if as_json:
        write_json(found)
        return
    _warn_of(found["unknown"])
    write_table(
        ("WHAT", "ANSWER", "BECAUSE"),
        [
            (what, "allowed" if decision["allowed"] else "denied", decision["reason"])
            for what, decision in found["decisions"].items()
        ],
        "",
    )


# inside


def _warn_of(names: Sequence[str]) -> None:
    for name in names[:_MAX_WARNINGS]:
        warn(f"no device is called {name} yet.")
    if len(names) > _MAX_WARNINGS:
        warn(f"and {len(names) - _MAX_WARNINGS} more names are not known.")


def _without_changes(found: dict[str, Any]) -> dict[str, Any]:
    """What was in force already, without lists of what did not change."""
    return {key: found[key] for key in ("id", "applied", "by", "sha256", "restores", "changed")}


def _show_difference(difference: dict[str, Any], show_all: bool, ending: str) -> None:
    pairs = difference["pairs"]
    if not pairs:
        write("No pair gains or loses access.")
    else:
        shown = pairs if show_all else pairs[:_SHOWN]
        write_table(
            ("FROM", "TO", "GAINS", "LOSES"),
            [
                (item["from"], item["to"], ", ".join(item["gains"]), ", ".join(item["loses"]))
                for item in shown
            ],
            "",
        )
        left = len(pairs) - len(shown)
        if left or difference["more_pairs"]:
            at_least = "at least " if difference["more_pairs"] else ""
            write(Text(f"and {at_least}{left} more pairs (--all, --json)."))
    sessions = difference["sessions_ending"]
    for row in sessions[:_SHOWN]:
        write(Text(f"session {row['session'][:12]}, {row['from']} -> {row['to']}: {ending}"))
    left = len(sessions) - _SHOWN
    if left > 0:
        write(Text(f"and {left} more sessions {ending}."))
