"""``keyferry allow``: who may ask for whom, one pair at a time. What no rule allows is refused.

A pair is added to what the policy file allows, and is never against it: one that a test of the
policy in force denies is refused here. Taking a pair away is never held up.
"""

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from keyferry_manager.access import in_force
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    app,
    name_parser,
    utc,
    warn,
    with_store,
    write,
    write_json,
    write_table,
)
from keyferry_manager.config import Config
from keyferry_manager.policy import Policy, PolicyProblem, failures, forbidding
from keyferry_manager.problems import ChangedMeanwhile, StoreProblem
from keyferry_manager.store import AllowRule

if TYPE_CHECKING:
    from keyferry_manager.store import Store

# How often a rule is decided on anew when others change devices or rules meanwhile.
_ATTEMPTS = 10


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
) -> None:
    """Let FROM ask for a session with TO; without names, list the rules.

    A rule has one direction, and once the session stands both sides may send. It is added to what
    the policy file allows (keyferry policy). A running manager follows within half a second.
    """
    if initiator is None or responder is None:
        if initiator is not None or remove:
            raise typer.BadParameter("give both names: keyferry allow FROM TO.")
        _list(home, as_json)
        return
    if initiator == responder:
        raise typer.BadParameter("a device does not ask for itself: give two names.")

    async def work(_config: Config, store: "Store") -> tuple[bool, list[str], list[str]]:
        if remove:
            if not await store.disallow(initiator, responder):
                raise StoreProblem(
                    f"there is no rule from {initiator} to {responder}: 'keyferry allow' without "
                    "names lists those there are."
                )
            await store.audit("rule-removed", initiator, responder=responder)
            return True, [], await _broken(store)
        changed = await _allow(store, initiator, responder)
        if changed:
            await store.audit("rule-added", initiator, responder=responder)
        unknown = [name for name in (initiator, responder) if await store.device(name) is None]
        return changed, unknown, []

    _, (changed, unknown, broken) = with_store(home, work)
    for failure in broken:
        warn(f"the policy in force does not keep its own test any more: {failure}.")
    for name in unknown:
        warn(f"no device is called {name} yet; the rule holds as soon as there is one.")
    if as_json:
        write_json(
            {
                "from": initiator,
                "to": responder,
                "allowed": not remove,
                "changed": changed,
                "unknown": unknown,
            }
        )
    elif remove:
        write(Text(f"{initiator} may no longer ask for {responder}."))
    else:
        write(Text(f"{initiator} may {'' if changed else 'already '}ask for {responder}."))


async def _allow(store: "Store", initiator: str, responder: str) -> bool:
    """Write the rule down when the policy in force, as it is at that moment, lets it be."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(ChangedMeanwhile):
            return await _allow_once(store, initiator, responder)
    return await _allow_once(store, initiator, responder)


async def _allow_once(store: "Store", initiator: str, responder: str) -> bool:
    version = await store.data_version()
    await _check_forbidden(store, initiator, responder)
    return await store.allow(initiator, responder, expected=version)


async def _check_forbidden(store: "Store", initiator: str, responder: str) -> None:
    """PolicyProblem when a test of the policy in force denies anything to this pair."""
    rules = await in_force(store)
    assertion = forbidding(rules.policy, initiator, responder)
    if assertion is not None:
        raise PolicyProblem(
            f"{rules.label} denies this ({assertion}): change its test first, with 'keyferry "
            "policy apply'."
        )


async def _broken(store: "Store") -> list[str]:
    names = [device.name for device in await store.devices()]
    return failures(await in_force(store), names)


def _list(home: HomeOption, as_json: bool) -> None:
    async def work(_config: Config, store: "Store") -> tuple[list[AllowRule], Policy]:
        return await store.rules(), (await in_force(store)).policy

    _, (rules, policy) = with_store(home, work)
    if as_json:
        write_json(
            [
                {"from": rule.initiator, "to": rule.responder, "since": utc(rule.created_at)}
                for rule in rules
            ]
        )
        return
    write_table(
        ("FROM", "TO"),
        [(rule.initiator, rule.responder) for rule in rules],
        "No pair was allowed here; the policy in force has rules: 'keyferry policy show'."
        if policy.rules
        else "Nobody may ask for anybody: allow it with 'keyferry allow FROM TO'.",
    )
