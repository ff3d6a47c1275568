"""What an input may cost: memory and time, per target. CPython only."""

import time
import tracemalloc
from collections.abc import Callable

# Bytes that decoding one input may take at its peak: a fixed part, for what there is of any length
# (an exception and its text, tables on first use), and a multiple of the input's length.
FIXED = 24576
MULTIPLE = 32
# An empty list in CBOR is one byte on the wire, 56 in memory and 8 in the list that holds it. A
# message of signalling is decoded whole before the manager's tables look at it. Where a handshake
# is the input, keys and messages of both sides are counted.
EXCEPTIONS = {
    "cbor": (24576, 96),
    "signalling": (49152, 32),
    "edhoc": (131072, 64),
    "records": (131072, 64),
    "session": (131072, 64),
}
# Seconds of one run, on a slow machine under load: none takes a tenth of it.
SECONDS = 5.0


def decode_within(
    name: str, decode: Callable[[bytes], object], data: bytes, allowance: int = 0
) -> int:
    """Decode one input and hold that to the bounds. Its peak of memory in bytes.

    ``allowance``: bytes for what the fuzzer itself notes down while the code runs.
    """
    fixed, multiple = EXCEPTIONS.get(name, (FIXED, MULTIPLE))
    tracemalloc.start()
    started = time.monotonic()
    try:
        before, _ = tracemalloc.get_traced_memory()
        decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    spent = time.monotonic() - started
    peak -= before
    assert peak <= fixed + multiple * len(data) + allowance, f"{name}: {peak} bytes for {len(data)}"
    assert spent <= SECONDS, f"{name}: {spent:.1f} s for {len(data)} bytes"
    return peak
