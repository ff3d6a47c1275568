"""MESSAGEs to a device: what is the same in each from one sender is written once."""

import os
from typing import Any, Final

from keyferry_core import signalling as sig
from keyferry_core import sip_codec
from keyferry_manager.carriers.sip import dialect

# Of one device: senders whose heads are remembered, about 700 bytes each.
PER_LINK: Final = 16
# Stand for what is new in each message; as long as what takes their place.
_MARK = b"M" * 16
_BRANCH = b"z9hG4bK" + b"B" * 24


class Letters:
    """The MESSAGEs to one device."""

    def __init__(self, name: str, realm: str) -> None:
        self._name = name
        self._realm = realm
        self._via = b"SIP/2.0/TLS " + realm.encode() + b";branch=" + _BRANCH
        self._heads: dict[tuple[Any, ...], list[bytes]] = {}

    def write(self, message: dict[int, Any], contact: bytes) -> tuple[bytes, bytes]:
        """The branch and the bytes of the MESSAGE that a plain message of the relay becomes."""
        data: bytes = message[sig.DATA]
        kind = dialect.kind_of(data)
        first, second = message[sig.ROUTE]
        key = (message[sig.FROM], contact, kind, *first, *second)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= PER_LINK:
                self._heads.clear()
            head = self._heads[key] = self._head(message, contact)
        # one call for both: 12 bytes of branch, 8 of tag and Call-ID
        digits = os.urandom(20).hex().encode()
        branch, mark = b"z9hG4bK" + digits[:24], digits[24:]
        start, tagged, called, rest = head
        parts = [start, branch, tagged, mark, called, mark, rest, b"%d\r\n\r\n" % len(data), data]
        return branch, b"".join(parts)

    def _head(self, message: dict[int, Any], contact: bytes) -> list[bytes]:
        """What stands before branch, tag, the Call-ID's mark and the length."""
        request = dialect.message_to(message, self._name, self._realm, contact, _MARK)
        request.fields.insert(0, (b"via", b"Via", self._via))
        whole = sip_codec.encode(request)
        head = whole[: whole.index(b"\r\n\r\n")]
        head = head[: head.rindex(b" ") + 1]  # Content-Length is the last field
        start, _, rest = head.partition(_BRANCH)
        tagged, called, rest = rest.split(_MARK)
        return [start, tagged, called, rest]
