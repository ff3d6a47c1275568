"""Policies tried, applied and undone: the decisions beneath ``keyferry policy`` and ``allow``."""

import asyncio
import contextlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from keyferry_core.names import FOR, subject
from keyferry_manager.access import in_force
from keyferry_manager.policy import (
    Change,
    Policy,
    PolicyProblem,
    Rules,
    changes,
    digest,
    failures,
    forbidding,
    parse,
)
from keyferry_manager.problems import ChangedMeanwhile
from keyferry_manager.store.records import AppliedPolicy, SessionRow
from keyferry_manager.store.statements import by

if TYPE_CHECKING:
    from keyferry_manager.store import Store

# Changed pairs that are looked for: what a manager can list beside its relay.
MAX_CHANGES = 20_000
_MAX_SESSIONS = 100_000
# How often a rule is decided on anew when others change devices or rules meanwhile.
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class State:
    """What is in force, as of one ``version`` of the data."""

    version: int
    devices: list[str]
    applied: AppliedPolicy | None
    rules: Rules
    sessions: list[SessionRow]


def no_difference() -> dict[str, Any]:
    """What a policy changes that is in force already."""
    return _difference([], False, [])


def _difference(pairs: list[Change], more: bool, ending: list[SessionRow]) -> dict[str, Any]:
    return {
        "pairs": [
            {
                "from": item.initiator,
                "to": item.responder,
                "gains": list(item.gains),
                "loses": list(item.loses),
            }
            for item in pairs
        ],
        "more_pairs": more,
        "sessions_ending": [
            {"session": row.session, "from": _asked(row), "to": row.responder} for row in ending
        ],
    }


def _asked(row: SessionRow) -> str:
    return subject(row.initiator, row.on_behalf_of or "")


async def current(store: "Store", *, sessions: bool = True) -> State:
    """What is in force now; with the open sessions, where those matter."""
    version = await store.data_version()
    devices = [device.name for device in await store.devices()]
    rules = await in_force(store)
    applied = await store.policies.get()
    found = await store.sessions(_MAX_SESSIONS, open_only=True) if sessions else []
    return State(version, devices, applied, rules, found)


# A file of a megabyte against thousands of names takes seconds: in a thread, for the relay must go
# on meanwhile.


async def candidate(state: State, text: str, source: str) -> Rules:
    """The rules with another policy. PolicyProblem when the file does not keep its tests."""

    rules, found = await tried(state, text, source)
    if found:
        raise PolicyProblem(
            f"{source} does not keep {len(found)} of its {len(rules.policy.assertions)} tests, "
            "and is not applied.\n" + "\n".join(f"  {item}" for item in found)
        )
    return rules


async def tried(state: State, text: str, source: str) -> tuple[Rules, list[str]]:
    """The rules with another policy, and what of its tests they do not keep."""

    def work() -> tuple[Rules, list[str]]:
        rules = Rules(state.rules.pairs, parse(text, source), source)
        return rules, failures(rules, state.devices)

    return await asyncio.to_thread(work)


async def difference(state: State, after: Rules, most: int = MAX_CHANGES) -> dict[str, Any]:
    """What ``after`` would change, as JSON; ``most`` pairs of it."""

    def work() -> dict[str, Any]:
        found = list(islice(changes(state.rules, after, state.devices), most + 1))
        ending = [row for row in state.sessions if not after.allows(_asked(row), row.responder)]
        in_order = sorted(found[:most], key=lambda item: (item.initiator, item.responder))
        return _difference(in_order, len(found) > most, ending)

    return await asyncio.to_thread(work)


async def broken(store: "Store") -> list[str]:
    """What the policy in force says about itself and does not keep any more."""
    names = [device.name for device in await store.devices()]
    rules = await in_force(store)
    return await asyncio.to_thread(failures, rules, names)


async def apply(
    store: "Store", state: State, text: str, by_whom: str, restores: int | None, actor: str
) -> AppliedPolicy:
    """Bring a policy into force that was decided on in ``state``, and write down who did it."""
    sha256 = digest(text)
    applied = await store.policies.apply(
        text, sha256, by_whom, restores=restores, expected=state.version
    )
    event = "policy-applied" if restores is None else "policy-rolled-back"
    fields: dict[str, Any] = {"policy": applied.id, "by": applied.applied_by, "sha256": sha256}
    if restores is not None:
        fields["restores"] = restores
    await store.audit(event, **fields, **by(actor))
    return applied


async def earlier(store: "Store", state: State, number: int | None) -> AppliedPolicy | None:
    """The policy to go back to; None for the time before the first."""
    now = state.applied
    if now is None:
        raise PolicyProblem("no policy was applied: there is nothing to go back from.")
    if number is None:
        # One that was itself a way back is left behind together with what it undid.
        number = (now.id if now.restores is None else now.restores) - 1
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


def unknown(policy: Policy, devices: list[str]) -> list[str]:
    """Names that a policy mentions and that no device has."""
    return sorted({name.partition(FOR)[0] for name in policy.names} - set(devices))


async def allow(store: "Store", initiator: str, responder: str) -> bool:
    """Write a pair down when the policy in force, as it is at that moment, lets it be.

    False when it was there already. PolicyProblem when a test of the policy denies it anything.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(ChangedMeanwhile):
            return await _allow_once(store, initiator, responder)
    return await _allow_once(store, initiator, responder)


async def _allow_once(store: "Store", initiator: str, responder: str) -> bool:
    version = await store.data_version()
    rules = await in_force(store)
    assertion = forbidding(rules.policy, initiator, responder)
    if assertion is not None:
        raise PolicyProblem(
            f"{rules.label} denies this ({assertion}): change its test first, with 'keyferry "
            "policy apply'."
        )
    return await store.allow(initiator, responder, expected=version)
