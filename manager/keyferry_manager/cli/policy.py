"""``keyferry policy``: the file that says who may do what with whom, tried, applied and undone."""

import getpass
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from keyferry_manager.access import in_force
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    ProblemGroup,
    app,
    home_option,
    moment,
    name_parser,
    utc,
    warn,
    with_store,
    write,
    write_json,
    write_table,
)
from keyferry_manager.config import Config
from keyferry_manager.policy import (
    FILE_NAME,
    WHATS,
    Change,
    Policy,
    PolicyProblem,
    Rules,
    changes,
    digest,
    failures,
    parse,
)
from keyferry_manager.store import AppliedPolicy, SessionRow

if TYPE_CHECKING:
    from keyferry_manager.store import Store

# Changed pairs that are looked for, and shown where nobody asks for all.
_MAX_CHANGES = 100_000
_SHOWN = 40
_MAX_SESSIONS = 100_000
_MAX_WARNINGS = 10

commands = typer.Typer(
    cls=ProblemGroup,
    help="Say who may do what with whom, in one file with its own tests.",
    no_args_is_help=True,
)
app.add_typer(commands, name="policy")

FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help=f"Default: {FILE_NAME} in the home.", dir_okay=False),
]
ByOption = Annotated[
    str,
    typer.Option("--by", metavar="WHO", help="Who applies it, for the history. Default: the user."),
]


@dataclass(frozen=True, slots=True)
class _State:
    """What is in force, as of one ``version`` of the data."""

    version: int
    devices: list[str]
    applied: AppliedPolicy | None
    rules: Rules
    sessions: list[SessionRow]


@dataclass(frozen=True, slots=True)
class _Difference:
    """What another policy would change."""

    pairs: list[Change]
    more: bool
    ending: list[SessionRow]


async def _state(store: "Store") -> _State:
    version = await store.data_version()
    devices = [device.name for device in await store.devices()]
    rules = await in_force(store)
    applied = await store.policies.get()
    sessions = await store.sessions(_MAX_SESSIONS, open_only=True)
    return _State(version, devices, applied, rules, sessions)


def _candidate(state: _State, text: str, source: str) -> Rules:
    """The rules with another policy. PolicyProblem when the file does not keep its tests."""
    rules = Rules(state.rules.pairs, parse(text, source), source)
    broken = failures(rules, state.devices)
    if broken:
        raise PolicyProblem(
            f"{source} does not keep {len(broken)} of its {len(rules.policy.assertions)} tests, "
            "and is not applied.\n" + "\n".join(f"  {item}" for item in broken)
        )
    return rules


def _difference(state: _State, after: Rules) -> _Difference:
    found = list(islice(changes(state.rules, after, state.devices), _MAX_CHANGES + 1))
    ending = [row for row in state.sessions if not after.allows(row.initiator, row.responder)]
    found_in_order = sorted(found[:_MAX_CHANGES], key=lambda item: (item.initiator, item.responder))
    return _Difference(found_in_order, len(found) > _MAX_CHANGES, ending)


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

    async def work(_config: Config, store: "Store") -> _State:
        return await _state(store)

    _, state = with_store(home, work)
    rules = _candidate(state, text, source)
    unknown = _unknown(rules.policy, state.devices)
    if as_json:
        write_json({**_counted(rules.policy), "sha256": digest(text), "unknown": unknown})
        return
    _warn_of(unknown)
    counts = _counted(rules.policy)
    write(Text(f"{source} is good: {counts['rules']} rules, {counts['tests']} tests kept."))


@commands.command()
def diff(
    file: FileArgument = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show every pair.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show which pairs a file would give access or take it from, and which sessions would end."""
    text, source = _read(home, file)

    async def work(_config: Config, store: "Store") -> _State:
        return await _state(store)

    _, state = with_store(home, work)
    difference = _difference(state, _candidate(state, text, source))
    if as_json:
        write_json(_difference_json(difference))
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

    async def work(_config: Config, store: "Store") -> tuple[Any, ...]:
        state = await _state(store)
        rules = _candidate(state, text, source)
        if state.applied is not None and state.applied.text == text:
            return state, rules, None, state.applied
        difference = _difference(state, rules)
        applied = await _apply(store, state, text, by or _user(), None)
        return state, rules, difference, applied

    _, (state, rules, difference, applied) = with_store(home, work)
    unknown = _unknown(rules.policy, state.devices)
    if as_json:
        changed = {} if difference is None else _difference_json(difference)
        write_json({**_applied_json(applied), "changed": difference is not None, **changed})
        return
    _warn_of(unknown)
    if difference is None:
        write(Text(f"Policy {applied.id} is this file already: nothing to do."))
        return
    _show_difference(difference, False, "end now")
    write(Text(f"Policy {applied.id} is in force.", style="bold"))


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

    async def work(_config: Config, store: "Store") -> tuple[Any, ...]:
        state = await _state(store)
        earlier = await _earlier(store, state, number)
        text, restores = ("", 0) if earlier is None else (earlier.text, earlier.id)
        rules = Rules(state.rules.pairs, parse(text, f"policy {restores}"), f"policy {restores}")
        difference = _difference(state, rules)
        applied = await _apply(store, state, text, by or _user(), restores)
        return difference, applied, failures(rules, state.devices)

    _, (difference, applied, broken) = with_store(home, work)
    if as_json:
        write_json({**_applied_json(applied), **_difference_json(difference), "broken": broken})
        return
    for item in broken[:_MAX_WARNINGS]:
        warn(f"{item}.")
    _show_difference(difference, False, "end now")
    what = f"policy {applied.restores} again" if applied.restores else "no policy at all"
    write(Text(f"Policy {applied.id} is in force: {what}.", style="bold"))
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
) -> None:
    """List the policies that were applied: which, when, by whom."""

    async def work(_config: Config, store: "Store") -> list[AppliedPolicy]:
        return await store.policies.history(limit)

    _, found = with_store(home, work)
    if as_json:
        write_json([_applied_json(item) for item in found])
        return
    rows: list[Sequence[str]] = []
    for position, item in enumerate(found):
        note = "in force" if position == 0 else ""
        if item.restores is not None:
            back = f"back to {item.restores or 'none'}"
            note = f"{note}, {back}" if note else back
        when = moment(item.applied_at)
        rows.append((str(item.id), when, item.applied_by, item.sha256[:16], note))
    write_table(
        ("ID", "APPLIED", "BY", "SHA-256", ""),
        rows,
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

    async def work(_config: Config, store: "Store") -> AppliedPolicy:
        found = await store.policies.get(number)
        if found is None:
            which = "no policy was applied" if number is None else f"there is no policy {number}"
            raise PolicyProblem(f"{which}: 'keyferry policy history' lists those there are.")
        return found

    _, found = with_store(home, work)
    if as_json:
        write_json({**_applied_json(found), "text": found.text})
        return
    typer.echo(found.text, nl=False)


@commands.command()
def explain(
    initiator: Annotated[
        str, typer.Argument(metavar="FROM", parser=name_parser, help="The device that asks.")
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

    async def work(_config: Config, store: "Store") -> _State:
        return await _state(store)

    candidate = None if file is None else _read(home, file)
    _, state = with_store(home, work)
    rules = state.rules
    if candidate is not None:
        text, source = candidate
        rules = Rules(state.rules.pairs, parse(text, source), source)
    decisions = [(what, rules.decide(initiator, responder, what)) for what in WHATS]
    unknown = [name for name in (initiator, responder) if name not in state.devices]
    if as_json:
        write_json(
            {
                "from": initiator,
                "to": responder,
                "decisions": {
                    what: {"allowed": decision.allowed, "reason": decision.reason}
                    for what, decision in decisions
                },
                "rules": [str(rule) for rule in rules.about(initiator, responder)],
                "unknown": unknown,
            }
        )
        return
    _warn_of(unknown)
    write_table(
        ("WHAT", "ANSWER", "BECAUSE"),
        [
            (what, "allowed" if decision.allowed else "denied", decision.reason)
            for what, decision in decisions
        ],
        "",
    )


# inside


async def _apply(
    store: "Store", state: _State, text: str, by: str, restores: int | None
) -> AppliedPolicy:
    sha256 = digest(text)
    applied = await store.policies.apply(
        text, sha256, by, restores=restores, expected=state.version
    )
    event = "policy-applied" if restores is None else "policy-rolled-back"
    fields = {"policy": applied.id, "by": applied.applied_by, "sha256": sha256}
    if restores is not None:
        fields["restores"] = restores
    await store.audit(event, **fields)
    return applied


async def _earlier(store: "Store", state: _State, number: int | None) -> AppliedPolicy | None:
    """The policy to go back to; None for the time before the first."""
    current = state.applied
    if current is None:
        raise PolicyProblem("no policy was applied: there is nothing to go back from.")
    if number is None:
        # One that was itself a way back is left behind together with what it undid.
        number = (current.id if current.restores is None else current.restores) - 1
        if number < 0:
            raise PolicyProblem("this is the time before the first policy: name one to go to.")
    while number:
        found = await store.policies.get(number)
        if found is None:
            raise PolicyProblem(
                f"there is no policy {number}: 'keyferry policy history' lists those there are."
            )
        if found.restores is None:
            return found
        number = found.restores
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _unknown(policy: Policy, devices: Iterable[str]) -> list[str]:
    return sorted(policy.names - set(devices))


def _warn_of(names: Sequence[str]) -> None:
    for name in names[:_MAX_WARNINGS]:
        warn(f"no device is called {name} yet.")
    if len(names) > _MAX_WARNINGS:
        warn(f"and {len(names) - _MAX_WARNINGS} more names are not known.")


def _counted(policy: Policy) -> dict[str, Any]:
    return {"rules": len(policy.rules), "tests": len(policy.assertions)}


def _show_difference(difference: _Difference, show_all: bool, ending: str) -> None:
    if not difference.pairs:
        write("No pair gains or loses access.")
    else:
        shown = difference.pairs if show_all else difference.pairs[:_SHOWN]
        write_table(
            ("FROM", "TO", "GAINS", "LOSES"),
            [
                (item.initiator, item.responder, ", ".join(item.gains), ", ".join(item.loses))
                for item in shown
            ],
            "",
        )
        left = len(difference.pairs) - len(shown)
        if left or difference.more:
            at_least = "at least " if difference.more else ""
            write(Text(f"and {at_least}{left} more pairs (--all, --json)."))
    for row in difference.ending[:_SHOWN]:
        session = row.session[:12]
        write(Text(f"session {session}, {row.initiator} -> {row.responder}: {ending}"))
    left = len(difference.ending) - _SHOWN
    if left > 0:
        write(Text(f"and {left} more sessions {ending}."))


def _difference_json(difference: _Difference) -> dict[str, Any]:
    return {
        "pairs": [
            {
                "from": item.initiator,
                "to": item.responder,
                "gains": list(item.gains),
                "loses": list(item.loses),
            }
            for item in difference.pairs
        ],
        "more_pairs": difference.more,
        "sessions_ending": [
            {"session": row.session, "from": row.initiator, "to": row.responder}
            for row in difference.ending
        ],
    }


def _applied_json(applied: AppliedPolicy) -> dict[str, Any]:
    return {
        "id": applied.id,
        "applied": utc(applied.applied_at),
        "by": applied.applied_by,
        "sha256": applied.sha256,
        "restores": applied.restores,
    }
