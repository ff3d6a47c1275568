"""One module a decoder, each with ``one_input(data: bytes)``, which asserts what must always hold.

``decode(data)`` is the bare call, whose memory is measured; a refusal is not an error there. The
modules run on CPython and MicroPython. What CPython alone can add, a second library's opinion on
the same bytes, they import from ``fuzz.second_opinion`` there. ``seeds()`` gives valid inputs to
start from, made of tests/vectors.
"""

NAMES = (
    "cbor",
    "text",
    "signalling",
    "cose",
    "der",
    "x509",
    "pkcs7",
    "rpk",
    "vouch",
    "http",
    "mqtt",
    "sip",
    "sip_device",
    "edhoc_messages",
    "edhoc",
    "records",
    "session",
)


def load(name: str):
    """The module of the target ``name``."""
    if name not in NAMES:
        raise ValueError("no such target: " + name)
    return __import__("fuzz.targets." + name, None, None, ("one_input",))
