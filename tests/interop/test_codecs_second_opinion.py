"""CBOR, UTF-8 and DER against other libraries' reading of the same bytes.

The core is the stricter one: what it accepts, the other library must read in the same way.
"""

from collections.abc import Mapping

import cbor2
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from keyferry_core import cbor, der, utf8
from keyferry_core.errors import DecodeError
from support.codec_strategies import DATES, mutated

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
