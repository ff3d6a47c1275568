# heap: 512k
"""RFC 4475, SIP torture test messages: each is judged as its section says."""

from keyferry_core import sip_check, sip_codec
from keyferry_core.sip_codec import Reader
from keyferry_core.sip_fields import SipError, unescape
from support.portable import vectors

FOLDER = __file__.replace("\\", "/").rsplit("/", 2)[0] + "/vectors/rfc4475/"


def judge(data):
    """``(0, message)``, or the status and the error that refuse ``data``."""
    try:
        message = sip_codec.parse(data)
        sip_check.check(message)
    except SipError as error:
        return error.sip_status, error
    return 0, message


def message(name):
    with open(FOLDER + name + ".dat", "rb") as file:
        return file.read()


def test_every_message_of_the_archive_gets_its_status():
    expected = vectors("rfc4475/expected.json")
    assert len(expected) == 33
    for name, row in expected.items():
        status, result = judge(message(name))
        assert status == row[0], (name, status, row)
        if status:
            assert result.detail[:5] == "sip: ", (name, result.detail)


def test_what_is_accepted_is_built_again_with_the_same_meaning():
    for name, row in vectors("rfc4475/expected.json").items():
        if row[0]:
            continue
        first = sip_codec.parse(message(name))
        again = sip_codec.parse(sip_codec.encode(first))
        sip_check.check(again)
        assert (again.method, again.uri) == (first.method, first.uri)
        assert (again.status, again.reason) == (first.status, first.reason)
        kept = [field for field in first.fields if field[0] != b"content-length"]
        assert again.fields[: len(kept)] == kept, name
        assert again.body == first.body


def test_details_of_the_valid_ones():
    weird = sip_codec.parse(message("intmeth"))
    assert weird.method == b"!interesting-Method0123456789_*+`.%indeed'~"
    assert weird.to().display == b'"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f"'
    assert weird.from_().get(b"tag") == b"_token~1'+`*%!-."
    assert weird.to().uri.user == b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    escaped = sip_codec.parse(message("esc01"))
    assert escaped.to().uri.user == b"%75se%72"
    assert unescape(escaped.to().uri.user) == b"user"
    assert escaped.first(b"content-type") == b"application/sdp"
    nulls = sip_codec.parse(message("escnull"))
    assert len(nulls.values(b"contact")) == 2
    assert unescape(nulls.to().uri.user) == b"null-\x00-null"
    assert len(sip_codec.parse(message("transports")).values(b"via")) == 5
    assert sip_codec.parse(message("dblreq")).body == b""
    parameter = sip_codec.parse(message("cparam01")).values(b"contact")[0]
    assert parameter[-13:] == b";unknownparam"  # of the field: the URI has none
    assert judge(message("bext01"))[1].unsupported == (
        b"nothingSupportsThis, nothingSupportsThisEither, "
        b"noProxiesSupportThis, norDoAnyProxiesSupportThis"
    )


def test_on_a_stream_a_request_without_a_length_is_refused():
    reader = Reader()
    reader.feed(message("inv2543"))
    try:
        reader.next_message()
        raise AssertionError("taken")
    except SipError as error:
        assert error.sip_status == 400
        assert error.message.first(b"cseq") == b"56 INVITE"


COMMON = (
    b"To: sip:user@example.com\r\nFrom: sip:caller@example.net;tag=1\r\nMax-Forwards: 70\r\n"
    b"Call-ID: written.1\r\nVia: SIP/2.0/TLS h.example.com;branch=z9hG4bKx\r\n"
)


def request(line, cseq, more=b"", common=COMMON, body=b""):
    length = b"Content-Length: " + str(len(body)).encode() + b"\r\n"
    return (
        line
        + b" SIP/2.0\r\n"
        + common
        + b"CSeq: "
        + cseq
        + b"\r\n"
        + more
        + length
        + b"\r\n"
        + body
    )


# What the archive here lacks, written anew after what each section describes.
OTHERS = (
    (
        "3.1.1.1",
        0,
        b"INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\r\n"
        b"TO :\r\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\r\n"
        b'from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>\r\n'
        b"  ;\r\n  tag = 98asjd8\r\n"
        b"MaX-fOrWaRdS: 0068\r\nCall-ID: wsinv.ndaksdj@192.0.2.1\r\nContent-Length   : 4\r\n"
        b"cseq: 0009\r\n  INVITE\r\n"
        b"Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390skdjuw\r\ns :\r\n"
        b"NewFangledHeader:   newfangled value\r\n continued newfangled value\r\n"
        b"UnknownHeaderWithUnusualValue: ;;,,;;,;\r\nContent-Type: application/sdp\r\n"
        b"Route:\r\n <sip:services.example.com;lr;unknownwith=value;unknown-no-value>\r\n"
        b"v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8  ,\r\n"
        b" SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n z9hG4bK30239\r\n"
        b'm:"Quoted string \\"\\"" <sip:jdrosen@example.com> ; newparam =\r\n      newvalue ;\r\n'
        b"  secondparam ; q = 0.33\r\n\r\nv=0\n",
    ),
    (
        "3.1.1.5",
        0,
        request(b"RE%47IST%45R sip:r.example.com", b"29344 RE%47IST%45R", b"C%6Fntact: ;\r\n"),
    ),
    (
        "3.1.1.6",
        0,
        request(
            b"OPTIONS sip:user@example.com",
            b"1 OPTIONS",
            b"Reply-To: caller<sip:c@example.com>\r\n",
        ),
    ),
    ("3.1.1.9", 0, request(b"OPTIONS sip:user;par=u%40example.net@example.com", b"1 OPTIONS")),
    ("3.1.1.13", 0, b"SIP/2.0 100 \r\n" + COMMON + b"CSeq: 35 INVITE\r\nContent-Length: 0\r\n\r\n"),
    ("3.1.2.4", 400, request(b"REGISTER sip:example.com", b"36893488147419103232 REGISTER")),
    (
        "3.1.2.4",
        400,
        request(b"REGISTER sip:example.com", b"1 REGISTER", b"Expires: 10000000000\r\n"),
    ),
    (
        "3.1.2.4",
        400,
        request(
            b"REGISTER sip:example.com",
            b"1 REGISTER",
            b"Contact: <sip:u@h>;expires=280297596632815\r\n",
        ),
    ),
    (
        "3.1.2.4",
        400,
        request(
            b"REGISTER sip:example.com",
            b"1 REGISTER",
            b"",
            COMMON.replace(b"ards: 70", b"ards: 300"),
        ),
    ),
    (
        "3.1.2.12",
        400,
        request(
            b"INVITE sip:u@example.com", b"1 INVITE", b"Date: Fri, 01 Jan 2010 16:00:00 EST\r\n"
        ),
    ),
    ("3.1.2.16", 505, b"OPTIONS sip:t.watson@example.org SIP/7.0\r\n" + COMMON + b"l: 0\r\n\r\n"),
    (
        "3.1.2.19",
        400,
        b"SIP/2.0 4294967301 better not break the receiver\r\n"
        + COMMON
        + b"CSeq: 1 INVITE\r\nl: 0\r\n\r\n",
    ),
    ("3.3.1", 400, b"INVITE sip:user@example.com SIP/2.0\r\nCSeq: 193942 INVITE\r\nl: 0\r\n\r\n"),
    ("3.3.2", 416, request(b"OPTIONS nobodyKnowsThisScheme:totallyopaquecontent", b"1 OPTIONS")),
    (
        "3.3.6",
        0,
        request(
            b"INVITE sip:u@example.com",
            b"1 INVITE",
            b"Content-Type: application/unknownformat\r\n",
            body=b"<x/>",
        ),
    ),
    (
        "3.3.7",
        0,
        request(
            b"REGISTER sip:example.com",
            b"9338 REGISTER",
            b"Authorization: NoOneKnowsThisScheme opaque-data=here\r\n",
        ),
    ),
    (
        "3.3.9",
        400,
        request(b"OPTIONS sip:user@example.com", b"5 OPTIONS", b"Content-Length: 13\r\n"),
    ),
    (
        "3.3.13",
        0,
        request(
            b"REGISTER sip:example.com",
            b"3 REGISTER",
            b"Contact: <sip:+19725552222@gw1.example.net;unknownparam>\r\n",
        ),
    ),
)


def test_the_sections_that_the_archive_lacks():
    for section, expected, data in OTHERS:
        status, result = judge(data)
        assert status == expected, (section, status, result)


def test_the_first_of_them_in_detail():
    found = sip_codec.parse(OTHERS[0][2])
    assert found.to().get(b"tag") == b"1918181833n"
    assert found.from_().display == b'"J Rosenberg \\\\\\""'
    assert found.cseq() == (9, b"INVITE")
    vias = found.values(b"via")
    assert len(vias) == 3
    assert found.top_via().get(b"branch") == b"390skdjuw"
    contact = found.values(b"contact")
    assert len(contact) == 1
    assert found.first(b"subject") == b""
    assert found.body == b"v=0\n"
