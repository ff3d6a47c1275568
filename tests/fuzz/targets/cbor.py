"""CBOR: what is accepted has one encoding, and cbor2 agrees on what is in the subset."""

from fuzz.kit import attempt
from keyferry_core import cbor
from keyferry_core._compat import CPYTHON

second_opinion = None
if CPYTHON:
    from fuzz import second_opinion


def _items(value) -> int:
    """Items in a decoded value, itself included."""
    if isinstance(value, cbor.Tag):
        return 1 + _items(value.value)
    if isinstance(value, list):
        return 1 + sum([_items(item) for item in value])
    if isinstance(value, dict):
        return 1 + sum([_items(key) + _items(value[key]) for key in value])
    return 1


def decode(data: bytes) -> tuple:
    return attempt(cbor.decode_sequence, data)


def one_input(data: bytes) -> None:
    good, value = attempt(cbor.decode, data)
    whole, end = attempt(cbor.item_end, data, 0)
    if good:
        assert whole
        assert end == len(data)
        assert cbor.encode(value) == data
        assert _items(value) <= cbor.MAX_ITEMS
    elif whole:
        assert end < len(data)
        assert cbor.encode(cbor.decode(data[:end])) == data[:end]
    if second_opinion:
        second_opinion.cbor(data, good, value)
    value = None  # for a board's heap: one at a time
    # the same item further on in a buffer
    moved, found = attempt(cbor.decode_item, b"\xff\xff" + data, 2)
    assert moved == whole
    if moved:
        assert found[1] == end + 2
    found = None
    listed, values = attempt(cbor.decode_sequence, data)
    if listed:
        assert len(values) <= 16
        assert b"".join([cbor.encode(each) for each in values]) == data
    assert not good or listed


def seeds() -> list:
    from support.portable import vectors

    found = [bytes.fromhex(case["hex"]) for case in vectors("cbor_appendix_a")["tests"]]
    found += [b"\x81" * 8 + b"\x00", b"\x81" * 9 + b"\x00", b"\x99\x01\xff" + b"\x80" * 511]
    found += [b"\x9a\xff\xff\xff\xff", b"\x5b" + b"\xff" * 8, b"\xbb" + b"\x7f" * 8]
    return found
