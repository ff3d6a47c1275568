"""What the carriers see of the manager."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keyferry_manager.audit import AuditTrail
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.identity import Identifier, Identity
from keyferry_manager.registry import Link, Session
from keyferry_manager.relay import Relay


@dataclass(frozen=True, slots=True)
class CarrierHost:
    """``SipHost``, and with it MQTT's ``Host``. ``took`` gets the seconds that each relay took."""

    identifier: Identifier
    relay: Relay
    trail: AuditTrail
    took: Callable[[float], None]

    async def identify(self, peer: ChannelPeer) -> Identity:
        return await self.identifier.identify(peer)

    def link_up(self, link: Link) -> None:
        self.relay.link_up(link)

    def link_down(self, link: Link, clean: bool, reason: str) -> None:
        self.relay.link_down(link, clean, reason)

    def receive(self, link: Link, payload: bytes) -> None:
        began = time.perf_counter()
        self.relay.receive(link, payload)
        self.took(time.perf_counter() - began)

    def take(self, link: Link, message: dict[int, Any]) -> None:
        began = time.perf_counter()
        self.relay.take(link, message)
        self.took(time.perf_counter() - began)

    def refused(self, event: str, name: str, address: str, detail: str) -> None:
        self.trail.refused(event, name, address, detail)

    # what SIP needs besides

    def session(self, session_id: bytes) -> Session | None:
        return self.relay.sessions.get(session_id)

    def admit(self, link: Link, message: dict[int, Any]) -> tuple[Link, list[list[Any]]]:
        return self.relay.admit(link, message)

    def leg(self, link: Link, stated: list[Any] | None) -> list[Any]:
        return self.relay.leg(link, stated)

    def link_of(self, name: str) -> Link | None:
        presence = self.relay.registry.get(name)
        return None if presence is None or not presence.registered else presence.link

    def allowed(self, caller: str, callee: str) -> bool:
        return self.relay.rules.decide(caller, callee).allowed

    def note(self, event: str, link: Link, detail: str = "", **fields: object) -> None:
        self.trail.ok(event, link.name, link.address, detail, **fields)
