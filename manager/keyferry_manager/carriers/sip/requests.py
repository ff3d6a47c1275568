"""What a device asks: each message held to the rules, and given to whom it is for."""

import logging
from typing import TYPE_CHECKING

from keyferry_core import sip_check, sip_parts
from keyferry_core.errors import RemoteError, code_of
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError, Uri
from keyferry_manager.carriers.sip import answers, dialect
from keyferry_manager.carriers.sip.shapes import Read, branch_of
from keyferry_manager.logs import log

if TYPE_CHECKING:
    from keyferry_manager.carriers.sip.link import SipLink

_LOG = logging.getLogger("keyferry.sip")
# Request-URIs of a device whose meaning is remembered; each has at most 1024 bytes.
_TARGETS = 16
_OTHERS = (b"UPDATE", b"SUBSCRIBE", b"NOTIFY", b"PUBLISH", b"INFO", b"PRACK", b"REFER")


class Requests:
    """The messages of the device at the end of ``link``."""

    def __init__(self, link: "SipLink", realm: str) -> None:
        self._link = link
        self._realm = realm
        # The URI in From that was found to be the device's, as the reader remembers it; and what
        # the Request-URIs of its messages mean.
        self._own_uri: Uri | None = None
        self._targets: dict[bytes, str] = {}

    def handle(self, message: Message) -> None:
        method = message.method
        try:
            session = dialect.is_session(message)
            if not isinstance(message, Read):
                called = not session and dialect.is_call(message)
                sip_check.check(message, (b"outbound",), called)
                self._link.learn(message)
            if message.status:
                self._link.transactions.answered(message)
                return
            self._link.endpoint.measures.sip_requests[dialect.method_name(method)] += 1
            self._check_sender(message)
            self._on_request(message, session)
        except dialect.Refused as refusal:
            self._link.refused(refusal.event, refusal.detail)
            if method != b"ACK":
                said = sip_parts.warning(self._realm, code_of(refusal.event), refusal.warning)
                self._link.respond(message, refusal.status, [(b"Warning", said)])
        except SipError as error:
            if message.status or method == b"ACK":
                log(_LOG, logging.DEBUG, "dropped", address=self._link.address, detail=error.detail)
                return
            if error.sip_status == 400:
                self._link.refused("malformed", error.detail)
            self._link.respond(message, error.sip_status, answers.extra(error))
        except RemoteError as error:
            if method != b"ACK":
                self._link.fail(message, error)

    def _check_sender(self, message: Message) -> None:
        if not isinstance(message, Read) or message.method == b"REGISTER":
            dialect.check_sender(message, self._link.name, self._realm)
            return
        assert message.sender is not None
        uri = message.sender.uri
        if uri is not self._own_uri:
            dialect.check_sender(message, self._link.name, self._realm)
            self._own_uri = uri

    def _target(self, message: Message) -> str:
        wanted = self._targets.get(message.uri)
        if wanted is None:
            wanted = dialect.target(message, self._realm)
            if len(self._targets) >= _TARGETS:
                self._targets.clear()
            self._targets[message.uri] = wanted
        return wanted

    def _on_request(self, message: Message, session: bool) -> None:
        link, method = self._link, message.method
        if method == b"CANCEL":
            cancel = link.invited.get(branch_of(message))
            if cancel is None:
                raise SipError(481, "no INVITE that waits")
            cancel(message)
            return
        if method != b"REGISTER" and message.to().get(b"tag") is not None:
            self._within(message, session)
            return
        wanted = self._target(message)
        if method == b"REGISTER":
            link.registrar.register(message)
        elif method == b"OPTIONS":
            if wanted:
                link.put(message, dialect.resolve(wanted, link.name, link.next_number()))
            else:
                link.respond(message, 200, answers.capabilities())
        elif method == b"MESSAGE":
            if not wanted:
                raise SipError(404, "the manager reads no messages")
            link.put(message, dialect.send(message, wanted, link.name, link.next_number()))
        elif method == b"INVITE":
            self._invite(message, session, wanted)
        elif method in (b"BYE", b"ACK"):
            raise SipError(481, "no such dialog")
        elif method in _OTHERS:
            raise SipError(405, "only within a call")
        else:
            raise SipError(501, "an unknown method")

    def _invite(self, message: Message, session: bool, wanted: str) -> None:
        if not wanted:
            raise SipError(404, "the manager takes no calls")
        branch = branch_of(message)
        if branch in self._link.invited:
            return  # sent again
        if len(self._link.invited) >= self._link.settings.open_requests:
            raise SipError(503, "too many INVITEs without an answer")
        if session:
            found = sip_parts.session_of(message.one(b"call-id"))
            self._link.sessions.invite(message, found, wanted)
        else:
            self._link.endpoint.calls.invite(self._link, message, wanted)

    def _within(self, message: Message, session: bool) -> None:
        """A request within a dialog."""
        if not session:
            self._link.endpoint.calls.within(self._link, message)
            return
        found = sip_parts.session_of(message.one(b"call-id")) or b""
        if message.method == b"ACK":
            self._link.sessions.ack(message, found)
        elif message.method == b"MESSAGE":
            self._link.sessions.message(message, found)
        elif message.method == b"BYE":
            self._link.sessions.bye(message, found)
        else:
            raise SipError(405, "not in a session")
