"""A session between two devices, from the first signalling message to the last record.

Messages are signalling dicts in and out (docs/signalling.cddl); nothing is sent from here. The run
of EDHOC is bound to session, names, realm and profile by a critical EAD item in message_2 and
message_3, by the exporter's context and by every record's additional data, so that a manager
cannot introduce a device to anybody but whom it names.
"""

from keyferry_core import cbor, records
from keyferry_core import signalling as s
from keyferry_core._compat import equal, sha256
from keyferry_core.edhoc.credentials import by_x5t
from keyferry_core.errors import (
    AuthenticationError,
    DecodeError,
    KeyferryError,
    RemoteError,
    StateError,
    code_of,
)
from keyferry_core.iana import (
    EAD_KEYFERRY_BINDING,
    EDHOC_WRONG_SUITE,
    EXPORTER_FINGERPRINT,
    METHOD_SIGN_SIGN,
    METHOD_STATIC_STATIC,
)

FINGERPRINT_LENGTH = 16
MAX_DATA = records.MAX_DATA

# EDHOC suites in order of preference: 16-byte MACs, then the one that all peers have
SUITES = (3, 2)
_KNOWN_EADS = (EAD_KEYFERRY_BINDING,)
# How ID_CRED_x begins when it is the certificate itself: edhoc.x5chain.START
_X5CHAIN = b"\xa1\x18\x21"

# A session's state: {what happens: state that follows}. Before it exists, EDHOC's tables rule.
TRANSITIONS = {
    "unconfirmed": {"the peer is heard": "confirmed", "the end": "ended"},
    "confirmed": {"the end": "ended"},
    "ended": {},
}


class Identity:
    """Who this device is: ``private`` 32 bytes, ``public`` 65 bytes, ``certificate`` DER.

    ``agreement``: the (private, public) pair for the profile rpk, or None without that profile.
    ``chain``: DER certificates to send inside EDHOC in the profile cert, the device's first, and
    not a hash: for a manager that does not deliver them.
    """

    def __init__(
        self,
        name: str,
        realm: str,
        private: bytes,
        public: bytes,
        certificate: bytes,
        agreement: tuple | None = None,
        chain: tuple | list = (),
    ) -> None:
        self.name = name
        self.realm = realm
        if chain:
            from keyferry_core.edhoc.x5chain import by_x5chain

            credential = by_x5chain(chain, public)
        else:
            credential = by_x5t(certificate, public)
        self._signing = (METHOD_SIGN_SIGN, credential, private)
        self._agreement = agreement

    def for_profile(self, profile: int) -> tuple:
        """``(EDHOC method, credential, private key)``. RemoteError for one that is not spoken."""
        if profile == s.PROFILE_CERT:
            return self._signing
        if profile != s.PROFILE_RPK or self._agreement is None:
            raise RemoteError("unsupported", "profile " + str(profile) + " is not spoken here")
        # made when it is needed: a board that only speaks cert saves the memory
        from keyferry_core import rpk

        private, public = self._agreement
        return METHOD_STATIC_STATIC, rpk.credential(self.name, public), private


def binding(
    session_id: bytes, name_i: str, name_r: str, realm: str, profile: int, on_behalf_of: str = ""
) -> bytes:
    """The 32 bytes that tie a run of EDHOC to what was asked of the manager.

    ``on_behalf_of``: the third party that a gateway asks for, or "" for itself.
    """
    items = [session_id, name_i, name_r, realm, profile]
    if on_behalf_of:  # the array's length tells the two apart
        items.append(on_behalf_of)
    return sha256(cbor.encode(items))


def rejection(own: str, message: dict, error: str, edhoc_error: bytes = b"") -> dict:
    """The REJECT that answers ``message`` (CONNECT, ACCEPT or MESSAGE) with ``error``.

    ``edhoc_error``: the ``message`` of the EdhocError that was raised, if it was one.
    """
    answer = {
        s.TYPE: s.REJECT,
        s.FROM: own,
        s.TO: message[s.FROM],
        s.SESSION: message[s.SESSION],
        s.ERROR_CODE: code_of(error),
    }
    if edhoc_error:
        answer[s.EDHOC_ERROR] = edhoc_error
    return answer


def _ead(context: bytes) -> list:
    return [(-EAD_KEYFERRY_BINDING, context)]


def _check_ead(items: list, context: bytes) -> None:
    for label, value in items:
        if label == -EAD_KEYFERRY_BINDING:
            if value is None or not equal(value, context):
                raise AuthenticationError("the peer speaks of another session or other names")
            return
    raise AuthenticationError("the peer did not bind the session")


def _peer_credential(
    trust, profile: int, message: dict, id_cred: bytes, name: str, own: str, now: int
) -> tuple:
    """The peer's EDHOC credential, when it holds and names ``name``: what the manager delivered, or
    the certificate that the peer sent itself; and what the judge of ``trust`` returned.
    """
    vouch = message.get(s.VOUCH)
    if profile == s.PROFILE_CERT and id_cred[:3] == _X5CHAIN:
        certified, credential, pin, certificate = trust.chained(id_cred, now, vouch)
        if message.get(s.CREDENTIAL, certificate) != certificate:
            raise AuthenticationError("the manager delivered another certificate")
    else:
        _check_delivered(profile, message)
        endorsed = message[s.PUBLIC_KEY] if profile == s.PROFILE_RPK else None
        certified, credential, pin = trust.credential(message[s.CREDENTIAL], endorsed, now, vouch)
    if certified != name:
        raise AuthenticationError("the certificate is for " + certified + ", not for " + name)
    if certified == own:
        raise AuthenticationError("the peer presents our own identity")
    return credential, pin


def _check_delivered(profile: int, message: dict) -> None:
    if s.CREDENTIAL not in message:
        raise DecodeError("the manager did not add the peer's certificate")
    if profile == s.PROFILE_RPK and s.PUBLIC_KEY not in message:
        raise DecodeError("the manager did not add the peer's public key")


class Initiator:
    """The side that asks. ``on_accept`` gives the session, which may send at once."""

    def __init__(
        self,
        identity: Identity,
        trust,
        crypto,
        peer: str,
        profile: int = s.PROFILE_CERT,
        ephemeral=None,
        suites: tuple = SUITES[:1],
        on_behalf_of: str = "",
    ) -> None:
        self.peer = peer
        self.on_behalf_of = on_behalf_of
        self._suites = suites
        self.session_id = crypto.random(s.SESSION_ID_LENGTH)
        self._identity = identity
        self._trust = trust
        self._profile = profile
        self._context = binding(
            self.session_id, identity.name, peer, identity.realm, profile, on_behalf_of
        )
        method, credential, private = identity.for_profile(profile)
        # each role is loaded when it is first played: many a device plays only one
        from keyferry_core.edhoc import initiator

        self._edhoc = initiator.Initiator(
            crypto,
            credential,
            private,
            method,
            suites=suites,
            known_eads=_KNOWN_EADS,
            ephemeral=ephemeral,
        )

    def connect(self, leg: list | None = None) -> dict:
        """The CONNECT message, with the route's first leg if given."""
        message = {
            s.TYPE: s.CONNECT,
            s.FROM: self._identity.name,
            s.TO: self.peer,
            s.SESSION: self.session_id,
            s.PROFILE: self._profile,
            s.MESSAGE_1: self._edhoc.message_1(),
        }
        if self.on_behalf_of:
            message[s.ON_BEHALF_OF] = self.on_behalf_of
        if leg is not None:
            message[s.ROUTE] = [leg]
        return message

    def on_reject(self, message: dict) -> tuple:
        """The ``suites`` for one more attempt, where the peer's EDHOC error asks for another suite
        (RFC 9528, section 6.3), else (). This attempt is over. EdhocError when there is none in
        common, or for what is no error message.

        Nobody vouches for a REJECT. A peer that takes the first suite after all refuses the second
        attempt, since SUITES_I tells it and is part of the transcript: there is no way down.
        """
        if s.EDHOC_ERROR not in message:
            return ()
        error = self._edhoc.read_error(message[s.EDHOC_ERROR])
        if error[0] != EDHOC_WRONG_SUITE:
            return ()
        from keyferry_core.edhoc.initiator import suites_after

        suites = suites_after(error, SUITES)
        return () if suites == self._suites else suites

    def on_accept(self, message: dict, now: int) -> "Session":
        """The session, from the peer's ACCEPT. A KeyferryError ends the attempt: send
        ``rejection(…)`` to the peer.
        """
        edhoc = self._edhoc
        if message[s.FROM] != self.peer or message[s.SESSION] != self.session_id:
            raise DecodeError("accept: not the answer to this request")
        id_cred_r, ead_2 = edhoc.read_message_2(message[s.MESSAGE_2])
        credential_r, pin = _peer_credential(
            self._trust, self._profile, message, id_cred_r, self.peer, self._identity.name, now
        )
        edhoc.verify_message_2(credential_r)
        # only now is EAD_2 more than a stranger's word
        _check_ead(ead_2, self._context)
        message_3 = edhoc.message_3(_ead(self._context))
        session = Session(
            self._identity.name, self.peer, self.session_id, self._context, edhoc, True, message_3
        )
        session.on_behalf_of = self.on_behalf_of
        session.pin = pin
        return session


class Responder:
    """The side that is asked: half open from ``on_connect`` until ``on_message``. ``route``: the
    legs that came with the CONNECT."""

    def __init__(
        self, identity: Identity, trust, crypto, ephemeral=None, suites: tuple = SUITES
    ) -> None:
        self._suites = suites
        self._identity = identity
        self._trust = trust
        self._crypto = crypto
        self._ephemeral = ephemeral
        self._edhoc = None
        self.route: list = []
        self.on_behalf_of = ""

    def on_connect(self, message: dict, leg: list | None = None) -> dict:
        """The ACCEPT that answers a CONNECT. KeyferryError: send ``rejection(…)`` instead."""
        if self._edhoc is not None:
            raise StateError("on_connect: called before")
        self._profile = profile = message[s.PROFILE]
        method, credential, private = self._identity.for_profile(profile)
        if profile != s.PROFILE_CERT:
            _check_delivered(profile, message)
        self.peer = message[s.FROM]
        self.session_id = message[s.SESSION]
        self.route = message.get(s.ROUTE, [])
        self.on_behalf_of = message.get(s.ON_BEHALF_OF, "")
        own = self._identity.name
        if self.peer == own:
            raise AuthenticationError("the peer has our own name")
        # what message_3 will be held to
        self._delivered = {}
        for key in (s.CREDENTIAL, s.PUBLIC_KEY, s.VOUCH):
            if key in message:
                self._delivered[key] = message[key]
        self._context = binding(
            self.session_id, self.peer, own, self._identity.realm, profile, self.on_behalf_of
        )
        from keyferry_core.edhoc import responder

        edhoc = self._edhoc = responder.Responder(
            self._crypto,
            credential,
            private,
            (method,),
            self._suites,
            known_eads=_KNOWN_EADS,
            ephemeral=self._ephemeral,
        )
        edhoc.read_message_1(message[s.MESSAGE_1])
        c_r = b"\x01" if edhoc.c_i != b"\x01" else b"\x00"
        answer = {
            s.TYPE: s.ACCEPT,
            s.FROM: own,
            s.TO: self.peer,
            s.SESSION: self.session_id,
            s.MESSAGE_2: edhoc.message_2(c_r, _ead(self._context)),
        }
        if leg is not None:
            answer[s.ROUTE] = [leg]
        return answer

    def verify_ahead(self, now: int) -> None:
        """Verify the peer's credential while waiting for message_3, which is then answered sooner.

        Says nothing: what does not hold is refused by ``on_message``, with its reason.
        """
        if self._edhoc is None:
            raise StateError("verify_ahead: before on_connect")
        try:
            own = self._identity.name
            _peer_credential(self._trust, self._profile, self._delivered, b"", self.peer, own, now)
        except KeyferryError:
            pass

    def on_message(self, message: dict, now: int) -> "Session":
        """The session, from the Initiator's first MESSAGE; then ``open`` that same message.

        DecodeError when it carries no message_3 (it may still come). Any other KeyferryError
        ends the attempt.
        """
        edhoc = self._edhoc
        if edhoc is None:
            raise StateError("on_message: before on_connect")
        if message[s.FROM] != self.peer or message[s.SESSION] != self.session_id:
            raise DecodeError("message: of another session")
        if s.MESSAGE_3 not in message:
            raise DecodeError("message: a record before message_3")
        id_cred_i, ead_3 = edhoc.read_message_3(message[s.MESSAGE_3])
        own = self._identity.name
        credential_i, pin = _peer_credential(
            self._trust, self._profile, self._delivered, id_cred_i, self.peer, own, now
        )
        edhoc.verify_message_3(credential_i)
        _check_ead(ead_3, self._context)
        message_4 = edhoc.message_4()
        session = Session(own, self.peer, self.session_id, self._context, edhoc, False, message_4)
        session.on_behalf_of = self.on_behalf_of
        session.pin = pin
        return session


class Session:
    """Keys shared with one peer. ``fingerprint``: 16 bytes, equal on both sides, not secret.

    ``confirmed``: the peer is known to hold the keys. The Responder knows at once; the Initiator
    learns it from the first record or message_4, and repeats message_3 until then.
    ``on_behalf_of``: the third party that the Initiator, a gateway, acts for, or "".
    ``pin``: what the judge of ``trust`` wants to keep of the peer once this is confirmed, or None.
    """

    def __init__(
        self,
        own: str,
        peer: str,
        session_id: bytes,
        context: bytes,
        edhoc,
        initiated: bool,
        handshake: bytes,
    ) -> None:
        self.own = own
        self.peer = peer
        self.session_id = session_id
        self.initiated = initiated
        self.on_behalf_of = ""
        self.pin: tuple | None = None
        self.state = "unconfirmed" if initiated else "confirmed"
        self.ended = ""
        self.fingerprint = edhoc.exporter(EXPORTER_FINGERPRINT, context, FINGERPRINT_LENGTH)
        # as in OSCORE, the Initiator sends under C_R (RFC 9528, appendix A.1)
        sender_id, recipient_id = (edhoc.c_r, edhoc.c_i) if initiated else (edhoc.c_i, edhoc.c_r)
        self.records = records.Records(
            edhoc.crypto, edhoc.prk_out, sender_id, recipient_id, context
        )
        # message_3 until confirmed, or message_4 until sent
        self._handshake = handshake
        self._edhoc = edhoc if initiated else None

    @property
    def confirmed(self) -> bool:
        return self.state == "confirmed"

    def _message(self) -> dict:
        message = {s.TYPE: s.MESSAGE, s.FROM: self.own, s.TO: self.peer, s.SESSION: self.session_id}
        if self._handshake:
            message[s.MESSAGE_3 if self.initiated else s.MESSAGE_4] = self._handshake
            if not self.initiated:
                self._handshake = b""
        return message

    def _check_open(self) -> None:
        if self.ended:
            raise StateError("the session has ended: " + self.ended)

    def _move(self, happening: str) -> bool:
        """Go where TRANSITIONS lead; False where they lead nowhere."""
        following = TRANSITIONS[self.state].get(happening)
        if following is None:
            return False
        self.state = following
        return True

    def confirm(self) -> dict | None:
        """A message that carries message_3 (or message_4) alone, or None when none is due."""
        self._check_open()
        return self._message() if self._handshake else None

    def seal(self, data: bytes) -> dict:
        """``data`` (at most MAX_DATA bytes) as a MESSAGE to send."""
        self._check_open()
        record = self.records.protect(data)
        message = self._message()
        message[s.RECORD] = record
        return message

    def open(self, message: dict) -> bytes | None:
        """The data in a MESSAGE, or None when it carries none.

        RemoteError: nothing moved, and the session goes on unless ``ended`` says why not. A
        replayed record is a DecodeError, a forged one an AuthenticationError.
        """
        self._check_open()
        if s.MESSAGE_4 in message and self._edhoc is not None:
            self._read_message_4(message[s.MESSAGE_4])
        if s.RECORD not in message:
            return None
        try:
            kind, data = self.records.unprotect(message[s.RECORD])
        except RemoteError as error:
            if error.name == "limit-reached":
                self.end(error.name)
            raise
        self._confirm()
        if kind == records.PATH:
            return None  # it says something about a connection, and this is none
        if kind == records.CLOSE:
            self.end("session-closed")
            raise RemoteError("session-closed")
        return data

    def seal_path(self, data: bytes) -> bytes:
        """A record for the other agent itself, about a direct connection (docs/keys.md)."""
        self._check_open()
        return self.records.protect(data, records.PATH)

    def open_path(self, record: bytes) -> bytes:
        """What ``seal_path`` of the other side was given. It counts as no forgery when it is none
        of those: anybody can connect. RemoteError.
        """
        self._check_open()
        forged = self.records.forged
        try:
            kind, data = self.records.unprotect(record)
        finally:
            self.records.forged = forged
        if kind != records.PATH:
            raise DecodeError("path: another kind of record")
        return data

    def _read_message_4(self, message_4: bytes) -> None:
        edhoc, self._edhoc = self._edhoc, None
        try:
            edhoc.read_message_4(message_4)
        except KeyferryError:
            # The keys stand by message_2; the first good record will confirm them as well.
            self.records.forged += 1
            raise
        self._confirm()

    def _confirm(self) -> None:
        if self._move("the peer is heard"):
            self._handshake = b""
            self._edhoc = None

    def elapse(self, seconds: int) -> list:
        """Count ``seconds`` that passed, by a clock that nobody sets. To be called now and then.

        Keys are renewed when that is due. Messages to send, if it ends the session: its keys are
        too old then, and ``ended`` is "limit-reached".
        """
        if self.ended or self.records.elapse(seconds):
            return []
        return self.close("limit-reached")

    def close(self, error: str = "session-closed") -> list:
        """Messages that end the session: a close record for the peer, an END for the manager."""
        if self.ended:
            return []
        message = self._message()
        message[s.RECORD] = self.records.protect(b"", records.CLOSE)
        self.end(error)
        last = {s.TYPE: s.END, s.FROM: self.own, s.TO: self.peer, s.SESSION: self.session_id}
        last[s.ERROR_CODE] = code_of(error)
        return [message, last]

    def end(self, error: str) -> None:
        """The session is over for ``error`` (a name of the table). Keys are dropped."""
        if self._move("the end"):
            self.ended = error
            self.records = None
            self._edhoc = None
            self._handshake = b""
