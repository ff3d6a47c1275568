"""EST bodies and HTTP answers against other libraries' reading of the same bytes.

The core is the stricter one: what it accepts, the other library must read in the same way.
"""

import base64
import subprocess

import h11
import pytest
from cryptography import x509 as other_x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    pkcs7,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from keyferry_core import est_codec, x509
from keyferry_core.errors import DecodeError
from support.codec_strategies import ALL, DATA, PRINTABLE, mutated

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
