# heap: 1m
"""The signalling contract: what is kept, what is refused, and with which error."""

from keyferry_core import cbor, names
from keyferry_core import signalling as s
from keyferry_core.errors import DecodeError
from keyferry_core.names import check_name, check_realm, identity, parse_identity
from support.portable import raises, vectors

DATA = vectors("signalling")


def test_good_messages_are_kept_as_they_are():
    assert (len(DATA["up"]), len(DATA["down"])) == (24, 18)
    for from_device, group in ((True, "up"), (False, "down")):
        for name, text in DATA[group].items():
            data = bytes.fromhex(text)
            message = s.check(cbor.decode(data), from_device)
            assert cbor.encode(message) == data, name
            assert s.type_name(message) in name or "name" in name


def test_bad_messages_are_refused_with_their_error():
    assert len(DATA["bad_up"]) == 69
    for name, case in DATA["bad_up"].items():
        error = raises(DecodeError, s.check, cbor.decode(bytes.fromhex(case[0])), True)
        assert error.name == case[1], name


def test_what_only_the_manager_says_is_refused_from_a_device():
    # an END in the manager's name keeps the contract; the name check answers it
    for name, text in DATA["down"].items():
        if name not in ("message", "end from the manager", "delivered"):
            raises(DecodeError, s.check, cbor.decode(bytes.fromhex(text)), True)


def test_every_key_and_type_is_described_once():
    assert sorted(s.FIELDS) == list(range(1, 31))
    assert sorted(s.TYPES) == list(range(1, 15))
    for _, required, optional, added in s.TYPES.values():
        keys = required + optional + added
        assert len(set(keys)) == len(keys)
        for key in keys:
            assert key in s.FIELDS


def test_the_largest_message_fits():
    largest = max([len(text) // 2 for text in DATA["up"].values()])
    assert 8300 < largest < s.MAX_MESSAGE


def test_names():
    for good in ("a", "pump-7", "a.b.c", "9", "x" * 63, "a--b"):
        assert check_name(good) == good
        assert parse_identity(identity(good, "plant.example")) == (good, "plant.example")
    for bad in ("", "manager", "A", "a_b", "-a", "a-", ".a", "a.", "a..b", "x" * 64, "ä", "a b"):
        raises(DecodeError, check_name, bad)
    raises(DecodeError, check_name, None)
    raises(DecodeError, check_name, b"pump-7")
    for bad in ("", "x" * 129, "Plant.example", "plant .example"):
        raises(DecodeError, check_realm, bad)
    for bad in ("pump-7@plant.example", "sip:@plant.example", "sip:a@b@c", "sips:a@b", "sip:a", 7):
        raises(DecodeError, parse_identity, bad)


def test_the_third_party_of_a_connect_is_a_name():
    connect = {
        s.TYPE: s.CONNECT,
        s.FROM: "gw-1",
        s.TO: "pump-7",
        s.SESSION: bytes(16),
        s.PROFILE: s.PROFILE_CERT,
        s.MESSAGE_1: b"1",
        s.ON_BEHALF_OF: "alice",
    }
    assert s.check(connect, True) is connect
    assert s.check(connect, False) is connect
    for wrong in ("", "Alice", "a for b", "manager", "*", b"alice", 7, True, "a" * 64):
        connect[s.ON_BEHALF_OF] = wrong
        raises(DecodeError, s.check, connect, True)
    accept = {s.TYPE: s.ACCEPT, s.FROM: "gw-1", s.TO: "pump-7", s.SESSION: bytes(16)}
    accept[s.MESSAGE_2] = b"2"
    accept[s.ON_BEHALF_OF] = "alice"
    raises(DecodeError, s.check, accept, True)


def test_which_names_a_selector_means():
    for selector, asking, meant in (
        ("pump-7", "pump-7", True),
        ("pump-*", "pump-7", True),
        ("*", "gw-1", True),
        ("*", "gw-1 for alice", False),
        ("gw-1", "gw-1 for alice", False),
        ("gw-1 for alice", "gw-1", False),
        ("gw-1 for alice", "gw-1 for alice", True),
        ("gw-1 for alice", "gw-2 for alice", False),
        ("gw-* for alice", "gw-2 for alice", True),
        ("gw-1 for *", "gw-1 for bob", True),
        ("* for *", "gw-1 for bob", True),
        ("* for *", "gw-1", False),
        ("ab*ba", "aba", False),
    ):
        assert names.matches(selector, asking) is meant, (selector, asking)
    assert names.subject("gw-1", "") == "gw-1"
    assert names.subject("gw-1", "alice") == "gw-1 for alice"
