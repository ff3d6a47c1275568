"""The relay: it takes messages from links, sends them along PATHS, and tells who must know what.

Nothing here waits, reads a database or looks at a socket. Whoever owns a Relay calls ``tick``
about twice a second, ``set_rules`` when names or rules changed, and writes down what ``Trail``
is told.
"""

import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from keyferry_core import signalling as sig
from keyferry_core.errors import DecodeError, KeyferryError, RemoteError, code_of
from keyferry_core.names import MANAGER
from keyferry_manager.observe.measures import Histogram
from keyferry_manager.policy import Rules
from keyferry_manager.registry import Link, Presence, Registry, Session, Sessions
from keyferry_manager.registry.anchors import Anchors
from keyferry_manager.relay import wire
from keyferry_manager.relay.agreement import AgreementKeys
from keyferry_manager.relay.deliveries import Deliveries, Delivery
from keyferry_manager.relay.envelopes import Envelopes
from keyferry_manager.relay.settings import RelaySettings
from keyferry_manager.relay.steps import ADMISSION, PATHS, Passage, Step, check_leg
from keyferry_manager.store.records import AgreementKey

# Refusals that say something about the sender, not about the moment: these are audited.
_AUDITED = (
    "identity-mismatch",
    "access-denied",
    "authentication-failed",
    "bad-route",
    "malformed",
    "unsupported",
)


class Trail(Protocol):
    """Who hears of what happened. Nothing in it may block."""

    def ok(self, event: str, name: str, address: str, detail: str = "", **fields: object) -> None:
        """Something that should be."""
        ...

    def refused(
        self, event: str, name: str, address: str, detail: str = "", **fields: object
    ) -> None:
        """Something that was not allowed."""
        ...

    def session(self, session: Session) -> None:
        """A session began, ended or was counted."""
        ...

    def link(self, presence: Presence) -> None:
        """A link is there, or its device registered."""
        ...

    def link_ended(self, link_id: str) -> None:
        """A link is not there any more."""
        ...

    def key(self, key: AgreementKey) -> None:
        """A device registered another key."""
        ...


# What the steps of a key exchange are called in the audit trail.
_STEPS = {sig.CONNECT: "exchange-asked", sig.ACCEPT: "exchange-accepted"}

# Begins work on a PKCS#10 request of a link: ``answer`` or ``refuse`` follows, for the number.
# RemoteError when it cannot begin.
Certify = Callable[[Link, int, bytes], None]

# A trace gets the link, the bytes, the checked map (None when there is none), the steps with their
# outcomes, the outcome of all ("relayed", "answered" or an error's name) and what was sent.
Trace = Callable[[Link, bytes, dict[int, Any] | None, list[tuple[str, str]], str, bytes], None]


class Relay:
    """The manager's view of all devices, and the way of a message from one to the other."""

    def __init__(
        self,
        settings: RelaySettings,
        trail: Trail,
        trace: Trace | None = None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.registry = Registry(settings.max_links)
        self.sessions = Sessions(
            settings.sessions_per_device, settings.sessions_total, settings.half_open
        )
        self.keys = AgreementKeys(trail.key)
        self.anchors = Anchors()
        # What the realm's owner signed, by device.
        self.endorsements: dict[str, bytes] = {}
        self.rules = Rules()
        self.names: frozenset[str] = frozenset()
        self.removed: frozenset[str] = frozenset()
        self.deliveries = Deliveries()
        self._envelopes = Envelopes()
        # Devices compare it: another one means that we lost what they still have.
        self.instance = secrets.token_bytes(sig.INSTANCE_LENGTH)
        self.counters: Counter[str] = Counter()
        # Seconds from connect to message_3.
        self.exchanges = Histogram()
        # Whoever makes certificates; without it devices are told that there is none here.
        self.certify: Certify | None = None
        self.now = now
        self.wall = wall
        self._trail = trail
        self._trace = trace

    # links

    def link_up(self, link: Link) -> None:
        """A device proved its name on a new link. One that it had before is replaced.

        RemoteError("too-many") when the manager is full.
        """
        if not self.registry.has_room(link.name):
            raise RemoteError("too-many", "links")
        known = self.registry.get(link.name)
        replaced = "" if known is None else known.link_id
        before = self.registry.attach(link, self.wall())
        if before is not None:
            self._trail.link_ended(replaced)
            self._left(before)
            before.send(self._error(before, RemoteError("replaced"), {}))
            before.close()
            detail = f"replaces the link from {before.address}"
            self._trail.ok("link-replaced", link.name, link.address, detail)
        presence = self.registry.get(link.name)
        assert presence is not None
        self._trail.link(presence)
        self._trail.ok("link-up", link.name, link.address, link=presence.link_id)

    def link_down(self, link: Link, clean: bool, reason: str) -> None:
        """A link ended; ``clean`` when the device said goodbye. Its peers hear of it at once
        then, else after the grace in which it may come back."""
        now = self.now()
        gone_at = now if clean else now + self.settings.session_grace
        known = self.registry.get(link.name)
        link_id = "" if known is None else known.link_id
        if not self.registry.detach(link, gone_at):
            return
        self._left(link)
        self._trail.link_ended(link_id)
        self._trail.ok("link-down", link.name, link.address, reason, clean=clean, link=link_id)
        if clean:
            self._expire(now)

    def close_link(self, name: str, reason: str) -> None:
        """End a device's link and its sessions now."""
        presence = self.registry.get(name)
        if presence is None:
            return
        link = presence.link
        if link is not None:
            link_id = presence.link_id
            self.registry.detach(link, self.now())
            self._left(link)
            self._trail.link_ended(link_id)
            self._trail.ok("link-down", name, link.address, reason, clean=False, link=link_id)
            link.close()
        presence.gone_at = self.now()
        self._expire(self.now())

    def end_device(self, name: str, reason: str) -> tuple[int, int]:
        """End a device's link and its sessions now, and tell it and its peers the error
        ``reason``. How many links and how many sessions there were."""
        sessions = self.sessions.of(name)
        for session in sessions:
            self._end_for(session, (session.other(name),), reason)
        presence = self.registry.get(name)
        link = None if presence is None else presence.link
        if link is not None:
            link.send(self._error(link, RemoteError(reason), {}))
        self.close_link(name, reason)
        return int(link is not None), len(sessions)

    # messages

    def receive(self, link: Link, payload: bytes) -> None:
        """One message from a device: relay it, or answer why not."""
        self._pass(link, payload, None)

    def take(self, link: Link, made: dict[int, Any]) -> None:
        """The same for a message that its carrier has made of another form, as a map. It is held
        to the same rules, and must be one that fits MAX_MESSAGE whatever is in it."""
        self._pass(link, b"", made)

    def _pass(self, link: Link, payload: bytes, made: dict[int, Any] | None) -> None:
        message: dict[int, Any] | None = None
        passed: list[tuple[str, str]] | None = None if self._trace is None else []
        passage: Passage | None = None
        outcome = "relayed"
        step: Step | None = None
        try:
            if made is None:
                message = self._envelopes.decode(link, payload)
            else:
                message = self._envelopes.check(link, made)
            if message is None:
                message = wire.decode(payload)
                if sig.RECORD in message:
                    self._envelopes.keep(link, payload, message)
            passage = Passage(link, payload, message, passed is not None)
            if passed is None:
                for step in PATHS[passage.kind]:
                    step(self, passage)
            else:
                for step in PATHS[passage.kind]:
                    passed.append((step.__name__, step(self, passage)))
            if passage.kind in sig.TO_MANAGER:
                outcome = "answered"
            elif sig.RECORD not in message:
                self._follow(passage)
            self.counters[outcome] += 1
        except RemoteError as error:
            outcome = error.name
            if passed is not None:
                at = "decode" if step is None else step.__name__
                passed.append((at, error.name + (f": {error.detail}" if error.detail else "")))
            if made is not None and message is None:
                payload = wire.encode(made)
            self._refuse(link, payload, message, error)
        if self._trace is not None and passed is not None:
            out = passage.out if passage is not None and outcome in ("relayed", "answered") else b""
            if made is not None:
                payload = wire.encode(made)
            self._trace(link, payload, message, passed, outcome, out)

    def admit(self, link: Link, message: dict[int, Any]) -> tuple[Link, list[list[Any]]]:
        """Hold a call, which a carrier hands on itself, to what a connect is held to.

        ``message`` has type, from, to and perhaps route, of a connect. Returns the callee's link
        and both legs; RemoteError, which is written down, moves nothing.
        """
        passage = Passage(link, b"", message)
        try:
            for step in ADMISSION:
                step(self, passage)
        except RemoteError as error:
            self._note(link, message, error)
            raise
        assert passage.peer is not None
        assert passage.leg is not None
        self.counters["call"] += 1
        onward = [passage.peer.address, passage.peer.transport, True, True]
        return passage.peer, [passage.leg, onward]

    def leg(self, link: Link, stated: list[Any] | None) -> list[Any]:
        """The leg of a device that answers a call, checked; one that differs is written down."""
        mode = self.settings.route_mode
        found, wrong = check_leg(stated, link, "report" if mode == "strict" else mode)
        if wrong:
            self._trail.refused("route-mismatch", link.name, link.address, wrong, relayed=True)
        return found

    # time

    def tick(self) -> None:
        """Expire what is due. Called about twice a second."""
        now = self.now()
        for session in self.sessions.expired(now):
            self._end_for(session, (session.initiator, session.responder), "timeout")
        for delivery in self.deliveries.expired(now):
            self._failed(delivery, "timeout")
        self._expire(now)

    def set_rules(self, rules: Rules, names: Iterable[str], removed: Iterable[str] = ()) -> None:
        """Replace names and rules. Links and sessions that they no longer allow end now.

        ``removed``: names of devices that there were once.
        """
        self.rules = rules
        self.names = frozenset(names)
        self.removed = frozenset(removed)
        self.keys.keep(self.names)
        self.anchors.keep(self.names)
        for presence in self.registry:
            if presence.name not in self.names:
                self.close_link(presence.name, "removed")
        for session in self.sessions.all():
            decision = rules.decide(session.subject, session.responder)
            if decision.allowed:
                session.withheld = self._withheld(session.subject, session.responder)
                continue
            self._end_for(session, (session.initiator, session.responder), "access-denied")
            self._trail.ok(
                "access-withdrawn",
                session.initiator,
                "",
                decision.reason,
                to=session.responder,
                session=session.id.hex(),
                **_party(session),
            )

    def end_for_all(self, session: Session, reason: str) -> None:
        """End a session from our side, and tell both devices."""
        self._end_for(session, (session.initiator, session.responder), reason)

    def fail_deliveries(self, reason: str) -> None:
        """Tell all who wait for a report on a plain message that there will be none."""
        for delivery in self.deliveries.expired(math.inf):
            self._failed(delivery, reason)

    def adopt(self, settings: RelaySettings) -> None:
        """Other settings, from now on. What is there already stays."""
        self.settings = settings
        self.registry.max_links = settings.max_links
        self.sessions.bound(settings.sessions_per_device, settings.sessions_total)

    # what the steps call

    def register(
        self,
        link: Link,
        instance: bytes,
        addresses: list[str],
        seconds: int,
        key: AgreementKey | None = None,
        trust: int = 0,
        vouch: bytes | None = None,
    ) -> None:
        """Put a device in the registry; end its sessions when it started anew.

        ``key`` and ``vouch`` were checked. Without one, that of an earlier registration stays, a
        ``vouch`` for as long as the link. ``trust``: of the signalling, 0 for none.
        """
        presence = self.registry.get(link.name)
        if presence is None or presence.link is not link:
            raise RemoteError("not-registered", "this link was replaced")
        first = not presence.registered
        expires_at = self.now() + seconds
        if key is not None and self.keys.register(key):
            self._trail.ok("key-registered", link.name, link.address, key_id=key.key_id)
        endorsed = self.keys.of(link) if key is None else key.endorsed
        presence.trust = trust
        presence.vouch = vouch or presence.vouch
        presence.registered_until = self.wall() + seconds
        if self.registry.register(presence, instance, addresses, expires_at, endorsed):
            presence.missed.clear()
            self._lost(link.name, "peer-restarted")
        self._trail.link(presence)
        if first:
            self._trail.ok("registered", link.name, link.address, addresses=list(addresses))

    def open_session(
        self,
        session_id: bytes,
        initiator: str,
        responder: str,
        profile: int,
        on_behalf_of: str = "",
    ) -> Session:
        """Keep a new session, half open."""
        now = self.now()
        session = Session(
            session_id,
            initiator,
            responder,
            self.wall(),
            now,
            profile=profile,
            request=_request(),
            asked=now,
            on_behalf_of=on_behalf_of,
        )
        session.withheld = self._withheld(session.subject, responder)
        self.sessions.add(session)
        return session

    def count(self, session: Session, size: int) -> None:
        """Count a message of a session."""
        self.sessions.touch(session, self.now(), size)
        self._trail.session(session)

    def end_session(self, session: Session, reason: str) -> None:
        """Forget a session."""
        self.sessions.end(session, reason, self.wall())
        self._trail.session(session)
        self._trail.ok(
            "session-ended",
            session.initiator,
            "",
            reason,
            to=session.responder,
            request=session.request,
            session=session.id.hex(),
            **_party(session),
        )

    def tell(self, name: str, session: Session, reason: str, end: bytes = b"") -> bool:
        """Tell ``name`` that a session ended, with the message ``end`` or one of our own. False
        when it cannot be told now; it will be when it comes back as the same instance."""
        presence = self.registry.get(name)
        if presence is None:
            return False
        if presence.link is not None and presence.registered:
            return presence.link.send(end or _end(name, session.id, reason))
        if presence.instance is not None:
            presence.missed.append((session.id, reason))
            del presence.missed[: -2 * self.settings.sessions_per_device]
        return False

    def catch_up(self, link: Link) -> int:
        """Tell a device what ``tell`` could not. How many there were."""
        presence = self.registry.get(link.name)
        if presence is None:
            return 0
        missed, presence.missed = presence.missed, []
        for session_id, reason in missed:
            link.send(_end(link.name, session_id, reason))
        return len(missed)

    def answer(self, link: Link, message: dict[int, Any]) -> None:
        """Send what a device asked for and got later than at once. A link that has ended, or
        reads nothing, misses it."""
        link.send(wire.encode({sig.FROM: MANAGER, sig.TO: link.name, **message}))

    def refuse(self, link: Link, number: int, error: KeyferryError, hint: str = "") -> None:
        """Say why a device does not get what it asked for. It is in the audit trail already."""
        self.counters[error.name] += 1
        link.send(self._error(link, error, {sig.ID: number}, hint))

    def report_route(self, passage: Passage, wrong: str) -> None:
        """Write down a route that differs from the one seen; the message goes on."""
        link = passage.link
        self._trail.refused("route-mismatch", link.name, link.address, wrong, relayed=True)

    # inside

    def _follow(self, passage: Passage) -> None:
        """Write down a step of a key exchange, under the name that all of its steps have."""
        event = _STEPS.get(passage.kind)
        message, link = passage.message, passage.link
        if event is None and passage.kind != sig.MESSAGE:
            return  # a plain message is of no exchange
        session = passage.session or self.sessions.get(message[sig.SESSION])
        if session is None:
            return
        if event is None:
            event = "exchange-message-3" if sig.MESSAGE_3 in message else "exchange-message-4"
            if sig.MESSAGE_3 in message:
                self.exchanges.observe(self.now() - session.asked)
        self._trail.ok(
            event,
            link.name,
            link.address,
            to=session.other(link.name),
            request=session.request,
            session=session.id.hex(),
            **_party(session),
        )

    def _withheld(self, initiator: str, responder: str) -> str:
        """Why the records of a session of these two are not relayed, "" when they are."""
        decision = self.rules.decide(initiator, responder, "message")
        return "" if decision.allowed else decision.reason

    def _left(self, link: Link) -> None:
        """``link`` has ended: nobody will report on what was sent over it and not yet reported."""
        self._envelopes.forget(link)
        for delivery in self.deliveries.lost(link):
            self._failed(delivery, "peer-gone")

    def _failed(self, delivery: Delivery, reason: str) -> None:
        self.counters[reason] += 1
        sender = delivery.sender
        sender.send(self._error(sender, RemoteError(reason), {sig.ID: delivery.number}))

    def _refuse(
        self, link: Link, payload: bytes, message: dict[int, Any] | None, error: RemoteError
    ) -> None:
        if message is None:
            message = _readable(payload)
        self._note(link, message, error)
        link.send(self._error(link, error, message))

    def _note(self, link: Link, message: dict[int, Any], error: RemoteError) -> None:
        """Count a refusal, and write down what says something about the sender."""
        self.counters[error.name] += 1
        if error.name in _AUDITED:
            kind = message.get(sig.TYPE)
            fields: dict[str, object] = {"to": message.get(sig.TO, "")}
            if sig.ON_BEHALF_OF in message:
                fields["on_behalf_of"] = message[sig.ON_BEHALF_OF]
            if isinstance(kind, int) and kind in sig.TYPES:
                fields["type"] = sig.TYPES[kind][0]
            if sig.SESSION in message:
                session = self.sessions.get(message[sig.SESSION])
                mine = session is not None and link.name in (session.initiator, session.responder)
                fields["request"] = session.request if session and mine else _request()
                fields["session"] = message[sig.SESSION].hex()
            self._trail.refused(error.name, link.name, link.address, error.detail, **fields)

    def _error(
        self, link: Link, error: KeyferryError, message: dict[int, Any], hint: str = ""
    ) -> bytes:
        answer: dict[int, Any] = {
            sig.TYPE: sig.ERROR,
            sig.FROM: MANAGER,
            sig.TO: link.name,
            sig.ERROR_CODE: error.code,
            sig.TEXT: f"{error.text} ({hint})" if hint else error.text,
        }
        for key in (sig.ID, sig.SESSION):
            # The id of a report is the other side's: it would be taken for one of our own.
            if key in message and message.get(sig.TYPE) != sig.DELIVERED:
                answer[key] = message[key]
        return wire.encode(answer)

    def _end_for(self, session: Session, names: Iterable[str], reason: str) -> None:
        """End a session from our side and tell those of its parties that are here."""
        self.end_session(session, reason)
        for name in names:
            self.tell(name, session, reason)

    def _lost(self, name: str, reason: str) -> None:
        """End the sessions of ``name`` and tell the peers."""
        for session in self.sessions.of(name):
            self._end_for(session, (session.other(name),), reason)

    def _expire(self, now: float) -> None:
        for presence in self.registry.expire(now, self.settings.session_grace):
            self._lost(presence.name, "peer-gone")


def _party(session: Session) -> dict[str, str]:
    return {"on_behalf_of": session.on_behalf_of} if session.on_behalf_of else {}


def _request() -> str:
    """A name for one key exchange, or for one attempt at it."""
    return secrets.token_hex(8)


def _end(name: str, session_id: bytes, reason: str) -> bytes:
    return wire.encode(
        {
            sig.TYPE: sig.END,
            sig.FROM: MANAGER,
            sig.TO: name,
            sig.SESSION: session_id,
            sig.ERROR_CODE: code_of(reason),
        }
    )


def _readable(payload: bytes) -> dict[int, Any]:
    """The keys of a refused message that an answer repeats, where they are what they should be."""
    try:
        message = wire.decode_map(payload)
    except DecodeError:
        return {}
    found: dict[int, Any] = {}
    number, session = message.get(sig.ID), message.get(sig.SESSION)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= 0xFFFFFFFF:
        found[sig.ID] = number
    if isinstance(session, bytes) and len(session) == sig.SESSION_ID_LENGTH:
        found[sig.SESSION] = session
    kind = message.get(sig.TYPE)
    if isinstance(kind, int) and not isinstance(kind, bool) and kind in sig.TYPES:
        found[sig.TYPE] = kind
    return found
