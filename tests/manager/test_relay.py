"""The whole way of a message through the relay, without any network."""

import json
import os

import pytest

from keyferry_core import cbor, names, signalling
from keyferry_core import signalling as sig
from keyferry_core.errors import RemoteError, code_of, name_of
from keyferry_manager.policy import Rules, parse
from keyferry_manager.registry.sessions import State
from keyferry_manager.relay import Relay, RelaySettings, steps
from keyferry_manager.relay.parking import resume, suspend
from support.relay_kit import SESSION, FakeLink, FakeTrail, World


def test_an_introduction_from_beginning_to_end():
    world = World()
    world.offer()
    offered = world.valve.take()
    assert offered[sig.CREDENTIAL] == b"certificate of pump-7"
    assert offered[sig.ROUTE] == [
        [world.pump.address, 1, True, True],
        [world.valve.address, 1, True, True],
    ]
    assert offered[sig.MESSAGE_1] == b"one"
    world.accept()
    accepted = world.pump.take()
    assert accepted[sig.CREDENTIAL] == b"certificate of valve-2"
    assert accepted[sig.ROUTE][0][0] == world.valve.address
    world.say(world.pump, "valve-2")
    assert world.valve.take()[sig.RECORD] == b"record"
    world.say(world.valve, "pump-7")
    assert world.pump.take()[sig.FROM] == "valve-2"
    world.send(world.pump, {sig.TYPE: sig.END, sig.TO: "valve-2", sig.SESSION: SESSION})
    assert world.valve.take()[sig.TYPE] == sig.END
    assert world.trail.sessions[-1] == (State.ENDED, "session-closed")
    world.say(world.valve, "pump-7")
    assert world.valve.error() == "unknown-session"


def test_a_message_is_passed_on_to_the_byte():
    world = World()
    world.open()
    world.say(world.pump, "valve-2")
    _, payload, _, _, outcome, out = world.traced[-1]
    assert outcome == "relayed"
    assert out == payload == world.valve.raw[0]


def test_another_name_in_from_is_refused_written_down_and_not_relayed():
    world = World()
    world.open()
    for kind, fields in (
        (sig.CONNECT, {sig.PROFILE: 0, sig.MESSAGE_1: b"one"}),
        (sig.MESSAGE, {sig.RECORD: b"forged"}),
        (sig.END, {}),
    ):
        forged = {sig.TYPE: kind, sig.FROM: "pump-7", sig.TO: "valve-2", sig.SESSION: SESSION}
        third = world.join("third", os.urandom(8))
        world.send(third, {**forged, **fields})
        assert third.error() == "identity-mismatch"
        assert world.valve.raw == world.pump.raw == []
        assert world.trail.events[-1] == ("identity-mismatch", "third", "from says pump-7")
    assert world.relay.sessions.get(SESSION).state is State.ESTABLISHED


def test_an_error_repeats_what_it_answers():
    world = World()
    world.send(world.pump, {sig.TYPE: sig.RESOLVE, sig.NAME: "third", sig.ID: 99})
    message = world.pump.take()
    assert (message[sig.ID], message[sig.ERROR_CODE]) == (99, code_of("access-denied"))
    world.offer(fields={sig.PROFILE: 55})
    message = world.pump.take()
    assert message[sig.SESSION] == SESSION
    assert message[sig.ERROR_CODE] == code_of("malformed")


def test_nothing_before_registering():
    world = World()
    stranger = FakeLink("third")
    world.relay.link_up(stranger)
    world.send(stranger, {sig.TYPE: sig.RESOLVE, sig.NAME: "pump-7"})
    assert stranger.error() == "not-registered"


def test_the_rules_decide_before_anything_is_said_about_the_peer():
    world = World()
    for peer in ("third", "away", "nobody"):
        world.offer(fields={sig.TO: peer})
        assert world.pump.error() == "access-denied"
    assert world.trail.events[-1] == ("access-denied", "pump-7", "no rule pump-7 -> nobody")
    world.send(
        world.valve,
        {
            sig.TYPE: sig.CONNECT,
            sig.TO: "pump-7",
            sig.SESSION: SESSION,
            sig.PROFILE: 0,
            sig.MESSAGE_1: b"1",
        },
    )
    assert world.valve.error() == "access-denied"


def test_unknown_and_offline_peers():
    world = World()
    pairs = [("pump-7", "away"), ("pump-7", "nobody")]
    world.relay.set_rules(Rules.of(pairs), world.relay.names)
    world.offer(fields={sig.TO: "away"})
    assert world.pump.error() == "peer-offline"
    world.offer(fields={sig.TO: "nobody"})
    assert world.pump.error() == "unknown-name"
    world.send(world.pump, {sig.TYPE: sig.RESOLVE, sig.NAME: "away"})
    answer = world.pump.take()
    assert (answer[sig.ONLINE], sig.CREDENTIAL in answer) == (False, False)


def test_resolving_a_peer_that_is_here():
    world = World()
    world.send(
        world.valve,
        {
            sig.TYPE: sig.REGISTER,
            sig.INSTANCE: b"instance",
            sig.ADDRESSES: ["10.0.0.9:5684", "[2001:db8::9]:5684"],
            sig.EXPIRES: 120,
        },
    )
    answer = world.valve.take()
    assert (answer[sig.EXPIRES], answer[sig.SEEN]) == (120, world.valve.address)
    world.send(world.pump, {sig.TYPE: sig.RESOLVE, sig.NAME: "valve-2"})
    answer = world.pump.take()
    assert answer[sig.ONLINE]
    assert answer[sig.ADDRESSES] == ["10.0.0.9:5684", "[2001:db8::9]:5684"]
    assert answer[sig.CREDENTIAL] == b"certificate of valve-2"


def test_messages_in_the_wrong_state():
    world = World()
    world.accept()
    assert world.valve.error() == "unknown-session"
    world.offer()
    world.valve.take()
    world.say(world.pump, "valve-2")
    assert world.pump.error() == "unknown-session"
    world.accept(world.pump, "valve-2")
    assert world.pump.error() == "unknown-session", "the initiator cannot accept its own offer"
    world.offer()
    assert world.pump.error() == "malformed", "the identifier is in use"
    world.accept()
    world.pump.take()
    world.accept()
    assert world.valve.error() == "unknown-session"


def test_a_third_device_cannot_use_a_session_it_knows_of():
    world = World()
    world.open()
    third = world.join("third")
    for to in ("pump-7", "valve-2"):
        for kind, fields in ((sig.MESSAGE, {sig.RECORD: b"x"}), (sig.END, {})):
            world.send(third, {sig.TYPE: kind, sig.TO: to, sig.SESSION: SESSION, **fields})
            assert third.error() == "unknown-session"
    assert world.pump.raw == world.valve.raw == []
    assert world.relay.sessions.get(SESSION).state is State.ESTABLISHED


def test_a_rejected_offer_is_over():
    world = World()
    world.offer()
    world.valve.take()
    world.send(
        world.valve,
        {
            sig.TYPE: sig.REJECT,
            sig.TO: "pump-7",
            sig.SESSION: SESSION,
            sig.ERROR_CODE: code_of("declined"),
        },
    )
    assert world.pump.take()[sig.TYPE] == sig.REJECT
    assert world.trail.sessions[-1] == (State.ENDED, "declined")
    assert len(world.relay.sessions) == 0


def test_a_full_queue_is_told_to_the_sender_and_moves_nothing():
    world = World()
    world.valve.room = 0
    world.offer()
    assert world.pump.error() == "too-many"
    assert len(world.relay.sessions) == 0
    world.valve.room = 1000
    world.open()
    world.valve.room = 0
    world.say(world.pump, "valve-2")
    assert world.pump.error() == "too-many"
    assert world.relay.sessions.get(SESSION).state is State.ESTABLISHED


def test_the_bounds_on_sessions_are_told():
    world = World(sessions_per_device=8)
    for number in range(2):
        world.offer(fields={sig.SESSION: number.to_bytes(16, "big")})
        world.valve.take()
    world.offer()
    assert world.pump.error() == "too-many"
    assert world.valve.raw == []


def test_an_offer_nobody_answers_times_out_for_both():
    world = World()
    world.offer()
    world.valve.take()
    world.after(29)
    assert world.pump.raw == []
    world.after(1)
    for link in (world.pump, world.valve):
        message = link.take()
        assert (message[sig.TYPE], message[sig.FROM]) == (sig.END, names.MANAGER)
        assert message[sig.ERROR_CODE] == code_of("timeout")


def test_a_device_that_started_anew_has_lost_its_sessions():
    world = World()
    world.open()
    old, world.valve = world.valve, world.join("valve-2", b"another!")
    assert old.closed
    assert old.error() == "replaced"
    message = world.pump.take()
    assert message[sig.TYPE] == sig.END
    assert message[sig.ERROR_CODE] == code_of("peer-restarted")
    assert world.valve.raw == []
    world.offer()
    assert world.valve.take()[sig.TYPE] == sig.CONNECT


def test_a_device_that_says_goodbye_is_gone_at_once():
    world = World()
    world.open()
    world.relay.link_down(world.valve, True, "disconnected")
    assert world.pump.take()[sig.ERROR_CODE] == code_of("peer-gone")
    assert world.trail.sessions[-1] == (State.ENDED, "peer-gone")


def test_a_lost_link_has_its_grace():
    world = World(session_grace=30.0)
    world.open()
    world.relay.link_down(world.valve, False, "lost")
    world.say(world.pump, "valve-2")
    assert world.pump.error() == "peer-offline"
    world.after(29)
    assert world.pump.raw == []
    world.after(1)
    assert world.pump.take()[sig.ERROR_CODE] == code_of("peer-gone")


def test_a_device_that_comes_back_in_time_goes_on():
    world = World()
    world.open()
    world.relay.link_down(world.valve, False, "lost")
    world.after(20)
    world.valve = world.join("valve-2")
    world.after(20)
    world.say(world.pump, "valve-2")
    assert world.valve.take()[sig.TYPE] == sig.MESSAGE
    assert world.pump.raw == []


def test_what_ended_meanwhile_is_told_on_return():
    world = World()
    world.open()
    world.relay.link_down(world.valve, False, "lost")
    world.send(world.pump, {sig.TYPE: sig.END, sig.TO: "valve-2", sig.SESSION: SESSION})
    assert world.pump.raw == []
    back = FakeLink("valve-2")
    world.relay.link_up(back)
    world.send(back, {sig.TYPE: sig.REGISTER, sig.INSTANCE: b"instance", sig.ADDRESSES: []})
    first, second = (signalling.check(cbor.decode(raw), False) for raw in back.raw)
    assert first[sig.TYPE] == sig.REGISTERED
    assert (second[sig.TYPE], second[sig.SESSION]) == (sig.END, SESSION)
    assert second[sig.ERROR_CODE] == code_of("session-closed")


def test_what_ended_meanwhile_is_nothing_to_a_new_instance():
    world = World()
    world.open()
    world.relay.link_down(world.valve, False, "lost")
    world.send(world.pump, {sig.TYPE: sig.END, sig.TO: "valve-2", sig.SESSION: SESSION})
    world.join("valve-2", b"another!")
    assert world.pump.raw == []


def test_a_registration_lapses():
    world = World(registration=100.0)
    world.open()
    world.after(101)
    world.say(world.pump, "valve-2")
    assert world.pump.error() == "not-registered"
    world.pump = world.join("pump-7")
    world.say(world.pump, "valve-2")
    assert world.pump.error() == "peer-offline"


def test_a_rule_that_is_taken_away_ends_what_it_allowed():
    world = World()
    world.open()
    world.relay.set_rules(Rules(), world.relay.names)
    for link in (world.pump, world.valve):
        assert link.take()[sig.ERROR_CODE] == code_of("access-denied")
    assert len(world.relay.sessions) == 0


def test_a_permission_that_is_taken_away_withholds_records_of_a_session_that_goes_on():
    world = World()
    world.open()
    session = SESSION
    record = {
        sig.TYPE: sig.MESSAGE,
        sig.TO: "valve-2",
        sig.SESSION: session,
        sig.RECORD: b"record",
    }
    world.send(world.pump, record)
    assert world.valve.take()[sig.RECORD] == b"record"
    policy = parse('[[allow]]\nfrom = "pump-*"\nto = "valve-2"\nwhat = "session"\n')
    world.relay.set_rules(Rules((), policy), world.relay.names)
    world.send(world.pump, record)
    assert world.pump.error() == "access-denied"
    world.send(world.pump, {**record, sig.MESSAGE_3: b"message_3"})
    assert world.pump.error() == "access-denied", "a record with the handshake is one too"
    assert world.valve.raw == []
    handshake = {**record, sig.MESSAGE_3: b"message_3"}
    del handshake[sig.RECORD]
    world.send(world.pump, handshake)
    assert world.valve.take()[sig.MESSAGE_3] == b"message_3"


def test_a_name_is_bound_to_one_link_at_a_time():
    world = World()
    first = world.relay.registry.get("pump-7").link_id
    assert {name for name, _ in world.trail.links.values()} == {"pump-7", "valve-2"}
    world.join("pump-7", b"instance")
    second = world.relay.registry.get("pump-7").link_id
    assert second != first
    assert first not in world.trail.links
    assert len(world.trail.links) == 2
    world.relay.close_link("pump-7", "removed")
    assert second not in world.trail.links
    world.relay.link_down(world.valve, True, "said goodbye")
    assert world.trail.links == {}


def test_a_device_that_is_removed_loses_its_link():
    world = World()
    world.open()
    world.relay.set_rules(world.relay.rules, ["pump-7"])
    assert world.valve.closed
    assert world.pump.take()[sig.ERROR_CODE] == code_of("peer-gone")
    assert world.relay.registry.get("valve-2") is None


def test_a_replaced_link_has_no_say_and_its_end_changes_nothing():
    world = World()
    old, world.valve = world.valve, world.join("valve-2")
    world.open()
    old.closed = False  # bytes of it may still be on their way
    old.raw.clear()
    world.say(old, "pump-7")
    assert old.error() == "not-registered"
    world.send(old, {sig.TYPE: sig.REGISTER, sig.INSTANCE: b"instance", sig.ADDRESSES: []})
    assert old.error() == "not-registered"
    world.relay.link_down(old, True, "disconnected")
    world.say(world.pump, "valve-2")
    assert world.valve.take()[sig.TYPE] == sig.MESSAGE
    assert world.pump.raw == []


def test_a_full_manager_takes_no_other_device():
    world = World(max_links=2)
    with pytest.raises(RemoteError) as caught:
        world.relay.link_up(FakeLink("third"))
    assert caught.value.name == "too-many"
    world.join("pump-7")


def test_a_route_that_differs_is_reported_and_marked():
    world = World(route_mode="report")
    world.offer(fields={sig.ROUTE: [["10.1.1.1:99", 1, True]]})
    offered = world.valve.take()
    assert offered[sig.ROUTE][0] == ["10.1.1.1:99", 1, True, False]
    assert "route-mismatch" in world.events()
    world.offer(fields={sig.SESSION: b"x" * 16, sig.ROUTE: [[world.pump.address, 1, True]]})
    assert world.valve.take()[sig.ROUTE][0][sig.LEG_VERIFIED] is True


def test_a_session_that_cannot_survive_a_stop_ends_for_both():
    half_open, without_grace = World(), World(session_grace=0.0)
    half_open.offer()
    half_open.valve.take()
    without_grace.open()
    for world in (half_open, without_grace):
        assert suspend(world.relay) is None
        for link in (world.pump, world.valve):
            assert link.take()[sig.ERROR_CODE] == code_of("peer-gone")
            assert link.closed


def test_a_session_survives_a_stop_for_devices_that_come_back():
    world, later = World(), World()
    world.open()
    document = json.loads(json.dumps(suspend(world.relay)))
    for link in (world.pump, world.valve):
        assert link.closed
        assert not link.raw
    assert "session-ended" not in world.events()
    clock = [0.0]
    relay = Relay(RelaySettings(session_grace=30.0), FakeTrail(), now=lambda: clock[0])
    (resumed,) = resume(relay, document)
    assert (resumed.id, resumed.initiator) == (SESSION, "pump-7")
    assert relay.instance == world.relay.instance != later.relay.instance
    clock[0] = 29.0
    relay.tick()
    assert len(relay.sessions) == 1
    clock[0] = 30.0  # nobody came
    relay.tick()
    assert len(relay.sessions) == len(relay.registry) == 0


def test_the_trace_shows_each_check_and_what_the_manager_saw():
    world = World()
    world.open()
    _, _, message, checks, outcome, _ = world.traced[2]
    assert message[sig.TYPE] == sig.CONNECT
    assert outcome == "relayed"
    assert [step for step, _ in checks] == [step.__name__ for step in steps.PATHS[sig.CONNECT]]
    assert dict(checks)["policy"] == "rule pump-7 -> valve-2"
    world.say(world.pump, "third")
    _, _, _, checks, outcome, out = world.traced[-1]
    assert checks[-1] == ("peer", "peer-offline")
    assert (outcome, out) == ("peer-offline", b"")


def for_alice():
    return Rules((), parse('[[allow]]\nfrom = "pump-7 for alice"\nto = "valve-2"'))


def test_a_third_party_has_rules_of_its_own():
    world = World()
    world.offer(fields={sig.ON_BEHALF_OF: "alice"})
    assert world.pump.error() == "access-denied", "the gateway's own right is not alice's"
    assert world.trail.events[-1][2] == "no rule pump-7 for alice -> valve-2"
    assert not world.valve.raw
    world.relay.set_rules(for_alice(), world.relay.names)
    world.offer()
    assert world.pump.error() == "access-denied", "nor is alice's right the gateway's"
    world.offer(fields={sig.ON_BEHALF_OF: "bob"})
    assert world.pump.error() == "access-denied"
    world.offer(fields={sig.ON_BEHALF_OF: "alice"})
    assert world.valve.take()[sig.ON_BEHALF_OF] == "alice"
    world.accept()
    world.pump.take()
    world.say(world.pump, "valve-2")
    assert world.valve.take()[sig.RECORD] == b"record"
    world.relay.set_rules(Rules.of([("pump-7", "valve-2")]), world.relay.names)
    assert name_of(world.valve.take()[sig.ERROR_CODE]) == "access-denied"
    assert "access-withdrawn" in world.events()


def test_a_restart_forgets_no_third_party():
    world = World()
    world.relay.set_rules(for_alice(), world.relay.names)
    world.offer(fields={sig.ON_BEHALF_OF: "alice"})
    world.valve.take()
    world.accept()
    document = json.loads(json.dumps(suspend(world.relay)))
    after = World()
    (session,) = resume(after.relay, document)
    assert session.subject == "pump-7 for alice"
    after.relay.set_rules(for_alice(), world.relay.names)
    assert after.relay.sessions.get(SESSION) is session
    after.relay.set_rules(Rules.of([("pump-7", "valve-2")]), world.relay.names)
    assert after.relay.sessions.get(SESSION) is None
