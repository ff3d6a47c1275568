"""Certificates, requests and keys against another library's reading of the same bytes.

The core is the stricter one: what it accepts, the other library must read in the same way.
"""

import importlib.util
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509 as other_x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st

from keyferry_core import csr, der, p256, x509
from keyferry_core.errors import AuthenticationError, DecodeError
from support.codec_strategies import ALL, BACKENDS, DATA, DATES, LABEL, PRINTABLE, VECTORS, mutated

# Certificates


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, VECTORS / (name + ".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = load_script("make_certificates")


def test_the_certificates_of_the_vectors_come_out_again():
    assert MAKE.document() == (VECTORS / "certificates.json").read_text()


def compare(encoded: bytes) -> x509.Certificate:
    """Hold our reading of a certificate against the other library's."""
    got = x509.parse(encoded)
    certificate = other_x509.load_der_x509_certificate(encoded)
    expected = MAKE.plain_facts(certificate)
    for field in ("tbs", "issuer", "subject", "public_key", "signature"):
        assert getattr(got, field).hex() == expected[field], field
    for field in ("common_name", "not_before", "not_after"):
        assert getattr(got, field) == expected[field], field
    assert got.serial == int(expected["serial"], 16)
    try:
        expected = MAKE.extension_facts(certificate)
    except (ValueError, other_x509.UnsupportedGeneralNameType):
        assert beyond(encoded)
        return got
    assert list(got.uris) == list(expected["uris"])
    for field in ("is_ca", "path_length", "key_usage", "unknown_critical"):
        assert getattr(got, field) == expected[field], field
    assert len(got.ext_key_usage) == len(expected["ext_key_usage"])
    for oid, text in zip(got.ext_key_usage, expected["ext_key_usage"], strict=True):
        assert der.wrap(der.OID, oid) == encode_oid(text)
    return got


def encode_oid(text: str) -> bytes:
    """As the other library writes it: here as the type of an otherwise empty name."""
    name = other_x509.OtherName(ObjectIdentifier(text), b"\x05\x00")
    value = other_x509.SubjectAlternativeName([name]).public_bytes()
    return value[4:-4]


def beyond(encoded: bytes) -> bool:
    """Whether there is an extension or a name into which our parser does not look."""
    tbs = der.Reader(encoded).enter(der.SEQUENCE).enter(der.SEQUENCE)
    while tbs.peek() != 0xA3:
        tbs.skip()
    extensions = tbs.enter(0xA3).enter(der.SEQUENCE)
    while extensions.more():
        extension = extensions.enter(der.SEQUENCE)
        kind = extension.oid()
        extension.true()
        if kind not in (b"\x55\x1d\x0f", b"\x55\x1d\x11", b"\x55\x1d\x13", b"\x55\x1d\x25"):
            return True
        if kind == b"\x55\x1d\x11":
            names = der.Reader(extension.take(der.OCTET_STRING)).enter(der.SEQUENCE)
            while names.more():
                if names.skip() != 0x86:
                    return True
    return False


# A common name has at most 64 bytes (ub-common-name): 16 characters always fit.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=16)
KEY = ec.derive_private_key(7, ec.SECP256R1())
PURPOSES = st.lists(
    st.sampled_from(
        (
            ExtendedKeyUsageOID.CLIENT_AUTH,
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
            ObjectIdentifier("1.3.6.1.4.1.99999.128.16384"),
        )
    ),
    min_size=1,
    max_size=4,
)
NAMES = st.lists(
    st.one_of(
        PRINTABLE.map(other_x509.UniformResourceIdentifier),
        PRINTABLE.map(other_x509.DNSName),
        LABEL.map(lambda label: other_x509.RFC822Name(label + "@plant.example")),
        st.ip_addresses().map(other_x509.IPAddress),
        TEXT.map(
            lambda text: other_x509.DirectoryName(
                other_x509.Name([other_x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)])
            )
        ),
    ),
    min_size=1,
    max_size=8,
)


@st.composite
def certificates(draw) -> bytes:
    def subject() -> other_x509.Name:
        kinds = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.LOCALITY_NAME)
        pairs = draw(st.lists(st.tuples(st.sampled_from(kinds), TEXT), max_size=4))
        return other_x509.Name([other_x509.NameAttribute(kind, text) for kind, text in pairs])

    dates = sorted((draw(DATES), draw(DATES)))
    builder = (
        other_x509.CertificateBuilder()
        .subject_name(subject())
        .issuer_name(subject())
        .public_key(KEY.public_key())
        .serial_number(draw(st.integers(1, (1 << 159) - 1)))
        .not_valid_before(dates[0])
        .not_valid_after(dates[1])
    )
    is_ca = draw(st.booleans())
    length = draw(st.none() | st.integers(0, 127)) if is_ca else None
    usages = draw(st.sets(st.sampled_from(MAKE.USAGES), min_size=1))
    if "key_agreement" not in usages:
        usages -= {"encipher_only", "decipher_only"}
    public = KEY.public_key()
    found = [
        other_x509.BasicConstraints(is_ca, length),
        MAKE.usage(*usages) if usages else other_x509.OCSPNoCheck(),
        other_x509.ExtendedKeyUsage(draw(PURPOSES)),
        other_x509.SubjectAlternativeName(draw(NAMES)),
        other_x509.SubjectKeyIdentifier.from_public_key(public),
        other_x509.AuthorityKeyIdentifier.from_issuer_public_key(public),
        other_x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), draw(st.binary(max_size=9))),
    ]
    for extension in draw(st.permutations(found))[: draw(st.integers(0, len(found)))]:
        builder = builder.add_extension(extension, draw(st.booleans()))
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


@settings(deadline=None, max_examples=300)
@given(certificates())
def test_certificates_of_every_shape_read_the_same(encoded):
    if len(encoded) <= x509.MAX_CERTIFICATE:
        compare(encoded)
    else:
        with pytest.raises(DecodeError):
            x509.parse(encoded)


@settings(deadline=None, max_examples=1500)
@given(mutated(st.sampled_from(ALL)))
def test_a_changed_certificate_is_refused_or_read_as_by_the_other_library(encoded):
    try:
        got = x509.parse(encoded)
    except DecodeError:
        return
    try:
        p256.check_public(got.public_key)
    except AuthenticationError:  # not a point: so says the other library, and reads no more
        with pytest.raises(ValueError, match="Invalid key"):
            other_x509.load_der_x509_certificate(encoded).public_key()
        return
    compare(encoded)
    try:
        x509.check_device(got, DATA["realm"], DATA["now"])
    except AuthenticationError:
        pass


@settings(deadline=None, max_examples=300)
@given(mutated(st.just(bytes.fromhex(DATA["certificates"]["pump-7"]["der"]))))
def test_no_changed_certificate_verifies(encoded):
    issuing = x509.parse(bytes.fromhex(DATA["certificates"]["issuing"]["der"]))
    original = x509.parse(bytes.fromhex(DATA["certificates"]["pump-7"]["der"]))
    try:
        got = x509.parse(encoded)
        x509.verify(BACKENDS["cryptography"], got, issuing)
    except (DecodeError, AuthenticationError):
        return
    assert got.raw == original.raw


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_backends_agree_on_who_issued_whom(backend):
    for label, issuer, reason in DATA["verify"]:
        pair = [
            x509.parse(bytes.fromhex(DATA["certificates"][one]["der"])) for one in (label, issuer)
        ]
        if reason:
            with pytest.raises(AuthenticationError):
                x509.verify(BACKENDS[backend], *pair)
        else:
            x509.verify(BACKENDS[backend], *pair)


def test_rsa_certificates_are_refused_by_name():
    key = rsa.generate_private_key(65537, 2048)
    name = MAKE.common("rsa")
    for subject_key, signing_key in ((key, key), (KEY, key), (key, KEY)):
        certificate = (
            other_x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(subject_key.public_key())
            .serial_number(1)
            .not_valid_before(datetime.now(UTC))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .sign(signing_key, hashes.SHA256())
        )
        with pytest.raises(DecodeError) as caught:
            x509.parse(certificate.public_bytes(Encoding.DER))
        assert caught.value.name == "key-not-allowed"


# Requests and keys

NAME = st.lists(LABEL, min_size=1, max_size=2).map(".".join).filter(lambda name: name != "manager")


@settings(deadline=None, max_examples=60)
@given(NAME, NAME, st.sampled_from(sorted(BACKENDS)))
def test_requests_are_well_formed_and_signed(name, realm, backend):
    crypto = BACKENDS[backend]
    private, public = crypto.generate()
    encoded = csr.certificate_request(crypto, private, public, name, realm)
    request = other_x509.load_der_x509_csr(encoded)
    assert request.is_signature_valid
    assert request.public_bytes(Encoding.DER) == encoded
    assert request.subject == other_x509.Name([other_x509.NameAttribute(NameOID.COMMON_NAME, name)])
    key = request.public_key()
    assert key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) == public
    assert len(request.extensions) == 1
    names = request.extensions.get_extension_for_class(other_x509.SubjectAlternativeName).value
    assert list(names) == [other_x509.UniformResourceIdentifier(f"sip:{name}@{realm}")]


def test_private_keys_go_to_and_fro():
    for _ in range(20):
        private, public = BACKENDS["python"].generate()
        encoded = csr.private_key_der(private, public)
        key = load_der_private_key(encoded, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.private_numbers().private_value == int.from_bytes(private)
        other = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        assert other == encoded
        assert csr.parse_private_key(other) == (private, public)


@given(mutated(st.just(bytes.fromhex(DATA["key"]["sec1"]))))
def test_hostile_key_files_end_in_a_decode_error(data):
    try:
        private, public = csr.parse_private_key(data)
    except DecodeError:
        return
    assert csr.private_key_der(private, public) == data


@pytest.mark.needs("openssl")
def test_openssl_takes_a_request(tmp_path):
    crypto = BACKENDS["python"]
    private, public = crypto.generate()
    path = tmp_path / "request.der"
    path.write_bytes(csr.certificate_request(crypto, private, public, "pump-7", "plant.example"))
    shown = subprocess.run(
        ["openssl", "req", "-inform", "DER", "-in", path, "-verify", "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "URI:sip:pump-7@plant.example" in shown.stdout
    assert "verify OK" in shown.stdout + shown.stderr
