"""Published test vectors, put to the core as it runs on a board; the answers are judged here."""

from pathlib import Path

from keyferry_firmware.flash.console import Console, clean

_SCRIPT = Path(__file__).parent.parent / "on_device" / "flash_self_test.py"
_SECONDS = 90

# RFC 6979, A.2.5
_X = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"
_PUBLIC = (
    "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
)
_SAMPLE = b"sample".hex()
_SIGNATURE = (
    "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
    "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
)
# RFC 5903, section 8.1
_I = "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433"
_GR = (
    "04d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63"
    "56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab"
)
_GIR = "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"
# RFC 3610, section 8, packet vector 1
_CCM = (10, "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf", "00000003020100a0a1a2a3a4a5", "0001020304050607")
_PLAIN = "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e"
_SEALED = "588c979a61c663d2f066d0c2c0f989806d5f6b61dac38417e8d12cfdf926e0"

# Name, operation, its arguments, what must come out.
VECTORS: tuple[tuple[str, str, tuple[str | int, ...], str], ...] = (
    ("RFC 6979 A.2.5 key", "public_key", (_X,), _PUBLIC),
    ("RFC 6979 A.2.5 sign", "sign", (_X, _SAMPLE), _SIGNATURE),
    ("RFC 6979 A.2.5 verify", "verify", (_PUBLIC, _SAMPLE, _SIGNATURE), "True"),
    ("RFC 6979 A.2.5 other message", "verify", (_PUBLIC, b"sampld".hex(), _SIGNATURE), "False"),
    ("RFC 5903 8.1", "ecdh", (_I, _GR), _GIR),
    ("RFC 5903 8.1 off the curve", "ecdh", (_I, _GR[:-1] + "a"), "refused"),
    ("RFC 3610 1 seal", "seal", (*_CCM, _PLAIN), _SEALED),
    ("RFC 3610 1 open", "open", (*_CCM, _SEALED), _PLAIN),
    ("RFC 3610 1 other tag", "open", (*_CCM, _SEALED[:-1] + "1"), "refused"),
    (
        "RFC 5869 A.1",
        "hkdf",
        ("000102030405060708090a0b0c", "0b" * 22, "f0f1f2f3f4f5f6f7f8f9", 42),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        "RFC 4231 2",
        "hmac",
        (b"Jefe".hex(), b"what do ya want for nothing?".hex()),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    ("RFC 8949 A", "cbor", ("8301820203820405",), "8301820203820405"),
    ("RFC 8949 A cut short", "cbor", ("83018202",), "refused"),
    ("the board's own keys", "round", (), "True"),
)


def run(console: Console) -> tuple[int, list[str]]:
    """How many vectors passed, and which failed, on a board at its raw prompt."""
    console.run(_SCRIPT.read_text(), _SECONDS)
    passed, failed = 0, []
    for name, operation, arguments, expected in VECTORS:
        given = ", ".join(repr(item) for item in (operation, *arguments))
        came = console.run(f"answer({given})", _SECONDS).strip()
        if came == expected:
            passed += 1
        else:
            failed.append(f"{name}: expected {expected}, came out {clean(came)}")
    return passed, failed
