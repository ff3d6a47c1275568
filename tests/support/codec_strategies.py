"""What hypothesis makes, and data to change, for tests of codecs against other libraries."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import strategies as st

from keyferry_core.suite import Crypto
from keyferry_core.suite_cryptography import CryptographyCrypto

VECTORS = Path(__file__).parents[1] / "vectors"
DATA = json.loads((VECTORS / "certificates.json").read_text())
BACKENDS = {"python": Crypto(os.urandom), "cryptography": CryptographyCrypto(os.urandom)}
ALL = [bytes.fromhex(row["der"]) for row in DATA["certificates"].values()]


@st.composite
def mutated(draw, originals):
    """Bytes of ``originals`` with some changed, cut, put in or doubled."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.sampled_from(("change", "cut", "insert", "double", "flip")))
        if what == "change" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif what == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 8))]
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=6))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 16))]
    return bytes(data)


PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", fullmatch=True)
DATES = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31, 23, 59, 59)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
