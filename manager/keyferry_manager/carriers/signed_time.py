"""``GET /time/NONCE``: the time, signed for one device's nonce, over plain HTTP.

For boards whose clock was never set, which cannot check a certificate's dates and so cannot use
TLS yet. It tells nothing secret, and needs no secrecy: the device verifies the signature up to its
pinned root (core: signed_time.py). Everybody may ask, so signatures are bounded in number.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from keyferry_core import signed_time
from keyferry_core.p256 import PRIVATE_LENGTH
from keyferry_core.suite_cryptography import CryptographyCrypto
from keyferry_manager.authority import files

# Answers a second: about a twentieth of one core.
_PER_SECOND = 500
CONNECTIONS = 256
PER_ADDRESS = 64
_PATH = re.compile(rf"/time/([0-9a-f]{{{2 * signed_time.NONCE_LENGTH}}})")
_TYPE = b'application/cose; cose-type="cose-sign1"'


def _no_randomness(_length: int) -> bytes:
    raise AssertionError("signatures are deterministic")


class SignedTime:
    """The ASGI application. ``server_file`` has key, certificate and issuing CA; ``adopt`` reads
    it anew. AuthorityProblem when it cannot be read."""

    def __init__(
        self, server_file: Path, realm: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._server_file = server_file
        self._realm = realm
        self._clock = clock
        self._crypto = CryptographyCrypto(_no_randomness)
        self._second = -1
        self._answered = 0
        self.adopt()

    def adopt(self) -> None:
        """Sign with what stands in ``server_file`` now."""
        number = files.load_key(self._server_file).private_numbers().private_value
        self._private = number.to_bytes(PRIVATE_LENGTH, "big")
        chain = files.load_certificates(self._server_file)
        self._chain = [item.public_bytes(Encoding.DER) for item in chain[:2]]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        status, kind, body = self._answer(scope["method"], scope["path"])
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        if status == 429:
            headers.append((b"retry-after", b"2"))
        elif status == 405:
            headers.append((b"allow", b"GET"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, method: str, path: str) -> tuple[int, bytes, bytes]:
        text = b"text/plain; charset=utf-8"
        asked = _PATH.fullmatch(path)
        if asked is None:
            return 404, text, b"unknown-name: GET /time/ and a nonce, 32 hexadecimal digits\n"
        if method != "GET":
            return 405, text, b"unsupported: GET only\n"
        now = self._clock()
        if int(now) != self._second:
            self._second, self._answered = int(now), 0
        if self._answered >= _PER_SECOND:
            return 429, text, b"too-many: ask again later\n"
        self._answered += 1
        nonce = bytes.fromhex(asked[1])
        data = signed_time.answer(
            self._crypto, self._private, self._chain, self._realm, nonce, int(now)
        )
        return 200, _TYPE, data
