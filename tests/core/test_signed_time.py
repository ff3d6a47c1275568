# heap: 512k
"""The time, signed by the manager: what a device believes before it can check a date."""

import os

from keyferry_core import cbor, rpk, signed_time, suite
from keyferry_core.cose_message import sign1
from keyferry_core.errors import AuthenticationError, DecodeError, RemoteError
from support.portable import raises, vectors

DATA = vectors("signed_time")
NOW = DATA["now"]
REALM = DATA["realm"]
ROOT = bytes.fromhex(DATA["root"])
NONCE = bytes(range(16))
crypto = suite.Crypto(os.urandom)


def signed(now=NOW, key="private", leaf="server", issuer="issuing", realm=REALM, nonce=NONCE):
    chain = [bytes.fromhex(DATA[leaf]), bytes.fromhex(DATA[issuer])]
    return signed_time.answer(crypto, bytes.fromhex(DATA[key]), chain, realm, nonce, now)


def opened(data, nonce=NONCE):
    return signed_time.open_answer(crypto, ROOT, REALM, nonce, data)


def test_the_managers_time():
    data = signed()
    assert len(data) < signed_time.MAX_ANSWER
    assert opened(data) == NOW
    assert opened(signed(NOW + 300 * 86400)) == NOW + 300 * 86400


def test_a_replayed_answer():
    error = raises(AuthenticationError, opened, signed(), bytes(16))
    assert error.name == "authentication-failed"


def test_who_may_not_say_the_time():
    for change in (
        {"leaf": "device", "key": "device private"},
        {"leaf": "server of another name"},
        {"leaf": "foreign server", "issuer": "foreign issuing", "key": "foreign private"},
        {"leaf": "foreign server", "key": "foreign private"},
        {"key": "device private"},
        {"leaf": "issuing", "issuer": "root"},
        {"realm": "other.example"},
    ):
        raises(AuthenticationError, opened, signed(**change))


def test_a_time_at_which_its_signer_has_no_certificate():
    for now in (946684800, NOW - 86400, NOW + 366 * 86400, 4070908800):
        raises(AuthenticationError, opened, signed(now))


def test_nothing_else_that_the_key_signs_is_a_time():
    private = bytes.fromhex(DATA["private"])
    chain = [bytes.fromhex(DATA["server"]), bytes.fromhex(DATA["issuing"])]
    payload = cbor.encode([REALM, NONCE, NOW])
    kind = {3: "application/keyferry-time"}
    for message in (
        sign1(crypto, private, payload, b"", kind),
        sign1(crypto, private, payload, b"keyferry rpk", kind),
        sign1(crypto, private, payload, b"keyferry time 1"),
        sign1(crypto, private, payload, b"keyferry time 1", {3: "text/plain"}),
    ):
        raises(AuthenticationError, opened, cbor.encode([chain, message]))
    good = sign1(crypto, private, payload, b"keyferry time 1", kind)
    assert opened(cbor.encode([chain, good])) == NOW
    # and a time is no endorsed key
    raises(RemoteError, rpk.open_endorsed, crypto, crypto.public_key(private), good)


def test_hostile_answers_end_in_the_protocols_own_error():
    data = signed()
    for length in range(0, len(data), 7):
        raises(RemoteError, opened, data[:length])
    for at in range(0, len(data), 11):
        bad = bytearray(data)
        bad[at] ^= 0x41
        try:
            # a changed byte may be one that nobody looks at: then the time is still the same
            assert opened(bytes(bad)) == NOW
        except RemoteError:
            pass
    raises(DecodeError, opened, bytes(signed_time.MAX_ANSWER + 1))
    private = bytes.fromhex(DATA["private"])
    kind = {3: "application/keyferry-time"}
    chain = [bytes.fromhex(DATA["server"]), bytes.fromhex(DATA["issuing"])]
    for content in (
        1,
        [],
        [REALM, NONCE],
        [REALM, NONCE, "1"],
        [REALM, NONCE, True],
        [1, NONCE, NOW],
    ):
        message = sign1(crypto, private, cbor.encode(content), b"keyferry time 1", kind)
        raises(DecodeError, opened, cbor.encode([chain, message]))
    for value in ([], [[], b""], [chain, 1], [[1, 2], b""], [chain + chain, b""], {}):
        raises(DecodeError, opened, cbor.encode(value))
