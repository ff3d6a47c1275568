"""State on flash that is whole after a power cut at any write: two files, written in turn.

``NAME.0`` and ``NAME.1`` each hold everything: magic (4 bytes), SHA-256 of the rest (32), then a
CBOR map with the generation under key 1. Generation N is written to file N % 2, so the file that
holds the current state is never open for writing, and the checksum tells a torn file from a whole
one. No atomic rename is needed, which FAT does not have.
"""

import os

from keyferry_core import cbor
from keyferry_core._compat import CPYTHON, equal, sha256
from keyferry_core.errors import DecodeError, KeyferryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

_MAGIC = b"KFS1"
_HEAD = 36
_MAX_FILE = 10240
GENERATION = 1
# errno of what a flash says when it will not write, and what a person is told
_WHY = {28: "the flash is full", 30: "the flash is read-only", 5: "the flash does not answer"}


if CPYTHON:

    def create(path: str) -> "BinaryIO":
        """Open a file to be written anew, which its owner alone can read. OSError."""
        file = open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))
        os.fchmod(file.fileno(), 0o600)  # it may have been there
        return file

else:

    def create(path: str) -> "BinaryIO":
        """Open a file to be written anew. OSError."""
        return open(path, "wb")


class StoreError(KeyferryError):
    """The flash did not take what was written to it. What was there before is still whole."""

    def __init__(self, detail: str) -> None:
        super().__init__("storage-failed", detail)


def _failed(what: str, error: OSError) -> StoreError:
    why = _WHY.get(error.args[0] if error.args else 0, what)
    return StoreError("store: " + why + ": " + str(error))


def _pieces(state: dict) -> list:
    """``cbor.encode(state)`` in pieces: a heap in long use has no 4 KB in a row."""
    pieces = []
    small = bytearray((0xA0 | len(state),))  # 23 entries at most, and keys from 0 to 23
    for key in sorted(state):
        value = state[key]
        small.append(key)
        if isinstance(value, bytes):
            small.extend(cbor.bytes_head(len(value)))
            pieces.append(small)
            pieces.append(value)
            small = bytearray()
        else:
            small.extend(cbor.encode(value))
    pieces.append(small)
    return pieces


class Slots:
    """The state under ``path``. ``damaged`` counts files that were there and not whole: 1 is what
    a power cut leaves, 2 is broken flash.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._state: dict = {GENERATION: 0}
        self.damaged = 0
        for slot in (0, 1):
            read = self._read(slot)
            if read is None:
                continue
            state = self._parse(*read, slot)
            if state is None:
                self.damaged += 1
            elif state[GENERATION] > self._state[GENERATION]:
                self._state = state

    @property
    def generation(self) -> int:
        """How often the state was written, 0 where it never was."""
        return self._state[GENERATION]

    def well_formed(self, state: dict) -> bool:
        """Whether ``state``, without its generation, is one of this kind."""
        raise NotImplementedError

    def commit(self, state: dict) -> None:
        """Write ``state``. StoreError: then the flash still has what it had."""
        generation = self._state[GENERATION] + 1
        state[GENERATION] = generation
        slot = generation % 2
        if not self._checked(state, slot):
            raise StoreError("store: not what belongs there")
        body = _pieces(state)
        head = _MAGIC + sha256(*body)
        try:
            with create(self._file(slot)) as file:
                file.write(head)
                for piece in body:
                    file.write(piece)
                file.flush()
                if hasattr(os, "fsync"):
                    os.fsync(file.fileno())
            if hasattr(os, "sync") and not hasattr(os, "fsync"):
                os.sync()
        except OSError as error:
            raise _failed("writing failed", error) from None
        if not self._reads_back(slot, head, *body):
            raise StoreError("store: the flash gave back something else")
        self._state = state

    def erase(self) -> None:
        """Write over both files as far as there is room for it, then remove them. StoreError."""
        try:
            for slot in (0, 1):
                try:
                    size = os.stat(self._file(slot))[6]
                except OSError:
                    continue  # there is none
                try:
                    with open(self._file(slot), "wb") as file:
                        file.write(bytes(min(size, _MAX_FILE)))
                except OSError:
                    pass  # a full flash; one that is read-only does not let us remove it either
                os.remove(self._file(slot))
            if hasattr(os, "sync"):
                os.sync()
        except OSError as error:
            raise _failed("erasing failed", error) from None
        self._state = {GENERATION: 0}

    def _file(self, slot: int) -> str:
        return self._path + "." + str(slot)

    def _read(self, slot: int) -> tuple[bytes, bytes] | None:
        try:
            # a larger file is none of ours: its checksum will not fit
            size = min(os.stat(self._file(slot))[6], _MAX_FILE)
            with open(self._file(slot), "rb") as file:
                return file.read(_HEAD), file.read(max(size - _HEAD, 0))
        except OSError:
            return None

    def _reads_back(self, slot: int, *parts: bytes) -> bool:
        """Whether a file holds these parts and no more; piece by piece, for the memory."""
        try:
            with open(self._file(slot), "rb") as file:
                for part in parts:
                    for start in range(0, len(part), 256):
                        piece = part[start : start + 256]
                        if file.read(len(piece)) != piece:
                            return False
                return not file.read(1)
        except OSError:
            return False

    def _checked(self, state: object, slot: int) -> bool:
        if not isinstance(state, dict):
            return False
        generation = state.get(GENERATION)
        if isinstance(generation, bool) or not isinstance(generation, int):
            return False
        if generation < 1 or generation % 2 != slot:
            return False
        return self.well_formed(state)

    def _parse(self, head: bytes, body: bytes, slot: int) -> dict | None:
        if head[:4] != _MAGIC or not equal(head[4:], sha256(body)):
            return None
        try:
            state = cbor.decode(body)
        except DecodeError:
            return None
        return state if self._checked(state, slot) else None
