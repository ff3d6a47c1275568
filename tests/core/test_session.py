# heap: 512k
"""Two devices, one manager in between that may lie, and what each device believes."""

import os

from keyferry_core import cbor, records, rpk, suite
from keyferry_core import signalling as s
from keyferry_core.cose_message import sign1
from keyferry_core.edhoc.messages import EdhocError
from keyferry_core.errors import (
    AuthenticationError,
    DecodeError,
    KeyferryError,
    LocalError,
    RemoteError,
    StateError,
    code_of,
)
from keyferry_core.session import Identity, Initiator, Responder, rejection
from keyferry_core.trust import MAX_REMEMBERED, Trust
from support.portable import raises, vectors

crypto = suite.Crypto(os.urandom)
DATA = vectors("identities")
NOW = DATA["now"]
LEG = ["10.0.0.7:8883", s.TRANSPORT_MQTT_TLS, True]


def certificate(label):
    return bytes.fromhex(DATA["devices"][label]["certificate"])


def keys(label):
    device = DATA["devices"][label]
    return bytes.fromhex(device["private"]), bytes.fromhex(device["public"])


def identity(label, agreement=None):
    name = next(part for part in label.split() if "-" in part)
    private, public = keys(label)
    return Identity(name, DATA["realm"], private, public, certificate(label), agreement)


def trust():
    return Trust(crypto, DATA["realm"], bytes.fromhex(DATA["issuer"]))


def relay(message, credential=None, endorsed=None):
    """What an honest manager hands on; every message passes through the codec and the contract."""
    sent = s.check(cbor.decode(cbor.encode(message)), True)
    if credential is not None:
        sent[s.CREDENTIAL] = certificate(credential)
    if endorsed is not None:
        sent[s.PUBLIC_KEY] = endorsed
    if s.ROUTE in sent:
        sent[s.ROUTE] = [sent[s.ROUTE][0] + [True], ["192.0.2.1:8883", 1, True, True]]
    return s.check(cbor.decode(cbor.encode(sent)), False)


def introduce(a="panel-1", b="pump-7"):
    initiator = Initiator(identity(a), trust(), crypto, "pump-7")
    responder = Responder(identity(b), trust(), crypto)
    accept = responder.on_connect(relay(initiator.connect(LEG), a), LEG)
    session_a = initiator.on_accept(relay(accept, b), NOW)
    first = relay(session_a.seal(b"hello"))
    session_b = responder.on_message(first, NOW)
    assert session_b.open(first) == b"hello"
    return session_a, session_b


def test_two_devices_agree():
    a, b = introduce()
    assert a.peer == "pump-7"
    assert b.peer == "panel-1"
    assert a.fingerprint == b.fingerprint
    assert len(a.fingerprint) == 16
    assert b.confirmed
    assert not a.confirmed
    # message_3 is repeated until the peer is heard, and does no harm
    again = relay(a.seal(b"again"))
    assert s.MESSAGE_3 in again
    assert b.open(again) == b"again"
    answer = relay(b.seal(b"welcome"))
    assert s.MESSAGE_4 in answer
    assert a.open(answer) == b"welcome"
    assert a.confirmed
    for n in range(20):
        sent = relay(a.seal(bytes([n])))
        assert s.MESSAGE_3 not in sent
        assert b.open(sent) == bytes([n])
        sent = relay(b.seal(bytes([n])))
        assert s.MESSAGE_4 not in sent
        assert a.open(sent) == bytes([n])


def test_each_session_has_its_own_keys():
    assert introduce()[0].fingerprint != introduce()[0].fingerprint


def test_message_4_alone_confirms():
    a, b = introduce()
    sent = relay(b.confirm())
    assert s.RECORD not in sent
    assert b.confirm() is None
    assert a.open(sent) is None
    assert a.confirmed
    assert a.confirm() is None


def test_message_3_alone_opens_the_session():
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    accept = responder.on_connect(relay(initiator.connect(), "panel-1"))
    a = initiator.on_accept(relay(accept, "pump-7"), NOW)
    first = relay(a.confirm())
    assert s.RECORD not in first
    b = responder.on_message(first, NOW)
    assert b.open(first) is None
    assert a.open(relay(b.seal(b"x"))) == b"x"


def test_a_record_before_message_3_changes_nothing():
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    accept = responder.on_connect(relay(initiator.connect(), "panel-1"))
    a = initiator.on_accept(relay(accept, "pump-7"), NOW)
    first = relay(a.seal(b"1"))
    bare = dict(first)
    del bare[s.MESSAGE_3]
    raises(DecodeError, responder.on_message, bare, NOW)
    b = responder.on_message(first, NOW)
    assert b.open(bare) == b"1"


def _accepted_from(label):
    """What panel-1 says to an answer that ``label`` gave in pump-7's place."""
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity(label), trust(), crypto)
    connect = relay(initiator.connect(), "panel-1")
    responder._identity.name = "pump-7"
    accept = relay(responder.on_connect(connect), label)
    error = raises(KeyferryError, initiator.on_accept, accept, NOW)
    answer = rejection("panel-1", accept, error.name)
    assert s.check(cbor.decode(cbor.encode(answer)), True) == answer
    return error


def test_who_may_not_answer_for_pump_7():
    for label, part in (
        ("valve-2", "valve-2"),
        ("expired pump-7", "expired"),
        ("rogue pump-7", ""),
        ("pump-7 elsewhere", ""),
        ("panel-1", "panel-1"),
    ):
        error = _accepted_from(label)
        assert error.name in ("authentication-failed", "key-exchange-failed"), label
        assert part in error.detail, (label, error.detail)


def test_who_may_not_ask_in_panel_1s_name():
    for label in ("valve-2", "rogue pump-7", "expired pump-7"):
        asker = identity(label)
        asker.name = "panel-1"
        initiator = Initiator(asker, trust(), crypto, "pump-7")
        responder = Responder(identity("pump-7"), trust(), crypto)
        accept = responder.on_connect(relay(initiator.connect(), label))
        a = initiator.on_accept(relay(accept, "pump-7"), NOW)
        raises(KeyferryError, responder.on_message, relay(a.seal(b"x")), NOW)


def test_a_manager_cannot_swap_the_certificate():
    # a second valid certificate in the same name, whose key the peer does not have
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    accept = responder.on_connect(relay(initiator.connect(), "panel-1"))
    raises(KeyferryError, initiator.on_accept, relay(accept, "second pump-7"), NOW)


def _with(message, key, value):
    changed = dict(message)
    changed[key] = value
    return changed


def test_a_manager_cannot_change_names_or_session():
    # towards the Responder: another session id, or another name for the asker
    for key, value in ((s.SESSION, bytes(16)), (s.FROM, "valve-2")):
        initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
        responder = Responder(identity("pump-7"), trust(), crypto)
        connect = _with(relay(initiator.connect(), "panel-1"), key, value)
        accept = relay(responder.on_connect(connect), "pump-7")
        accept[s.SESSION] = initiator.session_id
        raises(KeyferryError, initiator.on_accept, accept, NOW)
    # towards a device of another name than the one that was asked for
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("valve-2"), trust(), crypto)
    accept = relay(responder.on_connect(relay(initiator.connect(), "panel-1")), "valve-2")
    raises(DecodeError, initiator.on_accept, accept, NOW)
    accept[s.FROM] = "pump-7"
    raises(AuthenticationError, initiator.on_accept, accept, NOW)


def test_an_answer_without_a_certificate():
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    # the initiator may have one in message_3
    accept = responder.on_connect(relay(initiator.connect()))
    session = initiator.on_accept(relay(accept, "pump-7"), NOW)
    raises(DecodeError, responder.on_message, relay(session.confirm()), NOW)
    # the responder would have had it in message_2
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    accept = responder.on_connect(relay(initiator.connect(), "panel-1"))
    raises(DecodeError, initiator.on_accept, relay(accept), NOW)
    raises(StateError, initiator.on_accept, relay(accept, "pump-7"), NOW)


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


def test_own_identity_is_refused_on_both_sides():
    initiator = Initiator(identity("pump-7"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    raises(AuthenticationError, responder.on_connect, relay(initiator.connect(), "pump-7"))


def test_a_profile_that_is_not_spoken():
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    connect = _with(relay(initiator.connect(), "panel-1"), s.PROFILE, s.PROFILE_RPK)
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
        {2: "pump-7", 8: {1: _with(key, 2, b"12345678")}},
        {2: "pump-7", 8: {1: _with(key, -2, agreement[1:32])}},
        {2: "pump-7", 8: {1: _with(key, -2, "x")}},
        [],
        5,
    ):
        data = sign1(crypto, private, cbor.encode(claims), b"keyferry rpk")
        raises(DecodeError, rpk.open_endorsed, crypto, public, data)
    other = sign1(crypto, private, cbor.encode({2: "pump-7", 8: {1: key}}), b"another context")
    raises(AuthenticationError, rpk.open_endorsed, crypto, public, other)


def test_forged_and_replayed_records_do_not_end_a_session():
    a, b = introduce()
    message = relay(a.seal(b"1"))
    forged = _with(message, s.RECORD, message[s.RECORD][:-1] + b"\x00")
    raises(AuthenticationError, b.open, forged)
    assert b.open(message) == b"1"
    raises(DecodeError, b.open, message)
    # a record of one session is nothing in another, nor reflected to its sender
    other, _ = introduce()
    raises(RemoteError, other.open, message)
    raises(RemoteError, a.open, message)
    assert b.open(relay(a.seal(b"2"))) == b"2"


def test_a_forged_message_4_does_not_end_a_session():
    a, b = introduce()
    message = relay(b.confirm())
    forged = _with(message, s.MESSAGE_4, b"\x50" + bytes(16))
    raises(KeyferryError, a.open, forged)
    assert not a.confirmed
    assert a.open(relay(b.seal(b"x"))) == b"x"
    assert a.confirmed


def test_calls_out_of_order_move_nothing():
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    message = {s.FROM: "panel-1", s.SESSION: initiator.session_id, s.MESSAGE_3: b"\x40"}
    raises(StateError, responder.on_message, message, NOW)
    raises(StateError, responder.verify_ahead, NOW)
    connect = relay(initiator.connect(), "panel-1")
    raises(StateError, initiator.connect)
    accept = relay(responder.on_connect(connect), "pump-7")
    raises(StateError, responder.on_connect, connect)
    a = initiator.on_accept(accept, NOW)
    raises(StateError, initiator.on_accept, accept, NOW)
    first = relay(a.seal(b"x"))
    b = responder.on_message(first, NOW)
    raises(StateError, responder.on_message, first, NOW)
    assert b.open(first) == b"x"
    assert (a.state, b.state) == ("unconfirmed", "confirmed")


def test_close_is_told_to_peer_and_manager():
    a, b = introduce()
    last, end = a.close()
    assert raises(RemoteError, b.open, relay(last)).name == "session-closed"
    assert s.check(end, True)[s.TYPE] == s.END
    assert a.ended == b.ended == "session-closed"
    for session in (a, b):
        raises(StateError, session.seal, b"x")
        raises(StateError, session.open, last)
        assert session.records is None
        assert session.close() == []


def test_the_end_of_the_keys_ends_the_session():
    a, b = introduce()
    b.records.forged = records.MAX_FORGED
    assert raises(RemoteError, b.open, relay(a.seal(b"x"))).name == "limit-reached"
    assert b.ended == "limit-reached"
    a.records.sent = records.MAX_RECORDS
    assert raises(LocalError, a.seal, b"x").name == "limit-reached"


def test_old_keys_end_the_session():
    for which in (0, 1):
        pair = introduce()
        old, other = pair[which], pair[1 - which]
        other.open(relay(old.seal(b"x")))
        assert old.elapse(86400) == []
        assert other.open(relay(old.seal(b"new keys"))) == b"new keys"
        record, end = old.elapse(6 * 86400)
        assert old.ended == "limit-reached"
        assert old.elapse(86400) == []
        assert end[s.TYPE] == s.END
        assert end[s.ERROR_CODE] == code_of("limit-reached")
        # the peer need not believe the manager
        assert raises(RemoteError, other.open, relay(record)).name == "session-closed"
        assert other.ended == "session-closed"


def test_nobody_is_believed_once_the_issuing_ca_has_expired():
    peers = trust()
    peers.check(certificate("pump-7"), NOW)
    peers._issuers[0].not_after = NOW - 1
    assert "expired" in raises(AuthenticationError, peers.check, certificate("pump-7"), NOW).detail


def test_a_certificate_is_verified_once_and_its_dates_every_time():
    peers = trust()
    calls = []

    class Counting:
        def verify(self, public, message, signature):
            calls.append(1)
            return crypto.verify(public, message, signature)

    peers._crypto = Counting()
    der = certificate("pump-7")
    for _ in range(3):
        assert peers.check(der, NOW)[0] == "pump-7"
    assert len(calls) == 1
    raises(AuthenticationError, peers.check, der, NOW + 100 * 365 * 86400)
    raises(AuthenticationError, peers.check, der, 0)
    raises(AuthenticationError, peers.check, certificate("rogue pump-7"), NOW)
    assert len(peers._verified) == 1
    for _ in range(2 * MAX_REMEMBERED):
        peers._verified.append(b"")
        if len(peers._verified) > MAX_REMEMBERED:
            peers._verified.pop(0)
    assert peers.check(der, NOW)[0] == "pump-7"
    assert len(peers._verified) == MAX_REMEMBERED


def test_a_gateway_asks_for_a_third_party_and_both_know_for_whom():
    initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7", on_behalf_of="alice")
    responder = Responder(identity("pump-7"), trust(), crypto)
    connect = relay(initiator.connect(), "panel-1")
    assert connect[s.ON_BEHALF_OF] == "alice"
    accept = responder.on_connect(connect)
    session_a = initiator.on_accept(relay(accept, "pump-7"), NOW)
    first = relay(session_a.seal(b"for alice"))
    session_b = responder.on_message(first, NOW)
    assert session_b.open(first) == b"for alice"
    assert session_a.on_behalf_of == session_b.on_behalf_of == "alice"
    assert session_a.fingerprint == session_b.fingerprint
    assert introduce()[0].on_behalf_of == ""


def test_a_manager_cannot_add_take_away_or_change_the_third_party():
    for said, told in (("alice", ""), ("", "alice"), ("alice", "bob")):
        initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7", on_behalf_of=said)
        responder = Responder(identity("pump-7"), trust(), crypto)
        connect = relay(initiator.connect(), "panel-1")
        connect.pop(s.ON_BEHALF_OF, None)
        if told:
            connect[s.ON_BEHALF_OF] = told
        accept = responder.on_connect(connect)
        error = raises(AuthenticationError, initiator.on_accept, relay(accept, "pump-7"), NOW)
        assert error.name == "authentication-failed"
