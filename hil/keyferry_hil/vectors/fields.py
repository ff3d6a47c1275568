"""Reading a vector file's JSON: every value is checked, and a complaint says where it stands."""

import binascii
import re
from collections.abc import Iterator
from typing import Any

from keyferry_hil.vectors.model import VectorFileError

_MISSING = object()


class Node:
    """A JSON object at a place in a file."""

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise VectorFileError(f"{place or 'the file'}: expected an object")
        self.value: dict[str, Any] = value
        self.place = place

    def error(self, text: str) -> VectorFileError:
        return VectorFileError(f"{self.place}: {text}" if self.place else text)

    def has(self, key: str) -> bool:
        return self.value.get(key) is not None

    def _get(self, key: str, default: Any) -> Any:
        value = self.value.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise self.error(f"no {key!r}")
        return default

    def _where(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def node(self, key: str) -> "Node":
        """The object under ``key``."""
        return Node(self._get(key, _MISSING), self._where(key))

    def nodes(self, key: str) -> Iterator["Node"]:
        """The objects of the list under ``key``."""
        items = self._get(key, _MISSING)
        if not isinstance(items, list):
            raise self.error(f"{key!r} is not a list")
        for index, item in enumerate(items):
            yield Node(item, f"{self._where(key)}[{index}]")

    def children(self) -> Iterator[tuple[str, "Node"]]:
        """Every value, each of which must be an object, with its key."""
        for key in self.value:
            yield key, self.node(key)

    def text(self, key: str, default: Any = _MISSING) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(f"{key!r} is not a text")
        return value

    def number(self, key: str, default: Any = _MISSING) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{key!r} is not an integer")
        return value

    def hex(self, key: str, default: Any = _MISSING) -> bytes:
        """Bytes in hexadecimal digits."""
        value = self._get(key, default)
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not re.fullmatch("([0-9A-Fa-f]{2})*", value):
            raise self.error(f"{key!r} is not bytes in hexadecimal digits")
        return bytes.fromhex(value)

    def integer(self, key: str) -> int:
        """A non-negative integer in hexadecimal digits, of any number of them."""
        value = self.text(key)
        if not re.fullmatch("[0-9A-Fa-f]{1,1024}", value):
            raise self.error(f"{key!r} is not an integer in hexadecimal digits")
        return int(value, 16)

    def scalar(self, key: str) -> bytes:
        """An integer as a private key of P-256 has it, 32 bytes; longer when it is larger."""
        value = self.integer(key)
        return value.to_bytes(max(32, (value.bit_length() + 7) // 8), "big")

    def base64url(self, key: str) -> bytes:
        value = self.text(key)
        try:
            translated = value.replace("-", "+").replace("_", "/")
            return binascii.a2b_base64(translated + "=" * (-len(translated) % 4), strict_mode=True)
        except ValueError:
            raise self.error(f"{key!r} is not base64url") from None
