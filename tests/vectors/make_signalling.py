"""Make signalling.json: messages that keep docs/signalling.cddl, and messages that do not.

Run by hand when the contract changes: python tests/vectors/make_signalling.py. The bytes come from
cbor2, so that the core's own codec is not its own judge.
"""

import json
from pathlib import Path

import cbor2

SESSION = bytes(range(16))
INSTANCE = bytes(range(8))
UP_LEG = ["10.0.0.7:51000", 1, True]
LEGS = [["10.0.0.7:51000", 1, True, True], ["192.0.2.1:8883", 1, True, True]]
A, B, M = "panel-1", "pump-7", "manager"

UP = {
    "register": {1: 1, 2: A, 3: M, 4: 1, 16: INSTANCE, 14: []},
    "register with all": {
        1: 1,
        2: A,
        3: M,
        4: 0xFFFFFFFF,
        16: INSTANCE,
        15: 3600,
        13: [UP_LEG],
        14: ["10.0.0.7:7000", "[2001:db8::7]:7000", "panel-1.local:7000", "a:1"],
    },
    "register with a key": {1: 1, 2: A, 3: M, 4: 1, 16: INSTANCE, 14: [], 22: bytes(180)},
    "register with what it trusts": {1: 1, 2: A, 3: M, 4: 1, 16: INSTANCE, 14: [], 28: bytes(8)},
    "register, owner": {1: 1, 2: A, 3: M, 4: 1, 16: INSTANCE, 14: [], 29: 1},
    "resolve": {1: 3, 2: A, 3: M, 4: 2, 18: B},
    "connect": {1: 5, 2: A, 3: B, 5: SESSION, 6: 0, 7: bytes(37), 13: [UP_LEG]},
    "connect without route": {1: 5, 2: A, 3: B, 5: SESSION, 6: 1, 7: bytes(37)},
    "accept": {1: 6, 2: B, 3: A, 5: SESSION, 8: bytes(152), 13: [UP_LEG]},
    "reject": {1: 7, 2: B, 3: A, 5: SESSION, 20: 8},
    "reject with text": {1: 7, 2: B, 3: A, 5: SESSION, 20: 8, 21: "not today"},
    "message with message_3": {1: 8, 2: A, 3: B, 5: SESSION, 9: bytes(135)},
    "message with both": {1: 8, 2: A, 3: B, 5: SESSION, 9: bytes(135), 11: bytes(19)},
    "message with message_4": {1: 8, 2: B, 3: A, 5: SESSION, 10: bytes(17), 11: bytes(19)},
    "message, largest": {1: 8, 2: A, 3: B, 5: SESSION, 11: bytes(8300)},
    "end": {1: 9, 2: A, 3: B, 5: SESSION, 20: 18},
    "send": {1: 11, 2: A, 3: B, 4: 3, 23: b"pressure?", 13: [UP_LEG]},
    "send nothing": {1: 11, 2: A, 3: B, 4: 3, 23: b""},
    "send, largest": {1: 11, 2: A, 3: B, 4: 3, 23: bytes(2048)},
    "delivered": {1: 12, 2: B, 3: A, 4: 3},
    "delivered not": {1: 12, 2: B, 3: A, 4: 3, 20: 10},
    "certify": {1: 13, 2: A, 3: M, 4: 4, 26: bytes(300)},
    "certify, largest": {1: 13, 2: A, 3: M, 4: 4, 26: bytes(2048)},
    "longest name": {1: 3, 2: "a" * 63, 3: M, 4: 0, 18: "b.c-d.9"},
}
DOWN = {
    "registered": {1: 2, 2: M, 3: A, 4: 1, 15: 3600, 17: "10.0.0.7:51000"},
    "registered, others to trust": {1: 2, 2: M, 3: A, 4: 1, 15: 60, 17: "[::1]:5", 28: bytes(8)},
    "registered with a boot": {
        1: 2,
        2: M,
        3: A,
        4: 1,
        15: 3600,
        17: "10.0.0.7:51000",
        16: INSTANCE,
    },
    "connect, vouched": {
        1: 5,
        2: A,
        3: B,
        5: SESSION,
        6: 0,
        7: bytes(37),
        12: bytes(400),
        13: LEGS,
        30: bytes(190),
    },
    "accept, vouched": {
        1: 6,
        2: B,
        3: A,
        5: SESSION,
        8: bytes(152),
        12: bytes(400),
        13: LEGS,
        30: bytes(2048),
    },
    "resolved, expires": {1: 4, 2: M, 3: A, 4: 2, 18: B, 19: True, 14: ["a:1", "b:1"], 15: 99},
    "send": {1: 11, 2: A, 3: B, 4: 3, 23: b"pressure?", 13: LEGS},
    "delivered": {1: 12, 2: B, 3: A, 4: 3},
    "resolved, online": {
        1: 4,
        2: M,
        3: A,
        4: 2,
        18: B,
        19: True,
        14: ["10.0.0.8:7000"],
        12: bytes(400),
    },
    "resolved, offline": {1: 4, 2: M, 3: A, 4: 2, 18: B, 19: False, 14: []},
    "connect": {1: 5, 2: A, 3: B, 5: SESSION, 6: 0, 7: bytes(37), 12: bytes(400), 13: LEGS},
    "accept": {1: 6, 2: B, 3: A, 5: SESSION, 8: bytes(152), 12: bytes(400), 13: LEGS},
    "connect, rpk": {
        1: 5,
        2: A,
        3: B,
        5: SESSION,
        6: 1,
        7: bytes(37),
        12: bytes(400),
        13: LEGS,
        22: bytes(180),
    },
    "end from the manager": {1: 9, 2: M, 3: A, 5: SESSION, 20: 16, 21: "pump-7 started anew"},
    "error for a request": {1: 10, 2: M, 3: A, 4: 2, 20: 4, 21: "no device of this name"},
    "error for a session": {1: 10, 2: M, 3: A, 5: SESSION, 20: 3, 21: ""},
    "message": {1: 8, 2: B, 3: A, 5: SESSION, 11: bytes(19)},
    "certified": {1: 14, 2: M, 3: A, 4: 4, 12: bytes(400), 27: bytes(420)},
}
CONNECT, REGISTER, MESSAGE = UP["connect"], UP["register"], UP["message with both"]


def without(message: dict, key: int) -> dict:
    return {k: v for k, v in message.items() if k != key}


# name: (message from a device, name of the error)
BAD_UP = {
    "no map": ([1, 2], "malformed"),
    "empty map": ({}, "unsupported"),
    "unknown type": (CONNECT | {1: 99}, "unsupported"),
    "type is true": (CONNECT | {1: True}, "unsupported"),
    "type only the manager sends": ({1: 2, 2: A, 3: B}, "malformed"),
    "unknown key": (CONNECT | {99: 1}, "malformed"),
    "key is text": (CONNECT | {"5": 1}, "malformed"),
    "key of another message": (CONNECT | {18: B}, "malformed"),
    "credential from a device": (CONNECT | {12: bytes(400)}, "malformed"),
    "public key from a device": (CONNECT | {22: bytes(180)}, "malformed"),
    "public key too long": (REGISTER | {22: bytes(281)}, "malformed"),
    "no from": (without(CONNECT, 2), "malformed"),
    "no to": (without(CONNECT, 3), "malformed"),
    "no session": (without(CONNECT, 5), "malformed"),
    "no instance": (without(REGISTER, 16), "malformed"),
    "name with capitals": (CONNECT | {3: "Pump-7"}, "malformed"),
    "name too long": (CONNECT | {3: "a" * 64}, "malformed"),
    "name with an empty label": (CONNECT | {3: "a..b"}, "malformed"),
    "name ends with a hyphen": (CONNECT | {3: "a-"}, "malformed"),
    "name as bytes": (CONNECT | {3: b"pump-7"}, "malformed"),
    "connect to the manager": (CONNECT | {3: M}, "malformed"),
    "register to a device": (REGISTER | {3: B}, "malformed"),
    "resolve of the manager": (UP["resolve"] | {18: M}, "malformed"),
    "short anchors": ({1: 1, 2: A, 3: M, 4: 1, 16: INSTANCE, 14: [], 28: bytes(7)}, "malformed"),
    "short session": (CONNECT | {5: bytes(15)}, "malformed"),
    "long session": (CONNECT | {5: bytes(17)}, "malformed"),
    "session as text": (CONNECT | {5: "0123456789abcdef"}, "malformed"),
    "unknown profile": (CONNECT | {6: 2}, "malformed"),
    "profile is false": (CONNECT | {6: False}, "malformed"),
    "negative profile": (CONNECT | {6: -1}, "malformed"),
    "empty message_1": (CONNECT | {7: b""}, "malformed"),
    "message_1 too long": (CONNECT | {7: bytes(1025)}, "malformed"),
    "record too long": (MESSAGE | {11: bytes(8301)}, "malformed"),
    "message with nothing": ({1: 8, 2: A, 3: B, 5: SESSION}, "malformed"),
    "id too large": (REGISTER | {4: 1 << 32}, "malformed"),
    "id is null": (REGISTER | {4: None}, "malformed"),
    "expires in no time": (REGISTER | {15: 0}, "malformed"),
    "five addresses": (REGISTER | {14: ["a:1"] * 5}, "malformed"),
    "address is empty": (REGISTER | {14: [""]}, "malformed"),
    "addresses is no list": (REGISTER | {14: "a:1"}, "malformed"),
    "two legs": (CONNECT | {13: [UP_LEG, UP_LEG]}, "bad-route"),
    "no leg": (CONNECT | {13: []}, "malformed"),
    "leg verifies itself": (CONNECT | {13: [[*UP_LEG, True]]}, "malformed"),
    "leg of unknown transport": (CONNECT | {13: [["a:1", 3, True]]}, "malformed"),
    "leg with a number for true": (CONNECT | {13: [["a:1", 1, 1]]}, "malformed"),
    "leg is no list": (CONNECT | {13: ["a:1"]}, "malformed"),
    "send without id": (without(UP["send"], 4), "malformed"),
    "send without data": (without(UP["send"], 23), "malformed"),
    "send too much": (UP["send"] | {23: bytes(2049)}, "malformed"),
    "send of text": (UP["send"] | {23: "pressure?"}, "malformed"),
    "send to the manager": (UP["send"] | {3: M}, "malformed"),
    "send in a session": (UP["send"] | {5: SESSION}, "malformed"),
    "send by two legs": (UP["send"] | {13: [UP_LEG, UP_LEG]}, "bad-route"),
    "delivered without id": (without(UP["delivered"], 4), "malformed"),
    "delivered with data": (UP["delivered"] | {23: b""}, "malformed"),
    "delivered by a route": (UP["delivered"] | {13: [UP_LEG]}, "malformed"),
    "certify without id": (without(UP["certify"], 4), "malformed"),
    "certify without a request": (without(UP["certify"], 26), "malformed"),
    "certify of nothing": (UP["certify"] | {26: b""}, "malformed"),
    "certify too much": (UP["certify"] | {26: bytes(2049)}, "malformed"),
    "certify as text": (UP["certify"] | {26: "request"}, "malformed"),
    "certify by a device": (UP["certify"] | {3: B}, "malformed"),
    "certify with an issuer": (UP["certify"] | {27: bytes(400)}, "malformed"),
    "certified by a device": (UP["certify"] | {1: 14}, "malformed"),
    "trust in nobody": (REGISTER | {29: 0}, "malformed"),
    "trust as text": (REGISTER | {29: "owner"}, "malformed"),
    "vouched by a device": (CONNECT | {30: bytes(190)}, "malformed"),
    "error 0": (UP["reject"] | {20: 0}, "malformed"),
    "text too long": (UP["reject"] | {21: "x" * 201}, "malformed"),
}


def main() -> None:
    def encoded(message: object) -> str:
        return cbor2.dumps(message, canonical=True).hex()

    data = {
        "source": "tests/vectors/make_signalling.py, contract docs/signalling.cddl",
        "up": {name: encoded(message) for name, message in UP.items()},
        "down": {name: encoded(message) for name, message in DOWN.items()},
        "bad_up": {name: [encoded(message), error] for name, (message, error) in BAD_UP.items()},
    }
    Path(__file__).with_name("signalling.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
