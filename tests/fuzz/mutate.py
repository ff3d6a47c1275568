"""Mutations that keep an input's outer structure whole, so that a change reaches the inner checks.

Bytes changed at random mostly break a length near the start. Here an input is taken apart, one
part is changed, left out, repeated or exchanged, and all lengths around it are written anew.
"""

import base64
import random
from collections.abc import Callable

Mutate = Callable[[bytes, int], bytes]
Structured = Callable[[Mutate, bytes, int, int], bytes]

_NUMBERS = (0, 1, 2, 23, 24, 32, 33, 34, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, 1 << 63)


def _hex(text: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(word) for word in text.split())


_CBOR_ITEMS = _hex(
    "00 20 40 60 80 a0 f4 f5 f6 f7 f90000 17 1817 1818 3818 a10100 c000 d81840 8100 5f 9f ff "
    "1b8000000000000000 3bffffffffffffffff 6161 62c3a9 63eda080 41ff 4100"
)
_DER_ITEMS = _hex(
    "0500 0101ff 010100 020100 020101 0202008f 0400 03020780 03020106 0603551d13 3000 3100 0c00 "
    "0c0161 130161 160161 86017a 170d3236303130313030303030305a 180f32303531303130313030303030305a "
    "a000 30030101ff"
)
_HTTP_LINES = (
    b"Content-Length: 4",
    b"Content-Length: 0",
    b"Content-Length: 999999999",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Connection: keep-alive, Close",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 200 OK",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 204 No Content",
    b"A:",
    b"",
    b"0",
    b"4",
    b"000000A ;a=b",
    b"MIIB",
)


class Broken(Exception):
    """The input cannot be taken apart."""


class Node:
    """An item with the bytes before its length, and what it holds: bytes or further nodes."""

    def __init__(self, kind: int, content: bytes, children: "list[Node] | None") -> None:
        self.kind = kind
        self.content = content
        self.children = children


# -- CBOR: kind is the major type; content the bytes or, for the other types, the argument


def _cbor_head(kind: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([kind << 5 | argument])
    for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if argument < 1 << 8 * size:
            return bytes([kind << 5 | code]) + argument.to_bytes(size, "big")
    raise Broken


def _read_cbor(data: bytes, pos: int, depth: int = 0) -> tuple[Node, int]:
    if pos >= len(data) or depth > 16:
        raise Broken
    kind, argument = data[pos] >> 5, data[pos] & 31
    pos += 1
    if argument > 27:
        raise Broken
    if argument > 23:
        size = 1 << argument - 24
        argument = int.from_bytes(data[pos : pos + size], "big")
        pos += size
    if kind in (2, 3):
        if pos + argument > len(data):
            raise Broken
        return Node(kind, data[pos : pos + argument], None), pos + argument
    if kind in (0, 1, 7):
        return Node(kind, argument.to_bytes(8, "big"), None), pos
    children = []
    for _ in range(1 if kind == 6 else argument * (2 if kind == 5 else 1)):
        child, pos = _read_cbor(data, pos, depth + 1)
        children.append(child)
    return Node(kind, argument.to_bytes(8, "big"), children), pos


def _parse_cbor(data: bytes) -> list[Node]:
    nodes, pos = [], 0
    while pos < len(data):
        node, pos = _read_cbor(data, pos)
        nodes.append(node)
    return nodes


def _write_cbor(node: Node) -> bytes:
    if node.kind < 0:
        return node.content
    if node.kind in (2, 3):
        return _cbor_head(node.kind, len(node.content)) + node.content
    if node.children is None or node.kind == 6:
        inner = b"".join(map(_write_cbor, node.children or []))
        return _cbor_head(node.kind, int.from_bytes(node.content[:8], "big")) + inner
    parts = [_write_cbor(child) for child in node.children]
    if node.kind == 4:
        return _cbor_head(4, len(parts)) + b"".join(parts)
    # maps are put in order again: out of order they are refused at once
    pairs = sorted(zip(parts[::2], parts[1::2], strict=False))
    return _cbor_head(5, len(pairs)) + b"".join(key + item for key, item in pairs)


# -- DER: kind is the tag


def _parse_der(data: bytes, depth: int = 0) -> list[Node]:
    nodes, pos = [], 0
    while pos < len(data):
        if pos + 2 > len(data) or depth > 16:
            raise Broken
        kind, length = data[pos], data[pos + 1]
        pos += 2
        if length > 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[pos : pos + size], "big")
            pos += size
        if length > len(data) - pos:
            raise Broken
        content = data[pos : pos + length]
        pos += length
        children = None
        if kind & 0x20 or kind == 4:
            try:
                children = _parse_der(content, depth + 1) or None
            except Broken:
                children = None
        nodes.append(Node(kind, content, children))
    return nodes


def _write_der(node: Node) -> bytes:
    if node.kind < 0:
        return node.content
    content = node.content
    if node.children is not None:
        content = b"".join(map(_write_der, node.children))
    length = len(content)
    if length < 0x80:
        return bytes([node.kind & 0xFF, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([node.kind & 0xFF, 0x80 | size]) + length.to_bytes(size, "big") + content


# -- trees


def _lists(nodes: list[Node]) -> list[list[Node]]:
    """Every list of siblings in a forest."""
    found = [nodes] if nodes else []
    for node in nodes:
        if node.children:
            found += _lists(node.children)
    return found


def _change(
    forest: list[Node], items: tuple[bytes, ...], mutate: Mutate, choose: random.Random
) -> None:
    lists = _lists(forest)
    if not lists:
        return
    # weighted by their length: each node is as likely as any other
    siblings = choose.choices(lists, [len(each) for each in lists])[0]
    index = choose.randrange(len(siblings))
    node = siblings[index]
    kind = choose.randrange(8)
    if kind == 0:
        del siblings[index]
    elif kind == 1:
        siblings.insert(index, node)
    elif kind == 2:
        siblings.insert(choose.randrange(len(siblings) + 1), Node(-1, choose.choice(items), None))
    elif kind == 3:
        siblings[index] = Node(-1, choose.choice(items), None)
    elif kind == 4:
        others = choose.choice(lists)
        siblings[index] = choose.choice(others)
    elif kind == 5:
        other = choose.randrange(len(siblings))
        siblings[index], siblings[other] = siblings[other], siblings[index]
    elif kind == 6 and node.children is None and node.kind in (0, 1, 6):
        node.content = choose.choice(_NUMBERS).to_bytes(8, "big")
    else:
        node.content = mutate(node.content, len(node.content) + 16)
        node.children = None


def _tree(
    parse: Callable[[bytes], list[Node]],
    write: Callable[[Node], bytes],
    items: tuple[bytes, ...],
    prefix: int = 0,
) -> Structured:
    def structured(mutate: Mutate, data: bytes, max_size: int, seed: int) -> bytes:
        choose = random.Random(seed)
        if choose.randrange(2):
            try:
                forest = parse(data[prefix:])
                for _ in range(choose.randrange(1, 4)):
                    _change(forest, items, mutate, choose)
                return (data[:prefix] + b"".join(map(write, forest)))[:max_size]
            except (Broken, RecursionError):
                pass
        return mutate(data, max_size)

    return structured


def _base64_of_der(mutate: Mutate, data: bytes, max_size: int, seed: int) -> bytes:
    """pkcs7: an odd first byte is followed by base64."""
    inner = _tree(_parse_der, _write_der, _DER_ITEMS, 1)
    if data[:1] and data[0] & 1 and seed & 4:
        try:
            decoded = base64.b64decode(data[1:])
        except ValueError:
            return mutate(data, max_size)
        return (data[:1] + base64.b64encode(inner(mutate, b"\x00" + decoded, max_size, seed)[1:]))[
            :max_size
        ]
    return inner(mutate, data, max_size, seed)


def _mqtt(mutate: Mutate, data: bytes, max_size: int, seed: int) -> bytes:
    """Three bytes of choices, then packets: one is changed, and its length is made to fit."""
    choose = random.Random(seed)
    if choose.randrange(2) == 0:
        return mutate(data, max_size)
    packets, pos = [], 3
    while pos + 2 <= len(data):
        length, shift, body = 0, 0, pos + 1
        while body < len(data):
            length |= (data[body] & 0x7F) << shift
            shift += 7
            body += 1
            if data[body - 1] < 0x80 or shift > 21:
                break
        packets.append((data[pos], data[body : body + length]))
        pos = body + length
    if not packets:
        return mutate(data, max_size)
    index = choose.randrange(len(packets))
    first, body = packets[index]
    kind = choose.randrange(5)
    if kind == 0:
        packets.insert(choose.randrange(len(packets) + 1), packets[index])
    elif kind == 1:
        packets[index] = (first ^ 1 << choose.randrange(8), body)
    elif kind == 2 and len(packets) > 1:
        del packets[index]
    else:
        packets[index] = (first, mutate(body, len(body) + 32))
    out = bytearray(data[:3])
    for first, body in packets:
        out.append(first)
        length = len(body)
        while length > 0x7F:
            out.append(length & 0x7F | 0x80)
            length >>= 7
        out.append(length)
        out += body
    return bytes(out[:max_size])


def _http(mutate: Mutate, data: bytes, max_size: int, seed: int) -> bytes:
    """Three bytes of choices, then lines: one is left out, repeated, exchanged or changed."""
    choose = random.Random(seed)
    if choose.randrange(2) == 0:
        return mutate(data, max_size)
    lines = data[3:].split(b"\r\n")
    index = choose.randrange(len(lines))
    kind = choose.randrange(5)
    if kind == 0:
        del lines[index]
    elif kind == 1:
        lines.insert(index, lines[index])
    elif kind == 2:
        lines.insert(index, choose.choice(_HTTP_LINES))
    elif kind == 3:
        lines[index] = choose.choice(_HTTP_LINES)
    else:
        lines[index] = mutate(lines[index], len(lines[index]) + 16)
    return (data[:3] + b"\r\n".join(lines))[:max_size]


_CBOR = _tree(_parse_cbor, _write_cbor, _CBOR_ITEMS)
_STRUCTURED: dict[str, Structured] = {
    "cbor": _CBOR,
    "signalling": _CBOR,
    "rpk": _tree(_parse_cbor, _write_cbor, _CBOR_ITEMS, 1),
    "cose": _tree(_parse_cbor, _write_cbor, _CBOR_ITEMS, 1),
    "edhoc_messages": _tree(_parse_cbor, _write_cbor, _CBOR_ITEMS, 1),
    "der": _tree(_parse_der, _write_der, _DER_ITEMS, 1),
    "x509": _tree(_parse_der, _write_der, _DER_ITEMS),
    "pkcs7": _base64_of_der,
    "mqtt": _mqtt,
    "http": _http,
    "sip": _http,
    "sip_device": _http,
}


def mutator(name: str) -> Structured | None:
    """The mutation that knows the inputs of a target, None when bytes are as good as any."""
    return _STRUCTURED.get(name)
