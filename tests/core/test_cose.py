# heap: 1m
"""COSE_Sign1 and COSE_Encrypt0 against the working group's examples."""

import binascii
import os

from keyferry_core import cbor, suite
from keyferry_core.cose import enc_structure, sig_structure
from keyferry_core.cose_message import decrypt0, encrypt0, sign1, verify1
from keyferry_core.errors import AuthenticationError, DecodeError, RemoteError
from support.portable import raises, vectors

crypto = suite.Crypto(os.urandom)
unhex = bytes.fromhex


def _base64url(text):
    text = text.replace("-", "+").replace("_", "/")
    return binascii.a2b_base64(text + "=" * (-len(text) % 4))


def test_sign1_of_the_working_group():
    counts = {True: 0, False: 0}
    for name, case in vectors("cose_wg_subset")["examples"].items():
        if "sign0" not in case["input"]:
            continue
        given = case["input"]["sign0"]
        key = given["key"]
        public = b"\x04" + _base64url(key["x"]) + _base64url(key["y"])
        data = unhex(case["output"]["cbor"])
        external = unhex(given.get("external", ""))
        good = not case.get("fail")
        counts[good] += 1
        if not good:
            raises(RemoteError, verify1, crypto, public, data, external)
            continue
        payload, _ = verify1(crypto, public, data, external)
        assert payload == given.get("plaintext", case["input"]["plaintext"]).encode(), name
        items = cbor.decode(data)
        items = items.value if isinstance(items, cbor.Tag) else items
        protected = b"" if items[0] == b"\xa0" else items[0]
        to_be_signed = sig_structure(protected, external, payload)
        assert to_be_signed.hex().upper() == case["intermediates"]["ToBeSign_hex"], name
        raises(AuthenticationError, verify1, crypto, public, data, external + b"x")
    assert counts == {True: 4, False: 6}


def test_encrypt0_of_the_working_group():
    done = 0
    for case in vectors("cose_wg_subset")["examples"].values():
        # the third example is a COSE_Encrypt with recipients, which is not spoken here
        if "encrypted" not in case["input"]:
            continue
        key = unhex(case["intermediates"]["CEK_hex"])
        data = unhex(case["output"]["cbor"])
        plaintext = case["input"]["plaintext"].encode()
        assert decrypt0(crypto, key, data) == plaintext
        items = cbor.decode(data).value
        aad = enc_structure(items[0], b"")
        assert aad.hex().upper() == case["intermediates"]["AAD_hex"]
        alg = cbor.decode(items[0])[1]
        assert encrypt0(crypto, alg, key, items[1][5], plaintext) == data
        raises(AuthenticationError, decrypt0, crypto, bytes(16), data)
        raises(AuthenticationError, decrypt0, crypto, key, data[:-1] + b"\x00")
        raises(AuthenticationError, decrypt0, crypto, key, data, b"x")
        done += 1
    assert done == 2


def test_other_messages_are_refused():
    private, public = crypto.generate()
    for case in vectors("cose_wg_subset")["examples"].values():
        data = unhex(case["output"]["cbor"])
        raises(RemoteError, verify1, crypto, public, data)
        raises(RemoteError, decrypt0, crypto, bytes(16), data)
    message = sign1(crypto, private, b"hello", b"context", {3: 0})
    assert verify1(crypto, public, message, b"context") == (b"hello", {1: -7, 3: 0})
    for end in range(len(message)):
        raises(RemoteError, verify1, crypto, public, message[:end], b"context")


def test_headers_are_held_to_the_rules():
    private, public = crypto.generate()

    def message(protected, unprotected):
        signature = crypto.sign(private, sig_structure(protected, b"", b"x"))
        return cbor.encode([protected, unprotected, b"x", signature])

    alg = cbor.encode({1: -7})
    assert verify1(crypto, public, message(alg, {}))[0] == b"x"
    assert verify1(crypto, public, message(b"", {1: -7}))[0] == b"x"
    for protected, unprotected in (
        (b"", {}),
        (alg, {1: -7}),
        (cbor.encode({1: -7, 2: [3]}), {}),
        (alg, {2: [3]}),
        (cbor.encode({1: -8}), {}),
        (cbor.encode({1: True}), {}),
        (cbor.encode([1]), {}),
        (alg + b"\x00", {}),
        (b"\xa2\x01\x26\x01\x26", {}),
    ):
        raises(DecodeError, verify1, crypto, public, message(protected, unprotected))
    for bad in (b"", b"\x80", b"\xd2\x80", b"\xf6", cbor.encode([alg, {}, None, b""])):
        raises(DecodeError, verify1, crypto, public, bad)
