# heap: 2m
"""Signatures and keys as X.509 carries them, against the cases of project Wycheproof."""

from keyferry_core import der, p256
from keyferry_core.errors import AuthenticationError, DecodeError
from support.portable import vectors


def random(count):
    """Blinding changes no result, so a fixed one serves a test."""
    return bytes(range(1, count + 1))


def verifies(public, message, signature):
    try:
        return p256.verify(public, message, der.raw_signature(signature))
    except DecodeError:
        return False


def test_der_signatures_verify_exactly_when_they_are_valid():
    counts = {"valid": 0, "invalid": 0}
    for group in vectors("wycheproof_ecdsa_secp256r1_sha256")["testGroups"]:
        public = bytes.fromhex(group["publicKey"]["uncompressed"])
        for case in group["tests"]:
            counts[case["result"]] += 1
            signature = bytes.fromhex(case["sig"])
            good = verifies(public, bytes.fromhex(case["msg"]), signature)
            assert good == (case["result"] == "valid"), (case["tcId"], case["comment"])
            if good:
                assert der.encode_signature(der.raw_signature(signature)) == signature
    assert counts == {"valid": 174, "invalid": 310}


def agreed(public, private):
    """The shared secret, None when the key is refused."""
    try:
        reader = der.Reader(public)
        key = der.read_public_key(reader)
        reader.finish()
        return p256.ecdh(private, key, random)
    except (DecodeError, AuthenticationError):
        return None


def test_keys_are_taken_in_their_one_encoding_alone():
    counts = {"valid": 0, "invalid": 0, "acceptable": 0}
    for group in vectors("wycheproof_ecdh_secp256r1_spki_subset")["testGroups"]:
        for case in group["tests"]:
            counts[case["result"]] += 1
            private = int(case["private"], 16).to_bytes(32, "big")
            shared = agreed(bytes.fromhex(case["public"]), private)
            # What is merely acceptable, compressed points and curves written out, is refused.
            expected = case["shared"] if case["result"] == "valid" else None
            assert (shared and shared.hex()) == expected, (case["tcId"], case["comment"])
    assert counts == {"valid": 18, "invalid": 52, "acceptable": 230}
