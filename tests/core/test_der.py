from keyferry_core import der
from keyferry_core.der import Reader
from keyferry_core.errors import DecodeError
from support.portable import raises


def reader(text):
    return Reader(bytes.fromhex(text))


def refused(reason, call, *args):
    detail = raises(DecodeError, call, *args).detail
    assert reason in detail, detail


def test_elements_in_a_row():
    r = reader("30050201070500" + "0400")
    inner = r.enter(der.SEQUENCE)
    assert inner.integer() == 7
    assert inner.peek() == 5
    assert inner.skip() == 5
    assert inner.peek() == -1
    assert not inner.more()
    inner.finish()
    refused("cut short", inner.skip)
    refused("left over", r.finish)
    assert r.take(der.OCTET_STRING) == b""
    r.finish()


def test_raw_keeps_the_bytes_and_match_wants_them_exactly():
    r = reader("300302010704020102ff")
    assert r.raw(der.SEQUENCE).hex() == "3003020107"
    assert not r.match(bytes.fromhex("04020103"))
    assert not r.match(bytes.fromhex("04020102ff00"))
    assert r.match(bytes.fromhex("04020102"))
    assert r.pos == r.end - 1


def test_an_element_ends_inside_the_one_around_it():
    r = reader("300204020102")  # the octet string claims bytes outside of the sequence
    inner = r.enter(der.SEQUENCE)
    refused("cut short", inner.take, der.OCTET_STRING)


def test_lengths_are_definite_and_shortest():
    for text in (
        "0480",  # indefinite
        "0480aa0000",
        "048100",
        "04810100",
        "04817f" + "00" * 127,
        "0482008000" + "00" * 127,
        "0482000100",
        "048300010000",
        "04850000000001aa",
        "0488ffffffffffffffff",
        "04ff",
    ):
        raises(DecodeError, reader(text).take, der.OCTET_STRING)
    for size in (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x101, 0x2000):
        data = der.wrap(der.OCTET_STRING, bytes(size))
        assert Reader(data).take(der.OCTET_STRING) == bytes(size)
    assert der.wrap(4, bytes(0x7F))[:2].hex() == "047f"
    assert der.wrap(4, bytes(0x80))[:3].hex() == "048180"
    assert der.wrap(4, bytes(0x100))[:4].hex() == "04820100"


def test_declared_lengths_are_held_against_what_is_there():
    for text in (
        "",
        "04",
        "0401",
        "0482",
        "048201",
        "0482ffff00",
        "0484ffffffff",
        "0484fffffffe00",
    ):
        refused("cut short", reader(text).take, der.OCTET_STRING)


def test_tags_are_one_byte_and_the_expected_one():
    refused("another tag", reader("020107").take, der.OCTET_STRING)
    refused("another tag", reader("310100").enter, der.SEQUENCE)
    refused("more than one byte", reader("1f810000").skip)
    refused("more than one byte", reader("bf2000").skip)
    refused("end mark", reader("0000").skip)


def test_integers_are_minimal_and_not_negative():
    for text, value in (
        ("020100", 0),
        ("02017f", 127),
        ("02020080", 128),
        ("0203010000", 65536),
        ("0209008000000000000000", 1 << 63),
    ):
        assert reader(text).integer() == value
    for text, reason in (
        ("0200", "empty"),
        ("020180", "negative"),
        ("0201ff", "negative"),
        ("02020000", "longer"),
        ("0202007f", "longer"),
        ("020300007f", "longer"),
        ("0215" + "01" * 21, "huge"),
    ):
        refused(reason, reader(text).integer)
    assert reader("0214" + "01" * 20).integer() == int.from_bytes(b"\x01" * 20, "big")
    refused("huge", reader("02020100").integer, 1)


def test_booleans_with_a_default():
    assert reader("0101ff").true()
    assert not reader("").true()
    assert not reader("020101").true()
    for text in ("010100", "010101", "0100", "0102ffff"):
        refused("boolean", reader(text).true)


def test_object_identifiers():
    assert reader("0603551d0f").oid().hex() == "551d0f"
    assert reader("06082a8648ce3d030107").oid() == der.P256[2:]
    for text, reason in (
        ("0600", "empty"),
        ("060180", "longer"),
        ("06032a8001", "longer"),
        ("06022a86", "cut short"),
        ("0621" + "2a" * 33, "huge"),
    ):
        refused(reason, reader(text).oid)


def test_bit_strings():
    assert reader("0303000102").octets_of_bits() == b"\x01\x02"
    assert reader("030100").octets_of_bits() == b""
    for text in ("0300", "0302010a", "030207f0"):
        refused("whole bytes", reader(text).octets_of_bits)


def test_named_bits():
    for text, value in (
        ("03020780", 1),  # digitalSignature
        ("03020204", 1 << 5),  # keyCertSign
        ("03020106", 1 << 5 | 1 << 6),
        ("030205a0", 1 | 1 << 2),
        ("030200ff", 0xFF),
        ("0303070080", 1 << 8),
        ("0303000001", 1 << 15),
    ):
        assert reader(text).flags() == value
    for text, reason in (
        ("030100", "empty"),
        ("0300", "empty"),
        ("030400000001", "too many"),
        ("03020880", "too many"),
        ("0302ff80", "too many"),
        ("03020700", "longer"),
        ("03020680", "longer"),  # the last named bit is a zero
        ("03020781", "longer"),  # an unused bit is a one
        ("0303078000", "longer"),
    ):
        refused(reason, reader(text).flags)


def utc(text):
    return Reader(der.wrap(der.UTC_TIME, text.encode())).time()


def generalized(text):
    return Reader(der.wrap(der.GENERALIZED_TIME, text.encode())).time()


def test_times_are_unix_seconds():
    for text, value in (
        ("700101000000Z", 0),
        ("691231235959Z", -1),
        ("500101000000Z", -631152000),
        ("000229120000Z", 951825600),
        ("000301000000Z", 951868800),
        ("240229235959Z", 1709251199),
        ("261231000000Z", 1798675200),
        ("491231235959Z", 2524607999),
    ):
        assert utc(text) == value, text
    for text, value in (
        ("20500101000000Z", 2524608000),
        ("21000228235959Z", 4107542399),
        ("21000301000000Z", 4107542400),
        ("24000229000000Z", 13574563200),
        ("99991231235959Z", 253402300799),
    ):
        assert generalized(text) == value, text


def test_times_that_do_not_exist_or_are_not_der():
    for text in (
        "",
        "Z",
        "7001010000Z",  # no seconds
        "700101000000",
        "700101000000+0000",
        "700101000000z",
        "70010100000 Z",
        "7001010000-1Z",
        "700001000000Z",
        "701301000000Z",
        "700100000000Z",
        "700132000000Z",
        "700431000000Z",
        "700230000000Z",
        "010229000000Z",
        "700101240000Z",
        "700101006000Z",
        "700101000060Z",  # a leap second has no number here
        "19700101000000Z",
    ):
        raises(DecodeError, utc, text)
    for text in (
        "20491231235959Z",  # UTCTime can say it, so DER under RFC 5280 must
        "21000229000000Z",
        "20500101000000.5Z",
        "20500101000000",
        "205001010000Z",
    ):
        raises(DecodeError, generalized, text)
    raises(DecodeError, reader("0c0d" + b"700101000000Z".hex()).time)


def test_every_day_of_four_centuries_follows_the_day_before():
    last = der.seconds(1950, 1, 1, 0, 0, 0) - 86400
    for year in range(1950, 2351):
        for month in range(1, 13):
            for day in range(1, 32):
                try:
                    now = der.seconds(year, month, day, 0, 0, 0)
                except DecodeError:
                    assert day > 28
                    break
                assert now == last + 86400
                last = now
    assert last == 12023078400  # 2350-12-31


KEY = "04" + "11" * 32 + "22" * 32
SPKI = "3059301306072a8648ce3d020106082a8648ce3d030107034200" + KEY


def test_public_keys():
    data = bytes.fromhex(SPKI)
    assert der.public_key_info(bytes.fromhex(KEY)) == data
    assert der.read_public_key(Reader(data)).hex() == KEY
    for other in (
        SPKI.replace("03420004", "03420003"),  # not uncompressed
        SPKI.replace("3d030107", "3d030108"),  # another curve
        SPKI.replace("3d0201", "3d0202"),  # another algorithm
        SPKI.replace("034200", "034201"),
        "3039301306072a8648ce3d020106082a8648ce3d03010703220002" + "11" * 32,
        "300d06092a864886f70d0101010500",
        "3000",
    ):
        error = raises(DecodeError, der.read_public_key, reader(other))
        assert error.name == "key-not-allowed"
    raises(DecodeError, der.read_public_key, reader(SPKI[:-2]))


def test_signatures_have_one_encoding():
    for r, s in (
        ("00" * 32, "00" * 31 + "01"),
        ("00" * 31 + "7f", "00" * 31 + "80"),
        ("80" + "00" * 31, "7f" + "ff" * 31),
        ("ff" * 32, "00" + "ff" * 31),
    ):
        raw = bytes.fromhex(r + s)
        data = der.encode_signature(raw)
        assert der.raw_signature(data) == raw
        for cut in range(len(data)):
            raises(DecodeError, der.raw_signature, data[:cut])
        raises(DecodeError, der.raw_signature, data + b"\x00")
    assert der.encode_signature(bytes(64)).hex() == "3006020100020100"
    for text in (
        "300602010102010100",
        "3003020101",
        "3009020101020101020101",
        "300802010102040000",
        "30080202000102020001",
        "300602018102017f",
        "3080020101020101" + "0000",
        "308106020101020101",
        "3106020101020101",
        "3006030101020101",
        "3026022101" + "00" * 32 + "020101",  # 257 bits
        "3027022200" + "ff" * 33 + "020101",
    ):
        raises(DecodeError, der.raw_signature, bytes.fromhex(text))


def test_no_change_of_a_byte_gets_out_anything_but_a_decode_error():
    data = der.encode_signature(bytes(range(0x60, 0xA0)))
    raw = der.raw_signature(data)
    for index in range(len(data)):
        for byte in range(256):
            if byte == data[index]:
                continue
            changed = data[:index] + bytes([byte]) + data[index + 1 :]
            try:
                other = der.raw_signature(changed)
            except DecodeError:
                continue
            assert other != raw
            assert der.encode_signature(other) == changed
