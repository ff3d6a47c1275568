"""The manager's half of a session: who introduced itself to whom, and how far it got.

The manager has no keys of a session. It keeps a session to know who may write to whom, to tell
a peer when the other one is gone, and to count. Everything here is bounded, so that nobody can
fill the table at another's expense: half-open sessions expire, one device can have only a part of
another's sessions, and those that a device was asked for leave those that it asks for alone.
"""

import enum
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from keyferry_core.errors import RemoteError
from keyferry_core.names import subject
from keyferry_core.signalling import PROFILE_CERT
from keyferry_manager.counting import count_down


class State(enum.Enum):
    """How far a session got."""

    OFFERED = "offered"
    ESTABLISHED = "established"
    ENDED = "ended"


# Looked up for each message, which an enum makes dear.
_ESTABLISHED = State.ESTABLISHED


@dataclass(slots=True, eq=False)
class Session:
    """One session. ``started_at`` is Unix time, ``touched`` of the monotonic clock."""

    id: bytes
    initiator: str
    responder: str
    started_at: float
    touched: float
    profile: int = PROFILE_CERT
    # Why records are not relayed; "" when they are.
    withheld: str = ""
    state: State = State.OFFERED
    ended_at: float | None = None
    end_reason: str = ""
    messages: int = 0
    octets: int = 0
    # What this exchange is called in the log and the audit trail, and when it was asked for.
    request: str = ""
    asked: float = 0.0
    # The third party that the initiator, a gateway, acts for; "" for itself.
    on_behalf_of: str = ""

    @property
    def subject(self) -> str:
        """Who asked, as rules name it."""
        return subject(self.initiator, self.on_behalf_of)

    def other(self, name: str) -> str:
        """The party that is not ``name``."""
        return self.responder if name == self.initiator else self.initiator


class Sessions:
    """All sessions of one manager.

    ``per_device`` bounds what a device has asked for, and again what it was asked for; a quarter
    of it can be with one peer; ``total`` bounds everything. Seconds: ``half_open`` until an offer
    that nobody accepted is dropped, ``idle`` until an unused session is. ``rate`` bounds the
    sessions per second that a device may ask for in the long run, for each is a row in the store.
    """

    def __init__(
        self,
        per_device: int,
        total: int,
        half_open: float = 30.0,
        idle: float = 86400.0,
        rate: float = 1.0,
    ) -> None:
        self.per_device = per_device
        self.per_pair = max(1, per_device // 4)
        self.total = total
        self.half_open = half_open
        self.idle = idle
        self.rate = rate
        self._sessions: dict[bytes, Session] = {}
        self._by_name: dict[str, dict[bytes, Session]] = {}
        # (initiator, responder); (initiator, "") and ("", responder) are the sums.
        self._counts: Counter[tuple[str, str]] = Counter()
        # What an initiator may still ask for, and when that was counted. One entry a device.
        self._allowance: dict[str, tuple[float, float]] = {}
        # Oldest first, so that expiry looks at the front only.
        self._offered: OrderedDict[bytes, Session] = OrderedDict()
        self._established: OrderedDict[bytes, Session] = OrderedDict()

    def bound(self, per_device: int, total: int) -> None:
        """Other bounds, for what comes from now on."""
        self.per_device = per_device
        self.per_pair = max(1, per_device // 4)
        self.total = total

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_id: bytes) -> Session | None:
        """The session, if it is there."""
        return self._sessions.get(session_id)

    def of(self, name: str) -> list[Session]:
        """Every session that ``name`` is a party of."""
        return list(self._by_name.get(name, {}).values())

    def all(self) -> list[Session]:
        """Every session."""
        return list(self._sessions.values())

    def check_room(self, initiator: str, responder: str, now: float) -> None:
        """Raise RemoteError("too-many") when a bound forbids one more. Moves nothing."""
        if self._allowed(initiator, now) < 1.0:
            raise RemoteError("too-many", f"new sessions from {initiator}")
        if len(self._sessions) >= self.total:
            raise RemoteError("too-many", "sessions in all")
        if self._counts[initiator, responder] >= self.per_pair:
            raise RemoteError("too-many", f"sessions from {initiator} to {responder}")
        if self._counts[initiator, ""] >= self.per_device:
            raise RemoteError("too-many", f"sessions from {initiator}")
        if self._counts["", responder] >= self.per_device:
            raise RemoteError("too-many", f"sessions to {responder}")

    def add(self, session: Session) -> None:
        """Keep a new session. The caller has asked ``check_room``."""
        self._sessions[session.id] = session
        allowed = self._allowed(session.initiator, session.touched) - 1.0
        self._allowance[session.initiator] = (allowed, session.touched)
        self._counts.update(_keys(session))
        for name in (session.initiator, session.responder):
            self._by_name.setdefault(name, {})[session.id] = session
        self._offered[session.id] = session

    def establish(self, session: Session, now: float) -> None:
        """The responder accepted."""
        session.state = State.ESTABLISHED
        session.touched = now
        self._offered.pop(session.id, None)
        self._established[session.id] = session

    def touch(self, session: Session, now: float, size: int) -> None:
        """Count a message of ``size`` bytes."""
        session.touched = now
        session.messages += 1
        session.octets += size
        if session.state is _ESTABLISHED:
            self._established.move_to_end(session.id)

    def end(self, session: Session, reason: str, wall: float) -> None:
        """Forget a session; the object keeps its last state for whoever writes it down."""
        if self._sessions.pop(session.id, None) is None:
            return
        session.state = State.ENDED
        session.end_reason = reason
        session.ended_at = wall
        self._offered.pop(session.id, None)
        self._established.pop(session.id, None)
        for key in _keys(session):
            count_down(self._counts, key)
        for name in (session.initiator, session.responder):
            mine = self._by_name[name]
            del mine[session.id]
            if not mine:
                del self._by_name[name]

    def _allowed(self, name: str, now: float) -> float:
        allowed, at = self._allowance.get(name, (float(2 * self.per_device), now))
        return min(float(2 * self.per_device), allowed + (now - at) * self.rate)

    def expired(self, now: float) -> list[Session]:
        """Sessions whose time is up. The caller ends them."""
        due = _due(self._offered.values(), now - self.half_open)
        return due + _due(self._established.values(), now - self.idle)


def _keys(session: Session) -> tuple[tuple[str, str], ...]:
    initiator, responder = session.initiator, session.responder
    return (initiator, responder), (initiator, ""), ("", responder)


def _due(oldest_first: Iterable[Session], before: float) -> list[Session]:
    due = []
    for session in oldest_first:
        if session.touched > before:
            break
        due.append(session)
    return due
