"""The audit trail: each event once to the log and once to the store.

A stranger can cause events as fast as the network is. So each kind of event of each address or
name is written a few times a minute, and the rest only counted.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from keyferry_manager.audit.writer import BatchWriter
from keyferry_manager.authority import serial_text
from keyferry_manager.carriers.tls import Refusal
from keyferry_manager.logs import log
from keyferry_manager.registry import Presence, Session
from keyferry_manager.store.records import AgreementKey, AuditEntry, LinkRow, Outcome, SessionRow

_LOG = logging.getLogger("keyferry.audit")
# Of one kind and one source in one window of this many seconds. Links that come and go are no
# refusals, but a device can make them as fast.
_WINDOW = 60.0
_PER_WINDOW = {"refused": 10, "ok": 60}
_MAX_SOURCES = 10_000


@dataclass(slots=True)
class _Window:
    started: float
    outcome: Outcome
    name: str
    address: str
    written: int = 0
    suppressed: int = 0


class AuditTrail:
    """Takes events from every part of the manager. Nothing here waits."""

    def __init__(
        self,
        writer: BatchWriter,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._now = now
        self._wall = wall
        self._windows: dict[tuple[str, str], _Window] = {}
        self._changed: set[Session] = set()
        # How often each event was refused, also those that are not written one by one.
        self.refusals: Counter[str] = Counter()

    def ok(self, event: str, name: str, address: str, detail: str = "", **fields: object) -> None:
        """Something that should be."""
        self._note(logging.INFO, event, "ok", name, address, detail, fields)

    def refused(
        self, event: str, name: str, address: str, detail: str = "", **fields: object
    ) -> None:
        """Something that was not allowed: by a name where one was proved, else by an address."""
        self.refusals[event] += 1
        self._note(logging.WARNING, event, "refused", name, address, detail, fields)

    def connection_refused(self, refusal: Refusal, name: str = "") -> None:
        """A connection that did not get through its handshake; ``name`` where one was proved."""
        if refusal.reason == "abandoned":  # a port scan, a health check
            return
        self.refused(
            "connection-refused",
            name,
            refusal.address,
            refusal.detail,
            reason=refusal.reason,
            listener=refusal.listener,
        )

    def session(self, session: Session) -> None:
        """A session began, ended or was counted: written down at the next ``tick``."""
        self._changed.add(session)

    def link(self, presence: Presence) -> None:
        """A link is there, or its device registered."""
        link = presence.link
        if link is None:
            return
        row = LinkRow(
            link=presence.link_id,
            name=presence.name,
            address=link.address,
            transport=link.transport,
            serial=serial_text(x509.load_der_x509_certificate(link.certificate_der)),
            since=presence.since,
            addresses=tuple(presence.addresses),
            registered_until=presence.registered_until,
        )
        self._writer.link(row.link, row)

    def link_ended(self, link_id: str) -> None:
        """A link is not there any more."""
        self._writer.link(link_id, None)

    def key(self, key: AgreementKey) -> None:
        """A device registered another key."""
        self._writer.key(key)

    def tick(self) -> None:
        """Pass on sessions, close windows. Called about twice a second."""
        for session in self._changed:
            self._writer.session(
                SessionRow(
                    session=session.id.hex(),
                    initiator=session.initiator,
                    responder=session.responder,
                    state=session.state.value,
                    started_at=session.started_at,
                    ended_at=session.ended_at,
                    end_reason=session.end_reason,
                    messages=session.messages,
                    octets=session.octets,
                    on_behalf_of=session.on_behalf_of or None,
                )
            )
        self._changed.clear()
        before = self._now() - _WINDOW
        for key, window in list(self._windows.items()):
            if window.started > before:
                break  # the rest is younger
            self._close_window(key, window)

    def finish(self) -> None:
        """Pass on everything that is still held back."""
        self.tick()
        for key, window in list(self._windows.items()):
            self._close_window(key, window)

    # inside

    def _note(
        self,
        level: int,
        event: str,
        outcome: Outcome,
        name: str,
        address: str,
        detail: str,
        fields: dict[str, object],
    ) -> None:
        window = self._window(event, outcome, name, address)
        if window.written >= _PER_WINDOW[outcome]:
            window.suppressed += 1
            return
        window.written += 1
        self._write(level, event, outcome, name, address, detail, fields)

    def _window(self, event: str, outcome: Outcome, name: str, address: str) -> _Window:
        key = (event, name or address.rpartition(":")[0])
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= _MAX_SOURCES:
                # So many sources at once share one window for each kind of event.
                key, name, address = (event, ""), "", ""
                window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = _Window(self._now(), outcome, name, address)
        return window

    def _close_window(self, key: tuple[str, str], window: _Window) -> None:
        del self._windows[key]
        if window.suppressed:
            fields: dict[str, object] = {"suppressed": window.suppressed}
            detail = f"{window.suppressed} more within {_WINDOW:g} s"
            level = logging.INFO if window.outcome == "ok" else logging.WARNING
            name, address = window.name, window.address
            self._write(level, key[0], window.outcome, name, address, detail, fields)

    def _write(
        self,
        level: int,
        event: str,
        outcome: Outcome,
        name: str,
        address: str,
        detail: str,
        fields: dict[str, object],
    ) -> None:
        said = {"name": name, "address": address, "detail": detail}
        log(_LOG, level, event, **{key: text for key, text in said.items() if text}, **fields)
        self._writer.entry(AuditEntry(self._wall(), event, outcome, name, address, detail, fields))
