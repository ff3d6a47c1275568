"""The contract as CDDL, judged by a validator and a CBOR library that are not ours."""

import json
from pathlib import Path

import cbor2
import pycddl
import pytest

from keyferry_core import cbor, signalling
from keyferry_core.errors import DecodeError

ROOT = Path(__file__).parents[2]
DATA = json.loads((ROOT / "tests/vectors/signalling.json").read_text())
CDDL = (ROOT / "docs/signalling.cddl").read_text()


RULES = {
    1: "up-register",
    3: "up-resolve",
    5: "up-connect",
    6: "up-accept",
    7: "reject",
    8: "message",
    9: "end",
    11: "up-send",
    12: "delivered",
    13: "up-certify",
}
DOWN_RULES = RULES | {2: "down-registered", 4: "down-resolved", 5: "down-connect"}
DOWN_RULES |= {6: "down-accept", 10: "error", 11: "down-send", 14: "down-certified"}
# What CDDL leaves to words: the alphabet of names, and that no device is called "manager".
BY_WORDS = {
    "name with capitals",
    "name with an empty label",
    "name ends with a hyphen",
    "connect to the manager",
    "send to the manager",
    "resolve of the manager",
    "message with nothing",
}
# What this validator takes although the CDDL does not: a size control on another major type, and
# more array items than are named. Our own check refuses them.
LENIENT = {
    "name as bytes",
    "session as text",
    "two legs",
    "send by two legs",
    "send of text",
    "certify as text",
}


def validate(rule: str, data: bytes) -> None:
    # CDDL's root is its first rule. The validator is given one rule, since it accepts too much
    # where the root is a choice.
    pycddl.Schema(f"root = {rule}\n{CDDL}").validate_cbor(data)


@pytest.mark.parametrize("name", DATA["up"])
def test_what_a_device_sends(name: str) -> None:
    data = bytes.fromhex(DATA["up"][name])
    message = cbor2.loads(data)
    validate(RULES[message[1]], data)
    assert message == cbor.decode(data)
    assert signalling.check(message, True)


@pytest.mark.parametrize("name", DATA["down"])
def test_what_the_manager_sends(name: str) -> None:
    data = bytes.fromhex(DATA["down"][name])
    message = cbor2.loads(data)
    validate(DOWN_RULES[message[1]], data)
    assert message == cbor.decode(data)
    assert signalling.check(message, False)


@pytest.mark.parametrize("name", DATA["bad_up"])
def test_what_is_refused(name: str) -> None:
    text, error = DATA["bad_up"][name]
    data = bytes.fromhex(text)
    message = cbor2.loads(data)
    kind = message.get(1) if isinstance(message, dict) else None
    rule = RULES.get(kind, "up-connect")
    if name in BY_WORDS | LENIENT:
        validate(rule, data)
    else:
        with pytest.raises(pycddl.ValidationError):
            validate(rule, data)
    with pytest.raises(DecodeError) as caught:
        signalling.check(message, True)
    assert caught.value.name == error
