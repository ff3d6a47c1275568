"""Sessions of a device as dialogs of SIP (docs/sip.md): INVITE, ACK, MESSAGE, BYE, CANCEL.

One session is one dialog, and its Call-ID and tags are made of the session identifier. So nothing
has to be remembered but who began it, how far it is and the number of our last request.
"""

from keyferry_core import signalling as s
from keyferry_core import sip_codec, sip_parts
from keyferry_core.errors import DecodeError, KeyferryError, LocalError, code_of
from keyferry_core.names import MANAGER
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError

# Dialogs kept; of more, that which was not used for the longest time is forgotten.
MAX_DIALOGS = 96

# States: INVITE sent or received; 200 sent or received, but no ACK; in use; CANCEL sent.
INVITED = 0
ANSWERED = 1
CONFIRMED = 2
CANCELLED = 3

_INVITE_PARTS = (
    (sip_parts.EDHOC, s.MESSAGE_1),
    (sip_parts.CERTIFICATE, s.CREDENTIAL),
    (sip_parts.ENDORSED, s.PUBLIC_KEY),
    (sip_parts.VOUCH, s.VOUCH),
)
_ACCEPT_PARTS = ((sip_parts.EDHOC, s.MESSAGE_2),) + _INVITE_PARTS[1:]
_ERROR_PARTS = ((sip_parts.EDHOC, s.EDHOC_ERROR),)


class _Dialog:
    def __init__(self, session: bytes, peer: str, initiator: bool) -> None:
        self.session = session
        self.peer = peer
        self.initiator = initiator
        self.state = INVITED
        self.cseq = 0  # of our last request
        self.branch = b""  # of the INVITE, whoever sent it
        self.invite: Message | None = None  # what answers the manager's, without a status yet
        self.heard = False  # our INVITE had a provisional response
        self.said: list | None = None  # fields of a CANCEL that waits until it may go


class Dialogs:
    """The dialogs of a ``sip_client.Client``."""

    def __init__(self, client) -> None:
        self._client = client
        self._kept: list[_Dialog] = []  # the one used last at the end

    def new_link(self) -> None:
        """The manager's INVITEs of the link before are over; it has told the peers."""
        self._kept = [d for d in self._kept if d.initiator or d.state == CONFIRMED]

    def forget(self, session: bytes) -> None:
        """Drop a dialog, if it is there."""
        dialog = self._find(session)
        if dialog is not None:
            self._kept.remove(dialog)

    def provisional(self, session: bytes) -> None:
        """Our INVITE has arrived: it can be cancelled now (section 9.1)."""
        dialog = self._find(session)
        if dialog is not None:
            dialog.heard = True
            if dialog.state == CANCELLED and dialog.said is not None:
                self._cancel(dialog)

    def refuse(self, message: Message) -> None:
        """A request of the manager is refused: an INVITE's dialog goes with it."""
        if message.method == b"INVITE":
            session = sip_parts.session_of(message.first(b"call-id") or b"")
            dialog = None if session is None else self._find(session)
            if dialog is not None and dialog.branch == message.top_via().get(b"branch"):
                self._kept.remove(dialog)

    # -- sending --

    def send(self, message: dict, now: int, key: int) -> None:
        """Put a message of a session into the client's ``out``."""
        kind = message[s.TYPE]
        session = message[s.SESSION]
        if kind == s.CONNECT:
            dialog = self._keep(_Dialog(session, message[s.TO], True))
            profile = b"rpk" if message[s.PROFILE] == s.PROFILE_RPK else b"cert"
            fields = [
                (b"Contact", self._client.contact),
                (sip_parts.KEY_PROFILE, profile),
            ] + self._client.legs(message)
            if s.ON_BEHALF_OF in message:
                fields.append((sip_parts.ON_BEHALF_OF, message[s.ON_BEHALF_OF].encode()))
            parts = [(sip_parts.EDHOC, message[s.MESSAGE_1])]
            dialog.branch = self._ask(dialog, b"INVITE", fields, parts, now, s.CONNECT, key)
            return
        dialog = self._find(session)
        if dialog is None or dialog.state == CANCELLED:
            if kind == s.MESSAGE:
                raise LocalError("wrong-state", "sip: a session that is forgotten")
            self._settle(key)  # it is over on this side
        elif kind == s.ACCEPT:
            self._accept(dialog, message)
            self._settle(key)
        elif kind == s.MESSAGE:
            self._message(dialog, message, now, key)
        else:
            self._over(dialog, message, now, key)

    def _accept(self, dialog: _Dialog, message: dict) -> None:
        answer, dialog.invite = dialog.invite, None
        if answer is None:
            return
        dialog.state = ANSWERED
        answer.add(b"Contact", self._client.contact)
        for name, value in self._client.legs(message):
            answer.add(name, value)
        answer.add(b"Content-Type", sip_parts.EDHOC)
        answer.body = message[s.MESSAGE_2]
        self._client.respond(answer, 200)

    def _message(self, dialog: _Dialog, message: dict, now: int, key: int) -> None:
        parts = [
            (sip_parts.DATA if at == s.RECORD else sip_parts.EDHOC, message[at])
            for at in (s.MESSAGE_3, s.MESSAGE_4, s.RECORD)
            if at in message
        ]
        if dialog.initiator and dialog.state == ANSWERED:
            self._acknowledge(dialog, parts)
            self._settle(key)  # ACK has no answer
        else:
            self._ask(dialog, b"MESSAGE", [], parts, now, s.MESSAGE, key)

    def _over(self, dialog: _Dialog, message: dict, now: int, key: int) -> None:
        """END or REJECT of our side."""
        rejected = message[s.TYPE] == s.REJECT
        code = message.get(s.ERROR_CODE, 0)
        text = message.get(s.TEXT, "")
        body = message.get(s.EDHOC_ERROR, b"")
        if dialog.state == INVITED and dialog.initiator:
            dialog.state = CANCELLED  # the INVITE's answer will end it
            dialog.said = [(b"Reason", sip_parts.reason(code, text))] if code else []
            if dialog.heard:
                self._cancel(dialog)
            self._settle(key)
            return
        self._kept.remove(dialog)
        if dialog.state == INVITED:
            if dialog.invite is not None:
                code = code or code_of("declined")
                self._client.respond(dialog.invite, 0, code, text, body)
            self._settle(key)
            return
        if dialog.state == ANSWERED and dialog.initiator:
            self._acknowledge(dialog, [])
        self._bye(dialog, now, code, text, rejected, body, key)

    def _cancel(self, dialog: _Dialog) -> None:
        fields, dialog.said = dialog.said or [], None
        # of the INVITE's own transaction (section 9.1); its answer says nothing that we need
        self._write(dialog, b"CANCEL", fields, [], dialog.branch)

    def _bye(
        self,
        dialog: _Dialog,
        now: int,
        code: int = 0,
        text: str = "",
        rejected: bool = False,
        body: bytes = b"",
        key: int = 0,
    ) -> None:
        fields = [(b"Reason", sip_parts.reason(code, text, rejected))] if code else []
        parts = [(sip_parts.EDHOC, body)] if body else []
        self._ask(dialog, b"BYE", fields, parts, now, s.END, key)

    def _acknowledge(self, dialog: _Dialog, parts: list) -> None:
        dialog.state = CONFIRMED
        self._write(dialog, b"ACK", [], parts)

    def _ids(self, dialog: _Dialog, method: bytes) -> tuple:
        mine, theirs = sip_parts.tags(dialog.session)
        if not dialog.initiator:
            mine, theirs = theirs, mine
        to = self._client.user(dialog.peer)
        if method != b"INVITE" and method != b"CANCEL":
            to += b";tag=" + theirs
        if method != b"ACK" and method != b"CANCEL":
            dialog.cseq += 1
        from_ = self._client.me + b";tag=" + mine
        return from_, to, sip_parts.call_id(dialog.session), dialog.cseq

    def _ask(
        self,
        dialog: _Dialog,
        method: bytes,
        fields: list,
        parts: list,
        now: int,
        kind: int,
        key: int,
    ) -> bytes:
        uri = self._client.user(dialog.peer)[1:-1]
        about = [now, kind, dialog.session, dialog.peer, key]
        return self._client.ask(method, uri, self._ids(dialog, method), fields, parts, about)

    def _write(
        self, dialog: _Dialog, method: bytes, fields: list, parts: list, branch: bytes = b""
    ) -> None:
        uri = self._client.user(dialog.peer)[1:-1]
        self._client.write(method, uri, self._ids(dialog, method), fields, parts, branch)

    def _settle(self, key: int) -> None:
        if key:
            self._client.settled.append(key)

    # -- answers to what we sent --

    def answered(self, entry: list, message: Message, now: int) -> dict | None:
        """The final response to a request in a dialog."""
        dialog = self._find(entry[4])
        kind = entry[3]
        if kind == s.CONNECT:
            if dialog is None:
                dialog = _Dialog(entry[4], entry[5], True)
                dialog.state = CANCELLED
                dialog.cseq = 1
            return self._invited(dialog, entry, message, now)
        if kind == s.END or message.status < 300:
            return None
        code, text = sip_parts.error_of(message)
        if message.status == 481 or message.status == 408:
            self.forget(entry[4])  # section 12.2.1.2
        return self._client.error(entry, code, text)

    def _invited(self, dialog: _Dialog, entry: list, message: Message, now: int) -> dict | None:
        client = self._client
        cancelled = dialog.state == CANCELLED
        if message.status >= 300:
            self.forget(dialog.session)
            # of the INVITE's own transaction (section 17.1.1.3)
            ids = self._ids(dialog, b"ACK")
            ids = (ids[0], client.user(dialog.peer) + _tag(message), ids[2], ids[3])
            uri = client.user(dialog.peer)[1:-1]
            client.write(b"ACK", uri, ids, [], [], entry[1])
            if cancelled:
                return None
            code, text = sip_parts.error_of(message)
            who = sip_parts.asserted(message, client.realm)
            if not who:
                return client.error(entry, code, text)
            found = self._map(s.REJECT, dialog.session, who)
            self._say(found, code, text)
            try:
                sip_parts.fill(found, sip_parts.parts_of(message), _ERROR_PARTS)
                return s.check(found, False)
            except KeyferryError:
                return client.error(entry, code, text)
        dialog.state = ANSWERED
        if cancelled:
            self.forget(dialog.session)
            self._acknowledge(dialog, [])
            self._bye(dialog, now, code_of("unknown-session"))
            return None
        found = self._map(s.ACCEPT, dialog.session, sip_parts.asserted(message, client.realm))
        try:
            if message.to().get(b"tag") != sip_parts.tags(dialog.session)[1]:
                raise SipError(400, "to: the tag is not the session's")
            sip_parts.fill(found, sip_parts.parts_of(message), _ACCEPT_PARTS)
            self._route(found, message)
            return s.check(found, False)
        except KeyferryError as wrong:
            self.forget(dialog.session)
            self._acknowledge(dialog, [])
            self._bye(dialog, now, wrong.code, "", True)
            return client.error(entry, wrong.code, "the manager's answer")

    # -- what the manager sends --

    def receive(self, message: Message, session: bytes) -> dict | None:
        """A request of the manager in, or for, the dialog of ``session``. SipError."""
        method = message.method
        initiator = sip_parts.tags(session)[0] == message.from_().get(b"tag")
        sender = sip_parts.asserted(message, self._client.realm)
        dialog = self._find(session)
        if method == b"INVITE":
            return self._offered(message, session, sender, dialog)
        if method == b"CANCEL":
            return self._cancelled(message, dialog)
        mine, theirs = sip_parts.tags(session)
        if initiator:
            mine, theirs = theirs, mine
        if message.to().get(b"tag") != mine or message.from_().get(b"tag") != theirs:
            raise DecodeError("sip: the tags are not the session's", "unknown-session")
        if dialog is not None and dialog.initiator == initiator:
            raise DecodeError("sip: the tags are the wrong way round", "unknown-session")
        if method == b"ACK":
            return self._confirmed(message, dialog, sender)
        if method == b"BYE":
            return self._bye_came(message, session, sender, dialog)
        if method != b"MESSAGE":
            raise SipError(405, "not in a session")
        found = self._contents(message, session, sender, initiator)
        if found is None:
            raise SipError(400, "a message of a session that carries nothing")
        s.check(found, False)
        if dialog is None:
            # It was forgotten here. What is sent about it goes the same way.
            dialog = self._keep(_Dialog(session, sender or MANAGER, not initiator))
            dialog.state = CONFIRMED
        if dialog.state != CONFIRMED:
            raise DecodeError("sip: no such session yet", "unknown-session")
        self._client.respond(sip_codec.response(message, 200), 200)
        return found

    def _offered(
        self, message: Message, session: bytes, sender: str, dialog: _Dialog | None
    ) -> dict:
        if message.from_().get(b"tag") != sip_parts.tags(session)[0]:
            raise SipError(400, "from: the tag is not the session's")
        if message.to().get(b"tag") is not None:
            raise SipError(482, "a session is not asked for twice")
        if dialog is not None:
            raise SipError(482, "an INVITE of a session that is there")
        found = self._map(s.CONNECT, session, sender)
        sip_parts.fill(found, sip_parts.parts_of(message), _INVITE_PARTS)
        profile = message.first(sip_parts.KEY_PROFILE.lower()) or b"cert"
        if profile != b"cert" and profile != b"rpk":
            raise SipError(488, "key-profile: cert or rpk")
        found[s.PROFILE] = s.PROFILE_RPK if profile == b"rpk" else s.PROFILE_CERT
        sip_parts.state_third_party(found, message)
        self._route(found, message)
        s.check(found, False)
        dialog = self._keep(_Dialog(session, found[s.FROM], False))
        dialog.branch = message.top_via().get(b"branch") or b""
        dialog.invite = sip_codec.response(message, 0, sip_parts.tags(session)[1])
        return found

    def _cancelled(self, message: Message, dialog: _Dialog | None) -> dict | None:
        branch = message.top_via().get(b"branch")
        if dialog is None or dialog.initiator or dialog.branch != branch:
            raise DecodeError("sip: no INVITE that waits", "unknown-session")
        found = s.check(self._ended(message, s.END, dialog.session, ""), False)
        self._client.respond(sip_codec.response(message, 200), 200)
        answer, dialog.invite = dialog.invite, None
        if answer is None:
            return None  # too late: it has its final response (section 9.2)
        self._kept.remove(dialog)
        self._client.respond(answer, 487)
        return found

    def _confirmed(self, message: Message, dialog: _Dialog | None, sender: str) -> dict | None:
        if dialog is None or dialog.initiator or dialog.state != ANSWERED:
            return None  # of an INVITE that was refused
        dialog.state = CONFIRMED
        found = self._contents(message, dialog.session, sender, True)
        return None if found is None else s.check(found, False)

    def _bye_came(
        self, message: Message, session: bytes, sender: str, dialog: _Dialog | None
    ) -> dict:
        said = sip_parts.reason_of(message)
        rejects = said is not None and said[2]
        found = self._ended(message, s.REJECT if rejects else s.END, session, sender)
        if rejects:
            sip_parts.fill(found, sip_parts.parts_of(message), _ERROR_PARTS)
        s.check(found, False)
        answer = sip_codec.response(message, 200)
        if dialog is None:
            self._client.respond(answer, 481)
        else:
            self._kept.remove(dialog)
            self._client.respond(answer, 200)
        return found

    # -- inside --

    def _find(self, session: bytes) -> _Dialog | None:
        for at in range(len(self._kept)):
            if self._kept[at].session == session:
                dialog = self._kept.pop(at)
                self._kept.append(dialog)
                return dialog
        return None

    def _keep(self, dialog: _Dialog) -> _Dialog:
        self.forget(dialog.session)
        if len(self._kept) >= MAX_DIALOGS:
            self._kept.pop(0)
        self._kept.append(dialog)
        return dialog

    def _map(self, kind: int, session: bytes, sender: str) -> dict:
        found = self._client.map(kind, sender)
        found[s.SESSION] = session
        return found

    @staticmethod
    def _say(found: dict, code: int, text: str) -> None:
        found[s.ERROR_CODE] = code
        if text:
            found[s.TEXT] = text

    def _ended(self, message: Message, kind: int, session: bytes, sender: str) -> dict:
        found = self._map(kind, session, sender)
        said = sip_parts.reason_of(message)
        if said is not None:
            self._say(found, said[0], said[1])
        return found

    def _contents(
        self, message: Message, session: bytes, sender: str, initiator: bool
    ) -> dict | None:
        """A message of the session out of a body, None for an empty one."""
        parts = sip_parts.parts_of(message)
        if not parts:
            return None
        found = self._map(s.MESSAGE, session, sender)
        key = s.MESSAGE_3 if initiator else s.MESSAGE_4
        sip_parts.fill(found, parts, ((sip_parts.EDHOC, key), (sip_parts.DATA, s.RECORD)))
        return found

    @staticmethod
    def _route(found: dict, message: Message) -> None:
        legs = sip_parts.legs_of(message, True)
        if legs is not None:
            found[s.ROUTE] = legs


def _tag(response: Message) -> bytes:
    """``;tag=…`` of a response's To; nothing when it has none that could be repeated."""
    try:
        tag = response.to().get(b"tag")
    except SipError:
        tag = None
    return b";tag=" + tag if tag else b""
