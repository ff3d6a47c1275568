"""Everything that an operator can ask and order, on a store.

Each method gives a JSON value and raises a Problem. Whatever changes something is written to the
audit trail with ``actor``: ``user:NAME`` of this machine, or ``token:NAME``.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keyferry_core.errors import DecodeError
from keyferry_core.names import FOR, check_name
from keyferry_manager.access import in_force
from keyferry_manager.admin import policies, values
from keyferry_manager.admin.paging import PAGE, decode, page
from keyferry_manager.admin.scopes import check_covered, check_scopes, check_token_name
from keyferry_manager.config import Config
from keyferry_manager.policy import FILE_NAME, WHATS, Policy, digest
from keyferry_manager.problems import Conflict, Invalid, NotFound
from keyferry_manager.store.records import ApiToken, FactoryIdentity, Reason
from keyferry_manager.store.statements import by
from keyferry_manager.tokens import new_token, token_hash

if TYPE_CHECKING:
    from keyferry_manager.store import Store

_PREFIX = "kfa_"
_LONGEST_TOKEN = 366 * 86400
_TOKEN_SECONDS = 90 * 86400


@dataclass(frozen=True, slots=True)
class Rights:
    """Who asks. ``scopes`` None is everything; ``until`` is when that ends, Unix time."""

    actor: str
    scopes: frozenset[str] | None = None
    until: int | None = None


def api_token_hash(token: str) -> str:
    """What the store keeps of a token: SHA-256 is right for 256 random bits, see token_hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_api_token(text: str) -> bool:
    """Whether ``text`` has the shape of a token, so that others cost no look-up."""
    return text.startswith(_PREFIX) and len(text) == len(_PREFIX) + 43


class Service:
    """The operations of one realm on behalf of ``rights``."""

    def __init__(self, config: Config, store: "Store", rights: Rights) -> None:
        self._config = config
        self._store = store
        self._rights = rights

    # the realm

    async def realm(self) -> dict[str, Any]:
        """The state of the realm in numbers."""
        applied = await self._store.policies.get()
        counts = await self._store.pages.counts()
        rules = await in_force(self._store)
        return {
            "realm": self._config.realm,
            **counts,
            "policy": applied.id if applied is not None else None,
            "policy_rules": len(rules.policy.rules),
            "admission": self._config.admission,
        }

    # devices

    async def devices(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        """A page of devices, by name."""
        pages = self._store.pages
        found = await pages.devices(limit, decode(cursor, str))
        names = [device.name for device in found]
        latest = await pages.latest_certificates(names)
        revoked = await pages.revoked([item.serial for item in latest.values()])
        online = await pages.online(names)
        now = time.time()
        items = [
            values.device(name, item.created_at, latest.get(name), now, revoked, name in online)
            for name, item in zip(names, found, strict=True)
        ]
        return page(items, limit, names[-1:] or None)

    async def device(self, name: str) -> dict[str, Any]:
        """A device: its certificates, how it may enrol, and whom it may ask for."""
        store = self._store
        device = await store.device(name)
        if device is None:
            raise NotFound(
                f"no device is called {name}: 'keyferry device list' shows those there are."
            )
        rules = await in_force(store)
        names = {device.name for device in await store.devices()} | rules.policy.names
        names.update(*rules.pairs)
        now = time.time()
        certificates = await store.certificates(name)
        revoked = await store.pages.revoked([item.serial for item in certificates])
        keys = [key.key_id for key in await store.presences.keys() if key.device == name]
        return {
            "name": name,
            "identity": f"sip:{name}@{self._config.realm}",
            "added": values.utc(device.created_at),
            "state": values.state(next(iter(certificates), None), now, revoked),
            "online": bool(await store.pages.online([name])),
            "certificates": [
                values.certificate(item, revoked.get(item.serial)) for item in certificates
            ],
            "factory": [
                {"serial": item.serial, "expires": values.utc(item.not_after)}
                for item in await store.factory_identities(name)
            ],
            "tokens": [values.enrolment_token(item, now) for item in await store.tokens(name)],
            "agreement_key": next(iter(keys), None),
            "may_ask": sorted(other for other in names if rules.allows(name, other)),
            "asked_by": sorted(other for other in names if rules.allows(other, name)),
        }

    async def add_device(
        self,
        name: str,
        *,
        again: bool = False,
        seconds: int | None = None,
        token_sha256: str | None = None,
        factory: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add a device with a way to enrol. Without ``token_sha256`` and ``factory`` that is a new
        one-time token, which is in the answer and nowhere else."""
        _named(name)
        now = int(time.time())
        identity, secret, kept, ends = None, None, "", 0
        if factory is not None:
            identity = FactoryIdentity(**factory, device=name, created_at=now)
            ends = identity.not_after
        else:
            if token_sha256 is None:
                secret = new_token()
                kept = token_hash(secret)
            else:
                kept = token_sha256
            ends = now + (seconds or self._config.token_hours * 3600)
        await self._store.add_device(
            name,
            factory=identity,
            token_hash=kept,
            token_expires_at=0 if factory is not None else ends,
            again=again,
            now=now,
        )
        kind = "token" if factory is None else "factory"
        fields = {"credential": kind, "again": again, "expires": ends}
        await self._store.audit("device-added", name, **fields, **by(self._rights.actor))
        return {"name": name, "expires": values.utc(ends), "token": secret}

    async def endorse(self, name: str, endorsement: str) -> dict[str, Any]:
        """Keep what the owner signed for a device (base64); peers that want it get it delivered.

        Who signed it is for them to see: the owner's key is not known here.
        """
        from keyferry_core import (
            owner,
            x509,
        )  # they bring cryptography, which most commands need not

        try:
            data = base64.b64decode(endorsement, validate=True)
            realm, named, public, until, _, _ = owner.parse(data)
        except ValueError:
            raise Invalid("this is no owner's endorsement: it is not base64.") from None
        except DecodeError as error:
            raise Invalid(f"this is no owner's endorsement: {error.detail}.") from None
        if (named, realm) != (name, self._config.realm):
            raise Invalid(f"the endorsement is for {named}@{realm}.")
        if await self._store.device(name) is None:
            raise NotFound(
                f"no device is called {name}: 'keyferry device list' shows those there are."
            )
        found = await self._store.certificates(name)
        keys = {item.serial: x509.parse(item.der).public_key for item in found}
        revoked = await self._store.pages.revoked(list(keys))
        if public not in [key for serial, key in keys.items() if serial not in revoked]:
            raise Invalid(
                f"the endorsement is for a key that no certificate of {name} has: export its "
                "certificate again and have that signed."
            )
        await self._store.presences.endorse(name, data, time.time())
        key = hashlib.sha256(public).hexdigest()
        fields = {"key": key, "until": until}
        await self._store.audit("device-endorsed", name, **fields, **by(self._rights.actor))
        return {"name": name, "key": key, "expires": values.utc(until or None)}

    # certificates

    async def certificates(
        self, limit: int = PAGE, cursor: str | None = None, *, device: str | None = None
    ) -> dict[str, Any]:
        """A page of certificates, newest first."""
        pages = self._store.pages
        found = await pages.certificates(limit, decode(cursor, float, str), device=device or "")
        revoked = await pages.revoked([item.serial for item in found])
        items = [
            {"name": item.device, **values.certificate(item, revoked.get(item.serial))}
            for item in found
        ]
        return page(items, limit, (found[-1].issued_at, found[-1].serial) if found else None)

    async def certificate(self, serial: str) -> dict[str, Any]:
        """One certificate."""
        found = await self._store.certificate_by_serial(serial)
        if found is None:
            raise NotFound(f"no certificate has the serial {serial}.")
        revoked = await self._store.pages.revoked([serial])
        return {
            "name": found.device,
            **values.certificate(found, revoked.get(serial)),
            "der": base64.b64encode(found.der).decode(),
        }

    async def revoke(
        self, reason: Reason, *, device: str = "", serial: str = "", remove: bool = False
    ) -> dict[str, Any]:
        """Order a revocation. A running manager sees to it within a second: ask ``revocation``."""
        order = await self._store.life.revoke(
            reason, device=device, serial=serial, remove=remove, actor=self._rights.actor
        )
        return values.revocation(order)

    async def revocation(self, number: int) -> dict[str, Any]:
        """What became of an order."""
        order = await self._store.life.revocation(number)
        if order is None:
            raise NotFound(f"there is no revocation {number}.")
        return values.revocation(order)

    # what happens now

    async def links(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        """A page of live links, by name."""
        rows = await self._store.pages.links(limit, decode(cursor, str, str))
        items = [values.link(row) for row in rows]
        return page(items, limit, (rows[-1].name, rows[-1].link) if rows else None)

    async def sessions(
        self,
        limit: int = PAGE,
        cursor: str | None = None,
        *,
        device: str | None = None,
        open_only: bool = False,
    ) -> dict[str, Any]:
        """A page of sessions, newest first."""
        rows = await self._store.pages.sessions(
            limit, decode(cursor, float, str), device=device or "", open_only=open_only
        )
        items = [values.session(row) for row in rows]
        return page(items, limit, (rows[-1].started_at, rows[-1].session) if rows else None)

    async def audit(
        self,
        limit: int = PAGE,
        cursor: str | None = None,
        *,
        device: str | None = None,
        event: str | None = None,
        after: int | None = None,
    ) -> dict[str, Any]:
        """A page of the audit trail: newest first, or oldest first from behind entry ``after``."""
        position = decode(cursor, int)
        if position is None and after is not None:
            position = [after]
        found = await self._store.pages.audit(
            limit, position, name=device or "", event=event or "", newest_first=after is None
        )
        items = [values.audit(entry) for entry in found]
        return page(items, limit, (found[-1].id,) if found else None)

    async def approvals(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        """A page of first enrolments that wait, or waited, oldest first."""
        found = await self._store.pages.approvals(limit, decode(cursor, int))
        items = [values.approval(item) for item in found]
        return page(items, limit, (found[-1].id,) if found else None)

    async def decide(self, which: str, approve: bool) -> dict[str, Any]:
        """Approve or deny: ``which`` is a request's number, or the device that has only one."""
        decided = await self._store.approvals.decide(which, approve, self._rights.actor)
        return values.approval(decided)

    # rules

    async def rules(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        """A page of the pairs of ``keyferry allow``, by names."""
        found = await self._store.pages.rules(limit, decode(cursor, str, str))
        items = [values.rule(item) for item in found]
        return page(items, limit, (found[-1].initiator, found[-1].responder) if found else None)

    async def allow(self, initiator: str, responder: str) -> dict[str, Any]:
        """Let ``initiator`` ask for ``responder``."""
        _pair(initiator, responder)
        changed = await policies.allow(self._store, initiator, responder)
        if changed:
            actor = by(self._rights.actor)
            await self._store.audit("rule-added", initiator, responder=responder, **actor)
        names = (initiator, responder)
        unknown = [name for name in names if await self._store.device(name) is None]
        return _rule(initiator, responder, True, changed, unknown=unknown)

    async def disallow(self, initiator: str, responder: str) -> dict[str, Any]:
        """Take a pair away; never held up, but what that breaks is said."""
        _pair(initiator, responder)
        if not await self._store.disallow(initiator, responder):
            raise NotFound(
                f"there is no rule from {initiator} to {responder}: 'keyferry allow' without names "
                "lists those there are."
            )
        actor = by(self._rights.actor)
        await self._store.audit("rule-removed", initiator, responder=responder, **actor)
        broken = await policies.broken(self._store)
        return _rule(initiator, responder, False, True, broken=broken)

    # the policy

    async def policy(self, number: int | None = None) -> dict[str, Any]:
        """An applied policy with its text; the one in force without a number."""
        found = await self._store.policies.get(number)
        if found is None:
            which = "no policy was applied" if number is None else f"there is no policy {number}"
            raise NotFound(f"{which}: 'keyferry policy history' lists those there are.")
        return {**values.applied(found), "text": found.text}

    async def policy_history(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        """A page of applied policies, newest first."""
        found = await self._store.pages.policies(limit, decode(cursor, int))
        items = [values.applied(item) for item in found]
        return page(items, limit, (found[-1].id,) if found else None)

    async def policy_check(self, text: str, source: str = FILE_NAME) -> dict[str, Any]:
        """Try a policy and its tests. PolicyProblem says what is wrong."""
        state = await policies.current(self._store, sessions=False)
        rules = await policies.candidate(state, text, source)
        unknown = policies.unknown(rules.policy, state.devices)
        return {**_counted(rules.policy), "sha256": digest(text), "unknown": unknown}

    async def policy_diff(
        self, text: str, source: str = FILE_NAME, *, pairs: int = policies.MAX_CHANGES
    ) -> dict[str, Any]:
        """What a policy would change: ``pairs`` of it at most, and every session that would end."""
        state = await policies.current(self._store)
        rules = await policies.candidate(state, text, source)
        return await policies.difference(state, rules, pairs)

    async def policy_apply(
        self,
        text: str,
        source: str = FILE_NAME,
        *,
        note: str | None = None,
        pairs: int = policies.MAX_CHANGES,
    ) -> dict[str, Any]:
        """Bring a policy into force, when it keeps its own tests."""
        state = await policies.current(self._store)
        rules = await policies.candidate(state, text, source)
        unknown = policies.unknown(rules.policy, state.devices)
        if state.applied is not None and state.applied.text == text:
            none = policies.no_difference()
            return {**values.applied(state.applied), "changed": False, **none, "unknown": unknown}
        found = await policies.difference(state, rules, pairs)
        who = note or self._rights.actor
        actor = self._rights.actor
        applied = await policies.apply(self._store, state, text, who, None, actor)
        return {**values.applied(applied), "changed": True, **found, "unknown": unknown}

    async def policy_rollback(
        self,
        number: int | None = None,
        *,
        note: str | None = None,
        pairs: int = policies.MAX_CHANGES,
    ) -> dict[str, Any]:
        """Bring an earlier policy back into force; 0 is none at all, None the one before."""
        state = await policies.current(self._store)
        earlier = await policies.earlier(self._store, state, number)
        text, restores = ("", 0) if earlier is None else (earlier.text, earlier.id)
        rules, broken = await policies.tried(state, text, f"policy {restores}")
        found = await policies.difference(state, rules, pairs)
        who = note or self._rights.actor
        actor = self._rights.actor
        applied = await policies.apply(self._store, state, text, who, restores, actor)
        return {**values.applied(applied), **found, "broken": broken}

    async def policy_explain(
        self, initiator: str, responder: str, text: str | None = None, source: str = FILE_NAME
    ) -> dict[str, Any]:
        """What one device may do with another, and which rule decides; as if ``text`` were the
        policy in force, when it is given."""
        for name in (*initiator.split(FOR, 1), responder):
            _named(name)
        state = await policies.current(self._store, sessions=False)
        rules = state.rules
        if text is not None:
            rules, _ = await policies.tried(state, text, source)
        decisions = {what: rules.decide(initiator, responder, what) for what in WHATS}
        return {
            "from": initiator,
            "to": responder,
            "decisions": {
                what: {"allowed": decision.allowed, "reason": decision.reason}
                for what, decision in decisions.items()
            },
            "rules": [str(rule) for rule in rules.about(initiator, responder)],
            "unknown": [
                name
                for name in (initiator.partition(FOR)[0], responder)
                if name not in state.devices
            ],
        }

    # tokens of the API

    async def api_tokens(self, limit: int = PAGE, cursor: str | None = None) -> dict[str, Any]:
        """A page of the API's tokens, by name."""
        found = await self._store.pages.api_tokens(limit, decode(cursor, str))
        now = time.time()
        items = [values.api_token(item, now) for item in found]
        return page(items, limit, (found[-1].name,) if found else None)

    async def add_api_token(
        self, name: str, scopes: Iterable[str], seconds: int | None = None
    ) -> dict[str, Any]:
        """Make a token of 256 random bits; it is in the answer, and nowhere else."""
        check_token_name(name)
        asked = check_scopes(scopes)
        now = int(time.time())
        ends = now + (_TOKEN_SECONDS if seconds is None else seconds)
        if not now < ends <= now + _LONGEST_TOKEN:
            raise Invalid("a token lives for 366 days at most.")
        if self._rights.scopes is not None:
            check_covered(asked, self._rights.scopes)
        if self._rights.until is not None:
            ends = min(ends, self._rights.until)  # it does not outlive the one that made it
        secret = _PREFIX + secrets.token_urlsafe(32)
        actor = self._rights.actor
        token = ApiToken(name, api_token_hash(secret), asked, now, ends, actor)
        await self._store.api_tokens.add(token)
        fields = {"token": name, "scopes": list(asked), "expires": ends}
        await self._store.audit("api-token-added", **fields, **by(actor))
        return {**values.api_token(token, now), "token": secret}

    async def remove_api_token(self, name: str) -> None:
        """End a token, but not the one that asks: a program does not lock itself out."""
        if self._rights.actor == f"token:{name}":
            raise Conflict(f"{name} is the token that asks: another one, or a user, removes it.")
        await self._store.api_tokens.remove(name)
        await self._store.audit("api-token-removed", token=name, **by(self._rights.actor))


def _counted(policy: Policy) -> dict[str, Any]:
    return {"rules": len(policy.rules), "tests": len(policy.assertions)}


def _rule(
    initiator: str,
    responder: str,
    allowed: bool,
    changed: bool,
    *,
    unknown: Iterable[str] = (),
    broken: Iterable[str] = (),
) -> dict[str, Any]:
    return {
        "from": initiator,
        "to": responder,
        "allowed": allowed,
        "changed": changed,
        "unknown": list(unknown),
        "broken": list(broken),
    }


def _named(name: str) -> None:
    try:
        check_name(name)
    except DecodeError as error:
        raise Invalid(f"{name!r} is not a device's name ({error.detail}).") from None


def _pair(initiator: str, responder: str) -> None:
    _named(initiator)
    _named(responder)
    if initiator == responder:
        raise Conflict("a device does not ask for itself: give two names.")
