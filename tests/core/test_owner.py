# heap: 512k
"""The owner's signature: whom it lets in, and that a manager that runs the CA cannot make one."""

import os

from keyferry_core import cbor, owner, rpk, suite
from keyferry_core import signalling as s
from keyferry_core.cose_message import sign1
from keyferry_core.errors import AuthenticationError, DecodeError, KeyferryError
from keyferry_core.session import Identity, Initiator, Responder
from keyferry_core.trust import Trust
from support.portable import raises, vectors

crypto = suite.Crypto(os.urandom)
DATA = vectors("identities")
NOW = DATA["now"]
REALM = DATA["realm"]
# A key that no device and no manager has.
OWNER = crypto.generate()


def device(label):
    found = DATA["devices"][label]
    return [bytes.fromhex(found[key]) for key in ("private", "public", "certificate")]


def vouch(label, name=None, realm=REALM, until=0, private=OWNER[0]):
    name = name or label.split(" ")[-1]
    return owner.endorse(crypto, private, realm, name, device(label)[1], until)


def trust(judged=True):
    made = Trust(crypto, REALM, bytes.fromhex(DATA["issuer"]))
    if judged:
        made.judge = owner.Owner(crypto, REALM, OWNER[1])
    return made


class Side:
    """A device, and what the manager delivers of it: by default the truth."""

    def __init__(self, label, signed=None):
        name = label.split(" ")[-1]
        private, public, self.certificate = device(label)
        agreement = crypto.generate()
        self.endorsed = rpk.endorse(crypto, private, name, agreement[1])
        self.vouch = vouch(label) if signed is None else signed
        self.identity = Identity(
            name, REALM, private, public, self.certificate, (agreement[0], agreement[1])
        )


def relay(message, side, profile):
    sent = s.check(cbor.decode(cbor.encode(message)), True)
    sent[s.CREDENTIAL] = side.certificate
    if profile == s.PROFILE_RPK:
        sent[s.PUBLIC_KEY] = side.endorsed
    if side.vouch:
        sent[s.VOUCH] = side.vouch
    return s.check(sent, False)


def introduce(a, b, profile, judged=True):
    """``a`` asks for pump-7 and gets ``b``."""
    initiator = Initiator(a.identity, trust(judged), crypto, "pump-7", profile)
    responder = Responder(b.identity, trust(judged), crypto)
    accept = responder.on_connect(relay(initiator.connect(), a, profile))
    session_a = initiator.on_accept(relay(accept, b, profile), NOW)
    first = s.check(session_a.seal(b"hello"), True)
    session_b = responder.on_message(first, NOW)
    assert session_b.open(first) == b"hello"
    assert session_a.fingerprint == session_b.fingerprint


PROFILES = (s.PROFILE_CERT, s.PROFILE_RPK)


def test_both_have_the_owners_signature():
    for profile in PROFILES:
        introduce(Side("panel-1"), Side("pump-7"), profile)


def test_a_certificate_that_the_ca_made_for_another_key_is_not_enough():
    for profile in PROFILES:
        # what a manager can do that runs the CA; where the CA is trusted alone, it is let in
        introduce(Side("panel-1"), Side("second pump-7", b""), profile, False)
        for signed in (b"", vouch("pump-7")):
            error = raises(
                AuthenticationError,
                introduce,
                Side("panel-1"),
                Side("second pump-7", signed),
                profile,
            )
            assert error.name == "not-endorsed"


def test_the_responder_asks_for_it_too():
    for profile in PROFILES:
        error = raises(
            AuthenticationError, introduce, Side("panel-1", b""), Side("pump-7"), profile
        )
        assert error.name == "not-endorsed"


def test_what_else_a_manager_may_deliver():
    stranger = crypto.generate()
    for signed in (
        vouch("panel-1"),
        vouch("pump-7", name="valve-2"),
        vouch("pump-7", realm="other.example"),
        vouch("pump-7", private=stranger[0]),
        vouch("pump-7", until=NOW - 1),
    ):
        error = raises(
            AuthenticationError, introduce, Side("panel-1"), Side("pump-7", signed), PROFILES[0]
        )
        assert error.name == "not-endorsed"
    introduce(Side("panel-1"), Side("pump-7", vouch("pump-7", until=NOW)), PROFILES[0])


def test_what_is_no_endorsement():
    good = vouch("pump-7")
    public = device("pump-7")[1]
    bad = [b"\x00", b"\x84", good[:-1], good + b"\x00", bytes(owner.MAX_ENDORSEMENT + 1)]
    for payload in (
        [],
        [REALM, "pump-7", public],
        [REALM, "pump-7", public[:64], 0],
        [REALM, "pump-7", public, -1],
        [REALM, "pump-7", public, True],
        [REALM, "pump-7", public, 1 << 40],
        ["", "pump-7", public, 0],
        [REALM, "manager", public, 0],
        [REALM, 7, public, 0],
        {1: 2},
    ):
        bad.append(sign1(crypto, OWNER[0], cbor.encode(payload), b"keyferry owner 1"))
    for data in bad:
        raises(DecodeError, owner.parse, data)
        raises(
            KeyferryError, owner.Owner(crypto, REALM, OWNER[1]).judge, "pump-7", public, data, NOW
        )
    # signed for something else, with the same key and the same words
    payload = cbor.encode([REALM, "pump-7", public, 0])
    other = sign1(crypto, OWNER[0], payload, b"keyferry rpk")
    error = raises(
        AuthenticationError,
        owner.Owner(crypto, REALM, OWNER[1]).judge,
        "pump-7",
        public,
        other,
        NOW,
    )
    assert error.name == "not-endorsed"


def test_the_longest_names_fit():
    name = "a" * 63
    realm = ".".join(["b" * 63, "c" * 63])
    data = owner.endorse(crypto, OWNER[0], realm, name, device("pump-7")[1], 4102444799)
    assert len(data) <= owner.MAX_ENDORSEMENT
    assert owner.parse(data)[:4] == (realm, name, device("pump-7")[1], 4102444799)


def test_a_signature_is_verified_once_and_its_time_every_time():
    calls = []

    class Counting:
        def verify(self, public, message, signature):
            calls.append(1)
            return crypto.verify(public, message, signature)

    judge = owner.Owner(Counting(), REALM, OWNER[1])
    data, public = vouch("pump-7", until=NOW), device("pump-7")[1]
    for _ in range(3):
        judge.judge("pump-7", public, data, NOW)
    assert len(calls) == 1
    raises(AuthenticationError, judge.judge, "pump-7", public, data, NOW + 1)
    for later in range(1, 11):
        judge.judge("pump-7", public, vouch("pump-7", until=NOW + later), NOW)
    assert len(calls) == 11
    assert len(judge._verified) == 8
