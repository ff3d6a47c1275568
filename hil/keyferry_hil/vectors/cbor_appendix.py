"""CBOR's examples of RFC 8949, appendix A, as the cbor/test-vectors project writes them.

The core speaks a strict subset. Of the rest each example has one right answer: a refusal.
"""

import base64
import json
import re
from typing import Any

from keyferry_hil.vectors.fields import Node
from keyferry_hil.vectors.model import (
    RIGHT,
    Answer,
    Check,
    Judge,
    Question,
    VectorFile,
    Verdict,
    failed,
    refused,
)

# As deep as the core reads: arrays, maps and tags inside one another.
_DEPTH = 8


def knows(document: Node) -> bool:
    tests = document.value.get("tests")
    first = tests[0] if isinstance(tests, list) and tests else None
    return isinstance(first, dict) and "hex" in first and "roundtrip" in first


def parse(document: Node, name: str) -> VectorFile:
    found = VectorFile(name, "CBOR (RFC 8949, appendix A)")
    for number, test in enumerate(document.nodes("tests"), 1):
        data = test.hex("hex")
        if test.has("cbor"):
            try:
                same = base64.b64decode(test.text("cbor"), validate=True) == data
            except ValueError:
                same = False
            if not same:
                raise test.error("'cbor' and 'hex' are different bytes")
        roundtrip = test.value.get("roundtrip")
        if not isinstance(roundtrip, bool):
            raise test.error("'roundtrip' is neither true nor false")
        if "decoded" not in test.value and not test.has("diagnostic"):
            raise test.error("neither 'decoded' nor 'diagnostic'")
        reason = _outside(data) if roundtrip else "not the one deterministic encoding"
        judge = refused(f"refused: {reason}") if reason else _value(data, test)
        check = Check(f"test {number}, {data.hex()[:40]}", judge)
        found.questions.append(Question("CBOR", "cbor", [data], [check]))
    return found


class _Outside(Exception):
    """Why a well-formed item is outside of the core's subset."""


def _outside(data: bytes) -> str:
    """The first reason why the core must refuse these bytes, or nothing."""
    try:
        if _walk(data, 0, _DEPTH) != len(data):
            return "more than one item"
    except _Outside as outside:
        return str(outside)
    except (IndexError, UnicodeDecodeError):
        return "not well-formed"
    return ""


def _walk(data: bytes, start: int, depth: int) -> int:
    """The end of the item at ``start``; a second reading of RFC 8949, apart from the core's."""
    major, info = data[start] >> 5, data[start] & 31
    if major == 7:
        if info not in (20, 21, 22):
            float_ = 25 <= info <= 27
            raise _Outside("a float" if float_ else "a simple value that the subset does not have")
        return start + 1
    if info > 27:
        raise _Outside("an indefinite length")
    size = 1 << info - 24 if info >= 24 else 0
    argument = int.from_bytes(data[start + 1 : start + 1 + size], "big") if size else info
    if size and argument < (24 if size == 1 else 1 << 4 * size):
        raise _Outside("a head longer than needed")
    end = start + 1 + size
    if major in (2, 3):
        if end + argument > len(data):
            raise IndexError
        if major == 3:
            data[end : end + argument].decode()
        return end + argument
    if major >= 4:
        if not depth:
            raise _Outside("nested too deeply")
        if argument > len(data) and major != 6:
            raise IndexError
        last = b""
        for _ in range(1 if major == 6 else argument):
            if major == 5:
                key_end = _walk(data, end, depth - 1)
                key = data[end:key_end]
                if key[0] >> 5 > 3:
                    raise _Outside("a key that is neither integer, bytes nor text")
                if key <= last:
                    raise _Outside("keys out of order or repeated")
                last, end = key, key_end
            end = _walk(data, end, depth - 1)
    return end


def _value(data: bytes, test: Node) -> Judge:
    if "decoded" in test.value:
        expected = _diagnostic(test.value["decoded"], test)
    else:
        expected = test.text("diagnostic")

    def judge(answer: Answer) -> Verdict:
        if answer.crash or answer.refusal:
            return failed(expected, answer)
        encoded, text = answer.value
        if encoded != data:
            return failed(data, encoded)
        return RIGHT if _folded(text) == _folded(expected) else failed(expected, text)

    return judge


def _folded(text: str) -> str:
    """Diagnostic notation without the spaces that it leaves free."""
    return re.sub(r"(?<=[,:]) ", "", text)


def _diagnostic(value: Any, test: Node) -> str:
    """A JSON value as the core's own diagnostic notation writes it."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(_diagnostic(item, test) for item in value) + "]"
    if isinstance(value, dict):
        # The keys of JSON are texts, and shorter encodings come first.
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        pairs = (f"{_diagnostic(key, test)}: {_diagnostic(value[key], test)}" for key in keys)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if not isinstance(value, int):
        raise test.error(f"'decoded' is {value!r}, which the bytes are not")
    if -(1 << 64) <= value < 1 << 64:
        return str(value)
    # A bignum (section 3.4.3): tag 2 or 3 and the bytes.
    tag, number = (2, value) if value >= 0 else (3, -1 - value)
    return f"{tag}(h'{number.to_bytes((number.bit_length() + 7) // 8, 'big').hex()}')"
