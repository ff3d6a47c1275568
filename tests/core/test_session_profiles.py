# heap: 512k
"""What two devices may agree on besides the usual: sent chains, other suites, raw public keys."""

from keyferry_core import cbor, rpk
from keyferry_core import signalling as s
from keyferry_core.cose_message import sign1
from keyferry_core.edhoc.messages import EdhocError
from keyferry_core.errors import (
    AuthenticationError,
    DecodeError,
    KeyferryError,
    RemoteError,
    StateError,
)
from keyferry_core.session import Identity, Initiator, Responder, rejection
from support.portable import raises
from support.session_kit import (
    DATA,
    LEG,
    NOW,
    certificate,
    changed,
    crypto,
    identity,
    keys,
    relay,
    trust,
)


def chained(label, *chain):
    """An identity that sends its certificate itself, with ``chain`` in place of it if given."""
    name = next(part for part in label.split() if "-" in part)
    private, public = keys(label)
    own = certificate(label)
    return Identity(name, DATA["realm"], private, public, own, chain=chain or (own,))


def introduce_by_value(a, b, delivered_a=None, delivered_b=None):
    initiator = Initiator(a, trust(), crypto, "pump-7")
    responder = Responder(b, trust(), crypto)
    accept = responder.on_connect(relay(initiator.connect(LEG), delivered_a), LEG)
    session_a = initiator.on_accept(relay(accept, delivered_b), NOW)
    first = relay(session_a.seal(b"hello"))
    responder.verify_ahead(NOW)
    session_b = responder.on_message(first, NOW)
    assert session_b.open(first) == b"hello"
    return session_a, session_b


ISSUER = bytes.fromhex(DATA["issuer"])


def test_certificates_that_the_devices_send_themselves():
    a, b = certificate("panel-1"), certificate("pump-7")
    for own, peer in (
        (chained("panel-1"), chained("pump-7")),
        (chained("panel-1", a, ISSUER), chained("pump-7", b, ISSUER)),
    ):
        for delivered in ((), ("panel-1", "pump-7")):
            one, other = introduce_by_value(own, peer, *delivered)
            assert one.fingerprint == other.fingerprint
    # only one of them does
    introduce_by_value(chained("panel-1"), identity("pump-7"), None, "pump-7")
    introduce_by_value(identity("panel-1"), chained("pump-7", b, ISSUER), "panel-1", None)


def test_what_a_chain_cannot_do():
    good = chained("panel-1")
    pump, valve = certificate("pump-7"), certificate("valve-2")
    for bad in (
        chained("rogue pump-7"),
        chained("rogue pump-7", certificate("rogue pump-7"), ISSUER),
        chained("expired pump-7"),
        chained("valve-2"),
        # another CA's certificate, a device's as CA, a CA as device
        chained("pump-7", pump, certificate("rogue pump-7")),
        chained("pump-7", pump, valve),
        chained("pump-7", ISSUER, ISSUER),
        chained("pump-7", b"\x30\x00"),
        # somebody else's certificate before the own one
        chained("pump-7", valve, pump),
    ):
        error = raises(KeyferryError, introduce_by_value, good, bad)
        assert error.name in ("authentication-failed", "malformed"), error
        assert isinstance(error, RemoteError)
    # the key is not that of the certificate
    private, public = keys("valve-2")
    thief = Identity("pump-7", DATA["realm"], private, public, pump, chain=(pump,))
    assert raises(RemoteError, introduce_by_value, good, thief).name == "key-exchange-failed"
    # the manager delivered another one, though that is good too
    for label in ("second pump-7", "valve-2"):
        error = raises(
            AuthenticationError, introduce_by_value, good, chained("pump-7"), None, label
        )
        assert "another certificate" in error.detail
    error = raises(
        AuthenticationError, introduce_by_value, good, chained("pump-7"), "valve-2", "pump-7"
    )
    assert "another certificate" in error.detail
    # a hash alone, and nobody delivered what it stands for
    raises(DecodeError, introduce_by_value, good, identity("pump-7"))
    raises(DecodeError, introduce_by_value, identity("panel-1"), chained("pump-7"))


def refused(initiator, responder):
    """The REJECT with which ``responder`` answers, as the manager hands it on."""
    connect = relay(initiator.connect(), "panel-1")
    error = raises(EdhocError, responder.on_connect, connect)
    return relay(rejection("pump-7", connect, error.name, error.message))


def test_another_suite_is_negotiated_once():
    first = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    only_2 = Responder(identity("pump-7"), trust(), crypto, suites=(2,))
    reject = refused(first, only_2)
    assert reject[s.EDHOC_ERROR] == b"\x02\x02"
    suites = first.on_reject(reject)
    assert suites == (3, 2)
    second = Initiator(identity("panel-1"), trust(), crypto, "pump-7", suites=suites)
    only_2 = Responder(identity("pump-7"), trust(), crypto, suites=(2,))
    accept = only_2.on_connect(relay(second.connect(), "panel-1"))
    a = second.on_accept(relay(accept, "pump-7"), NOW)
    b = only_2.on_message(relay(a.confirm()), NOW)
    assert a.fingerprint == b.fingerprint
    raises(StateError, first.on_reject, reject)


def test_nobody_can_talk_a_peer_down_to_the_weaker_suite():
    first = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    connect = first.connect()
    # whoever carries messages can make this up
    forged = rejection("pump-7", {s.FROM: "panel-1", s.SESSION: connect[s.SESSION]}, "declined")
    forged[s.EDHOC_ERROR] = b"\x02\x02"
    suites = first.on_reject(relay(forged))
    second = Initiator(identity("panel-1"), trust(), crypto, "pump-7", suites=suites)
    # but SUITES_I has what was preferred, so the peer says what it prefers
    reject = refused(second, Responder(identity("pump-7"), trust(), crypto))
    assert reject[s.EDHOC_ERROR] == b"\x02\x82\x03\x02"
    assert second.on_reject(reject) == (3,)  # and that is one too many
    # without SUITES_I the transcripts differ
    third = Initiator(identity("panel-1"), trust(), crypto, "pump-7", suites=(3, 2))
    sent = relay(third.connect(), "panel-1")
    message_1 = sent[s.MESSAGE_1]
    assert message_1[:4] == b"\x00\x82\x03\x02"
    sent[s.MESSAGE_1] = b"\x00\x02" + message_1[4:]
    accept = Responder(identity("pump-7"), trust(), crypto).on_connect(sent)
    raises(KeyferryError, third.on_accept, relay(accept, "pump-7"), NOW)


def test_what_a_rejection_says():
    def answered(edhoc_error):
        initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
        connect = relay(initiator.connect(), "panel-1")
        reject = rejection("pump-7", connect, "key-exchange-failed", edhoc_error)
        return initiator, relay(reject)

    for edhoc_error in (b"", b"\x01\x66failed", b"\x03\xf5", b"\x18\x63\x40", b"\x02\x03"):
        initiator, reject = answered(edhoc_error)
        assert initiator.on_reject(reject) == (), edhoc_error
    for text in "00 02 020202 ff 616102 f502 0200 0280 02f6 024102 0282008102".split(" "):
        edhoc_error = bytes.fromhex(text)
        initiator, reject = answered(edhoc_error)
        raises(EdhocError, initiator.on_reject, reject)
        raises(StateError, initiator.on_reject, reject)
    # a credential that is not the one named has its own code (section 6.4)
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    accept = relay(responder.on_connect(relay(initiator.connect(), "panel-1")), "second pump-7")
    error = raises(EdhocError, initiator.on_accept, accept, NOW)
    assert error.message == b"\x03\xf5"


def test_a_profile_that_is_not_spoken():
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    connect = changed(relay(initiator.connect(), "panel-1"), s.PROFILE, s.PROFILE_RPK)
    assert raises(RemoteError, responder.on_connect, connect).name == "unsupported"


class RawKeys:
    """A device with an agreement key, endorsed in its own name unless told otherwise."""

    def __init__(self, label, endorsed_as=None, signer=None):
        self.label = label
        agreement = crypto.generate()
        self.identity = identity(label, agreement)
        signing, _ = keys(signer or label)
        name = endorsed_as or self.identity.name
        self.endorsed = rpk.endorse(crypto, signing, name, agreement[1])


def introduce_by_raw_keys(a, b, trust_a=None):
    initiator = Initiator(a.identity, trust_a or trust(), crypto, "pump-7", s.PROFILE_RPK)
    responder = Responder(b.identity, trust(), crypto)
    connect = initiator.connect()
    accept = responder.on_connect(relay(connect, a.label, a.endorsed))
    session_a = initiator.on_accept(relay(accept, b.label, b.endorsed), NOW)
    first = relay(session_a.seal(b"hello"))
    session_b = responder.on_message(first, NOW)
    assert session_b.open(first) == b"hello"
    sizes = len(connect[s.MESSAGE_1]), len(accept[s.MESSAGE_2]), len(first[s.MESSAGE_3])
    return session_a, session_b, sizes


def test_raw_public_keys():
    peers = trust()
    a, b = RawKeys("panel-1"), RawKeys("pump-7")
    session_a, session_b, sizes = introduce_by_raw_keys(a, b, peers)
    assert session_a.fingerprint == session_b.fingerprint
    assert session_a.open(relay(session_b.seal(b"welcome"))) == b"welcome"
    # EDHOC's own 37, 61 and 44 bytes, and 37 for the binding
    assert sizes == (37, 61 + 37, 44 + 37)
    assert len(peers._verified) == 2
    introduce_by_raw_keys(a, b, peers)
    assert len(peers._verified) == 2
    assert len(RawKeys("panel-1").endorsed) <= rpk.MAX_ENDORSED


def test_raw_public_keys_of_somebody_else():
    good = RawKeys("panel-1")
    for bad in (
        RawKeys("pump-7", endorsed_as="valve-2"),
        RawKeys("pump-7", signer="valve-2"),
        RawKeys("pump-7", signer="second pump-7"),
    ):
        raises(AuthenticationError, introduce_by_raw_keys, good, bad)
    for bad in (
        RawKeys("panel-1", endorsed_as="valve-2"),
        RawKeys("panel-1", signer="valve-2"),
    ):
        raises(AuthenticationError, introduce_by_raw_keys, bad, RawKeys("pump-7"))
    # endorsed by the right key, but not the key that the peer has
    swapped = RawKeys("pump-7")
    swapped.endorsed = RawKeys("pump-7").endorsed
    raises(KeyferryError, introduce_by_raw_keys, good, swapped)
    raises(DecodeError, introduce_by_raw_keys, good, _with_endorsed(None))
    for bad in (b"", b"\x00", cbor.encode([b"", {}, b"", b""]), bytes(281)):
        raises(KeyferryError, introduce_by_raw_keys, good, _with_endorsed(bad))


def _with_endorsed(endorsed):
    device = RawKeys("pump-7")
    device.endorsed = endorsed
    return device


def test_an_endorsed_key_is_what_endorse_makes():
    private, public = keys("pump-7")
    _, agreement = crypto.generate()
    endorsed = rpk.endorse(crypto, private, "pump-7", agreement)
    name, credential = rpk.open_endorsed(crypto, public, endorsed)
    assert name == "pump-7"
    assert credential.public == agreement
    longest = rpk.endorse(crypto, private, "x" * 63, agreement)
    assert len(longest) <= rpk.MAX_ENDORSED
    key = {1: 2, 2: rpk.key_id(agreement), -1: 1, -2: agreement[1:33], -3: agreement[33:]}
    for claims in (
        {2: "pump-7", 8: {1: key}, 4: 1},
        {2: "Pump-7", 8: {1: key}},
        {2: "pump-7", 8: {1: [1]}},
        {2: "pump-7", 8: [key]},
        {2: "pump-7"},
        {2: "pump-7", 8: {1: changed(key, 2, b"12345678")}},
        {2: "pump-7", 8: {1: changed(key, -2, agreement[1:32])}},
        {2: "pump-7", 8: {1: changed(key, -2, "x")}},
        [],
        5,
    ):
        data = sign1(crypto, private, cbor.encode(claims), b"keyferry rpk")
        raises(DecodeError, rpk.open_endorsed, crypto, public, data)
    other = sign1(crypto, private, cbor.encode({2: "pump-7", 8: {1: key}}), b"another context")
    raises(AuthenticationError, rpk.open_endorsed, crypto, public, other)
