"""What each message goes through, step by step; PATHS below says which steps and in what order.

A step looks at one thing. It returns a few words for the trace, or raises RemoteError with what
the sender is told; nothing has been relayed then. State moves only in the last step, so that a
refusal anywhere leaves everything as it was; a registration stands even where its answer finds
no room in the queue.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keyferry_core import pinned, x509
from keyferry_core import signalling as sig
from keyferry_core.errors import RemoteError, name_of
from keyferry_core.names import MANAGER, subject
from keyferry_manager.registry import Link, Presence, Session
from keyferry_manager.registry.sessions import State
from keyferry_manager.relay import wire
from keyferry_manager.relay.deliveries import Delivery
from keyferry_manager.relay.settings import RouteMode
from keyferry_manager.store.records import AgreementKey

if TYPE_CHECKING:
    from keyferry_manager.relay.relay import Relay

Leg = list[Any]


class Passage:
    """One message on its way: what it is, and what the steps have found so far."""

    __slots__ = (
        "_out",
        "_payload",
        "delivery",
        "key",
        "kind",
        "leg",
        "link",
        "message",
        "onward",
        "peer",
        "session",
        "traced",
    )

    def __init__(
        self, link: Link, payload: bytes, message: dict[int, Any], traced: bool = False
    ) -> None:
        self.link = link
        self.message = message
        self.traced = traced
        self._payload = payload  # b"": the carrier made the map itself
        self.kind: int = message[sig.TYPE]
        self.key: AgreementKey | None = None  # the sender's, checked
        self.leg: Leg | None = None  # the sender's, checked
        self.peer: Link | None = None
        self.session: Session | None = None
        self.delivery: Delivery | None = None  # that a report is about
        # What the peer, or the sender, gets: bytes, or a map that is encoded when it must be.
        self._out = b""
        self.onward: dict[int, Any] | None = None

    @property
    def payload(self) -> bytes:
        """The bytes that came, or those of the map that did."""
        if not self._payload:
            self._payload = wire.encode(self.message)
        return self._payload

    @property
    def out(self) -> bytes:
        """The bytes that go on; b"" while there are none."""
        if not self._out and self.onward is not None:
            self._out = wire.encode(self.onward)
        return self._out

    @out.setter
    def out(self, out: bytes) -> None:
        self._out = out

    def keep(self) -> None:
        """What came goes on."""
        if self._payload:
            self._out = self._payload
        else:
            self.onward = self.message

    def hand(self, link: Link) -> bool:
        """Give it to a link, as a map where the link wants that. False when it has no room."""
        take = getattr(link, "take_map", None)
        if take is None or self.onward is None:
            return link.send(self.out)
        return take(self.onward)

    @property
    def size(self) -> str:
        """The size of what goes on, for the trace."""
        return f"{len(self.out)} bytes" if self.traced else ""


# -- pure checks -----------------------------------------------------------------------------


def check_leg(stated: Leg | None, link: Link, mode: RouteMode) -> tuple[Leg, str]:
    """Compare the leg that a device stated with the one seen.

    Returns the checked leg for the peer, and what was wrong ("" for nothing). A leg that nobody
    stated is the one that we saw, and so verified. RemoteError("bad-route") in strict mode.
    """
    if stated is None:
        if mode == "strict":
            raise RemoteError("bad-route", "no route stated")
        return [link.address, link.transport, True, True], ""
    if mode == "off":
        return [*stated, False], ""
    wrong = ""
    if stated[sig.LEG_ADDRESS] != link.address:
        wrong = f"stated {stated[sig.LEG_ADDRESS]}, seen {link.address}"
    elif stated[sig.LEG_TRANSPORT] != link.transport:
        wrong = "another transport was stated"
    elif not stated[sig.LEG_MUTUAL]:
        wrong = "stated as not mutually authenticated"
    if wrong and mode == "strict":
        raise RemoteError("bad-route", wrong)
    return [*stated, not wrong], wrong


def check_party(session: Session | None, sender: str, peer: str) -> Session:
    """The session that both are parties of, else RemoteError("unknown-session")."""
    if session is None or (sender, peer) not in (
        (session.initiator, session.responder),
        (session.responder, session.initiator),
    ):
        # One answer for both, so that nobody learns which session identifiers are in use.
        raise RemoteError("unknown-session")
    return session


# -- steps -----------------------------------------------------------------------------------


def name(relay: "Relay", passage: Passage) -> str:
    """``from`` is the name in the link's certificate."""
    stated = passage.message[sig.FROM]
    if stated != passage.link.name:
        raise RemoteError("identity-mismatch", f"from says {stated}")
    return stated


def registered(relay: "Relay", passage: Passage) -> str:
    """The sender has registered on this link."""
    presence = relay.registry.get(passage.link.name)
    if presence is None or presence.link is not passage.link or not presence.registered:
        raise RemoteError("not-registered")
    return "yes"


def route(relay: "Relay", passage: Passage) -> str:
    """The one leg that a device may state is the one seen."""
    stated = passage.message.get(sig.ROUTE)
    leg = None if stated is None else stated[0]
    mode = relay.settings.route_mode
    if leg is None and passage.kind == sig.REGISTER and mode == "strict":
        mode = "report"  # only the answer tells a device the address that it is to state
    passage.leg, wrong = check_leg(leg, passage.link, mode)
    if wrong:
        relay.report_route(passage, wrong)
        return "differs: " + wrong
    if leg is None:
        return "not stated"
    return "not compared" if relay.settings.route_mode == "off" else "the same"


def policy(relay: "Relay", passage: Passage) -> str:
    """A rule lets the sender, or the third party it asks for, ask for this peer, write to it, or
    look it up."""
    wanted = passage.message[sig.NAME if passage.kind == sig.RESOLVE else sig.TO]
    asking = subject(passage.link.name, passage.message.get(sig.ON_BEHALF_OF, ""))
    decision = relay.rules.decide(asking, wanted, _RIGHTS[passage.kind])
    if not decision.allowed:
        raise RemoteError("access-denied", decision.reason)
    return decision.reason


def known(relay: "Relay", passage: Passage) -> str:
    """The name that is asked for is one of ours."""
    wanted = passage.message[sig.NAME if passage.kind == sig.RESOLVE else sig.TO]
    # A link is proof enough for a device that was added since the names were read.
    if wanted not in relay.names and relay.registry.get(wanted) is None:
        raise RemoteError("device-gone" if wanted in relay.removed else "unknown-name", wanted)
    return wanted


# What a rule must allow for a message that begins something.
_RIGHTS = {sig.RESOLVE: "resolve", sig.CONNECT: "session", sig.SEND: "message"}


def peer(relay: "Relay", passage: Passage) -> str:
    """The peer has a link and is registered on it."""
    presence = relay.registry.get(passage.message[sig.TO])
    if presence is None or presence.link is None or not presence.registered:
        raise RemoteError("peer-offline")
    passage.peer = presence.link
    return presence.link.address


def new_session(relay: "Relay", passage: Passage) -> str:
    """There is room for one more session, and its identifier is free."""
    if relay.sessions.get(passage.message[sig.SESSION]) is not None:
        raise RemoteError("malformed", "this session identifier is in use")
    relay.sessions.check_room(passage.link.name, passage.message[sig.TO], relay.now())
    return "new"


# An enum's members and values cost a call, and these are asked for with each record.
_STATES = {state: state.value for state in State}
_OFFERED, _ESTABLISHED = State.OFFERED, State.ESTABLISHED


def session(relay: "Relay", passage: Passage) -> str:
    """The session exists between these two, and is where this message belongs."""
    found = relay.sessions.get(passage.message[sig.SESSION])
    found = check_party(found, passage.link.name, passage.message[sig.TO])
    state = found.state
    if passage.kind == sig.ACCEPT:
        if state is not _OFFERED or found.responder != passage.link.name:
            raise RemoteError("unknown-session", "nothing to accept")
    elif passage.kind == sig.MESSAGE and state is not _ESTABLISHED:
        raise RemoteError("unknown-session", "not accepted yet")
    passage.session = found
    return _STATES[state]


def records(relay: "Relay", passage: Passage) -> str:
    """What the session carries may go through the manager; its handshake always may."""
    assert passage.session is not None
    if sig.RECORD not in passage.message:
        return "no record"
    if passage.session.withheld:
        raise RemoteError("access-denied", passage.session.withheld)
    return "allowed"


def room(relay: "Relay", passage: Passage) -> str:
    """Not too many of the sender's plain messages wait for their report already."""
    message = passage.message
    relay.deliveries.check_room(passage.link.name, message[sig.TO], message[sig.ID])
    return "room"


def awaited(relay: "Relay", passage: Passage) -> str:
    """A report is about a message that went over this very link, and comes in time."""
    message = passage.message
    found = relay.deliveries.find(message[sig.TO], message[sig.ID], passage.link)
    if found is None:
        # The sender was told that it failed, or there never was such a message.
        raise RemoteError("timeout", "nobody waits for this report")
    passage.delivery = found
    return "awaited"


def agreement(relay: "Relay", passage: Passage) -> str:
    """A key that the sender registers is endorsed by its link's certificate, for its own name."""
    endorsed = passage.message.get(sig.PUBLIC_KEY)
    if endorsed is None:
        return "none"
    passage.key = relay.keys.check(passage.link, endorsed, relay.wall())
    return passage.key.key_id


def succession(relay: "Relay", passage: Passage) -> str:
    """What the sender says of how its key came about ends at its link's certificate. Whether each
    key signed for the next is for its peers to verify, who know the first."""
    chain = passage.message.get(sig.VOUCH)
    if chain is None:
        return "none"
    if pinned.last_key(chain) != x509.parse(passage.link.certificate_der).public_key:
        raise RemoteError("authentication-failed", "the succession is for another key")
    return f"{len(chain)} bytes"


def profile(relay: "Relay", passage: Passage) -> str:
    """The manager can deliver what the profile needs: for rpk, the keys of both."""
    if _profile(passage) == sig.PROFILE_CERT:
        return "cert"
    for party in (passage.message[sig.TO], passage.link.name):
        if _public_key(relay, party) is None:
            raise RemoteError("unsupported", f"{party} has no key for the profile rpk registered")
    return "rpk"


def facts(relay: "Relay", passage: Passage) -> str:
    """Add what the manager knows first-hand: the sender's certificate, its registered key where
    the profile is rpk, and both legs."""
    assert passage.peer is not None
    onward = [passage.peer.address, passage.peer.transport, True, True]
    message = dict(passage.message)
    message[sig.CREDENTIAL] = passage.link.certificate_der
    if _profile(passage) == sig.PROFILE_RPK:
        message[sig.PUBLIC_KEY] = _public_key(relay, passage.link.name)
    vouch = _vouch(relay, passage.link.name, passage.peer.name)
    if vouch is not None:
        message[sig.VOUCH] = vouch
    message[sig.ROUTE] = [passage.leg, onward]
    passage.out = wire.encode(message)
    return "certificate and second leg added"


def legs(relay: "Relay", passage: Passage) -> str:
    """Add both legs, each with whether it was verified."""
    assert passage.peer is not None
    message = dict(passage.message)
    onward = [passage.peer.address, passage.peer.transport, True, True]
    message[sig.ROUTE] = [passage.leg, onward]
    passage.onward = message
    return "second leg added"


def _profile(passage: Passage) -> int:
    """What a CONNECT asks for, or what the session of an ACCEPT was asked for with."""
    if passage.session is None:
        return passage.message[sig.PROFILE]
    return passage.session.profile


def _vouch(relay: "Relay", device: str, peer: str) -> bytes | None:
    """What ``peer`` wants to have of ``device`` besides its certificate, if there is such a thing.
    A version that does not know of it refuses what it did not ask for."""
    presence = relay.registry.get(peer)
    if presence is not None and presence.trust == sig.TRUST_OWNER:
        return relay.endorsements.get(device)
    known = relay.registry.get(device)
    if presence is None or presence.trust != sig.TRUST_PINNED or known is None:
        return None
    return known.vouch


def _public_key(relay: "Relay", device: str) -> bytes | None:
    presence = relay.registry.get(device)
    return None if presence is None else presence.public_key


def unchanged(relay: "Relay", passage: Passage) -> str:
    """Pass on exactly the bytes that came, or the map."""
    passage.keep()
    return "unchanged"


def deliver(relay: "Relay", passage: Passage) -> str:
    """Hand it to the peer's carrier."""
    assert passage.peer is not None
    if not passage.hand(passage.peer):
        raise RemoteError("too-many", f"the queue to {passage.peer.name} is full")
    return passage.size


def offer(relay: "Relay", passage: Passage) -> str:
    """Keep the new session, half open."""
    message = passage.message
    opened = relay.open_session(
        message[sig.SESSION],
        passage.link.name,
        message[sig.TO],
        message[sig.PROFILE],
        message.get(sig.ON_BEHALF_OF, ""),
    )
    relay.count(opened, len(passage.payload))
    return "offered"


def establish(relay: "Relay", passage: Passage) -> str:
    """The session is open for messages both ways."""
    assert passage.session is not None
    relay.sessions.establish(passage.session, relay.now())
    relay.count(passage.session, len(passage.payload))
    return "established"


def count(relay: "Relay", passage: Passage) -> str:
    """Count a relayed message."""
    assert passage.session is not None
    relay.count(passage.session, len(passage.payload))
    return "counted"


def await_report(relay: "Relay", passage: Passage) -> str:
    """From now on the sender gets one answer: the peer's report, or why there is none."""
    assert passage.peer is not None
    relay.deliveries.add(passage.link, passage.peer, passage.message[sig.ID], relay.now())
    return "awaits the report"


def report(relay: "Relay", passage: Passage) -> str:
    """Tell the sender, on the link that it sent on. One that reads nothing misses it."""
    assert passage.delivery is not None
    relay.deliveries.done(passage.delivery)
    if passage.hand(passage.delivery.sender):
        return passage.size
    return "the sender is not there, or reads nothing"


def leave(relay: "Relay", passage: Passage) -> str:
    """The session is over, whether or not the other side can be told at once."""
    assert passage.session is not None
    default = "declined" if passage.kind == sig.REJECT else "session-closed"
    code = passage.message.get(sig.ERROR_CODE)
    reason = default if code is None else name_of(code)
    relay.count(passage.session, len(passage.payload))
    relay.end_session(passage.session, reason)
    if relay.tell(passage.message[sig.TO], passage.session, reason, passage.out):
        return f"{reason}, {len(passage.out)} bytes"
    return f"{reason}, the peer hears of it when it is back"


def enter(relay: "Relay", passage: Passage) -> str:
    """Register the device, and answer with the address that was seen."""
    message = passage.message
    seconds = min(message.get(sig.EXPIRES, 0xFFFFFFFF), int(relay.settings.registration))
    instance, addresses = message[sig.INSTANCE], message[sig.ADDRESSES]
    trust, vouch = message.get(sig.TRUST, 0), message.get(sig.VOUCH)
    relay.register(passage.link, instance, addresses, seconds, passage.key, trust, vouch)
    answer: dict[int, Any] = {
        sig.TYPE: sig.REGISTERED,
        sig.FROM: MANAGER,
        sig.TO: passage.link.name,
        sig.ID: message[sig.ID],
        sig.EXPIRES: seconds,
        sig.SEEN: passage.link.address,
        sig.INSTANCE: relay.instance,
    }
    held = message.get(sig.ANCHORS)
    if held is not None and not relay.anchors.state(passage.link.name, held):
        answer[sig.ANCHORS] = relay.anchors.current  # there are others: it shall fetch them
    passage.out = wire.encode(answer)
    passage.peer = passage.link
    return f"for {seconds} s"


def catch_up(relay: "Relay", passage: Passage) -> str:
    """Tell a device that came back which of its sessions ended meanwhile."""
    return f"{relay.catch_up(passage.link)} ended sessions"


def look_up(relay: "Relay", passage: Passage) -> str:
    """Say where the device is, and give its certificate and its key when it is here."""
    wanted = passage.message[sig.NAME]
    presence: Presence | None = relay.registry.get(wanted)
    answer: dict[int, Any] = {
        sig.TYPE: sig.RESOLVED,
        sig.FROM: MANAGER,
        sig.TO: passage.link.name,
        sig.ID: passage.message[sig.ID],
        sig.NAME: wanted,
        sig.ONLINE: False,
        sig.ADDRESSES: [],
    }
    if presence is not None and presence.link is not None and presence.registered:
        answer[sig.ONLINE] = True
        answer[sig.ADDRESSES] = presence.addresses
        answer[sig.EXPIRES] = max(1, int(presence.expires_at - relay.now()))
        answer[sig.CREDENTIAL] = presence.link.certificate_der
        if presence.public_key is not None:
            answer[sig.PUBLIC_KEY] = presence.public_key
    passage.out = wire.encode(answer)
    passage.peer = passage.link
    return "online" if answer[sig.ONLINE] else "offline"


def certify(relay: "Relay", passage: Passage) -> str:
    """Have a certificate made. The answer comes when that is done: nothing here waits."""
    if relay.certify is None:
        raise RemoteError("unsupported", "no certificates here")
    message = passage.message
    relay.certify(passage.link, message[sig.ID], message[sig.REQUEST])
    return "begun"


Step = Callable[["Relay", Passage], str]

# The whole way of each message that a device may send.
PATHS: dict[int, tuple[Step, ...]] = {
    sig.REGISTER: (name, route, agreement, succession, enter, deliver, catch_up),
    sig.RESOLVE: (name, registered, policy, known, look_up, deliver),
    sig.CERTIFY: (name, registered, certify),
    sig.CONNECT: (
        name,
        registered,
        route,
        policy,
        known,
        peer,
        profile,
        new_session,
        facts,
        deliver,
        offer,
    ),
    sig.ACCEPT: (name, registered, route, peer, session, profile, facts, deliver, establish),
    sig.MESSAGE: (name, registered, peer, session, records, unchanged, deliver, count),
    sig.REJECT: (name, registered, session, unchanged, leave),
    sig.END: (name, registered, session, unchanged, leave),
    sig.SEND: (
        name,
        registered,
        route,
        policy,
        known,
        peer,
        room,
        legs,
        deliver,
        await_report,
    ),
    sig.DELIVERED: (name, registered, awaited, unchanged, report),
}

# What a call of user agents, whose way is a carrier's, is held to before it begins.
ADMISSION: tuple[Step, ...] = (name, registered, route, policy, known, peer)
