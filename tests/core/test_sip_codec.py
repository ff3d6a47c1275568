# heap: 512k
from keyferry_core import sip_check, sip_codec
from keyferry_core.errors import LocalError
from keyferry_core.sip_codec import Reader, encode, parse, request, response
from keyferry_core.sip_fields import (
    SipError,
    Via,
    address,
    check_comment,
    check_date,
    check_warning,
    cseq,
    media_type,
    parse_uri,
    split,
    unescape,
)
from support.portable import raises

BASE = (
    (b"Via", b"SIP/2.0/TLS 192.0.2.7:5061;branch=z9hG4bK77;rport"),
    (b"Max-Forwards", b"70"),
    (b"From", b"<sip:gauge-2@plant.example>;tag=a1"),
    (b"To", b"<sip:pump-7@plant.example>"),
    (b"Call-ID", b"c1@192.0.2.7"),
    (b"CSeq", b"1 MESSAGE"),
)


def make(method=b"MESSAGE", body=b"hello", more=(), without=b"", **change):
    fields = []
    for name, value in BASE:
        key = str(name, "utf-8").lower().replace("-", "_")
        if name.lower() != without:
            fields.append((name, change.get(key, value)))
    return request(method, b"sip:pump-7@plant.example", fields + list(more), body)


def refused(status, message, reason=""):
    error = raises(SipError, sip_check.check, message)
    assert error.sip_status == status, (error.sip_status, error.detail)
    assert reason in error.detail, error.detail
    assert error.message is message
    return error


def same(a, b):
    assert (a.method, a.uri, a.status, a.reason) == (b.method, b.uri, b.status, b.reason)
    assert a.fields == b.fields
    assert a.body == b.body


# -- framing


def read_all(parts):
    reader = Reader()
    found = []
    for part in parts:
        reader.feed(part)
        for message in reader:
            found.append(message)
    return reader, found


def test_a_stream_gives_the_same_messages_however_it_is_cut():
    first = encode(make())
    second = encode(make(b"OPTIONS", b"", cseq=b"2 OPTIONS"))
    third = encode(response(make(), 200, b"t9"))
    stream = first + b"\r\n\r\n" + second + b"\r\n" + third + b"\r\n\r\n\r\n\r\n" + first
    _, whole = read_all([stream])
    assert len(whole) == 4
    for size in (1, 2, 3, 7, 64, 401):
        reader, found = read_all([stream[i : i + size] for i in range(0, len(stream), size)])
        assert len(found) == 4
        for index, message in enumerate(found):
            same(message, whole[index])
        assert reader.pings == 3
        assert not reader.waiting
    assert encode(whole[0]) == first


def test_keep_alives_are_counted_and_lone_line_ends_passed_over():
    reader, found = read_all([b"\r", b"\n", b"\r\n", b"\r\n\r", b"\n"])
    assert (reader.pings, found) == (2, [])
    reader, found = read_all([b"\r\n" + encode(make())])
    assert (reader.pings, len(found)) == (0, 1)
    error = raises(SipError, read_all, [b"\r", b"X"])
    assert error.sip_status == 400


def test_a_length_must_be_there_once_and_be_a_number():
    plain = encode(make()).replace(b"Content-Length: 5\r\n", b"")
    cases = (
        (b"", "no Content-Length"),
        (b"Content-Length: 5\r\nl: 5\r\n", "twice"),
        (b"Content-Length: -5\r\n", "digits"),
        (b"Content-Length: +5\r\n", "digits"),
        (b"Content-Length: 5 5\r\n", "digits"),
        (b"Content-Length: 5, 5\r\n", "digits"),
        (b"Content-Length: 0x5\r\n", "digits"),
        (b"Content-Length:\r\n", "digits"),
        (b"Content-Length: 99999999999999999999\r\n", "out of range"),
    )
    for line, reason in cases:
        reader = Reader()
        reader.feed(plain.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n"))
        error = raises(SipError, reader.next_message)
        assert error.sip_status == 400
        assert reason in error.detail, error.detail
        assert error.message.first(b"call-id") == b"c1@192.0.2.7"
        reader.feed(encode(make()))
        assert raises(SipError, reader.next_message) is error


def test_every_bound_is_held_before_memory_is_taken():
    reader = Reader(2048, 100)
    reader.feed(encode(make(body=bytes(101))))
    assert raises(SipError, reader.next_message).sip_status == 513
    reader = Reader(2048, 100)
    reader.feed(b"MESSAGE sip:a@b SIP/2.0\r\nX: ")
    for _ in range(3000):
        reader.feed(b"x")
        try:
            assert reader.next_message() is None
        except SipError as error:
            assert error.sip_status == 513
            break
        assert len(reader._data) <= 2048 + 3
    else:
        raise AssertionError("no bound")
    many = make(more=[(b"X", b"y")] * sip_codec.MAX_FIELDS)
    assert raises(SipError, parse, encode(many)).sip_status == 513
    folds = encode(make()).replace(b"\r\nMax", b"\r\n x" * 300 + b"\r\nMax")
    assert raises(SipError, parse, folds).sip_status == 513
    assert raises(SipError, parse, b"x" * 20000).sip_status == 513
    assert raises(SipError, parse, encode(make(body=bytes(20000)))).sip_status == 513
    long = make(more=[(b"Contact", b"<sip:" + b"u" * 1100 + b"@h>")])
    refused(414, long)
    refused(400, make(more=[(b"Route", b", ".join([b"<sip:a>"] * 65))]), "too many")
    refused(400, make(to=b"<sip:a>" + b"".join([b";p%d" % i for i in range(33)])), "too many")
    refused(400, make(to=b"<sip:a" + b"".join([b";p%d" % i for i in range(40)]) + b">"))


def test_lines_that_are_none():
    good = encode(make())
    for bad, reason in (
        (good.replace(b"\r\nTo", b"\nTo"), "without"),
        (good.replace(b"\r\nTo", b"\rTo"), "without"),
        (good.replace(b"a1", b"a\x001"), "control"),
        (good.replace(b"a1", b"a\x7f1"), "control"),
        (good.replace(b"a1", b"a\xff1"), "UTF-8"),
        (good.replace(b"a1", b"a\xc0\xaf1"), "UTF-8"),
        (good.replace(b"\r\nTo: ", b"\r\nTo "), "no field"),
        (good.replace(b"\r\nTo: ", b"\r\n: "), "no field"),
        (good.replace(b"\r\nTo: ", b"\r\nT(o: "), "no field"),
        (good.replace(b"\r\nVia: ", b"\r\n Via: "), "without a field"),
        (good.replace(b" SIP/2.0\r\n", b"\r\n"), "start line"),
        (good.replace(b"MESSAGE sip", b"MESS(AGE sip"), "start line"),
        (good.replace(b" SIP/2.0\r\n", b" HTTP/1.1\r\n"), "start line"),
        (b"SIP/2.0 099 x" + good[good.find(b"\r\n") :], "no such status"),
        (b"SIP/2.0 700 x" + good[good.find(b"\r\n") :], "out of range"),
        (b"SIP/2.0 200" + good[good.find(b"\r\n") :], "status line"),
        (good[: good.find(b"\r\n\r\n")], "no empty line"),
        (b"", "no empty line"),
    ):
        error = raises(SipError, parse, bad)
        assert error.sip_status == 400
        assert reason in error.detail, error.detail
    assert raises(SipError, parse, good.replace(b"SIP/2.0\r", b"SIP/3.0\r")).sip_status == 505
    folded = parse(good.replace(b"Max-Forwards: 70", b"Max-Forwards:\r\n\t 70 "))
    assert folded.first(b"max-forwards") == b"70"


# -- values


def test_two_names_in_one_from_are_refused():
    spoof = b'"x" <sip:alice@plant.example>;p="y" <sip:mallory@plant.example>'
    refused(400, make(**{"from": spoof}), "from")
    for value in (
        b"<sip:alice@plant.example>, <sip:mallory@plant.example>",
        b"<sip:alice@plant.example> <sip:mallory@plant.example>",
        b"sip:alice@plant.example <sip:mallory@plant.example>",
        b'"<sip:alice@plant.example>" sip:mallory@plant.example',
        b'"x" "y" <sip:mallory@plant.example>',
        b'x "y" <sip:mallory@plant.example>',
        b"<sip:alice@plant.example;tag=1>x",
        b"<<sip:alice@plant.example>>",
        b"<sip:alice@x@plant.example>",
        b"sip:alice@plant.example,sip:mallory@plant.example",
        b"<sip:alice@plant.example>;tag=1;TAG=2",
        b"<sip:alice@plant.example>;",
        b"<sip:alice@plant.example>;=1",
        b'<sip:alice@plant.example>;tag="1"',
        b"<sip:alice@plant.example>;tag",
        b"<sip:alice%4@plant.example>",
        b"<sip:alice@plant.example?from=x&>",
        b"",
        b"<>",
        b"*",
    ):
        refused(400, make(**{"from": value}))
    twice = make(more=[(b"f", b"<sip:mallory@plant.example>;tag=2")])
    refused(400, twice, "from twice")


def test_a_quoted_name_hides_nothing():
    found = address(b'"\\" <sip:mallory@x>" <sip:alice@Plant.Example:5061;lr;x=%41?a=b>;tag=q')
    assert found.display == b'"\\" <sip:mallory@x>"'
    assert found.uri.user == b"alice"
    assert (found.uri.host, found.uri.port) == (b"plant.example", 5061)
    assert found.uri.params == [(b"lr", None), (b"x", b"%41")]
    assert found.uri.headers == b"a=b"
    assert found.get(b"tag") == b"q"
    assert found.get(b"nothing") is None
    plain = address(b"sip:alice@x;tag=q")
    assert (plain.uri.params, plain.get(b"tag")) == ([], b"q")
    assert address(b"A B<sip:x>").display == b"A B"


def test_uris():
    full = parse_uri(b"SIPS:user;p=1/2?:p%40ss@[2001:DB8::1]:5061;transport=tls")
    assert full.scheme == b"sips"
    assert (full.user, full.password) == (b"user;p=1/2?", b"p%40ss")
    assert (full.host, full.port) == (b"[2001:db8::1]", 5061)
    assert unescape(b"p%40s%73") == b"p@ss"
    for good in (
        b"sip:a",
        b"sip:1.2.3.4",
        b"sip:[::1]",
        b"sip:[::]",
        b"sip:[::ffff:1.2.3.4]",
        b"sip:[1:2:3:4:5:6:7:8]",
        b"tel:+358-555",
        b"sip:a.example.",
        b"sip:a@b;x=[]/:&+$",
    ):
        parse_uri(good)
    for bad in (
        b"",
        b"sip",
        b"sip:",
        b":a",
        b"1sip:a",
        b"s_p:a",
        b"sip:@a",
        b"sip:a@",
        b"sip:a b",
        b"sip:a@b:",
        b"sip:a@b:0",
        b"sip:a@b:65536",
        b"sip:a@b:5x",
        b"sip:a@b;",
        b"sip:a@b;;x",
        b"sip:a@b;x=",
        b"sip:a@b;x;X=1",
        b"sip:a@b?",
        b"sip:a@b?x",
        b"sip:a@b?x=1=\xc3",
        b"sip:a@-b",
        b"sip:a@b-",
        b"sip:a@b..c",
        b"sip:a@.b",
        b"sip:1.2.3.256",
        b"sip:1.2.3",
        b"sip:1.2.3.4.5",
        b"sip:a.1",
        b"sip:a_b",
        b"sip:[1:2:3:4:5:6:7]",
        b"sip:[1:2:3:4:5:6:7:8::]",
        b"sip:[1::2::3]",
        b"sip:[:1:2:3:4:5:6:7]",
        b"sip:[12345::]",
        b"sip:[1.2.3.4::]",
        b"sip:[::1",
        b"sip:%zz@b",
        b"sip:%4@b",
        b"sip:\xc3\xa9@b",
        b"tel:",
        b"tel:a b",
        b'tel:"',
    ):
        assert raises(SipError, parse_uri, bad).sip_status == 400, bad
    assert raises(SipError, parse_uri, b"sip:" + b"a" * 1100).sip_status == 414


def test_lists_and_parameters():
    assert split(b'a , "b,<\\"" <c,d> , e', b",") == [b"a", b'"b,<\\"" <c,d>', b"e"]
    for bad in (b"a,,b", b",a", b"a,", b"", b'"a', b"<a", b'"a\\"'):
        raises(SipError, split, bad, b",")
    via = Via(b'SIP / 2.0 / tcp  h.Example : 5062 ; branch=z9hG4bKa;received=2001:db8::1;x="; "')
    assert (via.transport, via.host, via.port) == (b"TCP", b"h.example", 5062)
    assert via.get(b"received") == b"2001:db8::1"
    assert via.get(b"x") == b'"; "'
    for bad in (
        b"SIP/2.0/TLS",
        b"SIP/2.0 h",
        b"SIP/1.0/TLS h",
        b"HTTP/2.0/TLS h",
        b"SIP/2.0/TLS a b",
        b"SIP/2.0/T(S h",
        b"SIP/2.0/TLS h;branch=z9hG4bK",
        b"SIP/2.0/TLS h;branch=",
        b'SIP/2.0/TLS h;branch="x"',
        b"SIP/2.0/TLS h;;branch=x",
        b'SIP/2.0/TLS h;x="a"b',
        b'SIP/2.0/TLS h;x="\\\xc3\xa9"',
    ):
        raises(SipError, Via, bad)


def test_other_fields():
    assert cseq(b"0009 \t INVITE") == (9, b"INVITE")
    for bad in (b"1", b"INVITE", b"1 a b", b"2147483648 A", b"-1 A", b"1 a;b", b""):
        raises(SipError, cseq, bad)
    assert media_type(b'Application/EDHOC+cbor-seq ; a="b"') == b"application/edhoc+cbor-seq"
    for bad in (b"a", b"a/", b"/b", b"a/b/c", b"a/b;"):
        raises(SipError, media_type, bad)
    check_date(b"Sat, 13 Nov 2010 23:29:00 GMT")
    for bad in (
        b"Sat, 13 Nov 2010 23:29:00 EST",
        b"Sat, 13 Nov 2010 24:29:00 GMT",
        b"Sat, 13 nov 2010 23:29:00 GMT",
        b"Sat, x3 Nov 2010 23:29:00 GMT",
        b"",
    ):
        raises(SipError, check_date, bad)
    check_warning(b'399 plant.example "not yours"')
    for bad in (b"39 a b", b'1812 overture "x"', b"399 a b", b'399 a "b" c', b""):
        raises(SipError, check_warning, bad)
    assert check_comment(b"(a (b\\)) c) d") == 11
    for bad in (b"(a", b"(" * 9 + b")" * 9, b"(\\)"):
        raises(SipError, check_comment, bad)


def test_what_a_request_must_have():
    sip_check.check(make())
    for name in (b"via", b"from", b"to", b"call-id", b"cseq"):
        refused(400, make(without=name), "without " + str(name, "utf-8"))
    sip_check.check(make(without=b"max-forwards"))  # a proxy adds it (section 16.6)
    refused(400, make(cseq=b"1 INVITE"), "another method")
    refused(400, make(call_id=b"a b"))
    refused(400, make(call_id=b"a@b@c"))
    refused(483, make(max_forwards=b"0"))
    error = refused(420, make(more=[(b"Require", b"outbound, x"), (b"Proxy-Require", b"y")]))
    assert error.unsupported == b"x, y"
    sip_check.check(make(b"ACK", cseq=b"1 ACK", more=[(b"Require", b"x")]))
    for name, value in (
        (b"Contact", b"*"),
        (b"Contact", b"<sip:a>;q=2"),
        (b"Contact", b"<sip:a>;q=1.001"),
        (b"Contact", b"<sip:a>;expires=x"),
        (b"Route", b"sip:a"),
        (b"Expires", b"4294967296"),
        (b"Expires", b"-1"),
        (b"Allow", b"A, (B)"),
        (b"Retry-After", b"18 (in a"),
        (b"Retry-After", b"x"),
        (b"Accept", b"a"),
    ):
        refused(400, make(more=[(name, value)]))
    for name, value in (
        (b"Contact", b"<sip:a>;q=0.5;expires=30, sip:b"),
        (b"Retry-After", b"18 (busy (very));duration=3"),
        (b"Accept", b""),
        (b"Supported", b""),
        (b"X", b";;,,"),
    ):
        sip_check.check(make(more=[(name, value)]))


def test_all_bindings_are_removed_by_a_star_alone():
    def register(*more):
        return make(b"REGISTER", b"", cseq=b"1 REGISTER", more=more)

    message = register((b"Contact", b"*"), (b"Expires", b"0"))
    message.uri = b"sip:plant.example"
    sip_check.check(message)
    for more in (
        ((b"Contact", b"*"),),
        ((b"Contact", b"*"), (b"Expires", b"1")),
        ((b"Contact", b"*"), (b"Contact", b"<sip:a>"), (b"Expires", b"0")),
        ((b"Contact", b"*, <sip:a>"), (b"Expires", b"0")),
    ):
        message = register(*more)
        message.uri = b"sip:plant.example"
        refused(400, message)
    refused(400, register(), "a user in the Request-URI")


# -- building


def test_an_answer_repeats_what_it_must():
    asked = make(more=[(b"Via", b"SIP/2.0/TLS h;branch=z9hG4bKq"), (b"Subject", b"s")])
    answer = response(asked, 404, b"t1")
    assert encode(answer) == (
        b"SIP/2.0 404 Not Found\r\n"
        b"Via: SIP/2.0/TLS 192.0.2.7:5061;branch=z9hG4bK77;rport\r\n"
        b"From: <sip:gauge-2@plant.example>;tag=a1\r\n"
        b"To: <sip:pump-7@plant.example>;tag=t1\r\n"
        b"Call-ID: c1@192.0.2.7\r\nCSeq: 1 MESSAGE\r\n"
        b"Via: SIP/2.0/TLS h;branch=z9hG4bKq\r\nContent-Length: 0\r\n\r\n"
    )
    sip_check.check(parse(encode(answer)))
    tagged = response(make(to=b"<sip:a>;tag=old"), 200, b"new")
    assert tagged.first(b"to") == b"<sip:a>;tag=old"
    assert encode(response(asked, 299)).startswith(b"SIP/2.0 299 \r\n")


def test_nothing_that_is_built_breaks_out_of_its_line():
    for message in (
        make(more=[(b"Subject", b"a\r\nFrom: <sip:m>")]),
        make(more=[(b"Subject", b"a\nb")]),
        request(b"A B", b"sip:a", []),
        request(b"A", b"sip:a SIP/2.0\r\nX: y", []),
        response(make(), 99),
    ):
        assert raises(LocalError, encode, message).name == "bad-argument"
    assert raises(LocalError, request, b"A", b"sip:a", [(b"a b", b"c")]).name == "bad-argument"


def test_every_cut_and_changed_byte_is_read_or_refused():
    data = encode(make(more=[(b"Contact", b'"a" <sip:a@b;x>;q=0.1'), (b"Date", b"x")], body=b""))
    for cut in range(len(data)):
        raises(SipError, parse, data[:cut])
    for index in range(len(data)):
        for byte in (0, 9, 10, 13, 32, 34, 37, 44, 58, 59, 60, 62, 64, 92, 128, 255):
            try:
                message = parse(data[:index] + bytes((byte,)) + data[index + 1 :])
                sip_check.check(message)
            except SipError as error:
                assert error.sip_status in (400, 416, 420, 483, 505)
