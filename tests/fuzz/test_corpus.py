"""Every committed input, and what each costs at most; on MicroPython too in test_micropython.py.

``tests/fuzz/run.py`` finds the inputs; here they guard what it has once reached.
"""

from pathlib import Path

import pytest

from fuzz import bounds, inputs, targets

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("name", targets.NAMES)
def test_committed_inputs(name: str) -> None:
    target = targets.load(name)
    known = list(inputs.read_all(name))
    assert len(known) >= 10
    for data in known:
        target.one_input(data)


@pytest.mark.parametrize("name", targets.NAMES)
def test_seeds(name: str) -> None:
    target = targets.load(name)
    for data in target.seeds():
        target.one_input(data)


@pytest.mark.parametrize("name", targets.NAMES)
def test_memory_and_time(name: str) -> None:
    """Sampled: measuring memory makes a run some ten times slower."""
    target = targets.load(name)
    known = sorted(inputs.read_all(name), key=len, reverse=True)
    for data in known[:10] + known[10 :: 1 + len(known) // 30]:
        bounds.decode_within(name, target.decode, data)


# What the fuzzer's 4096 bytes are too short for: the most of everything, and a little more.
LARGE = {
    "cbor": (
        (b"\x99\x01\xff" + b"\x80" * 511) * 16,
        (b"\xb8\xff" + b"".join(b"\x19\x01" + bytes([n, 0x80]) for n in range(255))) * 16,
        b"\x5a\x00\x10\x00\x00" + bytes(1 << 20),
        b"\x7a\x00\x01\x00\x00" + "é".encode() * 32768,
        b"\x81" * 100_000,
        b"\xc1" * 100_000,
        b"\x9b\x00\x00\x00\x01\x00\x00\x00\x00" + b"\x80" * 65536,
    ),
    "text": (b"a." * 32768, b"\xf4\x8f\xbf\xbf" * 16384),
    "signalling": (
        bytes.fromhex("a501080261610361620550") + bytes(16) + b"\x0b\x59\x20\x00" + bytes(8192),
        b"\xb8\xff" + b"\x80" * 16380,
        b"\xa1\x01" + b"\x83" * 4000 + b"\x00" * 8001,
    ),
    "der": tuple(bytes([kind]) + b"\x30\x80" * 32768 for kind in range(8)),
    "x509": (b"\x30\x82\x07\xfc" + b"\x31\x00" * 1022, b"\x30" * 65536),
    "pkcs7": (b"\x01" + b" " * 12288, b"\x01" + b"A" * 12288, b"\x01" + b"=" * 65536),
    "vouch": (
        b"\x00\x88" + (b"\x58\x9c" + b"\x84" * 156) * 8,
        b"\x01" + bytes(65536),
        b"\x00" + b"\x81" * 1280,
    ),
    "rpk": (b"\x00" + b"\x84" * 280, b"\x00" + bytes(65536)),
    "cose": (
        b"\x00\x84\x41\xa0\xa0\x5a\x00\x01\x00\x00" + bytes(65536) + b"\x40",
        b"\x01\x83\x43\xa1\x01\x0a\xa1\x05\x4d"
        + bytes(13)
        + b"\x5a\x00\x02\x00\x00"
        + bytes(131072),
    ),
    "http": (
        b"\x03\x00\x00HTTP/1.1 200 OK\r\n\r\n" + bytes(16384),
        b"\x03\x00\x00HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n" + bytes(16384),
        b"\x03\x00\x00HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 8192,
        b"\x03\x00\x00HTTP/1.1 200 OK\r\n" + b"A:\r\n" * 8192,
        b"\x03\x00\x00" + b"H" * 65536,
    ),
    "sip": (
        b"\x00\x00\x00" + b"\r\n" * 8192,
        b"\x00\x00\x00A sip:a SIP/2.0\r\n" + b"A:\r\n" * 127 + b"l: 16384\r\n\r\n" + bytes(16384),
        b"\x00\x00\x00A sip:a SIP/2.0\r\nA: b\r\n" + b" c\r\n" * 4000,
        b"\x00\x00\x00A sip:a SIP/2.0\r\nVia: " + b"," * 15000 + b"\r\nl: 0\r\n\r\n",
        b"\x00\x00\x00A sip:a SIP/2.0\r\nTo: <sip:a>" + b";a" * 8000 + b"\r\nl: 0\r\n\r\n",
        b"\x00\x00\x00" + b"S" * 65536,
    ),
    "mqtt": (
        b"\x03\x00\x00" + b"\xc0\x00" * 16384,
        b"\x03\x00\x00\x30\xf0\x80\x01\x00\x01a" + bytes(16365),
        b"\x03\x00\x00\x82\xf6\x80\x01\x00\x01" + b"\x00\x01#\x00" * 4093,
        b"\x03\x00\x00\x30\xff\xff\xff\x7f" + bytes(4096),
    ),
    "edhoc_messages": (
        b"\x01" + b"\x01" * 65536,
        b"\x00\x00\x98\xff" + bytes(65536),
        b"\x05\x5a\x00\x01\x00\x00" + bytes(65536),
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_inputs(name: str) -> None:
    target = targets.load(name)
    for data in LARGE[name]:
        target.one_input(data)
        bounds.decode_within(name, target.decode, data)


def test_corpus_is_small_and_in_order() -> None:
    """Below a megabyte in all, without repetition: it is what a merge by coverage left."""
    sizes = 0
    for folder in inputs.FOLDERS:
        for path in sorted((HERE / folder).glob("*.txt")):
            assert path.stem in targets.NAMES
            sizes += path.stat().st_size
            known = list(inputs.read(folder, path.stem))
            assert len(known) == len(set(known))
    assert sizes < 1_000_000
