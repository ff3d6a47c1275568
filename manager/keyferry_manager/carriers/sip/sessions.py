"""Sessions as dialogs: INVITE, ACK, MESSAGE, BYE and CANCEL of a device, to signalling and back.

The manager is the other end of each dialog, on both legs (docs/sip.md, Signalling on SIP). What is
kept of one is here and not in the link, for a device that comes back goes on with its sessions.
"""

import enum
import secrets
from typing import TYPE_CHECKING, Any

from keyferry_core import signalling as sig
from keyferry_core import sip_codec, sip_parts
from keyferry_core.errors import code_of
from keyferry_core.names import MANAGER
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError
from keyferry_manager.carriers.sip import dialect
from keyferry_manager.registry.sessions import State as Established

if TYPE_CHECKING:
    from keyferry_manager.carriers.sip.link import SipLink

_EDHOC = sip_parts.EDHOC
_CREDENTIALS = (
    (sip_parts.CERTIFICATE, sig.CREDENTIAL),
    (sip_parts.ENDORSED, sig.PUBLIC_KEY),
    (sip_parts.VOUCH, sig.VOUCH),
)
_PROFILES = {b"cert": sig.PROFILE_CERT, b"rpk": sig.PROFILE_RPK}
_PROFILE_NAMES = {number: name for name, number in _PROFILES.items()}
# Dialogs of one device before those are looked for that the relay has no session of.
_MANY = 256


class State(enum.Enum):
    """Where a dialog is. It only moves downwards."""

    INVITED = "invited"  # the INVITE has no final response
    ANSWERED = "answered"  # 200, and no ACK yet
    CONFIRMED = "confirmed"


class Dialog:
    """One session on the leg of one device, which is its ``initiator`` or not."""

    __slots__ = ("branch", "cseq", "initiator", "invite", "peer", "session", "state", "trying")

    def __init__(self, session: bytes, peer: str, initiator: bool) -> None:
        self.session = session
        self.peer = peer
        self.initiator = initiator
        self.state = State.INVITED
        self.cseq = 0  # of our last request
        self.invite: Message | None = None  # the device's, or ours
        self.branch = b""  # of our INVITE
        self.trying = False  # whether our INVITE had a provisional response


class Sessions:
    """Those of the device at the end of ``link``."""

    def __init__(self, link: "SipLink", dialogs: dict[bytes, Dialog]) -> None:
        self._link = link
        self._realm = link.endpoint.realm
        self._dialogs = dialogs

    # what the device sends

    def invite(self, message: Message, session: bytes | None, peer: str) -> None:
        """INVITE with message_1. SipError, or RemoteError of the relay."""
        if session is None:
            raise SipError(400, "call-id: expected the session, 32 digits")
        if message.from_().get(b"tag") != sip_parts.tags(session)[0]:
            raise SipError(400, "from: the tag is not the session's")
        if session in self._dialogs:
            raise SipError(482, "an INVITE in a session that is there")
        found = self._map(sig.CONNECT, session, peer)
        profile = message.first(b"key-profile") or b"cert"
        if profile not in _PROFILES:
            raise SipError(488, "key-profile: cert or rpk")
        found[sig.PROFILE] = _PROFILES[profile]
        sip_parts.fill(found, sip_parts.parts_of(message), ((_EDHOC, sig.MESSAGE_1),))
        sip_parts.state_third_party(found, message)
        _state_route(found, message)
        self._link.respond(message, 100)
        dialog = self._keep(Dialog(session, peer, True))
        dialog.invite = message
        self._link.begun(message, lambda cancel: self._cancelled(dialog, cancel))
        error = self._link.relay(found)
        if error is not None:
            self._refuse_invite(dialog, *error)

    def ack(self, message: Message, session: bytes) -> None:
        """ACK, mostly with message_3. It has no answer: BYE says what went wrong."""
        dialog = self._dialogs.get(session)
        if dialog is None or not dialog.initiator or dialog.state is not State.ANSWERED:
            return
        dialog.state = State.CONFIRMED
        try:
            found = self._contents(message, dialog)
        except SipError as error:
            self._failed(dialog, code_of(error.name))
            return
        if found is None:
            return
        error = self._link.relay(found)
        if error is not None:
            self._failed(dialog, *error)

    def message(self, message: Message, session: bytes) -> None:
        """MESSAGE in a session. SipError 481 where there is none."""
        dialog = self._find(message, session)
        found = self._contents(message, dialog)
        if found is None:
            raise SipError(400, "a message of a session that carries nothing")
        error = self._link.relay(found)
        if error is None:
            self._link.respond(message, 200)
        else:
            self._answer(message, *error)

    def bye(self, message: Message, session: bytes) -> None:
        """BYE: the end of a session, or its refusal."""
        dialog = self._find(message, session)
        said = sip_parts.reason_of(message)
        rejects = said is not None and said[2]
        found = self._map(sig.REJECT if rejects else sig.END, session, dialog.peer)
        if said is not None:
            _say(found, *said[:2])
        if rejects:
            keys = ((_EDHOC, sig.EDHOC_ERROR),)
            sip_parts.fill(found, sip_parts.parts_of(message), keys)
        error = self._link.relay(found)
        if error is None:
            self._drop(dialog)
            self._link.respond(message, 200)
        else:
            self._answer(message, *error)

    def _cancelled(self, dialog: Dialog, cancel: Message) -> None:
        """CANCEL of an INVITE that has no final response."""
        found = self._map(sig.END, dialog.session, dialog.peer)
        said = sip_parts.reason_of(cancel)
        if said is not None:
            _say(found, *said[:2])
        self._drop(dialog)
        self._link.respond(cancel, 200)
        self._link.relay(found)
        assert dialog.invite is not None
        self._link.respond(dialog.invite, 487, tag=sip_parts.tags(dialog.session)[1])

    # what the relay sends

    def send(self, message: dict[int, Any]) -> bool:
        """A message of a session for the device. False, and nothing taken, without room."""
        kind, session = message[sig.TYPE], message[sig.SESSION]
        if kind == sig.CONNECT:
            return self._offer(message)
        dialog = self._dialogs.get(session) or self._again(session)
        if dialog is None:
            return True  # it knows nothing of this session, and has nothing to lose
        if kind == sig.ACCEPT:
            self._accept(dialog, message)
            return True
        if kind == sig.MESSAGE:
            return self._hand_on(dialog, message)
        self._over(dialog, message)  # END, REJECT
        return True

    def _offer(self, message: dict[int, Any]) -> bool:
        link = self._link
        if not link.has_room():
            return False
        session, peer = message[sig.SESSION], message[sig.FROM]
        dialog = self._keep(Dialog(session, peer, False))
        parts = _parts(message, (_EDHOC, sig.MESSAGE_1), *_CREDENTIALS)
        contact = f"<sip:{peer}@{self._realm};transport=tls>".encode()
        fields = [
            (b"Contact", contact),
            (sip_parts.KEY_PROFILE, _PROFILE_NAMES[message[sig.PROFILE]]),
            *dialect.hop_security(message[sig.ROUTE]),
        ]
        if sig.ON_BEHALF_OF in message:
            fields.append((sip_parts.ON_BEHALF_OF, message[sig.ON_BEHALF_OF].encode()))
        request = self._request(dialog, b"INVITE", fields, parts)
        dialog.invite = request
        dialog.branch = link.ask(request, lambda answer: self._invited(dialog, answer))
        return True

    def _invited(self, dialog: Dialog, answer: Message | int) -> None:
        """The device, or the lack of it, answers our INVITE."""
        here = self._dialogs.get(dialog.session) is dialog
        if isinstance(answer, int):
            if here:
                self._drop(dialog)
                if answer == 408:
                    found = self._map(sig.REJECT, dialog.session, dialog.peer)
                    self._link.relay(_say(found, code_of("timeout")))
            return
        if answer.status < 200:
            dialog.trying = True
            if not here:
                self._cancel(dialog)
            return
        if answer.status >= 300:
            if here:
                self._drop(dialog)
                found = self._map(sig.REJECT, dialog.session, dialog.peer)
                _say(found, *sip_parts.error_of(answer))
                keys = ((_EDHOC, sig.EDHOC_ERROR),)
                try:
                    sip_parts.fill(found, sip_parts.parts_of(answer), keys)
                except SipError:
                    pass  # a body of a user agent's own: the status is enough
                self._link.relay(found)
            return
        dialog.state = State.ANSWERED
        if not here:
            self._acknowledge(dialog)
            self._bye(dialog, code_of("unknown-session"))
            return
        found = self._map(sig.ACCEPT, dialog.session, dialog.peer)
        try:
            if answer.to().get(b"tag") != sip_parts.tags(dialog.session)[1]:
                raise SipError(400, "to: the tag is not the session's")
            sip_parts.fill(found, sip_parts.parts_of(answer), ((_EDHOC, sig.MESSAGE_2),))
            if sig.MESSAGE_2 not in found:
                raise SipError(400, "a 200 without message_2")
            _state_route(found, answer)
        except SipError as error:
            self._acknowledge(dialog)
            self._failed(dialog, code_of(error.name), kind=sig.REJECT)
            return
        error = self._link.relay(found)
        if error is not None:
            self._acknowledge(dialog)
            self._failed(dialog, *error, kind=sig.REJECT)

    def _accept(self, dialog: Dialog, message: dict[int, Any]) -> None:
        if not dialog.initiator or dialog.state is not State.INVITED or dialog.invite is None:
            return
        dialog.state = State.ANSWERED
        parts = _parts(message, (_EDHOC, sig.MESSAGE_2), *_CREDENTIALS)
        kind, body = sip_parts.join(parts, _boundary())
        fields = [
            (b"Contact", f"<sip:{dialog.peer}@{self._realm};transport=tls>".encode()),
            self._asserted(dialog.peer),
            *dialect.hop_security(message[sig.ROUTE]),
            (b"Content-Type", kind),
        ]
        tag = sip_parts.tags(dialog.session)[1]
        self._link.respond(dialog.invite, 200, fields, body=body, tag=tag)
        dialog.invite = None

    def _hand_on(self, dialog: Dialog, message: dict[int, Any]) -> bool:
        if not self._link.has_room():
            return False
        parts = _parts(
            message, (_EDHOC, sig.MESSAGE_3), (_EDHOC, sig.MESSAGE_4), (sip_parts.DATA, sig.RECORD)
        )
        if not dialog.initiator and dialog.state is State.ANSWERED:
            self._acknowledge(dialog, parts)
            return True
        request = self._request(dialog, b"MESSAGE", [], parts)
        self._link.ask(request, lambda answer: self._taken(dialog, answer))
        return True

    def _taken(self, dialog: Dialog, answer: Message | int) -> None:
        """A device that does not know a session any more has ended it (section 12.2.1.2)."""
        status = answer if isinstance(answer, int) else answer.status
        if status in (408, 481) and self._dialogs.get(dialog.session) is dialog:
            self._drop(dialog)
            found = self._map(sig.END, dialog.session, dialog.peer)
            self._link.relay(
                _say(found, code_of("unknown-session" if status == 481 else "timeout"))
            )

    def _over(self, dialog: Dialog, message: dict[int, Any]) -> None:
        """The session has ended, or was refused."""
        rejected = message[sig.TYPE] == sig.REJECT
        code = message.get(sig.ERROR_CODE)
        said = message.get(sig.TEXT, "")
        body = message.get(sig.EDHOC_ERROR, b"")
        who = message[sig.FROM]
        if dialog.state is not State.INVITED:
            if dialog.state is State.ANSWERED and not dialog.initiator:
                self._acknowledge(dialog)
            self._bye(dialog, code, said, rejected, body, "" if who == MANAGER else who)
            self._drop(dialog)
        elif dialog.initiator:
            code = code_of("session-closed") if code is None else code
            self._refuse_invite(dialog, code, said, body, "" if who == MANAGER else who)
        else:
            self._drop(dialog)
            if dialog.trying:
                self._cancel(dialog, code, said)

    # inside

    def _find(self, message: Message, session: bytes) -> Dialog:
        dialog = self._dialogs.get(session) or self._again(session)
        if dialog is None or dialog.state is State.INVITED:
            raise SipError(481, "no such session")
        mine, other = sip_parts.tags(session)
        if not dialog.initiator:
            mine, other = other, mine
        if message.from_().get(b"tag") != mine or message.to().get(b"tag") != other:
            raise SipError(481, "the tags are not the session's")
        return dialog

    def _again(self, session: bytes) -> Dialog | None:
        """A session of before the manager's restart that lives on."""
        known = self._link.host.session(session)
        name = self._link.name
        if known is None or name not in (known.initiator, known.responder):
            return None
        if known.state is not Established.ESTABLISHED:
            return None
        dialog = self._keep(Dialog(session, known.other(name), known.initiator == name))
        dialog.state = State.CONFIRMED
        dialog.cseq = known.messages  # never fewer than we sent
        return dialog

    def _keep(self, dialog: Dialog) -> Dialog:
        if len(self._dialogs) >= _MANY:
            for session in list(self._dialogs):
                if self._link.host.session(session) is None:
                    del self._dialogs[session]
        self._dialogs[dialog.session] = dialog
        return dialog

    def _drop(self, dialog: Dialog) -> None:
        if self._dialogs.get(dialog.session) is dialog:
            del self._dialogs[dialog.session]

    def _map(self, kind: int, session: bytes, peer: str) -> dict[int, Any]:
        return {
            sig.TYPE: kind,
            sig.FROM: self._link.name,
            sig.TO: peer,
            sig.SESSION: session,
        }

    def _contents(self, message: Message, dialog: Dialog) -> dict[int, Any] | None:
        """A message of the session out of a body, None for an empty one."""
        parts = sip_parts.parts_of(message)
        if not parts:
            return None
        found = self._map(sig.MESSAGE, dialog.session, dialog.peer)
        key = sig.MESSAGE_3 if dialog.initiator else sig.MESSAGE_4
        sip_parts.fill(found, parts, ((_EDHOC, key), (sip_parts.DATA, sig.RECORD)))
        return found

    def _asserted(self, peer: str) -> tuple[bytes, bytes]:
        return b"P-Asserted-Identity", f"<sip:{peer}@{self._realm}>".encode()

    def _request(
        self,
        dialog: Dialog,
        method: bytes,
        fields: list[tuple[bytes, bytes]],
        parts: list[tuple[bytes, bytes]],
        peer: str | None = None,
    ) -> Message:
        """A request in the dialog, without Via. ``peer`` "": the manager speaks."""
        session = dialog.session
        mine, theirs = sip_parts.tags(session)
        if dialog.initiator:
            mine, theirs = theirs, mine
        if method not in (b"ACK", b"CANCEL"):
            dialog.cseq += 1
        to = f"<sip:{self._link.name}@{self._realm}>".encode()
        if method not in (b"INVITE", b"CANCEL"):
            to += b";tag=" + theirs
        peer = dialog.peer if peer is None else peer
        found = [
            (b"Max-Forwards", b"70"),
            (b"From", f"<sip:{dialog.peer}@{self._realm}>;tag=".encode() + mine),
            (b"To", to),
            (b"Call-ID", sip_parts.call_id(session)),
            (b"CSeq", str(dialog.cseq).encode() + b" " + method),
        ]
        if peer:
            found.append(self._asserted(peer))
        found += fields
        kind, body = sip_parts.join(parts, _boundary())
        if parts:
            found.append((b"Content-Type", kind))
        return sip_codec.request(method, self._link.contact, found, body)

    def _acknowledge(self, dialog: Dialog, parts: list[tuple[bytes, bytes]] | None = None) -> None:
        dialog.state = State.CONFIRMED
        self._link.tell(self._request(dialog, b"ACK", [], parts or []))

    def _bye(
        self,
        dialog: Dialog,
        code: int | None,
        said: str = "",
        rejected: bool = False,
        body: bytes = b"",
        who: str = "",
    ) -> None:
        fields = []
        if code is not None:
            fields.append((b"Reason", sip_parts.reason(code, said, rejected)))
        parts = [(_EDHOC, body)] if body else []
        self._link.ask(self._request(dialog, b"BYE", fields, parts, who), lambda answer: None)

    def _cancel(self, dialog: Dialog, code: int | None = None, said: str = "") -> None:
        fields = [] if code is None else [(b"Reason", sip_parts.reason(code, said))]
        request = self._request(dialog, b"CANCEL", fields, [], "")
        self._link.ask(request, lambda answer: None, dialog.branch)

    def _failed(self, dialog: Dialog, code: int, said: str = "", kind: int = sig.END) -> None:
        """What the device sent could not be relayed, and it cannot be told but by BYE."""
        self._bye(dialog, code, said)
        self._drop(dialog)
        found = self._map(kind, dialog.session, dialog.peer)
        self._link.relay(_say(found, code))

    def _refuse_invite(
        self, dialog: Dialog, code: int, said: str = "", body: bytes = b"", who: str = ""
    ) -> None:
        self._drop(dialog)
        if dialog.invite is not None:
            self._answer(
                dialog.invite, code, said, body, who, tag=sip_parts.tags(dialog.session)[1]
            )

    def _answer(
        self,
        asked: Message,
        code: int,
        said: str = "",
        body: bytes = b"",
        who: str = "",
        tag: bytes = b"",
    ) -> None:
        status = sip_parts.status_of(code)
        fields = [(b"Warning", sip_parts.warning(self._realm, code, said))]
        if who:
            fields.append(self._asserted(who))
        if status == 503:
            fields.append((b"Retry-After", b"1"))
        if body:
            fields.append((b"Content-Type", _EDHOC))
        self._link.respond(asked, status, fields, body=body, tag=tag)


def _boundary() -> bytes:
    return secrets.token_hex(12).encode()


def _parts(message: dict[int, Any], *wanted: tuple[bytes, int]) -> list[tuple[bytes, bytes]]:
    return [(kind, message[key]) for kind, key in wanted if key in message]


def _say(found: dict[int, Any], code: int, text: str = "") -> dict[int, Any]:
    found[sig.ERROR_CODE] = code
    if text:
        found[sig.TEXT] = text
    return found


def _state_route(found: dict[int, Any], message: Message) -> None:
    stated = sip_parts.legs_of(message, False)
    if stated is not None:
        found[sig.ROUTE] = stated
