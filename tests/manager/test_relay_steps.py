"""What the relay reads, and each of the steps that a message takes through it."""

import pytest

from keyferry_core import cbor
from keyferry_core import signalling as sig
from keyferry_core.errors import DecodeError, RemoteError
from keyferry_manager.registry import Session
from keyferry_manager.relay import steps, wire
from support.relay_kit import SESSION, FakeLink

# -- wire ------------------------------------------------------------------------------------


def test_what_the_devices_codec_writes_is_read():
    message = {
        sig.TYPE: sig.END,
        sig.FROM: "pump-7",
        sig.TO: "valve-2",
        sig.SESSION: SESSION,
        sig.TEXT: "grüß",
    }
    assert wire.decode(cbor.encode(message)) == message
    assert wire.encode(message) == cbor.encode(message)


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "80",
        "a1",
        "a0",
        "f6",
        "01",
        "a2020101056466726f6d",  # keys not sorted
        "a11801 05",  # a head longer than necessary
        "bf01ff",  # indefinite length
        "a101 05 00",  # trailing byte
        "a2 01 05 01 05",  # the same key twice
        "a101c249010000000000000000",  # a bignum
        "a101d82363282a29",  # a regular expression
        "a101d9010082",  # string references
        "a101d81c8101",  # a shared value
        "d9d9f7a10105",  # the self-described CBOR tag
        "a101fb3ff0000000000000",  # a float
        "a101f97e00",
        "a101f7",  # undefined
        "a101e0",  # a simple value
        "a10162c328",  # not UTF-8
        "9b7fffffffffffffff",
        "bb7fffffffffffffff",
        "a1015b7fffffffffffffff",
        "81" * 10000,
        "a101" * 5000,
        "c1" * 5000,
    ],
)
def test_cbor_that_is_not_ours_is_refused(payload):
    with pytest.raises(DecodeError):
        wire.decode(bytes.fromhex(payload))


def test_a_message_above_the_limit_is_too_large_and_not_looked_at():
    with pytest.raises(DecodeError) as caught:
        wire.decode(b"\xff" * (sig.MAX_MESSAGE + 1))
    assert caught.value.name == "too-large"


# -- steps -----------------------------------------------------------------------------------

LINK = FakeLink("pump-7", "192.0.2.9:4000")


@pytest.mark.parametrize("mode", ["report", "off"])
def test_an_unstated_leg_is_the_one_seen(mode):
    assert steps.check_leg(None, LINK, mode) == ([LINK.address, 1, True, True], "")


def test_strict_wants_a_stated_leg():
    with pytest.raises(RemoteError) as caught:
        steps.check_leg(None, LINK, "strict")
    assert caught.value.name == "bad-route"


@pytest.mark.parametrize(
    "stated",
    [
        ["198.51.100.1:4000", 1, True],
        ["192.0.2.9:4001", 1, True],
        [LINK.address, 2, True],
        [LINK.address, 1, False],
    ],
)
def test_a_leg_that_differs(stated):
    leg, wrong = steps.check_leg(stated, LINK, "report")
    assert leg == [*stated, False]
    assert wrong
    with pytest.raises(RemoteError) as caught:
        steps.check_leg(stated, LINK, "strict")
    assert caught.value.name == "bad-route"
    assert steps.check_leg(stated, LINK, "off") == ([*stated, False], "")


@pytest.mark.parametrize("mode", ["report", "strict"])
def test_a_leg_that_is_right(mode):
    stated = [LINK.address, 1, True]
    assert steps.check_leg(stated, LINK, mode) == ([*stated, True], "")


@pytest.mark.parametrize("pair", [("a", "c"), ("c", "b"), ("c", "d"), ("a", "a")])
def test_only_the_parties_of_a_session_know_it(pair):
    session = Session(SESSION, "a", "b", 0.0, 0.0)
    assert steps.check_party(session, "a", "b") is session
    assert steps.check_party(session, "b", "a") is session
    for wrong in (session, None):
        with pytest.raises(RemoteError) as caught:
            steps.check_party(wrong, *pair)
        assert (caught.value.name, caught.value.detail) == ("unknown-session", "")


def test_every_message_of_a_device_has_its_way_and_begins_with_the_name():
    assert set(steps.PATHS) == set(sig.FROM_DEVICE)
    for path in steps.PATHS.values():
        assert path[0] is steps.name
    for kind, path in steps.PATHS.items():
        assert kind == sig.REGISTER or path[1] is steps.registered


def test_nothing_is_delivered_before_the_checks_and_nothing_kept_before_the_delivery():
    path = steps.PATHS[sig.CONNECT]
    assert path.index(steps.policy) < path.index(steps.known) < path.index(steps.peer)
    assert path[-2:] == (steps.deliver, steps.offer)
