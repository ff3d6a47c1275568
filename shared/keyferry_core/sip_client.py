"""A device's end of SIP over TLS (docs/sip.md, Signalling on SIP), without I/O.

``send`` turns the agent's signalling into requests and responses, ``receive`` what the manager
sends into signalling; both are the maps that travel on MQTT as they are. What is to be written
waits in ``out``, whole messages in order. ``sip_dialogs`` has the sessions.

TLS keeps order and loses nothing, so nothing is sent twice (RFC 3261, section 17: timers A, E and
G are off); a request without a final response is given up after TRANSACTION seconds (timers B, F).
"""

from keyferry_core import signalling as s
from keyferry_core import sip_codec, sip_parts
from keyferry_core._compat import sha256
from keyferry_core.errors import DecodeError, KeyferryError, LocalError, code_of
from keyferry_core.names import MANAGER
from keyferry_core.sip_codec import Message
from keyferry_core.sip_dialogs import Dialogs
from keyferry_core.sip_fields import SipError, address, media_type, number, param

# Seconds for a final response, and for that to an INVITE after a provisional one (timer C).
TRANSACTION = 32
RINGING = 180
# Requests without a final response: ours, and plain messages of the manager.
MAX_ASKED = 64
MAX_TAKEN = 8

_ALLOW = b"INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE"
_ACCEPT = b"application/edhoc+cbor-seq, application/octet-stream, text/plain"
_ANCHORS = sip_parts.TRUST_ANCHORS
_METHODS = (b"INVITE", b"ACK", b"CANCEL", b"BYE", b"OPTIONS", b"MESSAGE")
_CERTIFICATES = ((sip_parts.CERTIFICATE, s.CREDENTIAL), (sip_parts.CERTIFICATE, s.ISSUER))


class Client:
    """The device ``name`` of ``realm``. It outlives connections: call ``new_link`` for each.

    ``random(count)`` gives bytes. ``now`` is in seconds, of any clock that only goes forward.
    ``settled`` collects the keys of messages whose sender need not care any more.
    ``flow_timer``: seconds within which the manager wants to hear of us, 0 before it said.
    """

    def __init__(self, name: str, realm: str, random) -> None:
        self.name = name
        self.realm = realm
        self.random = random
        self.out: list[bytes] = []
        self.settled: list[int] = []
        self.flow_timer = 0
        self.me = self.user(name)
        host = name.encode() + b".invalid"  # RFC 2606: a device does not know its address
        self.contact = b"<sip:" + name.encode() + b"@" + host + b";transport=tls>"
        self._via = b"SIP/2.0/TLS " + host + b";rport;branch=z9hG4bK"
        self._mark = random(8).hex().encode()
        self._count = 0
        self._registrations = 0
        self._instance = b""  # Call-ID of all REGISTERs until the next start
        # [method, branch, until, type of the signalling, id or session, peer, key]
        self._asked: list[list] = []
        self._taken: list[tuple[int, Message, int]] = []  # plain messages: id, answer, until
        self._dialogs = Dialogs(self)

    def new_link(self) -> None:
        """The connection is a new one: what waited on the old one is lost, but our INVITEs."""
        self.out = []
        self._asked = [entry for entry in self._asked if entry[0] == b"INVITE"]
        self._taken = []
        self._dialogs.new_link()

    # -- sending --

    def send(self, message: dict, now: int, key: int = 0) -> None:
        """Put signalling of ours, which keeps the contract, into ``out``.

        ``key`` goes to ``settled`` when it was answered, or when nobody answers such a message.
        LocalError for what cannot be said.
        """
        kind = message[s.TYPE]
        if s.SESSION in message:
            self._dialogs.send(message, now, key)
        elif kind == s.REGISTER:
            self._register(message, now)
        elif kind == s.CERTIFY:
            parts = [(sip_parts.REQUEST, message[s.REQUEST])]
            self._ask_registrar([], parts, [now, s.CERTIFY, message[s.ID], "", key])
        elif kind == s.RESOLVE:
            types = sip_parts.CERTIFICATE + b", " + sip_parts.ENDORSED + b", " + sip_parts.MULTIPART
            about = [now, s.RESOLVE, message[s.ID], message[s.NAME], key]
            self._ask_alone(b"OPTIONS", message[s.NAME], [(b"Accept", types)], [], about)
        elif kind == s.SEND:
            parts = [(sip_parts.DATA, message[s.DATA])] if message[s.DATA] else []
            about = [now, s.SEND, message[s.ID], message[s.TO], key]
            self._ask_alone(b"MESSAGE", message[s.TO], self.legs(message), parts, about)
        elif kind == s.DELIVERED:
            self._deliver(message)
        else:
            raise LocalError("bad-argument", "sip: no device sends this")

    def _register(self, message: dict, now: int) -> None:
        name = self.name.encode()
        # RFC 5626, section 4.1: the same at each start of this device
        digits = sha256(self.me)[:16].hex()
        urn = digits[:8] + "-" + digits[8:12] + "-8" + digits[13:16] + "-8" + digits[17:20]
        about = b';reg-id=1;+sip.instance="<urn:uuid:' + (urn + "-" + digits[20:]).encode() + b'>"'
        fields = [
            (b"Contact", b"<sip:" + name + b"@" + host.encode() + b";transport=tls>" + about)
            for host in message[s.ADDRESSES]
        ]
        fields = fields or [(b"Contact", self.contact + about)]
        fields.append((b"Supported", b"outbound, path"))
        if s.EXPIRES in message:
            fields.append((b"Expires", str(message[s.EXPIRES]).encode()))
        if s.ANCHORS in message:
            fields.append((_ANCHORS, message[s.ANCHORS].hex().encode()))
        if s.TRUST in message:
            fields.append((sip_parts.PEER_TRUST, str(message[s.TRUST]).encode()))
        fields += self.legs(message)
        parts = [
            (kind, message[key])
            for kind, key in ((sip_parts.ENDORSED, s.PUBLIC_KEY), (sip_parts.VOUCH, s.VOUCH))
            if key in message
        ]
        self._instance = message[s.INSTANCE].hex().encode()
        self._ask_registrar(fields, parts, [now, s.REGISTER, message[s.ID], "", 0])

    def _ask_registrar(self, fields: list, parts: list, about: list) -> None:
        self._registrations += 1
        uri = b"sip:" + self.realm.encode()
        ids = (self.me + b";tag=" + self._mark, self.me, self._instance, self._registrations)
        self.ask(b"REGISTER", uri, ids, fields, parts, about)

    def _ask_alone(self, method: bytes, to: str, fields: list, parts: list, about: list) -> None:
        """A request outside dialogs."""
        mark = self._mark + str(self._count).encode()
        ids = (self.me + b";tag=" + mark, self.user(to), mark + b"@" + self.name.encode(), 1)
        self.ask(method, self.user(to)[1:-1], ids, fields, parts, about)

    def _deliver(self, message: dict) -> None:
        for at in range(len(self._taken)):
            if self._taken[at][0] == message[s.ID]:
                answer = self._taken.pop(at)[1]
                self.respond(answer, 0, message.get(s.ERROR_CODE, 0))
                return

    def leave(self, now: int) -> None:
        """Put the end of the registration into ``out``."""
        if self._instance:
            fields = [(b"Contact", b"*"), (b"Expires", b"0")]
            self._ask_registrar(fields, [], [now, s.END, 0, "", 0])

    # -- for the sessions, too --

    def user(self, name: str) -> bytes:
        """``<sip:NAME@REALM>``."""
        return b"<sip:" + name.encode() + b"@" + self.realm.encode() + b">"

    @staticmethod
    def legs(message: dict) -> list:
        """Hop-Security for the leg that a message states, if it does."""
        if s.ROUTE not in message:
            return []
        return [(sip_parts.HOP_SECURITY, sip_parts.leg_value(message[s.ROUTE][0], 1))]

    def ask(
        self, method: bytes, uri: bytes, ids: tuple, fields: list, parts: list, about: list
    ) -> bytes:
        """A request that will be answered; its branch. ``ids``: From, To, Call-ID, number.
        ``about``: now, type of the signalling, id or session, peer, key."""
        branch = self.write(method, uri, ids, fields, parts)
        now, kind, what, peer, key = about
        if len(self._asked) >= MAX_ASKED:
            self._settle(self._asked.pop(0))
        self._asked.append([method, branch, now + TRANSACTION, kind, what, peer, key])
        return branch

    def write(
        self,
        method: bytes,
        uri: bytes,
        ids: tuple,
        fields: list,
        parts: list,
        branch: bytes = b"",
    ) -> bytes:
        """A request; its branch, a new one unless it is said."""
        if not branch:
            self._count += 1
            branch = self._mark + b"." + str(self._count).encode()
        lines = [
            (b"Via", self._via + branch),
            (b"Max-Forwards", b"70"),
            (b"From", ids[0]),
            (b"To", ids[1]),
            (b"Call-ID", ids[2]),
            (b"CSeq", str(ids[3]).encode() + b" " + method),
        ] + fields
        kind, body = self.joined(parts)
        if kind:
            lines.append((b"Content-Type", kind))
        self.out.append(sip_codec.encode(sip_codec.request(method, uri, lines, body)))
        return branch

    def respond(
        self, answer: Message, status: int, code: int = 0, text: str = "", body: bytes = b""
    ) -> None:
        """Complete and send a response. ``code`` of an error gives Warning, and the status unless
        that is said; without either it is 200. ``body``: EDHOC's error message."""
        if code:
            status = status or sip_parts.status_of(code)
            answer.add(b"Warning", sip_parts.warning(self.realm, code, text))
        answer.status = status or 200
        answer.reason = sip_codec.reason_phrase(answer.status).encode()
        if body:
            answer.add(b"Content-Type", sip_parts.EDHOC)
            answer.body = body
        self.out.append(sip_codec.encode(answer))

    def joined(self, parts: list) -> tuple[bytes, bytes]:
        """Content-Type and body of parts."""
        while True:
            try:
                return sip_parts.join(parts, self.random(8).hex().encode())
            except LocalError:
                pass  # the delimiter occurs in a part: once in 2**64

    def map(self, kind: int, sender: str) -> dict:
        """The start of a message for the agent."""
        return {s.TYPE: kind, s.FROM: sender or MANAGER, s.TO: self.name}

    def error(self, entry: list, code: int, text: str = "") -> dict:
        """What the manager says on one of our requests."""
        found = self.map(s.ERROR, MANAGER)
        found[s.ID if isinstance(entry[4], int) else s.SESSION] = entry[4]
        found[s.ERROR_CODE] = code
        if text:
            found[s.TEXT] = text
        return found

    def _settle(self, entry: list) -> None:
        if entry[6]:
            self.settled.append(entry[6])

    # -- receiving --

    def receive(self, message: Message, now: int) -> dict | None:
        """What a message of the manager means: signalling that keeps the contract, or None.

        What it cannot be is answered with a status, if it was a request, and raised: DecodeError.
        Nothing else is the worse for it.
        """
        if message.method:
            return self._on_request(message, now)
        return self._on_response(message, now)

    def expire(self, now: int) -> list[dict]:
        """Give up what was not answered in time: the errors to tell. To be called now and then."""
        self._taken = [entry for entry in self._taken if entry[2] > now]
        late = [entry for entry in self._asked if entry[2] <= now]
        found = []
        for entry in late:
            self._asked.remove(entry)
            self._settle(entry)
            if entry[0] == b"INVITE":
                self._dialogs.forget(entry[4])
            if entry[3] != s.END:
                found.append(self.error(entry, code_of("timeout")))
        return found

    def skipped(self, message: Message, now: int) -> dict | None:
        """As ``receive``, for a message whose body there was no memory for."""
        message.body = b""
        if not message.method:
            return self.receive(message, now)
        if message.method != b"ACK" and _can_be_answered(message):
            answer = sip_codec.response(message, 0, self._mark)
            self.respond(answer, 0, code_of("too-large"))
        return None

    def _on_response(self, message: Message, now: int) -> dict | None:
        method = message.cseq()[1]
        branch = message.top_via().get(b"branch") or b""
        entry = None
        for asked in self._asked:
            if asked[0] == method and b"z9hG4bK" + asked[1] == branch:
                entry = asked
        if entry is None:
            return None  # section 17.1.3: not ours, or too late
        if message.status < 200:
            if method == b"INVITE":
                entry[2] = now + RINGING
                self._dialogs.provisional(entry[4])
            return None
        self._asked.remove(entry)
        self._settle(entry)
        if entry[3] == s.END and not entry[4]:
            return None
        if isinstance(entry[4], bytes):
            return self._dialogs.answered(entry, message, now)
        try:
            return s.check(self._answer(entry, message), False)
        except DecodeError as wrong:
            return self.error(entry, wrong.code, "the manager's answer")

    def _answer(self, entry: list, message: Message) -> dict:
        kind = entry[3]
        if message.status >= 300:
            return self._refused(entry, message)
        if kind == s.SEND:
            found = self.map(s.DELIVERED, entry[5])
        elif kind == s.CERTIFY:
            found = self.map(s.CERTIFIED, MANAGER)
            sip_parts.fill(found, sip_parts.parts_of(message), _CERTIFICATES)
        elif kind == s.RESOLVE:
            found = self.map(s.RESOLVED, MANAGER)
            found[s.NAME] = entry[5]
            found[s.ONLINE] = True
            self._read_contacts(found, message)
            sip_parts.fill(found, sip_parts.parts_of(message), _KEYS)
        else:
            found = self.map(s.REGISTERED, MANAGER)
            self._read_contacts(found, message)
            found.pop(s.ADDRESSES)
            found[s.SEEN] = _seen(message)
            timer = message.first(b"flow-timer")
            self.flow_timer = 0 if timer is None else number(timer, 0xFFFF, "Flow-Timer")
            for key, name in ((s.INSTANCE, sip_parts.MANAGER_INSTANCE), (s.ANCHORS, _ANCHORS)):
                value = sip_parts.octets_of(message, name, 8)
                if value is not None:
                    found[key] = value
        found[s.ID] = entry[4]
        return found

    def _refused(self, entry: list, message: Message) -> dict:
        code, text = sip_parts.error_of(message)
        who = sip_parts.asserted(message, self.realm)
        if entry[3] == s.SEND and who:
            found = self.map(s.DELIVERED, who)
            found[s.ID] = entry[4]
            found[s.ERROR_CODE] = code
            return found
        if entry[3] == s.RESOLVE and code == code_of("peer-offline"):
            found = self.map(s.RESOLVED, MANAGER)
            found[s.ID] = entry[4]
            found[s.NAME] = entry[5]
            found[s.ONLINE] = False
            found[s.ADDRESSES] = []
            return found
        return self.error(entry, code, text)

    @staticmethod
    def _read_contacts(found: dict, message: Message) -> None:
        """Addresses, and the time for which they hold."""
        hosts = []
        for value in message.values(b"contact"):
            contact = address(value)
            host = contact.uri.host.decode()
            if not host.endswith(".invalid"):
                hosts.append(host + (":" + str(contact.uri.port) if contact.uri.port else ""))
            expires = contact.get(b"expires")
            if expires is not None:
                found[s.EXPIRES] = number(expires, 0xFFFFFFFF, "expires")
        found[s.ADDRESSES] = hosts

    # requests

    def _on_request(self, message: Message, now: int) -> dict | None:
        method = message.method
        try:
            return self._request(message, now)
        except KeyferryError as wrong:
            if method != b"ACK" and _can_be_answered(message):
                answer = sip_codec.response(message, 0, self._mark)
                if wrong.sip_status == 415:
                    answer.add(b"Accept", _ACCEPT)
                if wrong.sip_status == 405:
                    answer.add(b"Allow", _ALLOW)
                self._dialogs.refuse(message)
                self.respond(answer, wrong.sip_status, wrong.code)
            raise

    def _request(self, message: Message, now: int) -> dict | None:
        method = message.method
        if message.cseq()[1] != method:
            raise SipError(400, "CSeq of another method")
        message.top_via()
        to = message.to()
        if method not in _METHODS:
            raise SipError(405, "a method that is not for devices")
        if message.count(b"require") and method != b"ACK" and method != b"CANCEL":
            raise SipError(420, "an extension that is not known")
        session = sip_parts.session_of(message.one(b"call-id"))
        if session is not None and (method == b"INVITE" or method == b"CANCEL"):
            return self._dialogs.receive(message, session)
        if to.get(b"tag") is not None or method in (b"BYE", b"CANCEL", b"ACK"):
            if session is None:
                raise DecodeError("sip: no such dialog", "unknown-session")
            return self._dialogs.receive(message, session)
        if method == b"OPTIONS":
            answer = sip_codec.response(message, 200, self._mark)
            answer.add(b"Allow", _ALLOW)
            answer.add(b"Accept", _ACCEPT)
            self.respond(answer, 200)
            return None
        if method == b"INVITE":
            raise SipError(415, "calls are not for devices")
        return self._message(message, now)

    def _message(self, message: Message, now: int) -> dict | None:
        """MESSAGE outside dialogs: from a peer, or the manager's error."""
        sender = sip_parts.asserted(message, self.realm)
        answer = sip_codec.response(message, 0, self._mark)
        if not sender:
            said = sip_parts.reason_of(message)
            if said is None:
                raise SipError(400, "a message of nobody")
            found = self.map(s.ERROR, MANAGER)
            found[s.ERROR_CODE] = said[0]
            if said[1]:
                found[s.TEXT] = said[1]
            s.check(found, False)
            self.respond(answer, 200)
            return found
        if len(self._taken) >= MAX_TAKEN:
            raise DecodeError("sip: too many messages without an answer", "too-many")
        kind = message.first(b"content-type")
        if message.body and (
            kind is None or media_type(kind) not in (sip_parts.DATA, sip_parts.TEXT)
        ):
            raise SipError(415, "a body of another type")
        found = self.map(s.SEND, sender)
        self._count += 1
        found[s.ID] = self._count & 0xFFFFFFFF
        found[s.DATA] = message.body
        legs = sip_parts.legs_of(message, True)
        if legs is not None:
            found[s.ROUTE] = legs
        s.check(found, False)
        self._taken.append((found[s.ID], answer, now + TRANSACTION))
        return found


_KEYS = ((sip_parts.CERTIFICATE, s.CREDENTIAL), (sip_parts.ENDORSED, s.PUBLIC_KEY))


def _can_be_answered(message: Message) -> bool:
    """Whether it has what an answer repeats; without it nobody would know the answer."""
    for name in (b"from", b"to", b"call-id", b"cseq"):
        if message.count(name) != 1:
            return False
    return message.count(b"via") > 0


def _seen(message: Message) -> str:
    """The address that the manager saw us at (RFC 3581)."""
    via = message.top_via()
    host = (via.get(b"received") or via.host).decode()
    port = param(via.params, b"rport")
    if ":" in host and host[0] != "[":
        host = "[" + host + "]"
    return host + ":" + str(number(port or b"", 65535, "rport"))
