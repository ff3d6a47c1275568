# heap: 512k
"""Two devices, one manager in between that may lie, and what each device believes."""

from keyferry_core import cbor, records
from keyferry_core import signalling as s
from keyferry_core.errors import (
    AuthenticationError,
    DecodeError,
    KeyferryError,
    LocalError,
    RemoteError,
    StateError,
    code_of,
)
from keyferry_core.session import Initiator, Responder, rejection
from keyferry_core.trust import MAX_REMEMBERED
from support.portable import raises
from support.session_kit import NOW, certificate, changed, crypto, identity, introduce, relay, trust


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


def test_a_manager_cannot_change_names_or_session():
    # towards the Responder: another session id, or another name for the asker
    for key, value in ((s.SESSION, bytes(16)), (s.FROM, "valve-2")):
        initiator = Initiator(identity("panel-1"), trust(), crypto, "pump-7")
        responder = Responder(identity("pump-7"), trust(), crypto)
        connect = changed(relay(initiator.connect(), "panel-1"), key, value)
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


def test_own_identity_is_refused_on_both_sides():
    initiator = Initiator(identity("pump-7"), trust(), crypto, "pump-7")
    responder = Responder(identity("pump-7"), trust(), crypto)
    raises(AuthenticationError, responder.on_connect, relay(initiator.connect(), "pump-7"))


def test_forged_and_replayed_records_do_not_end_a_session():
    a, b = introduce()
    message = relay(a.seal(b"1"))
    forged = changed(message, s.RECORD, message[s.RECORD][:-1] + b"\x00")
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
    forged = changed(message, s.MESSAGE_4, b"\x50" + bytes(16))
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
