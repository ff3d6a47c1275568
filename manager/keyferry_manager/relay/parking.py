"""Sessions over a restart of the manager: what one run leaves for the next.

A manager that is stopped in order closes its links but ends no session that both devices could go
on with. The next run takes them over when it starts within ``session_grace``; it also takes the
run's own identifier, by which devices see that nothing was lost. A manager that was killed leaves
nothing, and its devices see another identifier.
"""

from collections.abc import Callable
from typing import Any

from keyferry_manager.registry import Link, Session
from keyferry_manager.registry.sessions import State
from keyferry_manager.relay.relay import Relay

Document = dict[str, Any]


def suspend(relay: Relay, give_up: Callable[[Link], None] = lambda link: None) -> Document | None:
    """End what cannot survive, close every link, and return what the next run is to know.

    None when there is nothing to survive. ``give_up`` is called for each link while all of them
    are still there.
    """
    kept: list[Session] = []
    names: set[str] = set()
    for session in relay.sessions.all():
        parties = (session.initiator, session.responder)
        known = [relay.registry.get(name) for name in parties]
        survives = (
            relay.settings.session_grace > 0
            and session.state is State.ESTABLISHED
            and all(presence is not None and presence.instance is not None for presence in known)
        )
        if survives:
            kept.append(session)
            names.update(parties)
        else:
            relay.end_for_all(session, "peer-gone")
    instances = {
        presence.name: presence.instance.hex()
        for presence in relay.registry
        if presence.name in names and presence.instance is not None
    }
    # While the senders are still there: else it depended on whose link ends first.
    relay.fail_deliveries("peer-gone")
    links = [presence.link for presence in relay.registry if presence.link is not None]
    for link in links:
        give_up(link)
    for link in links:
        relay.link_down(link, False, "manager-stopped")
    for link in links:
        link.close()
    if not kept:
        return None
    return {
        "run": relay.instance.hex(),
        "instances": instances,
        "sessions": [
            {
                "session": session.id.hex(),
                "initiator": session.initiator,
                "responder": session.responder,
                "profile": session.profile,
                "started_at": session.started_at,
                "messages": session.messages,
                "octets": session.octets,
                "request": session.request,
                "on_behalf_of": session.on_behalf_of,
            }
            for session in kept
        ],
    }


def resume(relay: Relay, document: Document) -> list[Session]:
    """Take over what ``suspend`` of an earlier run returned; the sessions that live on.

    Names and rules are not looked at: ``set_rules`` must follow.
    """
    relay.instance = bytes.fromhex(document["run"])
    now = relay.now()
    for name, instance in document["instances"].items():
        relay.registry.expect(name, bytes.fromhex(instance), now + relay.settings.session_grace)
    found = []
    for entry in document["sessions"]:
        session = Session(
            bytes.fromhex(entry["session"]),
            entry["initiator"],
            entry["responder"],
            entry["started_at"],
            now,
            profile=entry["profile"],
            messages=entry["messages"],
            octets=entry["octets"],
            request=entry["request"],
            asked=now,
            on_behalf_of=entry.get("on_behalf_of", ""),
        )
        relay.sessions.add(session)
        relay.sessions.establish(session, now)
        found.append(session)
    return found
