# heap: 1m
from keyferry_core import csr, der
from keyferry_core.errors import DecodeError, LocalError
from keyferry_core.suite import Crypto
from support.portable import raises, vectors

KEY = vectors("certificates")["key"]
PUBLIC = bytes.fromhex(vectors("certificates")["certificates"]["pump-7"]["public_key"])
PRIVATE = bytes.fromhex(KEY["private"])


def random(count):
    """Blinding changes no signature, so a fixed one serves a test."""
    return bytes(range(1, count + 1))


CRYPTO = Crypto(random)


def make(name="pump-7", realm="plant.example"):
    return csr.certificate_request(CRYPTO, PRIVATE, PUBLIC, name, realm)


def test_a_request_holds_the_name_the_identity_and_the_key():
    outer = der.Reader(make())
    request = outer.enter(der.SEQUENCE)
    outer.finish()
    info = der.Reader(request.raw(der.SEQUENCE)).enter(der.SEQUENCE)
    assert request.match(der.ECDSA_SHA256)
    request.octets_of_bits()
    request.finish()

    assert info.integer() == 0
    attribute = info.enter(der.SEQUENCE).enter(der.SET).enter(der.SEQUENCE)
    assert attribute.oid().hex() == "550403"
    assert attribute.take(der.UTF8_STRING) == b"pump-7"
    assert der.read_public_key(info) == PUBLIC
    attributes = info.enter(0xA0).enter(der.SEQUENCE)
    info.finish()
    assert attributes.oid().hex() == "2a864886f70d01090e"
    extension = attributes.enter(der.SET).enter(der.SEQUENCE).enter(der.SEQUENCE)
    attributes.finish()
    assert extension.oid().hex() == "551d11"
    names = der.Reader(extension.take(der.OCTET_STRING)).enter(der.SEQUENCE)
    assert names.take(0x86) == b"sip:pump-7@plant.example"
    names.finish()


def test_a_request_is_signed_by_the_key_it_carries():
    request = der.Reader(make()).enter(der.SEQUENCE)
    info = request.raw(der.SEQUENCE)
    assert request.match(der.ECDSA_SHA256)
    signature = der.raw_signature(request.octets_of_bits())
    assert CRYPTO.verify(PUBLIC, info, signature)
    assert not CRYPTO.verify(PUBLIC, info.replace(b"pump-7", b"pump-8"), signature)


def test_the_same_request_comes_out_every_time():
    assert make() == make()


def test_the_longest_name_and_realm_fit():
    name = "n" * 63
    realm = "r" * 63 + "." + "r" * 63
    request = make(name, realm)
    assert ("sip:" + name + "@" + realm).encode() in request
    outer = der.Reader(request)
    outer.enter(der.SEQUENCE)
    outer.finish()


def test_no_request_for_something_that_is_no_name():
    for name, realm in (("", "a.b"), ("Pump", "a.b"), ("manager", "a.b"), ("a", ""), ("a@b", "c")):
        raises(DecodeError, make, name, realm)


def test_the_private_key_file_is_the_one_that_openssl_writes():
    encoded = bytes.fromhex(KEY["sec1"])
    assert csr.private_key_der(PRIVATE, PUBLIC) == encoded
    assert csr.parse_private_key(encoded) == (PRIVATE, PUBLIC)
    assert len(encoded) == 121


def test_other_private_key_files_are_refused():
    encoded = bytes.fromhex(KEY["sec1"])
    for cut in range(len(encoded)):
        raises(DecodeError, csr.parse_private_key, encoded[:cut])
    raises(DecodeError, csr.parse_private_key, encoded + b"\x00")
    raises(DecodeError, csr.parse_private_key, bytes.fromhex(KEY["pkcs8"]))
    kept = 0
    for index in range(len(encoded)):
        changed = encoded[:index] + bytes((encoded[index] ^ 1,)) + encoded[index + 1 :]
        try:
            assert csr.parse_private_key(changed) != (PRIVATE, PUBLIC)
            kept += 1
        except DecodeError as error:
            # A log must never show part of a key.
            assert PRIVATE.hex()[:8] not in error.detail
    assert kept == 32 + 64


def test_keys_of_the_wrong_length_are_our_own_mistake():
    raises(LocalError, csr.private_key_der, PRIVATE[1:], PUBLIC)
    raises(LocalError, csr.private_key_der, PRIVATE, PUBLIC[1:])
