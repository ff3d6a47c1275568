"""The keystore: a device's identity on flash, whole after a power cut at any write.

Two files, ``identity.0`` and ``identity.1``, each hold everything: magic (4 bytes), SHA-256 of
the rest (32), then a CBOR map. Generation N is written to file N % 2, so the file that holds the
current state is never open for writing, and the checksum tells a torn file from a whole one. No
atomic rename is needed, which FAT does not have.
"""

import os

from keyferry_core import cbor, der
from keyferry_core._compat import equal, sha256
from keyferry_core.errors import DecodeError, KeyferryError

_MAGIC = b"KFS1"
_HEAD = 36
_MAX_FILE = 10240

# keys of the map: (length of the bytes: smallest, largest)
_GENERATION, _PENDING, _NAME, _REALM, _PRIVATE, _CERTIFICATE, _ISSUER = range(1, 8)
_AGREEMENT, _ENDORSED, _HELD = 8, 9, 10
_BYTES = {
    # 32 bytes, or what a secure element hands out in place of a key
    _PENDING: (1, 128),
    _PRIVATE: (1, 128),
    _CERTIFICATE: (1, 2048),
    _ISSUER: (1, 2048),
    _AGREEMENT: (1, 128),
    _ENDORSED: (1, 280),
    _HELD: (65, 4096),
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
    body = data[_HEAD:]
    if data[:4] != _MAGIC or not equal(data[4:_HEAD], sha256(body)):
        return None
    try:
        state = cbor.decode(body)
    except DecodeError:
        return None
    return state if _well_formed(state, slot) else None


def pack_held(root: bytes, group: bytes, roots: list[bytes], issuers: list[bytes]) -> bytes:
    """What ``Store.held`` reads. ``root`` is the one in root.der; all certificates are DER."""
    value = sha256(root) + group
    if roots == [root] and len(issuers) < 2:  # no roll-over: what else there is says it all
        return value + b"\x00"
    return value + bytes((len(roots),)) + b"".join(roots + issuers)


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

    def held(self, root: bytes) -> tuple[bytes, list[bytes], list[bytes]]:
        """(anchors.group of the CA certificates that were fetched last, roots, issuing CAs).

        Without such a fetch, or after one under another ``root.der`` than ``root``: (b"", [root],
        []). The issuing CAs are those beside the identity's own while the realm's CA rolls over.
        """
        value = self._state.get(_HELD, b"")
        if value[:32] != sha256(root):
            return b"", [root], []
        roots, issuers = [], []
        reader = der.Reader(value[65:])
        while reader.more():
            (roots if len(roots) < value[64] else issuers).append(reader.raw(der.SEQUENCE))
        return value[32:64], roots or [root], issuers

    def set_held(self, held: bytes) -> None:
        """Keep what ``pack_held`` made."""
        state = dict(self._state)
        state[_HELD] = held
        self._commit(state)

    def set_pending(self, private: bytes) -> None:
        """Keep the key of an enrolment before it starts, so that a retry uses the same one."""
        state = dict(self._state)
        state[_PENDING] = private
        self._commit(state)

    def set_identity(
        self,
        name: str,
        realm: str,
        private: bytes,
        certificate: bytes,
        issuer: bytes,
        held: bytes = b"",
    ) -> None:
        """Take over a new identity; the pending key and the old identity go.

        ``held``: of ``pack_held``, when CA certificates were fetched with it.

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
        held = held or self._state.get(_HELD, b"")
        if held:
            state[_HELD] = held
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

    def _reads_back(self, slot: int, *parts: bytes) -> bool:
        """Whether a file holds these parts and no more; piece by piece, for the memory."""
        try:
            with open(self._path(slot), "rb") as file:
                for part in parts:
                    for start in range(0, len(part), 256):
                        piece = part[start : start + 256]
                        if file.read(len(piece)) != piece:
                            return False
                return not file.read(1)
        except OSError:
            return False

    def _commit(self, state: dict) -> None:
        generation = self._state[_GENERATION] + 1
        state[_GENERATION] = generation
        slot = generation % 2
        if not _well_formed(state, slot):
            raise StoreError("store: not an identity")
        body = cbor.encode(state)
        head = _MAGIC + sha256(body)
        try:
            with open(self._path(slot), "wb") as file:
                file.write(head)
                file.write(body)
                file.flush()
                if hasattr(os, "fsync"):
                    os.fsync(file.fileno())
            if hasattr(os, "sync") and not hasattr(os, "fsync"):
                os.sync()
        except OSError as error:
            raise StoreError("store: writing failed: " + str(error)) from None
        if not self._reads_back(slot, head, body):
            raise StoreError("store: the flash gave back something else")
        self._state = state
