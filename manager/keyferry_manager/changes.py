"""What operators changed in the database, taken over while the manager runs.

Revocations first, then names and rules. Nobody tells the manager: it looks at the data's version.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keyferry_manager.access import combined
from keyferry_manager.audit import AuditTrail
from keyferry_manager.authority import Authority, LocalAuthority
from keyferry_manager.identity import Identifier, RevokedSet
from keyferry_manager.logs import log
from keyferry_manager.observe.measures import Measures
from keyferry_manager.policy import PolicyProblem
from keyferry_manager.registry import Link
from keyferry_manager.relay import Relay
from keyferry_manager.store import Revocation, Revoked, Store

_LOG = logging.getLogger("keyferry.manager")


class Changes:
    """Brings what is in force to what the database says.

    ``version``: of the data that was taken over last, -1 before the first time. ``for_handshakes``:
    revocation lists in PEM for the contexts of links, b"" for none. ``renew_contexts()`` makes
    those anew.
    """

    def __init__(
        self,
        store: Store,
        relay: Relay,
        identifier: Identifier,
        authority: Authority,
        trail: AuditTrail,
        measures: Measures,
        renew_contexts: Callable[[], None],
    ) -> None:
        self.version = -1
        self.for_handshakes = b""
        self._store = store
        self._relay = relay
        self._identifier = identifier
        self._authority = authority
        self._trail = trail
        self._measures = measures
        self._renew_contexts = renew_contexts
        self._serials: set[str] = set()

    async def take_over(self) -> None:
        """Take over revocations, names, rules and the policy when somebody changed them."""
        version = await self._store.data_version()
        if version == self.version:
            return
        # What was written while we read is taken over by the next turn. In this order a turn
        # that sees a part of it never gets it wrong: a removed device's rules are not gone
        # before its order is here, and no order is here without its certificates.
        names = [device.name for device in await self._store.devices()]
        removed = await self._store.removed_names()
        pairs = [(rule.initiator, rule.responder) for rule in await self._store.rules()]
        applied = await self._store.policies.get()
        endorsements = await self._store.presences.endorsements()
        orders = await self._store.life.open_revocations()
        revoked = await self._store.life.all_revoked(time.time())
        self._identifier.revoked = RevokedSet(revoked)
        ended = self._end_revoked(orders)
        await self._tell_listeners(revoked)
        # Last, since whoever waits for it may believe that all is done.
        for order, done_at, links, sessions in ended:
            await self._store.life.finish_revocation(order.id, done_at, links, sessions)
        try:
            rules = combined(pairs, applied)
        except PolicyProblem as problem:  # a newer Keyferry applied it, say
            if self.version < 0:
                raise
            rules = self._relay.rules
            log(_LOG, logging.ERROR, "policy-unreadable", error=str(problem))
        self._relay.endorsements = endorsements
        self._relay.set_rules(rules, names, removed)
        self.version = version
        number = 0 if applied is None else applied.id
        fields = {"devices": len(names), "rules": len(pairs), "policy": number}
        log(_LOG, logging.INFO, "rules-loaded", **fields)

    async def sign_anew(self) -> None:
        """Who signs revocation lists, and which of them a handshake needs, has changed."""
        revoked = await self._store.life.all_revoked(time.time())
        self.for_handshakes = await asyncio.to_thread(self._signed, revoked)

    async def _tell_listeners(self, revoked: list[Revoked]) -> None:
        """Let handshakes refuse what is revoked, when that is not what they refuse already."""
        serials = {item.serial for item in revoked}
        if serials == self._serials:
            return
        # Ten thousand entries take half a second, in which messages must go on.
        self.for_handshakes = await asyncio.to_thread(self._signed, revoked)
        self._serials = serials
        self._renew_contexts()

    def _end_revoked(self, orders: list[Revocation]) -> list[tuple[Revocation, float, int, int]]:
        """End what is live of revoked certificates: when that was done, links and sessions."""
        ended = []
        for order in orders:
            presence = self._relay.registry.get(order.device)
            links, sessions = 0, 0
            if presence is None or presence.link is None or self._is_revoked(presence.link):
                links, sessions = self._relay.end_device(order.device, "revoked")
            done_at = time.time()
            self._measures.revocation.observe(max(0.0, done_at - order.ordered_at))
            ended.append((order, done_at, links, sessions))
            self._trail.ok(
                "revocation-done",
                order.device,
                "",
                order.reason,
                links=links,
                sessions=sessions,
                milliseconds=round(1000 * (done_at - order.ordered_at)),
            )
        return ended

    def _is_revoked(self, link: Link) -> bool:
        certificate = x509.load_der_x509_certificate(link.certificate_der)
        return self._identifier.revoked.covers(certificate)

    def _signed(self, revoked: list[Revoked]) -> bytes:
        """A list for our own listener, so that a client hears "certificate revoked" from TLS.

        It is never published: it covers the CA's whole life, for a list that has ended would lock
        everybody out. What it lacks, Identifier finds. Empty as long as nothing is revoked, since
        OpenSSL verifies it anew in each handshake.
        """
        if not revoked or not isinstance(self._authority, LocalAuthority):
            return b""  # only who has the key can sign one
        lists = []  # OpenSSL wants one of each CA that issued to a client
        for signer in self._authority.signers():
            start = signer.issuing.not_valid_before_utc.timestamp()
            end = signer.issuing.not_valid_after_utc.timestamp()
            crl = signer.sign_revocations(revoked, 0, start, end)
            lists.append(crl.public_bytes(Encoding.PEM))
        return b"".join(lists)
