"""The keystore: a device's identity on flash, whole after a power cut at any write.

Two files, ``identity.0`` and ``identity.1``, each hold everything: magic (4 bytes), SHA-256 of
the rest (32), then a CBOR map. Generation N is written to file N % 2, so the file that holds the
current state is never open for writing, and the checksum tells a torn file from a whole one. No
atomic rename is needed, which FAT does not have.
"""

import os

from keyferry_core import cbor
from keyferry_core._compat import equal, sha256
from keyferry_core.errors import DecodeError, KeyferryError

_MAGIC = b"KFS1"
_HEAD = 36
_MAX_FILE = 6144

# keys of the map: (length of the bytes: smallest, largest)
_GENERATION, _PENDING, _NAME, _REALM, _PRIVATE, _CERTIFICATE, _ISSUER = range(1, 8)
_AGREEMENT, _ENDORSED = 8, 9
_BYTES = {
    # 32 bytes, or what a secure element hands out in place of a key
    _PENDING: (1, 128),
    _PRIVATE: (1, 128),
    _CERTIFICATE: (1, 2048),
    _ISSUER: (1, 2048),
    _AGREEMENT: (1, 128),
    _ENDORSED: (1, 280),
}
_IDENTITY = (_NAME, _REALM, _PRIVATE, _CERTIFICATE, _ISSUER)


class StoreError(KeyferryError):
    """The flash did not take what was written to it. What was there before is still whole."""

    def __init__(self, detail: str) -> None:
        super().__init__("internal", detail)


def _well_formed(state: object, slot: int) -> bool:
    if not isinstance(state, dict):
        return False
    generation = state.get(_GENERATION)
    if isinstance(generation, bool) or not isinstance(generation, int):
        return False
    if generation < 1 or generation % 2 != slot:
        return False
    for key in state:
        value = state[key]
        if key in _BYTES:
            low, high = _BYTES[key]
            if not isinstance(value, bytes) or not low <= len(value) <= high:
                return False
        elif key in (_NAME, _REALM):
            if not isinstance(value, str):
                return False
        elif key != _GENERATION:
            return False
    have = [key in state for key in _IDENTITY]
    if (_AGREEMENT in state) != (_ENDORSED in state) or (_AGREEMENT in state and not all(have)):
        return False
    return all(have) or not any(have)


def _parse(data: bytes, slot: int) -> dict | None:
    if data[:4] != _MAGIC or not equal(data[4:_HEAD], sha256(data[_HEAD:])):
        return None
    try:
        state = cbor.decode(data[_HEAD:])
    except DecodeError:
        return None
    return state if _well_formed(state, slot) else None


class Store:
    """The identity of one device.

    ``pending`` is the private key that an enrolment is under way for, or None. ``identity`` is
    None or (name, realm, private key, certificate, issuer), the last two DER. ``agreement`` is
    None or the key for the profile rpk: (private key, the public one endorsed by the identity's
    key); it goes when the identity's key does. ``damaged`` counts files that were there and not
    whole: 1 is what a power cut leaves, 2 is broken flash.
    """

    def __init__(self, folder: str = "/") -> None:
        self._folder = folder if folder.endswith("/") else folder + "/"
        self._state: dict = {_GENERATION: 0}
        self.damaged = 0
        for slot in (0, 1):
            data = self._read(slot)
            if data is None:
                continue
            state = _parse(data, slot)
            if state is None:
                self.damaged += 1
            elif state[_GENERATION] > self._state[_GENERATION]:
                self._state = state

    @property
    def generation(self) -> int:
        """How often the state was written, 0 for a device that was never started."""
        return self._state[_GENERATION]

    @property
    def pending(self) -> bytes | None:
        return self._state.get(_PENDING)

    @property
    def identity(self) -> tuple | None:
        if _PRIVATE not in self._state:
            return None
        return tuple([self._state[key] for key in _IDENTITY])

    @property
    def agreement(self) -> tuple | None:
        if _AGREEMENT not in self._state:
            return None
        return self._state[_AGREEMENT], self._state[_ENDORSED]

    def set_pending(self, private: bytes) -> None:
        """Keep the key of an enrolment before it starts, so that a retry uses the same one."""
        state = dict(self._state)
        state[_PENDING] = private
        self._commit(state)

    def set_identity(
        self, name: str, realm: str, private: bytes, certificate: bytes, issuer: bytes
    ) -> None:
        """Take over a new identity; the pending key and the old identity go.

        A key that is replaced is in neither file afterwards, and neither is an agreement key that
        it endorsed.
        """
        replaced = self._state.get(_PRIVATE, private) != private
        state = {
            _NAME: name,
            _REALM: realm,
            _PRIVATE: private,
            _CERTIFICATE: certificate,
            _ISSUER: issuer,
        }
        if not replaced and self.agreement is not None and self._state[_NAME] == name:
            state[_AGREEMENT], state[_ENDORSED] = self.agreement
        self._commit(state)
        if replaced:
            try:
                self._commit(dict(state))
            except StoreError:
                pass  # the new identity is whole; what it replaced goes with the next write

    def set_agreement(self, private: bytes, endorsed: bytes) -> None:
        """Keep the key for the profile rpk, beside the identity whose key endorsed it."""
        state = dict(self._state)
        state[_AGREEMENT] = private
        state[_ENDORSED] = endorsed
        self._commit(state)

    def _path(self, slot: int) -> str:
        return self._folder + "identity." + str(slot)

    def _read(self, slot: int) -> bytes | None:
        try:
            # a larger file is none of ours: its checksum will not fit
            size = min(os.stat(self._path(slot))[6], _MAX_FILE)
            with open(self._path(slot), "rb") as file:
                return file.read(size)
        except OSError:
            return None

    def _commit(self, state: dict) -> None:
        generation = self._state[_GENERATION] + 1
        state[_GENERATION] = generation
        slot = generation % 2
        if not _well_formed(state, slot):
            raise StoreError("store: not an identity")
        body = cbor.encode(state)
        data = _MAGIC + sha256(body) + body
        try:
            with open(self._path(slot), "wb") as file:
                file.write(data)
                file.flush()
                if hasattr(os, "fsync"):
                    os.fsync(file.fileno())
            if hasattr(os, "sync") and not hasattr(os, "fsync"):
                os.sync()
        except OSError as error:
            raise StoreError("store: writing failed: " + str(error)) from None
        if self._read(slot) != data:
            raise StoreError("store: the flash gave back something else")
        self._state = state
