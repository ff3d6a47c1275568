"""What all SIP connections of a manager have in common: bounds, sessions, calls."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from keyferry_manager.carriers.arrivals import Arrivals
from keyferry_manager.carriers.sip.calls import Calls
from keyferry_manager.carriers.sip.host import SipHost
from keyferry_manager.carriers.sip.link import SipLink
from keyferry_manager.carriers.sip.sessions import Dialog
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.observe.measures import Measures
from keyferry_manager.registry import Link

_LOOK_AT_CALLS = 30.0


@dataclass(frozen=True, slots=True)
class SipSettings:
    """Bounds. Times in seconds, sizes in bytes."""

    requests_per_second: int = 2000
    # From a message's first byte to its last, and from the handshake to the first message.
    message_timeout: float = 32.0
    # Timers B and F (section 17.1): what a device did not answer by then, it will not.
    transaction: float = 32.0
    # Timer C (section 16.6): from a provisional response to the next, or to the final one.
    ringing: float = 185.0
    # Flow-Timer (RFC 5626, section 4.4.1). A registered flow that is silent for longer is dead.
    flow_timer: int = 120
    flow_grace: float = 30.0
    # Requests of one device, and again to one device, that have no final response.
    open_requests: int = 256
    waiting_per_certificate: int = 8
    max_body: int = 16 * 1024


class SipEndpoint:
    """Makes the protocols for a TlsListener, and holds what its links have in common.

    ``hosts``: the names and addresses that devices know the manager by, besides the realm.
    """

    def __init__(
        self,
        host: SipHost,
        realm: str,
        settings: SipSettings | None = None,
        hosts: Iterable[str] = (),
        measures: Measures | None = None,
    ) -> None:
        self.host = host
        self.realm = realm
        self.hosts = frozenset(name.lower().encode() for name in (realm, *hosts))
        self.settings = settings or SipSettings()
        self.arrivals = Arrivals()
        self.calls = Calls(realm)
        self.measures = measures or Measures()
        self._dialogs: dict[str, dict[bytes, Dialog]] = {}
        self._looked = 0.0

    def __call__(self, peer: ChannelPeer) -> asyncio.Protocol:
        """The protocol for one verified connection."""
        return SipLink(self, peer)

    def link(self, link: Link | None) -> SipLink | None:
        """The link as one of this carrier, None when it is another's."""
        return link if isinstance(link, SipLink) else None

    def dialogs(self, name: str) -> dict[bytes, Dialog]:
        """The sessions of a device, over all its connections."""
        return self._dialogs.setdefault(name, {})

    def tick(self, now: float) -> None:
        """Forget what nobody goes on with. Called once a second by each link."""
        if now - self._looked < _LOOK_AT_CALLS:
            return
        self._looked = now
        self.calls.expire(now)
        for name, dialogs in list(self._dialogs.items()):
            if self.host.link_of(name) is None:
                for session in [s for s in dialogs if self.host.session(s) is None]:
                    del dialogs[session]
                if not dialogs:
                    del self._dialogs[name]

    async def stop(self) -> None:
        """Give up identifications under way."""
        await self.arrivals.stop()
