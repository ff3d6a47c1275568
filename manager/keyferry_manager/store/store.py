"""The one place that reads and writes the database.

Every method is one transaction. The relay asks the store nothing per message: it keeps devices
and rules in memory and reads them again when ``data_version`` changes.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import delete, event, func, insert, or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyferry_manager.problems import Conflict, StoreProblem
from keyferry_manager.store import tables
from keyferry_manager.store.api_tokens import ApiTokens
from keyferry_manager.store.approvals import Approvals
from keyferry_manager.store.engine import WRITES, open_engine
from keyferry_manager.store.life import Life, admissible
from keyferry_manager.store.migrate import migrate
from keyferry_manager.store.pages import Pages
from keyferry_manager.store.policies import Policies
from keyferry_manager.store.presence import Presences, write_keys, write_links
from keyferry_manager.store.published import Published
from keyferry_manager.store.records import (
    AgreementKey,
    AllowRule,
    AuditEntry,
    Certificate,
    Device,
    FactoryIdentity,
    LinkRow,
    Outcome,
    SessionRow,
    Token,
)
from keyferry_manager.store.registration import Registration
from keyferry_manager.store.statements import append_audit, touch, upsert

_Record = TypeVar("_Record")


class Store:
    """An open database. Use it as ``async with Store.open(url) as store``, or call close."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._reading = engine
        # What the database refused, by the driver-neutral name of the error.
        self.errors: Counter[str] = Counter()
        event.listen(engine.sync_engine, "handle_error", self._count_error)
        self._writing = engine.execution_options(**{WRITES: True})
        # Revocation, and removal of devices.
        self.life = Life(self._reading, self._writing)
        # First enrolments that wait for a person.
        self.approvals = Approvals(self._reading, self._writing)
        self.policies = Policies(self._reading, self._writing)
        self.presences = Presences(self._reading, self._writing)
        # Lists, a page at a time.
        self.pages = Pages(self._reading)
        self.api_tokens = ApiTokens(self._reading, self._writing)
        # In the home of a CA that stands apart: the managers that it signs for.
        self.registration = Registration(self._reading, self._writing)
        # In the home of a directory: what managers published.
        self.published = Published(self._reading, self._writing)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open ``sqlite:///FILE`` (made with mode 0600 when absent) or ``postgresql://…``.

        Nothing is connected yet, and nothing migrated: call ``migrate`` once at the start.
        """
        return cls(open_engine(url))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._reading.dispose()

    async def migrate(self) -> None:
        """Bring the tables to this version. StoreProblem when that cannot be done."""
        try:
            async with self._writing.begin() as connection:
                await connection.run_sync(migrate)
        except (DBAPIError, OSError) as error:
            raise StoreProblem(f"the database cannot be opened: {_first_line(error)}.") from error

    async def data_version(self) -> int:
        """A number that changes whenever any process changed devices, rules or policy."""
        async with self._reading.connect() as connection:
            number = await connection.scalar(select(tables.revision.c.number))
        return number or 0

    # devices

    async def device(self, name: str) -> Device | None:
        """The device of this name, if there is one that was not removed."""
        table = tables.devices
        query = select(table).where(table.c.name == name, table.c.removed_at.is_(None))
        return await self._one(query, Device)

    async def devices(self) -> list[Device]:
        """Every device, by name."""
        table = tables.devices
        query = select(table).where(table.c.removed_at.is_(None)).order_by(table.c.name)
        return await self._all(query, Device)

    async def removed_names(self) -> list[str]:
        """Devices that were removed, and whose certificates are still remembered."""
        table = tables.devices
        query = select(table.c.name).where(table.c.removed_at.is_not(None)).order_by(table.c.name)
        async with self._reading.connect() as connection:
            return list((await connection.execute(query)).scalars())

    async def add_device(
        self,
        name: str,
        *,
        factory: FactoryIdentity | None = None,
        token_hash: str = "",
        token_expires_at: int = 0,
        again: bool = False,
        now: int | None = None,
    ) -> Device:
        """Add a device with a way to enrol: a factory identity, or the hash of a token.

        ``again`` gives a device that exists a new way instead; earlier factory identities and
        unused tokens of it end then. Without it StoreProblem, and nothing is changed. One that
        was removed comes back as a new one; what was revoked stays so.
        """
        now = _now() if now is None else now
        async with self._writing.begin() as connection:
            query = select(tables.devices).where(tables.devices.c.name == name)
            row = (await connection.execute(query)).first()
            removed = row is not None and row.removed_at is not None
            if row is not None and not removed and not again:
                raise Conflict(
                    f"{name} exists already: choose another name, or add --again to give this "
                    "device a new way to enrol and end its earlier ones."
                )
            if row is None:
                await connection.execute(insert(tables.devices).values(name=name, created_at=now))
            if removed:
                table = tables.devices
                values = {"created_at": now, "removed_at": None}
                await connection.execute(update(table).where(table.c.name == name).values(values))
            device = Device(name, now if row is None or removed else row.created_at)
            factories, tokens = tables.factory_identities, tables.tokens
            await connection.execute(delete(factories).where(factories.c.device == name))
            await connection.execute(
                delete(tokens).where(tokens.c.device == name, tokens.c.used_at.is_(None))
            )
            approvals = tables.approvals
            await connection.execute(delete(approvals).where(approvals.c.device == name))
            if factory is not None:
                await connection.execute(insert(factories).values(asdict(factory)))
            if token_hash:
                values = {
                    "device": name,
                    "hash": token_hash,
                    "created_at": now,
                    "expires_at": token_expires_at,
                }
                await connection.execute(insert(tokens).values(values))
            await touch(connection)
        return device

    async def factory_identity(self, fingerprint: str) -> FactoryIdentity | None:
        """The factory identity with this certificate."""
        table = tables.factory_identities
        query = select(table).where(table.c.fingerprint == fingerprint)
        return await self._one(query, FactoryIdentity)

    async def factory_identities(self, device: str) -> list[FactoryIdentity]:
        """The factory identities of a device."""
        table = tables.factory_identities
        query = select(table).where(table.c.device == device).order_by(table.c.created_at)
        return await self._all(query, FactoryIdentity)

    async def tokens(self, device: str) -> list[Token]:
        """Every token ever made for a device, oldest first: used and expired ones too."""
        table = tables.tokens
        query = select(table).where(table.c.device == device).order_by(table.c.id)
        return await self._all(query, Token)

    # certificates

    async def certificate_by_serial(self, serial: str) -> Certificate | None:
        """The certificate with this serial (32 hexadecimal digits)."""
        table = tables.certificates
        return await self._one(select(table).where(table.c.serial == serial), Certificate)

    async def certificates(self, device: str) -> list[Certificate]:
        """Every certificate issued to a device, newest first."""
        table = tables.certificates
        query = select(table).where(table.c.device == device)
        return await self._all(query.order_by(table.c.issued_at.desc()), Certificate)

    async def latest_certificates(self) -> dict[str, Certificate]:
        """The newest certificate of each device that has one."""
        table = tables.certificates
        rank = func.row_number().over(
            partition_by=table.c.device, order_by=(table.c.issued_at.desc(), table.c.serial)
        )
        ranked = select(table, rank.label("rank")).subquery()
        columns = [ranked.c[column.name] for column in table.columns]
        found = await self._all(select(*columns).where(ranked.c.rank == 1), Certificate)
        return {certificate.device: certificate for certificate in found}

    async def certificate_ends(self) -> list[int]:
        """When the newest certificate of each device ends that has one and was not removed."""
        table, devices, revoked = tables.certificates, tables.devices, tables.revoked
        query = (
            select(func.max(table.c.not_after))
            .join(devices, devices.c.name == table.c.device)
            .where(devices.c.removed_at.is_(None))
            .where(table.c.serial.not_in(select(revoked.c.serial)))
            .group_by(table.c.device)
        )
        async with self._reading.connect() as connection:
            return [int(end) for end in (await connection.scalars(query)).all()]

    async def issued_since(self, device: str, since: int) -> int:
        """How many certificates a device got at ``since`` or later."""
        table = tables.certificates
        query = select(func.count()).where(table.c.device == device, table.c.issued_at >= since)
        async with self._reading.connect() as connection:
            return await connection.scalar(query) or 0

    async def owner_of_key(self, key: str) -> str | None:
        """The device that has, or had, a certificate for this key."""
        table = tables.certificates
        async with self._reading.connect() as connection:
            return await connection.scalar(
                select(table.c.device).where(table.c.key == key).limit(1)
            )

    async def record_certificate(
        self,
        certificate: Certificate,
        *,
        token: int | None = None,
        presented: str = "",
        audit: AuditEntry | None = None,
    ) -> bool:
        """Write down an issued certificate, and use up the token that paid for it.

        One transaction: of two requests with one token only one gets True. False means that what
        admitted the device is gone by now: the token is used or expired, the device was removed,
        or the ``presented`` certificate (fingerprint of a factory's, serial of a device's) or the
        new one's key was revoked. Nothing is written then, and the certificate must not leave
        the manager.
        """
        async with self._writing.begin() as connection:
            if not await admissible(connection, certificate, presented):
                return False
            await connection.execute(insert(tables.certificates).values(asdict(certificate)))
            if token is not None and not await _consume(connection, token, certificate):
                await connection.rollback()
                return False
            approvals = tables.approvals
            await connection.execute(delete(approvals).where(approvals.c.key == certificate.key))
            if audit is not None:
                await append_audit(connection, [audit])
        return True

    # rules

    async def allow(self, initiator: str, responder: str, *, expected: int | None = None) -> bool:
        """Let ``initiator`` ask for ``responder``. False when the rule was there already.

        StoreProblem, and nothing is changed, when ``data_version`` is not ``expected`` any more.
        """
        values = {"initiator": initiator, "responder": responder, "created_at": _now()}
        async with self._writing.begin() as connection:
            added = await connection.execute(
                upsert(connection, tables.allow_rules).values(values).on_conflict_do_nothing()
            )
            if added.rowcount:
                await touch(connection, expected)
        return bool(added.rowcount)

    async def disallow(self, initiator: str, responder: str) -> bool:
        """Remove a rule. False when there was none."""
        table = tables.allow_rules
        async with self._writing.begin() as connection:
            removed = await connection.execute(
                delete(table).where(table.c.initiator == initiator, table.c.responder == responder)
            )
            if removed.rowcount:
                await touch(connection)
        return bool(removed.rowcount)

    async def rules(self) -> list[AllowRule]:
        """Every rule, in order of names."""
        table = tables.allow_rules
        query = select(table).order_by(table.c.initiator, table.c.responder)
        return await self._all(query, AllowRule)

    # sessions and audit

    async def write(
        self,
        *,
        audit: Sequence[AuditEntry] = (),
        sessions: Iterable[SessionRow] = (),
        links: Mapping[str, LinkRow | None] | None = None,
        keys: Iterable[AgreementKey] = (),
    ) -> None:
        """Append audit entries, and set sessions, links and keys to their given state, in one
        transaction. ``links`` is by identifier, with None for a link that ended.

        A session may be written many times, with growing counts; the last one stands.
        """
        # The last state of each: PostgreSQL refuses to set one row twice in one statement.
        latest = {row.session: asdict(row) for row in sessions}
        async with self._writing.begin() as connection:
            if latest:
                statement = upsert(connection, tables.sessions)
                changing = ("state", "ended_at", "end_reason", "messages", "octets")
                await connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=["session"],
                        set_={name: statement.excluded[name] for name in changing},
                    ),
                    list(latest.values()),
                )
            await write_links(connection, links or {})
            await write_keys(connection, keys)
            await append_audit(connection, audit)

    async def audit(
        self,
        event: str,
        name: str = "",
        address: str = "",
        outcome: Outcome = "ok",
        detail: str = "",
        **fields: Any,
    ) -> None:
        """Append one audit entry, now."""
        entry = AuditEntry(time.time(), event, outcome, name, address, detail, fields)
        await self.write(audit=[entry])

    async def audit_entries(
        self, limit: int = 50, *, name: str = "", event: str = "", after: int = 0
    ) -> list[AuditEntry]:
        """The newest ``limit`` entries with a row id above ``after``, oldest first."""
        table = tables.audit
        query = select(table).where(table.c.id > after).order_by(table.c.id.desc()).limit(limit)
        if name:
            query = query.where(table.c.name == name)
        if event:
            query = query.where(table.c.event == event)
        return (await self._all(query, AuditEntry))[::-1]

    async def audit_chain(self, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """At most ``limit`` entries from the one after number ``after`` on, oldest first."""
        table = tables.audit
        query = select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
        return await self._all(query, AuditEntry)

    async def sessions(
        self, limit: int = 50, *, device: str = "", open_only: bool = False
    ) -> list[SessionRow]:
        """Sessions, newest first."""
        table = tables.sessions
        query = select(table).order_by(table.c.started_at.desc()).limit(limit)
        if device:
            query = query.where(or_(table.c.initiator == device, table.c.responder == device))
        if open_only:
            query = query.where(table.c.ended_at.is_(None))
        return await self._all(query, SessionRow)

    async def end_open_sessions(self, reason: str) -> int:
        """End what a manager left open when it was killed. How many there were."""
        table = tables.sessions
        values = {"state": "ended", "ended_at": time.time(), "end_reason": reason}
        async with self._writing.begin() as connection:
            done = await connection.execute(
                update(table).where(table.c.ended_at.is_(None)).values(values)
            )
        return done.rowcount

    # inside

    def _count_error(self, context: Any) -> None:
        error = context.sqlalchemy_exception or context.original_exception
        self.errors[type(error).__name__] += 1

    async def _all(self, query: Any, record: type[_Record]) -> list[_Record]:
        async with self._reading.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [record(**row) for row in rows]

    async def _one(self, query: Any, record: type[_Record]) -> _Record | None:
        found = await self._all(query, record)
        return found[0] if found else None


async def _consume(connection: AsyncConnection, token: int, certificate: Certificate) -> bool:
    table = tables.tokens
    # The conditions stand in the statement itself: whoever comes second finds no row.
    done = await connection.execute(
        update(table)
        .where(
            table.c.id == token,
            table.c.device == certificate.device,
            table.c.used_at.is_(None),
            table.c.expires_at > certificate.issued_at,
        )
        .values(used_at=int(certificate.issued_at), used_serial=certificate.serial)
    )
    return done.rowcount == 1


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().split("\n")[0].rstrip(".")


def _now() -> int:
    return int(time.time())
