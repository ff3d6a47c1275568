"""Links, registrations and half sessions in memory, and their bounds."""

import pytest

from keyferry_core.errors import RemoteError
from keyferry_manager.registry import Registry, Session, Sessions
from keyferry_manager.registry.sessions import State


class FakeLink:
    """A link that keeps what it is given; ``room`` is how much it takes."""

    def __init__(self, name, address="192.0.2.1:4000", room=1000):
        self.name = name
        self.address = address
        self.transport = 1
        self.certificate_der = b"certificate of " + name.encode()
        self.room = room
        self.sent = []
        self.closed = False

    def send(self, payload):
        if self.closed or len(self.sent) >= self.room:
            return False
        self.sent.append(payload)
        return True

    def close(self):
        self.closed = True


def registered(registry, name, instance=b"i" * 8, expires_at=1000.0):
    link = FakeLink(name)
    registry.attach(link)
    registry.register(registry.get(name), instance, [], expires_at)
    return link


def test_a_new_link_takes_the_place_of_the_old_one_and_must_register():
    registry = Registry(10)
    first = registered(registry, "pump-7")
    second = FakeLink("pump-7")
    assert registry.attach(second) is first
    presence = registry.get("pump-7")
    assert presence.link is second
    assert not presence.registered
    assert not registry.detach(first, 0.0), "the old link's end must not take the new one away"
    assert presence.link is second


def test_a_lost_link_is_remembered_for_the_grace_only():
    registry = Registry(10)
    link = registered(registry, "pump-7")
    assert registry.detach(link, 30.0)
    assert registry.expire(29.9, 30.0) == []
    assert [presence.name for presence in registry.expire(30.0, 30.0)] == ["pump-7"]
    assert registry.get("pump-7") is None


def test_a_link_that_never_registered_leaves_nothing():
    registry = Registry(10)
    link = FakeLink("pump-7")
    registry.attach(link)
    assert registry.detach(link, 30.0)
    assert len(registry) == 0


def test_coming_back_as_the_same_instance_ends_the_grace():
    registry = Registry(10)
    link = registered(registry, "pump-7")
    registry.detach(link, 30.0)
    again = FakeLink("pump-7")
    registry.attach(again)
    assert not registry.register(registry.get("pump-7"), b"i" * 8, [], 1000.0)
    assert registry.expire(31.0, 30.0) == []


def test_another_instance_has_started_anew():
    registry = Registry(10)
    registered(registry, "pump-7")
    assert registry.register(registry.get("pump-7"), b"j" * 8, [], 1000.0)


def test_a_registration_that_lapses_has_its_grace_and_keeps_its_link():
    registry = Registry(10)
    link = registered(registry, "pump-7", expires_at=100.0)
    assert registry.expire(99.0, 30.0) == []
    assert registry.expire(100.0, 30.0) == []
    assert not registry.get("pump-7").registered
    assert [presence.name for presence in registry.expire(130.0, 30.0)] == ["pump-7"]
    assert registry.get("pump-7").link is link
    assert not registry.register(registry.get("pump-7"), b"k" * 8, [], 1000.0)


def test_links_are_bounded_but_a_device_can_always_come_back():
    registry = Registry(2)
    registered(registry, "a")
    registered(registry, "b")
    assert not registry.has_room("c")
    assert registry.has_room("a")


def session(number, initiator="a", responder="b", touched=0.0):
    return Session(number.to_bytes(16, "big"), initiator, responder, 0.0, touched)


def test_sessions_are_bounded_per_pair_per_device_and_in_all():
    sessions = Sessions(per_device=8, total=20)
    number = 0

    def fill(initiator, responder, many):
        nonlocal number
        for _ in range(many):
            sessions.check_room(initiator, responder, 0.0)
            number += 1
            sessions.add(session(number, initiator, responder))

    def full(initiator, responder):
        with pytest.raises(RemoteError) as caught:
            sessions.check_room(initiator, responder, 0.0)
        assert caught.value.name == "too-many"
        return caught.value.detail

    fill("a", "b", 2)
    assert full("a", "b") == "sessions from a to b"
    for peer in ("c", "d", "e"):
        fill("a", peer, 2)
    assert full("a", "f") == "sessions from a"
    for peer in ("v", "w", "x"):
        fill(peer, "b", 2)
    assert full("z", "b") == "sessions to b"
    sessions.check_room("b", "z", 0.0)  # what b was asked for does not take what it asks for
    fill("b", "z", 2)
    fill("y", "z", 2)
    fill("w", "z", 2)
    assert full("p", "q") == "sessions in all"


def test_new_sessions_have_a_rate_however_short_they_are():
    sessions = Sessions(per_device=4, total=100, rate=0.5)
    for number in range(8):
        sessions.check_room("a", "b", 0.0)
        one = session(number)
        sessions.add(one)
        sessions.end(one, "session-closed", 0.0)
    with pytest.raises(RemoteError) as caught:
        sessions.check_room("a", "c", 1.9)
    assert (caught.value.name, caught.value.detail) == ("too-many", "new sessions from a")
    sessions.check_room("b", "a", 1.9)
    sessions.check_room("a", "c", 2.0)


def test_room_comes_back_when_a_session_ends():
    sessions = Sessions(per_device=4, total=4)
    one = session(1)
    sessions.add(one)
    with pytest.raises(RemoteError):
        sessions.check_room("a", "b", 0.0)
    sessions.end(one, "session-closed", 5.0)
    sessions.end(one, "timeout", 6.0)  # the second end changes nothing
    assert (one.state, one.end_reason, one.ended_at) == (State.ENDED, "session-closed", 5.0)
    sessions.check_room("a", "b", 0.0)
    assert len(sessions) == 0
    assert sessions.of("a") == []
    assert sessions.get(one.id) is None


def test_half_open_sessions_expire_soon_and_idle_ones_late():
    sessions = Sessions(per_device=100, total=100, half_open=30.0, idle=1000.0)
    offered, established, busy = session(1), session(2), session(3)
    for each in (offered, established, busy):
        sessions.add(each)
    sessions.establish(established, 10.0)
    sessions.establish(busy, 10.0)
    assert sessions.expired(29.0) == []
    assert sessions.expired(30.0) == [offered]
    sessions.end(offered, "timeout", 0.0)
    sessions.touch(busy, 500.0, 100)
    assert sessions.expired(1010.0) == [established]
    assert (busy.messages, busy.octets) == (1, 100)


def test_the_other_party():
    one = session(1)
    assert one.other("a") == "b"
    assert one.other("b") == "a"
