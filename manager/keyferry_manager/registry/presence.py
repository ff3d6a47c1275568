"""Names to links: which device is connected, registered, where, and until when.

Times are seconds of a monotonic clock, given by the caller.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol


class Link(Protocol):
    """One authenticated link to a device, whatever carries it.

    ``name`` and ``certificate_der`` are what the link's TLS handshake proved, ``address`` is the
    socket's own peer address, ``transport`` a TRANSPORT_ number of the signalling.
    """

    name: str
    address: str
    transport: int
    certificate_der: bytes

    def send(self, payload: bytes) -> bool:
        """Take one message for the device. False, and nothing taken, when its queue is full."""
        ...

    def close(self) -> None:
        """Send what was taken and end the link. ``link_down`` is not called for it."""
        ...


@dataclass(slots=True)
class Presence:
    """A device that is here, or was a moment ago."""

    name: str
    link: Link | None = None
    # Of the link: its identifier, and since when it is there, Unix time.
    link_id: str = ""
    since: float = 0.0
    # None until the link has registered. The device draws a new one at each start.
    instance: bytes | None = None
    registered: bool = False
    addresses: list[str] = field(default_factory=list)
    expires_at: float = 0.0
    # The same in Unix time, for people. None until the link has registered.
    registered_until: float | None = None
    # For the profile rpk: the key that the link's certificate endorsed.
    public_key: bytes | None = None
    # What it wants to have of its peers besides a certificate, 0 for nothing: signalling.TRUST.
    trust: int = 0
    # How its key came to be the present one, for peers that pin keys: keyferry_core.pinned.
    vouch: bytes | None = None
    # When its sessions end, unless the same instance registers again before.
    gone_at: float | None = None
    # Sessions that ended while nothing could be sent to it, with the reason: told on its return.
    missed: list[tuple[bytes, str]] = field(default_factory=list)


class Registry:
    """All presences. Bounded by ``max_links``."""

    def __init__(self, max_links: int) -> None:
        self.max_links = max_links
        self._presences: dict[str, Presence] = {}

    def __len__(self) -> int:
        return len(self._presences)

    def __iter__(self) -> Iterator[Presence]:
        return iter(list(self._presences.values()))

    def get(self, name: str) -> Presence | None:
        """What is known of ``name``, None when it is not here."""
        return self._presences.get(name)

    def has_room(self, name: str) -> bool:
        """Whether a link of ``name`` can be taken. A name that is here always can."""
        return name in self._presences or len(self._presences) < self.max_links

    def attach(self, link: Link, since: float = 0.0) -> Link | None:
        """Put ``link`` in its name's place and return the one that was there before.

        The new link must register for itself. The instance stays, for comparison. Here, and only
        here, a name is bound to a link's identifier.
        """
        presence = self._presences.get(link.name)
        if presence is None:
            presence = self._presences[link.name] = Presence(link.name)
        before, presence.link = presence.link, link
        presence.link_id = secrets.token_hex(8)
        presence.since = since
        presence.registered = False
        presence.addresses = []
        presence.registered_until = None
        presence.public_key = None
        presence.trust = 0
        presence.vouch = None
        return before

    def expect(self, name: str, instance: bytes, gone_at: float) -> None:
        """Know a device that was here before a restart, and may come back until ``gone_at``."""
        presence = self._presences.setdefault(name, Presence(name))
        presence.instance = instance
        presence.gone_at = gone_at

    def detach(self, link: Link, gone_at: float) -> bool:
        """Take ``link`` away. False when another link has its place already."""
        presence = self._presences.get(link.name)
        if presence is None or presence.link is not link:
            return False
        presence.link = None
        presence.registered = False
        if presence.gone_at is None or gone_at < presence.gone_at:
            presence.gone_at = gone_at
        if presence.instance is None:  # it never registered: there is nothing to come back to
            del self._presences[link.name]
        return True

    def register(
        self,
        presence: Presence,
        instance: bytes,
        addresses: list[str],
        expires_at: float,
        public_key: bytes | None = None,
    ) -> bool:
        """Register the device at the end of its link. True when it has started anew since its
        last registration, so that its sessions are lost."""
        restarted = presence.instance is not None and presence.instance != instance
        presence.instance = instance
        presence.registered = True
        presence.addresses = addresses
        presence.expires_at = expires_at
        presence.public_key = public_key
        presence.gone_at = None
        return restarted

    def expire(self, now: float, grace: float) -> list[Presence]:
        """End registrations whose time is up; return and forget those that are gone for good.

        A device that let its registration lapse has its sessions' grace like one that lost its
        link; while its link is there it stays known and may register again.
        """
        gone = []
        for presence in self._presences.values():
            if presence.registered and presence.expires_at <= now:
                presence.registered = False
                presence.gone_at = now + grace
            if presence.gone_at is not None and presence.gone_at <= now:
                gone.append(presence)
        for presence in gone:
            presence.gone_at = None
            presence.instance = None
            presence.missed.clear()
            if presence.link is None:
                del self._presences[presence.name]
        return gone
