"""CBOR, certificates, requests and HTTP answers against other libraries' reading of the same bytes.

The core is the stricter one: what it accepts, the other library must read in the same way.
"""

import base64
import importlib.util
import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cbor2
import h11
import pytest
from cryptography import x509 as other_x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    pkcs7,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st

from keyferry_core import cbor, csr, der, est_codec, p256, utf8, x509
from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.suite import Crypto
from keyferry_core.suite_cryptography import CryptographyCrypto

VECTORS = Path(__file__).parents[1] / "vectors"
DATA = json.loads((VECTORS / "certificates.json").read_text())
BACKENDS = {"python": Crypto(os.urandom), "cryptography": CryptographyCrypto(os.urandom)}


# CBOR

KEYS = st.one_of(
    st.integers(-(1 << 64), (1 << 64) - 1),
    st.integers(-40, 40),
    st.binary(max_size=12),
    st.text(max_size=12),
)
VALUES = st.recursive(
    st.one_of(KEYS, st.booleans(), st.none(), st.binary(max_size=300)),
    lambda inside: st.one_of(
        st.lists(inside, max_size=6),
        st.dictionaries(KEYS, inside, max_size=6),
        st.builds(cbor.Tag, st.integers(6, 20), inside),
    ),
    max_leaves=24,
)


def depth(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + depth(value.value) if isinstance(value, cbor.Tag) else 0


def to_cbor2(value: object) -> object:
    """The same value for cbor2, with each map in the order of RFC 8949, section 4.2.1.

    cbor2's own ``canonical=True`` sorts after RFC 7049, shorter keys first.
    """
    if isinstance(value, list):
        return [to_cbor2(item) for item in value]
    if isinstance(value, dict):
        return {key: to_cbor2(value[key]) for key in sorted(value, key=cbor2.dumps)}
    if isinstance(value, cbor.Tag):
        return cbor2.CBORTag(value.tag, to_cbor2(value.value))
    return value


def from_cbor2(value: object) -> object:
    if isinstance(value, list | tuple):
        return [from_cbor2(item) for item in value]
    if isinstance(value, Mapping):  # inside a tag cbor2 makes them unchangeable
        return {key: from_cbor2(item) for key, item in value.items()}
    if isinstance(value, cbor2.CBORTag):
        return cbor.Tag(value.tag, from_cbor2(value.value))
    return value


def typed(value: object) -> object:
    """The value in a form where True and 1 differ."""
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, cbor.Tag):
        return ("tag", value.tag, typed(value.value))
    return (type(value).__name__, value)


@settings(deadline=None)
@given(VALUES.filter(lambda value: depth(value) <= cbor.MAX_DEPTH))
def test_cbor2_writes_the_same_bytes_and_reads_them_back(value):
    encoded = cbor.encode(value)
    assert cbor2.dumps(to_cbor2(value)) == encoded
    assert typed(from_cbor2(cbor2.loads(encoded))) == typed(value)
    assert typed(cbor.decode(encoded)) == typed(value)
    assert cbor.item_end(b"\xff" + encoded + b"\xff", 1) == 1 + len(encoded)


@st.composite
def mutated(draw, originals):
    """Bytes of ``originals`` with some changed, cut, put in or doubled."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from(("change", "cut", "insert", "double", "flip")))
        if what == "change" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif what == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 8))]
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=6))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 16))]
    return bytes(data)


SHALLOW = VALUES.filter(lambda value: depth(value) <= cbor.MAX_DEPTH).map(cbor.encode)


@settings(deadline=None, max_examples=400)
@given(st.one_of(st.binary(max_size=64), mutated(SHALLOW)))
def test_what_the_cbor_decoder_takes_has_one_encoding_and_one_reading(data):
    try:
        value = cbor.decode(data)
    except DecodeError:
        with_error = True
    else:
        with_error = False
        assert cbor.encode(value) == data
    try:
        end = cbor.item_end(data, 0)
    except DecodeError:
        assert with_error
    else:
        assert with_error == (end != len(data))
    try:
        cbor.decode_sequence(data)
    except DecodeError:
        assert with_error


@settings(deadline=None, max_examples=400)
@given(st.one_of(st.binary(max_size=12), mutated(st.text(max_size=8).map(str.encode))))
def test_utf8_is_judged_as_by_cpython(data):
    try:
        text = data.decode()
    except UnicodeDecodeError:
        assert not utf8.is_valid(data)
    else:
        assert utf8.is_valid(data)
        assert utf8.decode(data) == text


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
    for field in ("uris", "is_ca", "path_length", "key_usage", "unknown_critical"):
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
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", fullmatch=True)
DATES = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31, 23, 59, 59)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
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


ALL = [bytes.fromhex(row["der"]) for row in DATA["certificates"].values()]


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


# DER


@given(st.binary(min_size=64, max_size=64))
def test_signatures_are_written_as_by_the_other_library(raw):
    expected = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    assert der.encode_signature(raw) == expected
    assert der.raw_signature(expected) == raw


@given(DATES)
def test_dates_are_the_calendar_s(moment):
    fields = moment.timetuple()[:6]
    assert der.seconds(*fields) == int(moment.timestamp())


@settings(max_examples=400)
@given(
    st.one_of(
        st.binary(max_size=40),
        mutated(st.binary(min_size=64, max_size=64).map(der.encode_signature)),
    )
)
def test_hostile_signatures_have_one_encoding_or_none(data):
    try:
        raw = der.raw_signature(data)
    except DecodeError:
        return
    assert der.encode_signature(raw) == data


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


# EST bodies

CERTIFICATES = [other_x509.load_der_x509_certificate(encoded) for encoded in ALL]


@settings(deadline=None)
@given(st.lists(st.sampled_from(CERTIFICATES), min_size=1, max_size=4))
def test_certs_only_of_the_other_library(chain):
    encoded = pkcs7.serialize_certificates(chain, Encoding.DER)
    expected = sorted(one.public_bytes(Encoding.DER) for one in chain)
    assert sorted(est_codec.parse_pkcs7(encoded)) == expected
    assert sorted(est_codec.parse_certs(base64.encodebytes(encoded))) == expected


@pytest.mark.needs("openssl")
def test_certs_only_of_openssl(tmp_path):
    chosen = [CERTIFICATES[0], CERTIFICATES[1]]
    pem = tmp_path / "chain.pem"
    pem.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chosen))
    made = subprocess.run(
        ["openssl", "crl2pkcs7", "-nocrl", "-certfile", pem, "-outform", "DER"],
        capture_output=True,
        check=True,
        timeout=30,
    )
    expected = {one.public_bytes(Encoding.DER) for one in chosen}
    assert set(est_codec.parse_pkcs7(made.stdout)) == expected


@settings(deadline=None, max_examples=500)
@given(mutated(st.just(DATA["pkcs7"]["base64"].encode())))
def test_hostile_bodies_end_in_a_decode_error_or_certificates(body):
    try:
        found = est_codec.parse_certs(body)
    except DecodeError:
        return
    assert 1 <= len(found) <= est_codec.MAX_CERTIFICATES


@settings(deadline=None, max_examples=500)
@given(mutated(st.just(base64.b64decode(DATA["pkcs7"]["base64"]))))
def test_hostile_signed_data_is_read_as_by_the_other_library_or_refused(data):
    try:
        found = est_codec.parse_pkcs7(data)
        for encoded in found:
            x509.parse(encoded)
    except DecodeError:
        return
    other = pkcs7.load_der_pkcs7_certificates(data)
    assert sorted(found) == sorted(one.public_bytes(Encoding.DER) for one in other)


# HTTP


def by_h11(data: bytes) -> tuple[int, bytes]:
    """Status and body of an answer, as h11 reads it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    ended = False
    status = 0
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body
        elif event is h11.NEED_DATA:
            assert not ended
            ended = True
            connection.receive_data(b"")


@st.composite
def answers(draw) -> bytes:
    """What an h11 server sends."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    connection.next_event()
    out = b""
    for _ in range(draw(st.integers(0, 2))):
        out += connection.send(h11.InformationalResponse(status_code=103, headers=[]))
    pieces = draw(st.lists(st.binary(max_size=40), max_size=4))
    status = draw(st.sampled_from((200, 201, 202, 204, 304, 400, 401, 404, 500, 503)))
    headers = [("Content-Type", "application/pkcs7-mime; smime-type=certs-only")]
    if status in (204, 304):
        pieces = []
    elif draw(st.booleans()):
        headers.append(("Content-Length", str(sum(map(len, pieces)))))
    reason = draw(st.sampled_from((b"", b"OK", b"Not \xfcberall")))
    out += connection.send(h11.Response(status_code=status, headers=headers, reason=reason))
    for piece in pieces:
        out += connection.send(h11.Data(data=piece))
    return out + connection.send(h11.EndOfMessage())


def by_us(data: bytes, cuts: list[int]) -> tuple[int, bytes]:
    reader = est_codec.ResponseReader()
    last = 0
    for cut in sorted(cuts):
        reader.feed(data[last : min(cut, len(data))])
        last = min(cut, len(data))
    reader.feed(data[last:])
    reader.eof()
    return reader.status, reader.body


CUTS = st.lists(st.integers(0, 400), max_size=6)


@settings(deadline=None, max_examples=200)
@given(answers(), CUTS)
def test_answers_of_an_h11_server(data, cuts):
    assert by_us(data, cuts) == by_h11(data)


@settings(deadline=None, max_examples=1500)
@given(mutated(answers()), CUTS)
def test_changed_answers_are_refused_or_read_as_by_h11(data, cuts):
    try:
        got = by_us(data, cuts)
    except DecodeError:
        with pytest.raises(DecodeError):
            by_us(data, [])
        return
    assert got == by_h11(data)


PATH = st.from_regex(r"/[a-z0-9./?=%-]{0,40}", fullmatch=True)


@given(PATH, st.binary(max_size=60), PRINTABLE, PRINTABLE)
def test_requests_are_read_by_an_h11_server(path, body, name, token):
    name = name.replace(":", "-")
    data = est_codec.request(
        "POST", path, "plant.example", body, est_codec.PKCS10, est_codec.basic(name, token)
    )
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (b"POST", path.encode())
    headers = dict(request.headers)
    credentials = base64.b64decode(headers[b"authorization"].removeprefix(b"Basic "))
    assert credentials == f"{name}:{token}".encode()
    received = b""
    while isinstance(event := connection.next_event(), h11.Data):
        received += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert received == body
    assert connection.trailing_data == (b"", False)
