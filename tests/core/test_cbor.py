from keyferry_core import cbor, utf8
from keyferry_core.cbor import Tag
from keyferry_core.errors import DecodeError, LocalError
from support.portable import raises, vectors


def refused(hex_bytes, reason):
    error = raises(DecodeError, cbor.decode, bytes.fromhex(hex_bytes))
    assert reason in error.detail, (hex_bytes, error.detail)


def same(a, b):
    """Equality that tells True from 1 and bytes from text, on both runtimes."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))  # noqa: B905
    if isinstance(a, dict):
        return len(a) == len(b) and all(key in b and same(a[key], b[key]) for key in a)
    return a == b


def test_appendix_a_is_judged_case_by_case():
    # A case is in the subset, or refused for the reason that belongs to its first odd byte.
    counts = {"kept": 0, "float": 0, "simple": 0, "indefinite": 0}
    reasons = {
        "float": "floats are not in the subset",
        "simple": "this simple value is not in the subset",
        "indefinite": "an indefinite or reserved length",
    }
    cases = vectors("cbor_appendix_a")["tests"]
    for case in cases:
        text = case["hex"]
        data = bytes.fromhex(text)
        if text[:2] in ("f9", "fa", "fb") or text == "c1fb41d452d9ec200000":
            kind = "float"
        elif text[:2] in ("f7", "f0", "f8"):
            kind = "simple"
        elif not case["roundtrip"]:
            kind = "indefinite"
        else:
            kind = "kept"
        counts[kind] += 1
        if kind != "kept":
            error = raises(DecodeError, cbor.decode, data)
            assert reasons[kind] in error.detail, (text, error.detail)
            continue
        value = cbor.decode(data)
        assert cbor.encode(value) == data
        assert cbor.item_end(data, 0) == len(data)
        if text == "64f0908591":  # two escapes in the file, which MicroPython's json does not join
            assert value == "\U00010151"
        elif "decoded" in case and not isinstance(value, Tag):
            assert same(value, case["decoded"]), text
    assert len(cases) == 82
    assert counts == {"kept": 44, "float": 23, "simple": 4, "indefinite": 11}


def test_appendix_a_tags_and_bytes_have_the_values_of_the_diagnostic_column():
    assert cbor.decode(bytes.fromhex("c11a514b67b0")) == Tag(1, 1363896240)
    assert cbor.decode(bytes.fromhex("d74401020304")) == Tag(23, b"\x01\x02\x03\x04")
    assert cbor.decode(bytes.fromhex("d818456449455446")) == Tag(24, b"dIETF")
    uri = "d82076687474703a2f2f7777772e6578616d706c652e636f6d"
    assert cbor.decode(bytes.fromhex(uri)) == Tag(32, "http://www.example.com")
    # A bignum stays what it is on the wire: a tag and bytes.
    assert cbor.decode(bytes.fromhex("c249010000000000000000")) == Tag(2, b"\x01" + bytes(8))
    assert cbor.decode(bytes.fromhex("a201020304")) == {1: 2, 3: 4}
    assert cbor.decode(bytes.fromhex("4401020304")) == b"\x01\x02\x03\x04"


def test_each_head_size_begins_where_the_smaller_one_ends():
    for value, text in (
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65535, "19ffff"),
        (65536, "1a00010000"),
        (0xFFFFFFFF, "1affffffff"),
        (0x100000000, "1b0000000100000000"),
        (0xFFFFFFFFFFFFFFFF, "1bffffffffffffffff"),
        (-24, "37"),
        (-25, "3818"),
        (-256, "38ff"),
        (-257, "390100"),
        (-0x10000000000000000, "3bffffffffffffffff"),
    ):
        assert cbor.encode(value).hex() == text
        assert cbor.decode(bytes.fromhex(text)) == value


def test_heads_longer_than_needed_are_refused():
    for text in (
        "1800",
        "1817",
        "190000",
        "1900ff",
        "1a00000000",
        "1a0000ffff",
        "1b0000000000000000",
        "1b00000000ffffffff",
        "3817",
        "5800",
        "580161",
        "780161",
        "980100",
        "b8010000",
        "d80100",
        "a1180000",
        "8200a101190001",
    ):
        refused(text, "longer than needed")


def test_reserved_additional_information_is_refused():
    for major in range(7):
        for info in (28, 29, 30, 31):
            refused(bytes([major << 5 | info]).hex() + "00", "indefinite or reserved")
    for info in range(32):
        if info not in (20, 21, 22):
            refused(bytes([0xE0 | info]).hex(), "not in the subset")


def test_every_cut_of_a_message_is_refused_and_so_are_trailing_bytes():
    whole = cbor.encode(
        {1: [1, 300, -70000], 2: "text ü", "k": {b"b": Tag(99, [None, True])}, -1: bytes(30)}
    )
    assert cbor.item_end(whole, 0) == len(whole)
    for cut in range(len(whole)):
        raises(DecodeError, cbor.decode, whole[:cut])
        raises(DecodeError, cbor.item_end, whole[:cut], 0)
    assert "trailing" in raises(DecodeError, cbor.decode, whole + b"\x00").detail


def test_a_declared_length_is_held_against_what_is_there():
    for text in (
        "5bffffffffffffffff",
        "7bffffffffffffffff00",
        "9bffffffffffffffff",
        "bbffffffffffffffff",
        "9a0fffffff00",
        "ba0fffffff0000",
        "5affffffff",
        "4361ff",
        "6261",
        "830102",
        "a100",
        "",
    ):
        refused(text, "cut short")


def test_map_keys_are_sorted_by_their_encoding_and_distinct():
    refused("a201000100", "out of order or repeated")
    refused("a202000100", "out of order or repeated")
    refused("a2616200616100", "out of order or repeated")
    # Bytewise, not shortest first: this is section 4.2.1, not 4.2.3.
    refused("a22000181800", "out of order or repeated")
    assert cbor.decode(bytes.fromhex("a21818002000")) == {24: 0, -1: 0}
    keys = {10: 1, 100: 2, -1: 3, "z": 4, "aa": 5, b"": 6}
    assert cbor.encode(keys).hex() == "a60a0118640220034006617a0462616105"
    assert cbor.decode(cbor.encode(keys)) == keys


def test_map_keys_are_integers_bytes_or_text():
    for key in ("f4", "f5", "f6", "80", "a0", "c100"):
        # In key position an array, map or tag is refused as nested, before its contents are read.
        raises(DecodeError, cbor.decode, bytes.fromhex("a1" + key + "00"))
    refused("a1f500", "a key is")
    for key in (True, None, (1,), Tag):
        assert raises(LocalError, cbor.encode, {key: 0}).name == "bad-argument"


def test_text_is_valid_utf8():
    for bad in (
        "c080",  # overlong NUL
        "c1bf",
        "e08080",
        "e09fbf",
        "f0808080",
        "f08fbfbf",
        "eda080",  # surrogates
        "edbfbf",
        "f4908080",  # past U+10FFFF
        "f5808080",
        "ff",
        "80",
        "c3",
        "e6b0",
        "f09085",
        "c328",
        "e628b4",
        "e6b028",
        "c3bcbf",
    ):
        data = bytes.fromhex(bad)
        assert not utf8.is_valid(data)
        raises(DecodeError, utf8.decode, data)
        refused((bytes([0x60 | len(data)]) + data).hex(), "not valid UTF-8")
    for good in ("", "\x00", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff"):
        assert utf8.decode(good.encode()) == good
    for good in ("\U00010000", "\U0010ffff", "a\u00e9\u6c34\U00010151z"):
        assert cbor.decode(cbor.encode(good)) == good


def test_a_lone_surrogate_is_our_own_mistake():
    assert raises(LocalError, cbor.encode, chr(0xD800)).name == "bad-argument"
    assert raises(LocalError, cbor.encode, {"a" + chr(0xDFFF): 1}).name == "bad-argument"


def test_depth_is_bounded():
    value = 0
    for _ in range(cbor.MAX_DEPTH):
        value = [value]
    assert cbor.decode(cbor.encode(value)) == value
    assert "deep" in raises(LocalError, cbor.encode, [value]).detail
    for opener in (b"\x81", b"\xa1\x00", b"\xc1"):
        data = opener * cbor.MAX_DEPTH + b"\x00"
        cbor.decode(data)
        assert "deep" in raises(DecodeError, cbor.decode, opener + data).detail
        assert "deep" in raises(DecodeError, cbor.decode, opener * 5000 + b"\x00").detail
    assert "deep" in raises(DecodeError, cbor.decode_item, b"\x81\x81\x00", 0, 1).detail
    assert "deep" in raises(DecodeError, cbor.item_end, b"\x80", 0, 0).detail
    loop = []
    loop.append(loop)
    assert "deep" in raises(LocalError, cbor.encode, loop).detail


def test_the_number_of_items_is_bounded():
    assert len(cbor.decode(cbor.encode([0] * (cbor.MAX_ITEMS - 1)))) == cbor.MAX_ITEMS - 1
    many = cbor.encode([0] * cbor.MAX_ITEMS)
    assert "too many" in raises(DecodeError, cbor.decode, many).detail
    nested = cbor.encode([[[]] * 64] * 16)
    assert "too many" in raises(DecodeError, cbor.decode, nested).detail


def test_what_the_subset_lacks_cannot_be_encoded():
    for value in (1.5, 1 << 64, -(1 << 64) - 1, object(), Tag(-1, 0), Tag(1 << 64, 0), {1, 2}):
        assert raises(LocalError, cbor.encode, value).name == "bad-argument"


def test_booleans_are_not_integers():
    assert cbor.encode([True, False, 1, 0]).hex() == "84f5f40100"
    value = cbor.decode(bytes.fromhex("84f5f40100"))
    assert same(value, [True, False, 1, 0])


def test_tuples_and_buffers_are_encoded_as_lists_and_bytes():
    assert cbor.encode((1, (2,))) == cbor.encode([1, [2]])
    assert cbor.encode(bytearray(b"ab")) == cbor.encode(b"ab")
    assert cbor.encode(memoryview(b"xaby")[1:3]) == cbor.encode(b"ab")


def test_tags_compare_by_number_and_value():
    assert Tag(1, [2]) == Tag(1, [2])
    assert Tag(1, 2) != Tag(2, 2)
    assert Tag(1, 2) != Tag(1, 3)
    assert Tag(1, 2) != 1
    assert repr(Tag(1, b"x")) == "Tag(1, b'x')"


def test_items_inside_other_bytes():
    data = b"\xff" + cbor.encode([1, "two"]) + b"\x03\xff"
    value, end = cbor.decode_item(data, 1)
    assert value == [1, "two"]
    assert cbor.item_end(data, 1) == end
    assert cbor.decode_item(data, end) == (3, end + 1)
    raises(DecodeError, cbor.decode_item, data, end + 1)
    raises(DecodeError, cbor.decode_item, data, len(data))


def test_sequences():
    assert cbor.decode_sequence(b"") == []
    assert cbor.decode_sequence(bytes.fromhex("0141ff8102")) == [1, b"\xff", [2]]
    assert cbor.decode_sequence(b"\x00" * 16) == [0] * 16
    assert "too many" in raises(DecodeError, cbor.decode_sequence, b"\x00" * 17).detail
    assert "too many" in raises(DecodeError, cbor.decode_sequence, b"\x00\x00", 1).detail
    raises(DecodeError, cbor.decode_sequence, bytes.fromhex("0141"))


def test_no_single_byte_change_gets_out_anything_but_a_decode_error():
    whole = cbor.encode({1: 5, 2: "pump-7", 13: [["h:1", 1, True]], 16: bytes(8), 21: None})
    for index in range(len(whole)):
        for byte in range(256):
            data = whole[:index] + bytes([byte]) + whole[index + 1 :]
            try:
                value = cbor.decode(data)
            except DecodeError:
                continue
            assert cbor.encode(value) == data
