# heap: 512k
import binascii

from keyferry_core import der, est_codec
from keyferry_core.errors import DecodeError, LocalError, StateError
from keyferry_core.est_codec import ResponseReader
from support.portable import raises, vectors


def read(data, max_body=16384):
    """Feed ``data`` whole, byte by byte and in two pieces: the same answer each time."""
    readers = [ResponseReader(max_body) for _ in range(3)]
    readers[0].feed(data)
    for index in range(len(data)):
        assert not readers[1].done
        readers[1].feed(data[index : index + 1])
    readers[2].feed(data[: len(data) // 2])
    readers[2].feed(b"")
    readers[2].feed(data[len(data) // 2 :])
    first = readers[0]
    for other in readers[1:]:
        assert (other.done, other.status) == (first.done, first.status)
        assert (other.headers, other.body) == (first.headers, first.body)
        assert other.reusable == first.reusable
    return first


def refused(data, reason, name="malformed", max_body=16384):
    """Refused with ``reason``, whole and byte by byte; afterwards the reader takes nothing."""

    def byte_by_byte():
        for index in range(len(data)):
            single.feed(data[index : index + 1])
        single.eof()

    def whole_message():
        whole.feed(data)
        whole.eof()

    single = ResponseReader(max_body)
    whole = ResponseReader(max_body)
    for reader, call in ((single, byte_by_byte), (whole, whole_message)):
        error = raises(DecodeError, call)
        assert reason in error.detail, error.detail
        assert error.name == name
        raises(StateError, reader.feed, b"x")
        raises(StateError, reader.eof)


OK = b"HTTP/1.1 200 OK\r\n"


def test_an_answer_with_a_length():
    got = read(OK + b"Content-Type: text/plain\r\nX-A:b\r\ncontent-length: 5\r\n\r\nhello")
    assert got.done
    assert got.reusable
    assert got.status == 200
    assert got.body == b"hello"
    assert got.headers == {"content-type": "text/plain", "x-a": "b", "content-length": "5"}
    got.eof()
    assert not got.reusable


def test_an_answer_without_a_body():
    for status in (b"204 No Content", b"304 Not Modified"):
        got = read(b"HTTP/1.1 " + status + b"\r\n\r\n")
        assert got.done
        assert got.body == b""
        assert got.headers == {}
    assert read(OK + b"Content-Length: 0\r\n\r\n").done
    # What a GET would have been answered with is announced, and does not come.
    assert read(b"HTTP/1.1 304 \r\nContent-Length: 70\r\n\r\n").done


def test_an_answer_that_ends_with_the_connection():
    got = read(OK + b"\r\nhello")
    assert not got.done
    got.feed(b" there")
    got.eof()
    assert got.done
    assert not got.reusable
    assert got.body == b"hello there"
    empty = read(OK + b"\r\n")
    empty.eof()
    assert empty.body == b""


def test_an_answer_in_chunks():
    head = OK + b"Transfer-Encoding: Chunked\r\n\r\n"
    got = read(
        head
        + b'5\r\nhello\r\n00a;name=value\r\n0123456789\r\nA \t;x="y"\r\nabcdefghij\r\n0\r\n\r\n'
    )
    assert got.done
    assert got.reusable
    assert got.body == b"hello0123456789abcdefghij"
    assert read(head + b"0\r\n\r\n").body == b""
    trailers = read(head + b"1\r\nx\r\n000\r\nExpires: never\r\nX: y\r\n\r\n")
    assert trailers.body == b"x"
    assert "expires" not in trailers.headers


def test_chunks_that_are_not_well_formed():
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    for size in (b"", b" 5", b"+5", b"-5", b"0x5", b"5 5", b"g", b"00000000", b"5_0", b";x", b"5,"):
        refused(head + size + b"\r\nhello\r\n0\r\n\r\n", "malformed chunk size")
    refused(head + b"4\r\nhello\r\n0\r\n\r\n", "longer than it said")
    refused(head + b"5\nhello\r\n0\r\n\r\n", "LF without CR")
    refused(head + b"5;a\nb\r\nhello\r\n0\r\n\r\n", "LF without CR")
    refused(head + b"5\rhello", "CR without LF")
    refused(head + b"5\r\nhello\r\n0\r\nbad trailer\r\n\r\n", "without a name")
    for cut in (
        b"5",
        b"5\r\n",
        b"5\r\nhel",
        b"5\r\nhello",
        b"5\r\nhello\r\n",
        b"0\r\n",
        b"0\r\n\r",
    ):
        refused(head + cut, "cut short")
    refused(head + b"0\r\n\r\nx", "after the answer")


def test_bytes_after_the_answer_are_refused():
    refused(OK + b"Content-Length: 5\r\n\r\nhello!", "after the answer")
    refused(OK + b"Content-Length: 0\r\n\r\n\r\n", "after the answer")
    refused(b"HTTP/1.1 204 No Content\r\n\r\n" + OK, "after the answer")


def test_an_answer_that_is_cut_short_is_no_answer():
    whole = OK + b"Content-Length: 5\r\n\r\nhello"
    for cut in range(len(whole)):
        reader = ResponseReader()
        reader.feed(whole[:cut])
        assert "cut short" in raises(DecodeError, reader.eof).detail
        assert not reader.done


def test_two_ways_to_tell_the_length_are_refused():
    refused(OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "where it cannot be")
    refused(OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "where it cannot be")
    refused(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "where it cannot be")
    refused(b"HTTP/1.1 204 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "where it cannot be")
    for name in (b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Type: a/b"):
        refused(OK + name + b"\r\n" + name.lower() + b"\r\n\r\nhello", "twice")
    for coding in (
        b"gzip",
        b"gzip, chunked",
        b"chunked, chunked",
        b"identity",
        b"",
        b"\x0bchunked",
    ):
        reader = ResponseReader()
        raises(DecodeError, reader.feed, OK + b"Transfer-Encoding: " + coding + b"\r\n\r\n")


def test_a_length_is_digits():
    for text in (b"", b"+5", b"-5", b"5, 5", b"5 5", b"0x5", b"5.", b"5_0", b"1234567890", b"\xb2"):
        refused(OK + b"Content-Length: " + text + b"\r\n\r\nhello", "expected a number")
    assert read(OK + b"Content-Length: \t 005 \t\r\n\r\nhello").body == b"hello"


def test_status_lines():
    for line, status in (
        (b"HTTP/1.1 200 ", 200),
        (b"HTTP/1.1 401 Not this time", 401),
        (b"HTTP/1.1 599 \xfcber", 599),
        (b"HTTP/1.0 202 Accepted", 202),
    ):
        assert read(line + b"\r\nContent-Length: 0\r\n\r\n").status == status
    for line in (
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 200",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 2 0 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/2 200 OK",
        b"http/1.1 200 OK",
        b" HTTP/1.1 200 OK",
        b"ICY 200 OK",
    ):
        raises(DecodeError, ResponseReader().feed, line + b"\r\nContent-Length: 0\r\n\r\n")


def test_header_lines():
    for line, reason in (
        (b"Name : value", "malformed header name"),
        (b" folded", "without a name"),
        (b" folded: value", "malformed header name"),
        (b"\tfolded: value", "malformed header name"),
        (b": value", "without a name"),
        (b"no colon", "without a name"),
        (b"N(a)me: value", "malformed header name"),
        (b"N\xfcme: value", "malformed header name"),
        (b"Name: va\x00lue", "control character"),
        (b"Name: va\x7flue", "control character"),
        (b"Name: va\rlue", "CR without LF"),
        (b"Name: value\nOther: value", "LF without CR"),
        (b"Name: value\n", "LF without CR"),
    ):
        refused(OK + line + b"\r\nContent-Length: 0\r\n\r\n", reason)
    got = read(
        OK + b"!#$%&'*+-.^_`|~09azAZ:\t a \tb \t\r\nE:\r\nX: \xfc\xff\r\nContent-Length: 0\r\n\r\n"
    )
    assert got.headers["!#$%&'*+-.^_`|~09azaz"] == "a \tb"
    assert got.headers["e"] == ""
    assert got.headers["x"] == "\xfc\xff"


def test_fields_that_may_come_as_several_lines_are_joined():
    got = read(OK + b"Vary: a\r\nVary: b\r\nConnection: keep-alive\r\nconnection: Close\r\n\r\n")
    assert got.headers["vary"] == "a, b"
    assert not got.reusable


def test_a_connection_is_reusable_when_both_sides_know_where_the_answer_ended():
    length = b"Content-Length: 0\r\n\r\n"
    assert read(OK + length).reusable
    assert not read(OK + b"Connection: close\r\n" + length).reusable
    assert not read(OK + b"Connection: x,CLOSE\r\n" + length).reusable
    assert not read(b"HTTP/1.0 200 OK\r\n" + length).reusable


def test_interim_answers_are_passed_over():
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    final = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"
    early = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\nContent-Type: text/html\r\n\r\n"
    got = read(interim + early + final)
    assert (got.status, got.body, got.headers) == (201, b"ok", {"content-length": "2"})
    read(interim * 4 + final)
    refused(interim * 5 + final, "interim")
    refused(b"HTTP/1.1 101 Switching\r\n\r\n" + final, "interim")
    refused(interim, "cut short")
    # a body that another reader could look for, and find the final answer in
    for field in (b"Content-Length: 9", b"Content-Length: \xff", b"Transfer-Encoding: chunked"):
        refused(b"HTTP/1.1 103 Early Hints\r\n" + field + b"\r\n\r\n" + final, "interim")


def test_limits():
    fields = b"".join([b"A" + str(n).encode() + b": b\r\n" for n in range(31)])
    assert read(OK + fields + b"Content-Length: 0\r\n\r\n").done
    refused(OK + fields + b"B: c\r\nContent-Length: 0\r\n\r\n", "too many", "too-large")
    refused(OK + b"A: " + b"b" * 4096, "too long lines", "too-large")
    refused(b"H" * 4097, "too long lines", "too-large")
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    refused(chunked + b"1;" + b"x" * 4096, "too long lines", "too-large")
    refused(chunked + b"1\r\nx\r\n" * 1000, "too long lines", "too-large")
    refused(chunked + b"0\r\n" + fields + b"B: c\r\nC: d\r\n\r\n", "too many", "too-large")

    ten = b"0123456789"
    for head in (
        OK + b"Content-Length: 10\r\n\r\n",
        chunked + b"5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n",
    ):
        data = head + ten if b"Content-Length" in head else head
        assert read(data, 10).body == ten
        refused(data, "too large", "too-large", 9)
    reader = ResponseReader(10)
    reader.feed(OK + b"\r\n" + ten)
    assert raises(DecodeError, reader.feed, b"x").name == "too-large"
    refused(OK + b"Content-Length: 999999999\r\n\r\n", "too large", "too-large")
    refused(chunked + b"fffffff\r\n", "too large", "too-large")


def test_no_changed_byte_gets_out_anything_but_a_decode_error():
    data = OK + b"Transfer-Encoding: chunked\r\nA: b\r\n\r\n2\r\nhi\r\n0\r\nT: u\r\n\r\n"
    for index in range(len(data)):
        for byte in (0, 9, 10, 13, 32, 48, 58, 59, 65, 127, 128, 255):
            reader = ResponseReader(64)
            try:
                reader.feed(data[:index] + bytes((byte,)) + data[index + 1 :])
                reader.eof()
            except DecodeError:
                assert not reader.done or reader.status


def test_requests():
    assert est_codec.request("GET", "/.well-known/est/cacerts", "plant.example:8443") == (
        b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: plant.example:8443\r\n\r\n"
    )
    made = est_codec.request(
        "POST",
        "/e",
        "h",
        b"AAAA",
        content_type="application/pkcs10",
        authorization=est_codec.basic("pump-7", "secret"),
        accept="application/pkcs7-mime",
    )
    head, body = made.split(b"\r\n\r\n")
    assert body == b"AAAA"
    assert head.split(b"\r\n") == [
        b"POST /e HTTP/1.1",
        b"Host: h",
        b"Accept: application/pkcs7-mime",
        b"Authorization: Basic cHVtcC03OnNlY3JldA==",
        b"Content-Type: application/pkcs10",
        b"Content-Transfer-Encoding: base64",
        b"Content-Length: 4",
    ]
    assert b"Content-Length: 0\r\n" in est_codec.request("POST", "/e", "h")


def test_nothing_can_be_smuggled_into_a_request():
    for arguments in (
        ("GET", "/a b", "h"),
        ("GET", "", "h"),
        ("GET", "/", ""),
        ("GET", "/\r\nX: y", "h"),
        ("GE T", "/", "h"),
        ("GET", "/", "h\nX: y"),
        ("GET", "/\u00fc", "h"),
    ):
        assert raises(LocalError, est_codec.request, *arguments).name == "bad-argument"
    for name in ("content_type", "authorization", "accept"):
        for value in ("a\r\nX: y", "a\nb", "a\x00", "\x7f", "\u00fc"):
            raises(LocalError, est_codec.request, "GET", "/", "h", **{name: value})
    raises(LocalError, est_codec.basic, "a:b", "c")
    assert est_codec.basic("a", "b:c") == "Basic YTpiOmM="
    assert est_codec.basic("a", "x" * 60).endswith("eHg=")


# Bodies

DATA = vectors("certificates")
ISSUED = DATA["pkcs7"]["base64"].encode()
CHAIN = [bytes.fromhex(DATA["certificates"][label]["der"]) for label in DATA["pkcs7"]["labels"]]


def test_certificates_in_a_body():
    assert est_codec.parse_certs(ISSUED) == CHAIN
    assert est_codec.parse_pkcs7(binascii.a2b_base64(ISSUED)) == CHAIN
    lines = b"".join([ISSUED[i : i + 76] + b"\r\n" for i in range(0, len(ISSUED), 76)])
    assert est_codec.parse_certs(lines) == CHAIN
    assert est_codec.parse_certs(b"\n " + ISSUED + b"\t\n") == CHAIN


def test_base64_has_one_spelling():
    for text in (
        b"",
        b"=",
        b"====",
        b"A",
        ISSUED[:-1],
        ISSUED + b"=",
        ISSUED + b"====",
        ISSUED[:-4] + b"!" + ISSUED[-4:],
        b"-----BEGIN PKCS7-----\n" + ISSUED,
        ISSUED.replace(b"M", b"-"),
        ISSUED[:100] + b"=" + ISSUED[100:],
        ISSUED[:256] + b"QQ==" + ISSUED[256:],
        ISSUED[:254] + b"Q=" + ISSUED[254:],
        b"\xff" * 8,
    ):
        raises(DecodeError, est_codec.parse_certs, text)
    for size, good, bad in ((2, b"AA==", b"AB=="), (3, b"QA=", b"QB=")):
        # The last character has bits that belong to no byte: they are zeros.
        one = b"\x30" + bytes((size,)) + bytes(size)
        body = est_codec.encode_request(signed_data([one]))
        assert body.endswith(good)
        assert est_codec.parse_certs(body) == [one]
        raises(DecodeError, est_codec.parse_certs, body[: -len(bad)] + bad)
    assert raises(DecodeError, est_codec.parse_certs, b"A" * 12289).name == "too-large"


def signed_data(certificates, version=b"\x02\x01\x01", digests=b"", after=b"", signers=b""):
    data = der.wrap(der.SEQUENCE, bytes.fromhex("06092a864886f70d010701"))
    inner = der.wrap(
        der.SEQUENCE,
        version,
        der.wrap(der.SET, digests),
        data,
        der.wrap(0xA0, *certificates),
        after,
        der.wrap(der.SET, signers),
    )
    return der.wrap(der.SEQUENCE, bytes.fromhex("06092a864886f70d010702"), der.wrap(0xA0, inner))


def test_signed_data_that_only_carries_certificates():
    one = der.wrap(der.SEQUENCE, b"\x01\x02\x03")
    assert est_codec.parse_pkcs7(signed_data([one])) == [one]
    assert est_codec.parse_pkcs7(signed_data([one] * 4)) == [one] * 4
    lists = der.wrap(0xA1, der.wrap(der.SEQUENCE, b"\x00"))
    assert est_codec.parse_pkcs7(signed_data([one], after=lists)) == [one]
    assert est_codec.parse_pkcs7(signed_data([one], after=b"\xa1\x00")) == [one]

    def refuse(data, reason):
        error = raises(DecodeError, est_codec.parse_pkcs7, data)
        assert reason in error.detail, error.detail

    refuse(signed_data([one] * 9), "too many")
    refuse(signed_data([]), "cut short")
    refuse(signed_data([b"\x04\x00"]), "another tag")
    refuse(signed_data([one, b"\x00\x00"]), "end mark")
    refuse(signed_data([b"\xa1\x00"]), "another tag")  # not a certificate but another choice
    refuse(signed_data([one], version=b"\x02\x01\x03"), "another version")
    refuse(signed_data([one], digests=b"\x30\x00"), "left over")
    refuse(signed_data([one], signers=b"\x30\x00"), "left over")
    refuse(signed_data([one], after=b"\xa2\x00"), "another tag")
    refuse(signed_data([one]) + b"\x00", "left over")
    content = signed_data([one]).replace(bytes.fromhex("0701a0"), bytes.fromhex("0706a0"))
    refuse(content, "with content")
    refuse(signed_data([one]).replace(bytes.fromhex("0702a0"), bytes.fromhex("0703a0")), "not PKCS")
    indefinite = binascii.a2b_base64(ISSUED)
    raises(DecodeError, est_codec.parse_pkcs7, b"\x30\x80" + indefinite[4:] + b"\x00\x00")


def test_every_cut_and_changed_byte_of_a_body_ends_in_a_decode_error_or_certificates():
    encoded = signed_data([der.wrap(der.SEQUENCE, bytes(5))] * 2)
    for cut in range(len(encoded)):
        raises(DecodeError, est_codec.parse_pkcs7, encoded[:cut])
    for index in range(len(encoded)):
        for byte in range(0, 256, 5):
            changed = encoded[:index] + bytes((byte,)) + encoded[index + 1 :]
            try:
                assert 1 <= len(est_codec.parse_pkcs7(changed)) <= 4
            except DecodeError:
                pass


def test_the_body_of_a_request_is_one_line():
    assert est_codec.encode_request(bytes(300)) == b"A" * 400
    assert est_codec.encode_request(b"\xff") == b"/w=="
