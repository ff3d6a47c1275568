"""``keyferry allow``: who may ask for whom, one pair at a time. What no rule allows is refused.

A pair is added to what the policy file allows, and is never against it: one that a test of the
policy in force denies is refused here. Taking a pair away is never held up.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    Value,
    WatchOption,
    app,
    name_parser,
    rows,
    show_list,
    table,
    warn,
    with_admin,
    write,
    write_json,
)


@app.command()
def allow(
    initiator: Annotated[
        str | None,
        typer.Argument(metavar="[FROM", parser=name_parser, help="The device that asks."),
    ] = None,
    responder: Annotated[
        str | None,
        typer.Argument(metavar="TO]", parser=name_parser, help="The device that it asks for."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the rule away instead.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """Let FROM ask for a session with TO; without names, list the rules.

    A rule has one direction, and once the session stands both sides may send. It is added to what
    the policy file allows (keyferry policy). A running manager follows within half a second.
    """
    if initiator is None or responder is None:
        if initiator is not None or remove:
            raise typer.BadParameter("give both names: keyferry allow FROM TO.")
        _list(home, as_json, watch)
        return
    if watch:
        raise typer.BadParameter("--watch is for the list: keyferry allow --watch.")
    if initiator == responder:
        raise typer.BadParameter("a device does not ask for itself: give two names.")

    async def work(admin: Admin) -> dict[str, Any]:
        change = admin.disallow if remove else admin.allow
        return await change(initiator, responder)

    found = with_admin(home, work)
    changed = found["changed"]
    for failure in found["broken"]:
        warn(f"the policy in force does not keep its own test any more: {failure}.")
    for name in found["unknown"]:
        warn(f"no device is called {name} yet; the rule holds as soon as there is one.")
    if as_json:
        write_json({key: value for key, value in found.items() if key != "broken"})
    elif remove:
        write(Text(f"{initiator} may no longer ask for {responder}."))
    else:
        write(Text(f"{initiator} may {'' if changed else 'already '}ask for {responder}."))


def _list(home: Path, as_json: bool, watch: bool) -> None:
    policy = False

    async def work(admin: Admin) -> Value:
        nonlocal policy
        policy = (await admin.realm())["policy_rules"] > 0
        return await rows(admin.rules)

    def shown(found: Value) -> Table | Text:
        return table(
            ("FROM", "TO"),
            [(rule["from"], rule["to"]) for rule in found],
            "No pair was allowed here; the policy in force has rules: 'keyferry policy show'."
            if policy
            else "Nobody may ask for anybody: allow it with 'keyferry allow FROM TO'.",
        )

    show_list(home, work, shown, as_json=as_json, watch=watch)
