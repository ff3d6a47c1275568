"""Plain messages through the manager: one answer each, bounds, and whoever reads nothing."""

import pytest

from keyferry_core import cbor
from keyferry_core import signalling as sig
from keyferry_core.errors import RemoteError, code_of
from keyferry_manager.policy import Rules, parse
from keyferry_manager.relay.deliveries import Deliveries
from support.manager_kit import Home, until
from support.relay_kit import FakeLink, World


def send(world, link, to, number=1, data=b"hello", **more):
    world.send(link, {sig.TYPE: sig.SEND, sig.TO: to, sig.ID: number, sig.DATA: data, **more})


def report(world, link, to, number=1, **more):
    world.send(link, {sig.TYPE: sig.DELIVERED, sig.TO: to, sig.ID: number, **more})


@pytest.fixture
def world():
    return World()


def errors(link):
    found = []
    while link.raw:
        message = cbor.decode(link.raw.pop(0))
        if message[sig.TYPE] == sig.ERROR:
            found.append((message.get(sig.ID), message[sig.ERROR_CODE]))
    return found


def test_a_message_and_its_report(world):
    send(world, world.pump, "valve-2")
    came = world.valve.take()
    assert (came[sig.FROM], came[sig.DATA], came[sig.ID]) == ("pump-7", b"hello", 1)
    assert came[sig.ROUTE] == [
        [world.pump.address, 1, True, True],
        [world.valve.address, 1, True, True],
    ]
    assert not world.pump.raw
    report(world, world.valve, "pump-7")
    answer = world.pump.take()
    assert answer == {sig.TYPE: sig.DELIVERED, sig.FROM: "valve-2", sig.TO: "pump-7", sig.ID: 1}
    # once: a second report, and one for what was never sent, are nobody's
    for number in (1, 2):
        report(world, world.valve, "pump-7", number)
        assert not world.pump.raw
        late = cbor.decode(world.valve.raw.pop())
        assert late[sig.ERROR_CODE] == code_of("timeout")
        assert sig.ID not in late, "it would be taken for an answer to a request of its own"
    assert len(world.relay.deliveries) == 0


def test_a_report_may_say_that_it_failed(world):
    send(world, world.pump, "valve-2")
    world.valve.take()
    world.send(
        world.valve,
        {sig.TYPE: sig.DELIVERED, sig.TO: "pump-7", sig.ID: 1, sig.ERROR_CODE: code_of("declined")},
    )
    assert world.pump.take()[sig.ERROR_CODE] == code_of("declined")


def test_what_is_refused_and_how(world):
    send(world, world.valve, "pump-7")
    assert world.valve.error() == "access-denied"
    assert ("access-denied", "valve-2", "only pump-7 may ask for valve-2") in [
        entry for entry in world.trail.events
    ]
    world.send(
        world.pump,
        {sig.TYPE: sig.SEND, sig.FROM: "valve-2", sig.TO: "valve-2", sig.ID: 1, sig.DATA: b""},
    )
    assert world.pump.error() == "identity-mismatch"
    pairs = [("pump-7", "valve-2"), ("pump-7", "nobody"), ("pump-7", "old"), ("pump-7", "away")]
    world.relay.set_rules(Rules.of(pairs), ["pump-7", "valve-2", "away"], ["old"])
    for name, error in (
        ("nobody", "unknown-name"),
        ("old", "device-gone"),
        ("away", "peer-offline"),
    ):
        send(world, world.pump, name)
        assert world.pump.error() == error
        world.send(
            world.pump, {sig.TYPE: sig.RESOLVE, sig.TO: "manager", sig.ID: 2, sig.NAME: name}
        )
        if error == "peer-offline":
            assert world.pump.take()[sig.ONLINE] is False
        else:
            assert world.pump.error() == error
    assert not world.valve.raw
    assert len(world.relay.deliveries) == 0


def test_the_right_that_it_takes_is_message(world):
    names = ["pump-7", "valve-2"]
    for what, allowed in (("session", False), ("resolve", False), ("message", True)):
        text = f'[[allow]]\nfrom = "pump-7"\nto = "valve-2"\nwhat = "{what}"\n'
        world.relay.set_rules(Rules((), parse(text)), names)
        send(world, world.pump, "valve-2", {"session": 1, "resolve": 2, "message": 3}[what])
        if allowed:
            assert world.valve.take()[sig.DATA] == b"hello"
        else:
            assert world.pump.error() == "access-denied"


def test_a_peer_that_goes_before_it_reports(world):
    for number in (1, 2):
        send(world, world.pump, "valve-2", number)
    world.valve.raw.clear()
    world.relay.link_down(world.valve, False, "lost")
    assert errors(world.pump) == [(1, code_of("peer-gone")), (2, code_of("peer-gone"))]
    # the new link cannot report on what went over the old one
    again = world.join("valve-2")
    report(world, again, "pump-7", 1)
    assert again.error() == "timeout"
    assert not world.pump.raw


def test_a_peer_that_is_replaced_and_a_sender_that_goes(world):
    send(world, world.pump, "valve-2", 1)
    again = world.join("valve-2")
    assert errors(world.pump) == [(1, code_of("peer-gone"))]
    send(world, world.pump, "valve-2", 2)
    again.take()
    world.relay.link_down(world.pump, True, "disconnected")
    assert len(world.relay.deliveries) == 0
    report(world, again, "pump-7", 2)
    assert again.error() == "timeout"


def test_no_report_in_time(world):
    for number in range(3):
        send(world, world.pump, "valve-2", number)
        world.time += 4
    world.relay.tick()
    assert errors(world.pump) == [(0, code_of("timeout"))]
    report(world, world.valve, "pump-7", 0)
    assert not world.pump.raw, "never both"
    world.after(10)
    assert errors(world.pump) == [(1, code_of("timeout")), (2, code_of("timeout"))]
    assert len(world.relay.deliveries) == 0


def test_a_peer_that_does_not_read_harms_nobody_else(world):
    world.valve.room = 5
    pairs = [("pump-7", "valve-2"), ("pump-7", "third")]
    world.relay.set_rules(Rules.of(pairs), ["pump-7", "valve-2", "third"])
    third = world.join("third")
    for number in range(20):
        send(world, world.pump, "valve-2", number)
    assert len(world.valve.raw) == 5
    assert errors(world.pump) == [(number, code_of("too-many")) for number in range(5, 20)]
    assert len(world.relay.deliveries) == 5
    send(world, world.pump, "third", 100)
    assert third.take()[sig.ID] == 100


def test_a_sender_that_reads_nothing_misses_its_report(world):
    send(world, world.pump, "valve-2")
    world.valve.take()
    world.pump.room = 0
    report(world, world.valve, "pump-7")
    assert not world.pump.raw
    assert not world.valve.raw, "it is not the reporter's fault"
    assert world.traced[-1][3][-1] == ("report", "the sender is not there, or reads nothing")
    assert len(world.relay.deliveries) == 0
    world.pump.room = 1000
    world.after(100)
    assert not world.pump.raw, "nor is it told of a failure"


def test_bounds_of_one_pair_one_sender_and_all():
    table = Deliveries(per_sender=4, per_pair=2, total=6, seconds=10)
    a, b = FakeLink("a"), FakeLink("b")
    peers = [FakeLink(f"p{number}") for number in range(4)]

    def refused(sender, peer, number):
        with pytest.raises(RemoteError) as caught:
            table.check_room(sender.name, peer.name, number)
        return caught.value.name

    def add(sender, peer, number):
        table.check_room(sender.name, peer.name, number)
        table.add(sender, peer, number, 0.0)

    add(a, peers[0], 1)
    assert refused(a, peers[1], 1) == "malformed"
    add(a, peers[0], 2)
    assert refused(a, peers[0], 3) == "too-many"
    add(a, peers[1], 3)
    add(a, peers[1], 4)
    assert refused(a, peers[2], 5) == "too-many"
    add(b, peers[0], 1)
    add(b, peers[1], 2)
    assert refused(FakeLink("c"), peers[3], 1) == "too-many"
    first = table.find("a", 1, peers[0])
    assert first is not None
    assert table.find("a", 1, peers[1]) is None
    table.done(first)
    table.done(first)
    add(a, peers[2], 5)
    assert {d.number for d in table.lost(peers[0])} == {2, 1}
    assert table.lost(a) == []
    assert len(table) == 1
    assert [d.number for d in table.expired(10.0)] == [2]
    assert table.expired(100.0) == []
    assert len(table) == 0
    assert not table._counts
    assert not table._by_peer


# -- with real links ---------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    for name in ("pump-7", "valve-2", "third"):
        made.device(name)
    for pair in (("pump-7", "valve-2"), ("pump-7", "third"), ("third", "valve-2")):
        made.allow(*pair)
    return made


def test_a_flood_to_a_peer_that_never_reports_and_others_go_on(home):
    with (
        home.running() as running,
        running.device("pump-7") as pump,
        running.device("valve-2") as valve,
        running.device("third") as third,
    ):
        until(lambda: running.look(lambda m: m.relay.rules.allows("pump-7", "valve-2")))
        # fewer than the manager's queue to the sender, which reads meanwhile
        for number in range(200):
            pump.send(
                {sig.TYPE: sig.SEND, sig.TO: "valve-2", sig.ID: number, sig.DATA: bytes(2048)}
            )
        codes = [pump.receive(sig.ERROR)[sig.ERROR_CODE] for _ in range(200 - 16)]
        assert set(codes) == {code_of("too-many")}
        for _ in range(16):
            valve.receive(sig.SEND)
        # another pair of the same peer is free
        third.send({sig.TYPE: sig.SEND, sig.TO: "valve-2", sig.ID: 7, sig.DATA: b"honest"})
        came = valve.receive(sig.SEND)
        assert (came[sig.FROM], came[sig.DATA]) == ("third", b"honest")
        valve.send({sig.TYPE: sig.DELIVERED, sig.TO: "third", sig.ID: 7})
        assert third.receive(sig.DELIVERED)[sig.ID] == 7
        # forged: a report on somebody else's message
        third.send({sig.TYPE: sig.DELIVERED, sig.TO: "pump-7", sig.ID: 0})
        third.refusal("timeout")
        assert pump.nothing()
        # all that was not reported on fails, each once
        failed = {pump.receive(sig.ERROR)[sig.ID] for _ in range(16)}
        assert failed == set(range(16))
        assert pump.nothing()
        assert running.look(lambda m: len(m.relay.deliveries)) == 0


def test_a_denied_message_is_audited_and_a_removed_device_is_gone(home):
    with home.running() as running, running.device("valve-2") as valve:
        valve.send({sig.TYPE: sig.SEND, sig.TO: "pump-7", sig.ID: 1, sig.DATA: b"secret"})
        answer = valve.refusal("access-denied")
        assert answer[sig.ID] == 1
        policy = '[[allow]]\nfrom = "valve-*"\nto = "*"\n'
        running.look(lambda m: m.relay.set_rules(Rules((), parse(policy)), ["valve-2"], ["third"]))
        for kind, fields in (
            (sig.SEND, {sig.TO: "third", sig.ID: 2, sig.DATA: b""}),
            (sig.RESOLVE, {sig.NAME: "third"}),
        ):
            valve.send({sig.TYPE: kind, **fields})
            valve.refusal("device-gone")
        entry = home.audit("access-denied", to="pump-7", type="send")[-1]
        assert (entry.name, entry.outcome) == ("valve-2", "refused")
        assert "secret" not in repr(entry)


def test_a_device_that_was_removed_is_remembered_as_gone(home):
    async def remove(store):
        await store.life.revoke("unspecified", device="third", remove=True)

    home.store(remove)
    assert home.store(lambda store: store.removed_names()) == ["third"]
    with home.running() as running:
        assert running.look(lambda m: m.relay.removed) == {"third"}


def test_registered_says_which_run_of_the_manager_it_is(home):
    seen = set()
    for _ in range(2):
        with home.running() as running, running.device("pump-7") as pump:
            answer = pump.register()
            assert pump.register()[sig.INSTANCE] == answer[sig.INSTANCE]
            seen.add(answer[sig.INSTANCE])
    assert len(seen) == 2


def test_addresses_and_for_how_long_they_hold(home):
    with (
        home.running() as running,
        running.device("pump-7") as pump,
        running.device("valve-2") as valve,
    ):
        valve.send(
            {
                sig.TYPE: sig.REGISTER,
                sig.INSTANCE: valve.instance,
                sig.ADDRESSES: ["10.0.0.9:5684", "[2001:db8::9]:5684"],
                sig.EXPIRES: 100,
            }
        )
        assert valve.receive(sig.REGISTERED)[sig.EXPIRES] == 100
        until(lambda: running.look(lambda m: m.relay.rules.allows("pump-7", "valve-2", "resolve")))
        pump.send({sig.TYPE: sig.RESOLVE, sig.NAME: "valve-2"})
        answer = pump.receive(sig.RESOLVED)
        assert answer[sig.ADDRESSES] == ["10.0.0.9:5684", "[2001:db8::9]:5684"]
        assert 0 < answer[sig.EXPIRES] <= 100
