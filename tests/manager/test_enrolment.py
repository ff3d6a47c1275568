"""Admission decisions, without a network or a database."""

import base64
import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from keyferry_manager import enrolment, tokens
from keyferry_manager.authority import key_digest
from keyferry_manager.enrolment import Refused
from keyferry_manager.store import Token
from support.est_client import csr, new_key, spoiled

REALM = "plant.example"
NOW = 1_800_000_000


def refusal(call, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


# tokens


def token(
    secret: str, device: str = "pump-7", used: int | None = None, end: int = NOW + 1
) -> Token:
    return Token(1, device, tokens.token_hash(secret), NOW - 9, end, used, None)


def test_tokens_are_long_random_and_easy_to_type():
    made = {tokens.new_token() for _ in range(100)}
    assert len(made) == 100
    for text in made:
        assert text.startswith("kft_")
        assert len(text) == 36
        assert set(text[4:]) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert len({tokens.token_hash(text) for text in made}) == 100
    assert not any(text in tokens.token_hash(text) for text in made)


def test_the_right_token_is_found_among_many():
    known = [token("one"), token("two"), token("three")]
    assert enrolment.check_token("pump-7", "two", known, NOW) is known[1]


def test_every_wrong_token_sounds_the_same():
    refusals = [
        refusal(enrolment.check_token, "pump-7", "two", [], NOW),
        refusal(enrolment.check_token, "pump-7", "two", [token("one")], NOW),
        refusal(enrolment.check_token, "pump-7", "", [token("one")], NOW),
        refusal(enrolment.check_token, "pump-8", "one", [token("one")], NOW),
        refusal(enrolment.check_token, "pump-7", "one", [token("one", used=NOW)], NOW),
        refusal(enrolment.check_token, "pump-7", "one", [token("one", end=NOW)], NOW),
        refusal(enrolment.parse_basic, ""),
        refusal(enrolment.parse_basic, "Bearer x"),
        refusal(enrolment.parse_basic, "Basic"),
        refusal(enrolment.parse_basic, "Basic !!!"),
        refusal(enrolment.parse_basic, "Basic /w=="),
        refusal(enrolment.parse_basic, basic("no colon")),
        refusal(enrolment.parse_basic, basic("Not A Name:x")),
        refusal(enrolment.parse_basic, basic("pump-7\0:x")),
        refusal(enrolment.parse_basic, basic("pump-7:" + "x" * 500)),
    ]
    assert {(item.name, item.text, item.hint) for item in refusals} == {
        ("bad-credentials", refusals[0].text, "")
    }
    assert len({item.detail for item in refusals}) > 8  # the log knows better


def test_basic_credentials():
    assert enrolment.parse_basic(basic("pump-7:kft_x")) == ("pump-7", "kft_x")
    assert enrolment.parse_basic(basic("pump-7:a:b").replace("Basic", "bAsIc")) == ("pump-7", "a:b")


# requests


def test_a_good_request():
    key = new_key()
    asked = enrolment.parse_request(csr(key, "pump-7"))
    assert asked.public_key == key.public_key()
    assert asked.key == key_digest(key.public_key())
    assert asked.common_names == ("pump-7",)
    assert asked.alternative_names == ()
    for digest in (hashes.SHA384(), hashes.SHA512()):
        enrolment.parse_request(csr(key, digest=digest))


@pytest.mark.parametrize(
    ("key", "detail"),
    [
        (rsa.generate_private_key(65537, 2048), "RSA"),
        (ec.generate_private_key(ec.SECP384R1()), "secp384r1"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
    ],
)
def test_other_keys_are_refused(key, detail: str):
    refused = refusal(enrolment.parse_request, csr(key, "pump-7"))
    assert refused.name == "key-not-allowed"
    assert detail in refused.detail


def test_an_edwards_key_is_refused():
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    der = signed.public_bytes(Encoding.DER)
    assert refusal(enrolment.parse_request, der).name == "key-not-allowed"


def test_a_bad_signature_is_refused():
    good = csr(name="pump-7")
    assert refusal(enrolment.parse_request, spoiled(good)).name == "bad-signature"
    # another device's name under a signature that was made for this one
    other = good.replace(b"pump-7", b"pump-8")
    assert refusal(enrolment.parse_request, other).name == "bad-signature"
    weak = csr(digest=hashes.SHA224())
    assert refusal(enrolment.parse_request, weak).detail == "the hash must be SHA-2"


def test_rubbish_is_malformed():
    good = csr(name="pump-7")
    for wrong in (b"", b"0", b"0\0", good[:-1], good + b"\0", b"\xff" * 100, b"0\x84" * 20):
        assert refusal(enrolment.parse_request, wrong).name == "malformed"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_damage_to_a_request_causes_anything_but_a_refusal():
    names = [x509.UniformResourceIdentifier("sip:pump-7@plant.example")]
    good = csr(name="pump-7", names=names, extensions=[x509.BasicConstraints(True, 3)])
    chance = random.Random(7)
    for _ in range(3000):
        changed = bytearray(good)
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        if bytes(changed) == good:
            continue
        refused = refusal(enrolment.parse_request, bytes(changed))
        assert refused.name in ("malformed", "bad-signature", "key-not-allowed")


# names and keys


def check_names(der: bytes, name: str = "pump-7") -> None:
    enrolment.check_names(enrolment.parse_request(der), name, REALM)


def test_a_request_may_state_its_own_name_or_none():
    own = x509.UniformResourceIdentifier("sip:pump-7@plant.example")
    check_names(csr())
    check_names(csr(name="pump-7"))
    check_names(csr(name="pump-7", names=[own]))
    check_names(csr(names=[x509.DNSName("pump-7"), own]))


def test_a_request_may_not_state_another_name():
    for der in (
        csr(name="pump-8"),
        csr(name="Pump-7"),
        csr(name="manager"),
        csr(names=[x509.UniformResourceIdentifier("sip:pump-8@plant.example")]),
        csr(names=[x509.UniformResourceIdentifier("sip:pump-7@other.example")]),
        csr(names=[x509.DNSName("plant.example")]),
        csr(names=[x509.DNSName("pump-7"), x509.DNSName("pump-8")]),
        csr(names=[x509.RFC822Name("root@plant.example")]),
        csr(name="pump-7", names=[x509.DirectoryName(x509.Name([]))]),
    ):
        assert refusal(check_names, der).name == "name-not-allowed"


def test_a_key_belongs_to_one_device():
    asked = enrolment.parse_request(csr())
    enrolment.check_key(asked, "pump-7", None, None)
    enrolment.check_key(asked, "pump-7", "pump-7", "0" * 64)
    assert refusal(enrolment.check_key, asked, "pump-7", "pump-8", None).name == "key-not-allowed"
    refused = refusal(enrolment.check_key, asked, "pump-7", None, asked.key)
    assert (refused.name, refused.detail) == ("key-not-allowed", "the factory key")
