"""What the targets share. It runs on CPython and MicroPython."""

import hashlib

from keyferry_core._compat import sha256
from keyferry_core.errors import RemoteError


def attempt(call, *arguments) -> tuple:
    """``(True, result)``, or ``(False, error)`` when ``call`` refused what came from outside.

    Only RemoteError is a refusal. Whatever else is raised passes through, and is a finding.
    """
    try:
        return True, call(*arguments)
    except RemoteError as error:
        return False, error


def digest(value) -> str:
    """A hash of what was read, the same on both runtimes; all refusals are alike."""
    state = hashlib.sha256()
    _feed(state, value)
    return state.digest().hex()


def _feed(state, value) -> None:
    if isinstance(value, RemoteError):
        state.update(b"refused")
    elif isinstance(value, bool) or value is None or isinstance(value, int):
        state.update(str(value).encode() + b" ")
    elif isinstance(value, (bytes, str)):
        kind = b"b" if isinstance(value, bytes) else b"t"
        data = value if isinstance(value, bytes) else value.encode()
        state.update(kind + str(len(data)).encode() + b" ")
        state.update(data)
    elif isinstance(value, (list, tuple)):
        state.update(b"[" + str(len(value)).encode() + b" ")
        for item in value:
            _feed(state, item)
    elif isinstance(value, dict):
        state.update(b"{" + str(len(value)).encode() + b" ")
        # MicroPython keeps no order of insertion; keys of several types have none of their own
        for key in sorted(value, key=digest):
            _feed(state, key)
            _feed(state, value[key])
    else:
        _feed(state, value.__dict__)


class Source:
    """Choices out of an input, byte by byte. Zeros when it has come to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    def more(self) -> bool:
        return self._pos < len(self._data)

    def byte(self) -> int:
        if self._pos >= len(self._data):
            return 0
        self._pos += 1
        return self._data[self._pos - 1]

    def number(self) -> int:
        """Two bytes, the high one first."""
        high = self.byte()
        return high << 8 | self.byte()

    def take(self, length: int) -> bytes:
        """At most ``length`` bytes."""
        start = self._pos
        self._pos = min(start + length, len(self._data))
        return self._data[start : self._pos]

    def rest(self) -> bytes:
        return self.take(len(self._data))


def edit(base: bytes, source: Source, most: int = 8) -> bytes:
    """``base`` with up to ``most`` changes that ``source`` asks for; the first byte counts them."""
    for _ in range(source.byte() % (most + 1)):
        kind = source.byte() % 7
        pos = source.number() % (len(base) + 1)
        head = base[:pos]
        tail = base[pos:]
        if kind == 0:  # flip bits
            if tail:
                base = head + bytes((tail[0] ^ (source.byte() or 1),)) + tail[1:]
        elif kind == 1:  # set a byte
            base = head + bytes((source.byte(),)) + tail[1:]
        elif kind == 2:  # put bytes in
            base = head + source.take(source.byte() & 31) + tail
        elif kind == 3:  # leave bytes out
            base = head + tail[1 + (source.byte() & 31) :]
        elif kind == 4:  # cut short
            base = head
        elif kind == 5:  # say some bytes twice
            base = head + tail[: 1 + (source.byte() & 31)] + tail
        else:  # something else altogether
            base = source.take(source.number() & 2047)
    return base


def pieces(data: bytes, sizes: bytes) -> list:
    """``data`` cut into pieces whose sizes go round ``sizes``, each counted from one."""
    cut = []
    pos = 0
    turn = 0
    while pos < len(data):
        size = 1 + sizes[turn % len(sizes)]
        cut.append(data[pos : pos + size])
        pos += size
        turn += 1
    return cut


class Random:
    """Bytes that look random and are the same in every run: a finding can be repeated."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def __call__(self, length: int) -> bytes:
        out = b""
        while len(out) < length:
            out += sha256(self._seed, self._count.to_bytes(4, "big"))
            self._count += 1
        return out[:length]


def crypto(seed: bytes = b"fuzz"):
    """The runtime's usual backend, with repeatable randomness."""
    from keyferry_core._compat import CPYTHON

    if CPYTHON:
        from keyferry_core.suite_cryptography import CryptographyCrypto

        return CryptographyCrypto(Random(seed))
    from keyferry_core.suite import Crypto

    return Crypto(Random(seed))
