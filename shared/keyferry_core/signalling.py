"""Signalling between a device and the manager: integer-keyed CBOR maps (docs/signalling.cddl).

Messages are plain dicts from key to value, so that neither side copies them into objects. The
tables below are the whole contract; ``check`` holds a decoded map to them. Both the core's codec
and cbor2 produce such maps.
"""

from keyferry_core.errors import DecodeError
from keyferry_core.names import MANAGER, check_name

# keys
TYPE = 1
FROM = 2
TO = 3
ID = 4
SESSION = 5
PROFILE = 6
MESSAGE_1 = 7
MESSAGE_2 = 8
MESSAGE_3 = 9
MESSAGE_4 = 10
RECORD = 11
CREDENTIAL = 12
ROUTE = 13
ADDRESSES = 14
EXPIRES = 15
INSTANCE = 16
SEEN = 17
NAME = 18
ONLINE = 19
ERROR_CODE = 20
TEXT = 21
PUBLIC_KEY = 22
DATA = 23
EDHOC_ERROR = 24
ON_BEHALF_OF = 25
REQUEST = 26
ISSUER = 27
ANCHORS = 28
TRUST = 29
VOUCH = 30

# types
REGISTER = 1
REGISTERED = 2
RESOLVE = 3
RESOLVED = 4
CONNECT = 5
ACCEPT = 6
REJECT = 7
MESSAGE = 8
END = 9
ERROR = 10
SEND = 11
DELIVERED = 12
CERTIFY = 13
CERTIFIED = 14

# profiles (docs: keys between peers)
PROFILE_CERT = 0
PROFILE_RPK = 1

# what a device wants to have of its peers besides a certificate (docs: keys between peers)
TRUST_OWNER = 1
TRUST_PINNED = 2

# transports of a leg
TRANSPORT_MQTT_TLS = 1
TRANSPORT_SIP_TLS = 2

# Limits in bytes. MAX_MESSAGE bounds a whole encoded message.
MAX_MESSAGE = 16384
MAX_RECORD = 8300
MAX_PLAIN = 2048  # of a plain message
SESSION_ID_LENGTH = 16
INSTANCE_LENGTH = 8
ANCHORS_LENGTH = 8
MAX_ADDRESSES = 4

# key: (name, kind, smallest, largest); sizes count bytes for "bytes", characters for "text"
_UINT, _BYTES, _TEXT, _BOOL, _NAME, _ROUTE, _ADDRESSES = range(7)
FIELDS = {
    TYPE: ("type", _UINT, REGISTER, CERTIFIED),
    FROM: ("from", _NAME, 1, 63),
    TO: ("to", _NAME, 1, 63),
    ID: ("id", _UINT, 0, 0xFFFFFFFF),
    SESSION: ("session", _BYTES, SESSION_ID_LENGTH, SESSION_ID_LENGTH),
    PROFILE: ("profile", _UINT, PROFILE_CERT, PROFILE_RPK),
    MESSAGE_1: ("message_1", _BYTES, 1, 1024),
    MESSAGE_2: ("message_2", _BYTES, 1, 2048),
    MESSAGE_3: ("message_3", _BYTES, 1, 2048),
    MESSAGE_4: ("message_4", _BYTES, 1, 1024),
    RECORD: ("record", _BYTES, 1, MAX_RECORD),
    CREDENTIAL: ("credential", _BYTES, 1, 2048),
    ROUTE: ("route", _ROUTE, 1, 2),
    ADDRESSES: ("addresses", _ADDRESSES, 0, MAX_ADDRESSES),
    EXPIRES: ("expires", _UINT, 1, 0xFFFFFFFF),
    INSTANCE: ("instance", _BYTES, INSTANCE_LENGTH, INSTANCE_LENGTH),
    SEEN: ("seen", _TEXT, 1, 64),
    NAME: ("name", _NAME, 1, 63),
    ONLINE: ("online", _BOOL, 0, 1),
    ERROR_CODE: ("error", _UINT, 1, 0xFFFF),
    TEXT: ("text", _TEXT, 0, 200),
    PUBLIC_KEY: ("public_key", _BYTES, 1, 280),
    DATA: ("data", _BYTES, 0, MAX_PLAIN),
    EDHOC_ERROR: ("edhoc_error", _BYTES, 1, 128),
    ON_BEHALF_OF: ("on_behalf_of", _NAME, 1, 63),
    REQUEST: ("request", _BYTES, 1, 2048),
    ISSUER: ("issuer", _BYTES, 1, 2048),
    ANCHORS: ("anchors", _BYTES, ANCHORS_LENGTH, ANCHORS_LENGTH),
    TRUST: ("trust", _UINT, TRUST_OWNER, TRUST_PINNED),
    VOUCH: ("vouch", _BYTES, 1, 2048),
}

# type: (name, required keys besides type, from and to; optional keys; keys only the manager adds)
TYPES = {
    REGISTER: (
        "register",
        (ID, INSTANCE, ADDRESSES),
        (EXPIRES, ROUTE, PUBLIC_KEY, ANCHORS, TRUST, VOUCH),
        (),
    ),
    REGISTERED: ("registered", (), (), (ID, EXPIRES, SEEN, INSTANCE, ANCHORS)),
    RESOLVE: ("resolve", (ID, NAME), (), ()),
    RESOLVED: (
        "resolved",
        (),
        (),
        (ID, NAME, ONLINE, ADDRESSES, EXPIRES, CREDENTIAL, PUBLIC_KEY),
    ),
    CONNECT: (
        "connect",
        (SESSION, PROFILE, MESSAGE_1),
        (ROUTE, ON_BEHALF_OF),
        (CREDENTIAL, PUBLIC_KEY, VOUCH),
    ),
    ACCEPT: ("accept", (SESSION, MESSAGE_2), (ROUTE,), (CREDENTIAL, PUBLIC_KEY, VOUCH)),
    REJECT: ("reject", (SESSION, ERROR_CODE), (TEXT, EDHOC_ERROR), ()),
    MESSAGE: ("message", (SESSION,), (MESSAGE_3, MESSAGE_4, RECORD), ()),
    END: ("end", (SESSION,), (ERROR_CODE, TEXT), ()),
    ERROR: ("error", (), (), (ERROR_CODE, TEXT, ID, SESSION)),
    SEND: ("send", (ID, DATA), (ROUTE,), ()),
    DELIVERED: ("delivered", (ID,), (ERROR_CODE,), ()),
    CERTIFY: ("certify", (ID, REQUEST), (), ()),
    CERTIFIED: ("certified", (), (), (ID, CREDENTIAL, ISSUER)),
}
# Types that a device may send. The others come from the manager alone.
FROM_DEVICE = (REGISTER, RESOLVE, CONNECT, ACCEPT, REJECT, MESSAGE, END, SEND, DELIVERED, CERTIFY)
# Types that carry ``to`` = the manager itself; all others name a device.
TO_MANAGER = (REGISTER, RESOLVE, CERTIFY)

# A leg of a route: [address, transport, mutually authenticated] as a device states it; the
# manager appends a fourth item, whether it could verify the leg.
LEG_ADDRESS, LEG_TRANSPORT, LEG_MUTUAL, LEG_VERIFIED = range(4)


def type_name(message: dict) -> str:
    """The name of a checked message's type, for logs."""
    return TYPES[message[TYPE]][0]


def _check_text(value: object, what: str, smallest: int, largest: int) -> None:
    if not isinstance(value, str) or not smallest <= len(value) <= largest:
        raise DecodeError(what + ": a text of " + str(smallest) + " to " + str(largest))


def _check_leg(leg: object, from_device: bool) -> None:
    if not isinstance(leg, list) or len(leg) != (3 if from_device else 4):
        raise DecodeError("route: a leg has address, transport, mutual; the manager adds verified")
    _check_text(leg[0], "route", 1, 64)
    if isinstance(leg[1], bool) or leg[1] not in (TRANSPORT_MQTT_TLS, TRANSPORT_SIP_TLS):
        raise DecodeError("route: unknown transport")
    for flag in leg[2:]:
        if not isinstance(flag, bool):
            raise DecodeError("route: expected true or false")


def _check_field(key: int, value: object, from_device: bool) -> None:
    what, kind, smallest, largest = FIELDS[key]
    if kind == _UINT:
        if isinstance(value, bool) or not isinstance(value, int):
            raise DecodeError(what + ": expected an unsigned integer")
        if not smallest <= value <= largest:
            raise DecodeError(what + ": out of range")
    elif kind == _BYTES:
        if not isinstance(value, bytes) or not smallest <= len(value) <= largest:
            raise DecodeError(what + ": expected bytes of the right length")
    elif kind == _BOOL:
        if not isinstance(value, bool):
            raise DecodeError(what + ": expected true or false")
    elif kind == _NAME:
        if value != MANAGER or key in (NAME, ON_BEHALF_OF):
            check_name(value)
    elif kind == _TEXT:
        _check_text(value, what, smallest, largest)
    else:
        if not isinstance(value, list) or len(value) > largest or len(value) < smallest:
            raise DecodeError(what + ": wrong number of items")
        if kind == _ROUTE and from_device and len(value) != 1:
            raise DecodeError("route: a device states one leg, its own", "bad-route")
        for item in value:
            if kind == _ROUTE:
                _check_leg(item, from_device)
            else:
                _check_text(item, what, 1, 64)


def check(message: object, from_device: bool) -> dict:
    """Return ``message`` when it keeps the contract, else raise DecodeError.

    ``from_device`` is True in the manager (what a device sent) and False in a device (what the
    manager sent). Unknown keys are refused: the contract grows by new versions, not by surprise.
    """
    if not isinstance(message, dict):
        raise DecodeError("signalling: expected a map")
    kind = message.get(TYPE)
    if isinstance(kind, bool) or not isinstance(kind, int) or kind not in TYPES:
        raise DecodeError("type: unknown", "unsupported")
    if from_device and kind not in FROM_DEVICE:
        raise DecodeError("type: only the manager sends this one")
    _, required, optional, added = TYPES[kind]
    for key in message:
        if isinstance(key, bool) or not isinstance(key, int) or key not in FIELDS:
            raise DecodeError("signalling: unknown key")
        if key <= TO or key in required or key in optional:
            continue
        if key not in added:
            raise DecodeError(FIELDS[key][0] + ": not part of this message")
        if from_device:
            raise DecodeError(FIELDS[key][0] + ": only the manager adds this")
    for key in (FROM, TO):
        if key not in message:
            raise DecodeError(FIELDS[key][0] + ": missing")
    for key in required:
        if key not in message:
            raise DecodeError(FIELDS[key][0] + ": missing")
    for key in message:
        _check_field(key, message[key], from_device)
    if from_device and (message[TO] == MANAGER) != (kind in TO_MANAGER):
        raise DecodeError(
            "to: register, resolve and certify go to the manager, all else to a device"
        )
    if kind == MESSAGE and not (MESSAGE_3 in message or MESSAGE_4 in message or RECORD in message):
        raise DecodeError("message: carries nothing")
    return message
