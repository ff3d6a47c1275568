# heap: 1m
"""The signalling contract: what is kept, what is refused, and with which error."""

from keyferry_core import cbor
from keyferry_core import signalling as s
from keyferry_core.errors import DecodeError
from keyferry_core.names import check_name, check_realm, identity, parse_identity
from support.portable import raises, vectors

DATA = vectors("signalling")


def test_good_messages_are_kept_as_they_are():
    assert (len(DATA["up"]), len(DATA["down"])) == (23, 16)
    for from_device, group in ((True, "up"), (False, "down")):
        for name, text in DATA[group].items():
            data = bytes.fromhex(text)
            message = s.check(cbor.decode(data), from_device)
            assert cbor.encode(message) == data, name
            assert s.type_name(message) in name or "name" in name


def test_bad_messages_are_refused_with_their_error():
    assert len(DATA["bad_up"]) == 66
    for name, case in DATA["bad_up"].items():
        error = raises(DecodeError, s.check, cbor.decode(bytes.fromhex(case[0])), True)
        assert error.name == case[1], name


def test_what_only_the_manager_says_is_refused_from_a_device():
    # an END in the manager's name keeps the contract; the name check answers it
    for name, text in DATA["down"].items():
        if name not in ("message", "end from the manager", "delivered"):
            raises(DecodeError, s.check, cbor.decode(bytes.fromhex(text)), True)


def test_every_key_and_type_is_described_once():
    assert sorted(s.FIELDS) == list(range(1, 25)) + [26, 27, 28]
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
