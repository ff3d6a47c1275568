"""``keyferry ca rollover``: from one CA to the next, with both side by side."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from keyferry_manager.authority import rollover as files
from keyferry_manager.authority.chain import Chain
from keyferry_manager.authority.generations import State
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    ProblemGroup,
    home_option,
    moment,
    name_parser,
    user_name,
    utc,
    with_store,
    write,
    write_json,
    write_table,
)
from keyferry_manager.cli.ca import commands as ca
from keyferry_manager.config import Config
from keyferry_manager.problems import Conflict
from keyferry_manager.rollover import Rehearsal, rehearse

if TYPE_CHECKING:
    from keyferry_manager.store import Store

commands = typer.Typer(
    cls=ProblemGroup,
    help="Go from one CA to the next: start, wait until the devices know it, switch, wait until "
    "they have renewed, finish. Without a command: where that stands.",
)
ca.add_typer(commands, name="rollover")

StrandOption = Annotated[
    list[str] | None,
    typer.Option(
        "--strand",
        parser=name_parser,
        metavar="NAME",
        help="Leave this device behind. For each device that the rehearsal names.",
    ),
]
StrandAllOption = Annotated[
    bool, typer.Option("--strand-all", help="Leave behind every device that it names.")
]

_NEXT = {
    None: "'keyferry ca rollover start' makes the next CA beside this one",
    "started": "'keyferry ca rollover switch' lets the new CA sign, 'abort' takes it back",
    "switched": "'keyferry ca rollover finish' drops the old CA",
    "finished": "the roll-over is done",
}


@commands.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Rehearse the steps to come: name the devices that each would leave behind.",
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Where a roll-over stands."""
    if context.invoked_subcommand is not None:
        return

    async def work(config: Config, store: "Store") -> tuple[Chain, list[Rehearsal]]:
        chain = Chain(config)
        return chain, await rehearse(config, store, chain, time.time())

    _, (chain, steps) = with_store(home, work)
    if as_json:
        write_json({**_state(chain), "steps": [_step(step) for step in steps]})
        return
    _show_state(chain)
    for step in steps:
        write()
        write(Text(f"{step.step}: {step.ready} of {step.devices} devices are ready", style="bold"))
        if dry_run or step.stranded:
            write_table(
                ("LEFT BEHIND", "WHY", "WHAT TO DO"),
                [(item.name, item.why, item.remedy) for item in step.stranded],
                "It leaves nobody behind.",
            )
    write()
    write(f"Next: {_NEXT[chain.state.phase]}.")


@commands.command()
def start(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Make the next root and issuing CA. Devices learn of them by themselves; the old CA signs.

    Needs the old root's key in its file, for this moment only.
    """
    _carry_out(home, as_json, "started", lambda config: files.start(config, time.time()))


@commands.command()
def switch(
    strand: StrandOption = None,
    strand_all: StrandAllOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Let the new CA sign: devices renew with it, and both are believed."""
    _carry_out(
        home,
        as_json,
        "switched",
        lambda config: files.switch(config, time.time()),
        None if strand_all else set(strand or ()),
    )


@commands.command()
def finish(
    strand: StrandOption = None,
    strand_all: StrandAllOption = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Believe the old CA no more, and remove its keys."""
    _carry_out(
        home,
        as_json,
        "finished",
        lambda config: files.finish(config, time.time()),
        None if strand_all else set(strand or ()),
    )


@commands.command()
def abort(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Take back 'start': the next CA has signed nothing yet, and is forgotten."""
    _carry_out(home, as_json, "aborted", files.abort)


def _carry_out(
    home: Path,
    as_json: bool,
    phase: str,
    change: Callable[[Config], State | None],
    strand: set[str] | None = None,
) -> None:
    """Begin a phase, and write it into the audit trail. ``strand`` None: whoever is left behind."""
    step = {"switched": "switch", "finished": "finish"}.get(phase)

    async def work(config: Config, store: "Store") -> Chain:
        with files.exclusive(config):
            behind: list[str] = []
            for rehearsed in await rehearse(config, store, Chain(config), time.time()):
                if rehearsed.step == step:
                    behind = [item.name for item in rehearsed.stranded]
            if strand is not None:
                _refuse_stranding(step or "", [name for name in behind if name not in strand])
            change(config)
            chain = Chain(config)
            await store.audit(
                f"ca-rollover-{phase}",
                generation=chain.current.name or "1",
                stranded=behind,
                actor=f"user:{user_name()}",
            )
            return chain

    _, chain = with_store(home, work)
    if as_json:
        write_json(_state(chain))
        return
    _show_state(chain)
    write()
    write(f"A manager that serves this home goes on with it at once. Next: {_next(chain)}.")
    if chain.state.phase in ("started", "switched"):
        write(f"Who is not ready yet: keyferry ca rollover --dry-run{home_option(home)}")


def _next(chain: Chain) -> str:
    return _NEXT[chain.state.phase]


def _refuse_stranding(step: str, names: list[str]) -> None:
    if not names:
        return
    more = "" if len(names) <= 5 else f" and {len(names) - 5} more"
    raise Conflict(
        f"{step} would leave {len(names)} device{'s' if len(names) > 1 else ''} behind: "
        f"{', '.join(names[:5])}{more}. 'keyferry ca rollover --dry-run' says why and what to do; "
        "--strand NAME (or --strand-all) leaves them behind."
    )


def _state(chain: Chain) -> dict[str, Any]:
    old, new = _old_and_new(chain)
    return {
        "phase": chain.state.phase,
        "since": utc(chain.state.since or None),
        "signs": chain.current.name or "1",
        "old": old,
        "new": new,
    }


def _old_and_new(chain: Chain) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Both generations; only one of them where there is one."""
    current, other = _generation(chain, True), _generation(chain, False)
    if chain.state.phase == "started":
        return current, other
    if chain.state.phase == "switched":
        return other, current
    return None, current


def _generation(chain: Chain, signs: bool) -> dict[str, Any] | None:
    generation = chain.current if signs else chain.other
    if generation is None:
        return None
    return {
        "generation": generation.name or "1",
        "folder": str(generation.folder),
        "signs": signs,
        "root_expires": utc(generation.root.not_valid_after_utc.timestamp()),
        "issuing_expires": utc(generation.issuing.not_valid_after_utc.timestamp()),
    }


def _step(step: Rehearsal) -> dict[str, Any]:
    return {
        "step": step.step,
        "devices": step.devices,
        "ready": step.ready,
        "stranded": [
            {"name": item.name, "why": item.why, "remedy": item.remedy} for item in step.stranded
        ],
    }


def _show_state(chain: Chain) -> None:
    state = chain.state
    what = {
        None: "No roll-over is under way.",
        "started": "A roll-over has started: the old CA signs, the new one is made known.",
        "switched": "The new CA signs; what the old one signed is still believed.",
        "finished": "The last roll-over is finished.",
    }[state.phase]
    write(Text(what, style="bold"))
    if state.since:
        write(f"Since {moment(state.since)}.")
    rows = [item for item in _old_and_new(chain) if item is not None]
    write_table(
        ("GENERATION", "SIGNS", "ROOT UNTIL", "ISSUING UNTIL", "FOLDER"),
        [
            (
                row["generation"],
                "yes" if row["signs"] else "",
                row["root_expires"],
                row["issuing_expires"],
                row["folder"],
            )
            for row in rows
        ],
        "",
    )
