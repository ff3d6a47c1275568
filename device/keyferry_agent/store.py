"""The keystore: a device's identity on flash, whole after a power cut at any write (slots.py).

A new key replaces the old one only when it has been proved: until a link stands on it, the old
key and its certificate are kept beside it, and ``fall_back`` returns to them.
"""

from keyferry_agent.slots import GENERATION, Slots, StoreError
from keyferry_core import der
from keyferry_core._compat import sha256

__all__ = ["Store", "StoreError", "pack_held"]

# keys of the map: (length of the bytes: smallest, largest)
_PENDING, _NAME, _REALM, _PRIVATE, _CERTIFICATE, _ISSUER, _AGREEMENT, _ENDORSED = range(2, 10)
_HELD, _OLD_PRIVATE, _OLD_CERTIFICATE, _OLD_ISSUER, _CHAIN, _ROOM = range(10, 16)
# Bytes that the first identity and its agreement key take at most, where no CA rolls over.
ROOM = 2048
_BYTES = {
    # 32 bytes, or what a secure element hands out in place of a key
    _PENDING: (1, 128),
    _PRIVATE: (1, 128),
    _CERTIFICATE: (1, 2048),
    _ISSUER: (1, 2048),
    _AGREEMENT: (1, 128),
    _ENDORSED: (1, 280),
    _HELD: (65, 4096),
    _OLD_PRIVATE: (1, 128),
    _OLD_CERTIFICATE: (1, 2048),
    _OLD_ISSUER: (1, 2048),
    _CHAIN: (1, 1280),
    _ROOM: (ROOM, ROOM),
}
_IDENTITY = (_NAME, _REALM, _PRIVATE, _CERTIFICATE, _ISSUER)
_FILE = "identity"
_CURRENT = (_PRIVATE, _CERTIFICATE, _ISSUER)
_OLD = (_OLD_PRIVATE, _OLD_CERTIFICATE, _OLD_ISSUER)


def pack_held(root: bytes, group: bytes, roots: list[bytes], issuers: list[bytes]) -> bytes:
    """What ``Store.held`` reads. ``root`` is the one in root.der; all certificates are DER."""
    if roots == [root] and len(issuers) < 2:  # no roll-over: what else there is says it all
        return sha256(root) + group + b"\x00"
    # some 2 KB, in one piece and only once
    return b"".join([sha256(root), group, bytes((len(roots),))] + roots + issuers)


class Store(Slots):
    """The identity of one device.

    ``pending`` is the private key that an enrolment is under way for, or None. ``identity`` is
    None or (name, realm, private key, certificate, issuer), the last two DER. ``agreement`` is
    None or the key for the profile rpk: (private key, the public one endorsed by the identity's
    key); it goes when the identity's key does. ``unproved``: an older key is kept until ``prove``.
    ``chain``: the keys before signed for the identity's (keyferry_core.pinned), or b"".
    """

    def __init__(self, folder: str = "/") -> None:
        self.roomy = False  # make_room was done
        super().__init__((folder if folder.endswith("/") else folder + "/") + _FILE)

    def well_formed(self, state: dict) -> bool:
        for key in state:
            value = state[key]
            if key in _BYTES:
                low, high = _BYTES[key]
                if not isinstance(value, bytes) or not low <= len(value) <= high:
                    return False
            elif key in (_NAME, _REALM):
                if not isinstance(value, str):
                    return False
            elif key != GENERATION:
                return False
        have = [key in state for key in _IDENTITY]
        old = [key in state for key in _OLD]
        whole = all(have)
        if (_AGREEMENT in state) != (_ENDORSED in state) or (_AGREEMENT in state and not whole):
            return False
        if (any(old) and not all(old)) or ((any(old) or _CHAIN in state) and not whole):
            return False
        return whole or not any(have)

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

    @property
    def unproved(self) -> bool:
        return _OLD_PRIVATE in self._state

    @property
    def chain(self) -> bytes:
        return self._state.get(_CHAIN, b"")

    @property
    def proved(self) -> tuple[bytes, bytes, bytes]:
        """(private key, certificate, chain) that the last link stood on, of a whole identity."""
        private, certificate, _ = _OLD if self.unproved else _CURRENT
        return self._state[private], self._state[certificate], self._chain_before()

    def _chain_before(self) -> bytes:
        """The chain of the key that is proved."""
        if not self.unproved:
            return self.chain
        from keyferry_core import pinned

        return pinned.without_last(self.chain)

    def erase(self) -> None:
        """Write over all that this device made and learned, then remove it. StoreError."""
        from keyferry_agent.pins import Pins

        Pins(self._path[: -len(_FILE)]).erase()  # first: a reset that was cut off is done again
        super().erase()

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
        self.commit(state)

    def set_pending(self, private: bytes) -> None:
        """Keep the key of an enrolment before it starts, so that a retry uses the same one."""
        state = dict(self._state)
        state[_PENDING] = private
        self.commit(state)

    def make_room(self) -> None:
        """Find out before a certificate is asked for whether it can be kept. StoreError.

        Both files are written in the size of an identity, and the first once more: a file system
        that writes a file anew before it gives the old one's blocks back needs a third of the kind.
        Small files alone say nothing, since LittleFS keeps those beside their names.
        """
        for _ in range(3):
            state = dict(self._state)
            state[_ROOM] = bytes(ROOM)
            self.commit(state)

    def set_identity(
        self,
        name: str,
        realm: str,
        private: bytes,
        certificate: bytes,
        issuer: bytes,
        held: bytes = b"",
        chain: bytes = b"",
    ) -> None:
        """Take over a new identity; the pending key goes.

        ``held``: of ``pack_held``, when CA certificates were fetched with it. ``chain``: up to this
        key.

        A key that is replaced stays as the old one until ``prove``, and an agreement key that it
        endorsed goes. The key of another name or realm is in neither file afterwards.
        """
        before = self._state
        replaced = before.get(_PRIVATE, private) != private
        same_device = before.get(_NAME) == name and before.get(_REALM) == realm
        state = {
            _NAME: name,
            _REALM: realm,
            _PRIVATE: private,
            _CERTIFICATE: certificate,
            _ISSUER: issuer,
        }
        held = held or before.get(_HELD, b"")
        if held:
            state[_HELD] = held
        if chain:
            state[_CHAIN] = chain
        if not replaced and self.agreement is not None and same_device:
            state[_AGREEMENT], state[_ENDORSED] = self.agreement
        if same_device:
            # a third key must not push out the one that is known to work
            source = _CURRENT if replaced and not self.unproved else _OLD
            if source[0] in before:
                for i in range(3):
                    state[_OLD[i]] = before[source[i]]
        self.commit(state)
        if replaced and not same_device:
            self._write_over()

    def prove(self) -> None:
        """The identity works: the key before it goes from both files."""
        self._drop(_CURRENT)

    def fall_back(self) -> None:
        """The new identity does not work: return to the old one; the new key goes from both files.

        StoreError when there is no old one.
        """
        if not self.unproved:
            raise StoreError("store: no older identity")
        self._drop(_OLD)

    def _drop(self, kept: tuple) -> None:
        if not self.unproved:
            return
        before = self._state
        state = {key: before[key] for key in before if key not in _OLD}
        if kept is _OLD:
            for i in range(3):
                state[_CURRENT[i]] = before[_OLD[i]]
            for key in (_AGREEMENT, _ENDORSED, _CHAIN):
                state.pop(key, None)
            chain = self._chain_before()
            if chain:
                state[_CHAIN] = chain
        self.commit(state)
        self._write_over()

    def _write_over(self) -> None:
        """The same state once more, into the file that still has what was replaced."""
        try:
            self.commit(dict(self._state))
        except StoreError:
            pass  # the state is whole; what it replaced goes with the next write

    def set_agreement(self, private: bytes, endorsed: bytes) -> None:
        """Keep the key for the profile rpk, beside the identity whose key endorsed it."""
        state = dict(self._state)
        state[_AGREEMENT] = private
        state[_ENDORSED] = endorsed
        self.commit(state)
