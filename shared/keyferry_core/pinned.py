"""Trust on first use: a peer's first key is kept, and another one only if the key before signed it.

When a device renews with a new key, the old one signs for it and is erased: a succession. It is a
COSE_Sign1 (ES256) with the new key as payload and, in the external data, the name that it is for
and the key that signs. The device keeps the last ones in a row, so that peers that were away
can follow. A manager that runs the CA cannot make one.
"""

from keyferry_core import cbor
from keyferry_core._compat import equal, sha256
from keyferry_core.cose_message import parse_sign1, sign1
from keyferry_core.errors import AuthenticationError, DecodeError

# Keys that a chain of successions spans, and its bytes at most: some 145 for each.
MAX_SUCCESSIONS = 8
MAX_CHAIN = 1280
PUBLIC_LENGTH = 65
# external_aad of the signature, so that it can serve for nothing else.
_CONTEXT = "keyferry succession 1"
# Verified chains that are remembered, by hash.
_MAX_REMEMBERED = 4


def _context(realm: str, name: str, signer: bytes) -> bytes:
    return cbor.encode([_CONTEXT, realm, name, signer])


def succeed(
    crypto, private, signer: bytes, realm: str, name: str, public: bytes, chain: bytes = b""
) -> bytes:
    """``chain`` and one more succession: of the key ``signer``, to which ``private`` belongs, by
    ``public``. Both are 65 bytes. The oldest one goes when there are MAX_SUCCESSIONS.

    DecodeError for what is no chain.
    """
    items = _items(chain)[1 - MAX_SUCCESSIONS :] if chain else []
    items.append(sign1(crypto, private, public, _context(realm, name, signer)))
    return cbor.encode(items)


def without_last(chain: bytes) -> bytes:
    """``chain`` as it was before its last succession, b"" for none. DecodeError."""
    items = _items(chain)[:-1] if chain else []
    return cbor.encode(items) if items else b""


def last_key(chain: bytes) -> bytes:
    """The key, 65 bytes, that the last succession of ``chain`` is for. Nothing is verified.

    DecodeError for anything but what ``succeed`` makes.
    """
    return [_key(item) for item in _items(chain)][-1]


def _items(chain: bytes) -> list:
    if len(chain) > MAX_CHAIN:
        raise DecodeError("succession: too long", "too-large")
    items = cbor.decode(chain)
    if not isinstance(items, list) or not 0 < len(items) <= MAX_SUCCESSIONS:
        raise DecodeError("succession: expected 1 to 8 in a row")
    for item in items:
        if not isinstance(item, bytes):
            raise DecodeError("succession: expected byte strings")
    return items


def _key(item: bytes) -> bytes:
    payload = parse_sign1(item)[0]
    if len(payload) != PUBLIC_LENGTH:
        raise DecodeError("succession: a key is 65 bytes")
    return payload


class Pinned:
    """Believes the first key of each peer, and those that follow it.

    ``pins``: {name: 65-byte public key}, or None when they were lost. ``most``: how many there may
    be. They are changed by ``pin``, for peers that have proved to have the key, and ``unpin``.
    """

    def __init__(self, crypto, realm: str, pins: dict | None, most: int) -> None:
        self.pins = pins
        self._crypto = crypto
        self._realm = realm
        self._most = most
        self._verified = []

    def judge(self, name: str, public: bytes, vouch: bytes | None, now: int) -> tuple | None:
        """None when ``public`` is the key that is pinned for ``name``. Else, where it may be
        pinned, what ``pin`` is to be given once the peer has proved to have it. ``vouch``: the
        peer's chain of successions.

        AuthenticationError "key-changed"; "too-many" when there is no room for a new name;
        "storage-failed" when the pins were lost. DecodeError for what is no chain.
        """
        pinned = self._pinned(name)
        if pinned is None:
            self._check_room()
            return name, None, public
        if equal(pinned, public):
            return None
        if not vouch:
            raise AuthenticationError("pinned: another key of " + name, "key-changed")
        self._follow(name, pinned, public, vouch)
        return name, pinned, public

    def pin(self, name: str, before: bytes | None, public: bytes) -> bool:
        """Pin what ``judge`` returned. False when another session pinned it meanwhile.

        AuthenticationError "key-changed" when that one pinned another key; else as ``judge``.
        """
        pinned = self._pinned(name)
        if pinned is not None and equal(pinned, public):
            return False
        if pinned != before:
            raise AuthenticationError("pinned: another key of " + name, "key-changed")
        if pinned is None:
            self._check_room()
        assert self.pins is not None
        self.pins[name] = public
        return True

    def unpin(self, name: str) -> None:
        """Forget the key of ``name``, or all keys for ""."""
        if not name:
            self.pins = {}
        elif self.pins is not None:
            self.pins.pop(name, None)

    def _pinned(self, name: str) -> bytes | None:
        if self.pins is None:
            raise AuthenticationError("pinned: the pins are lost", "storage-failed")
        return self.pins.get(name)

    def _check_room(self) -> None:
        if self.pins is not None and len(self.pins) >= self._most:
            raise AuthenticationError("pinned: no room for another name", "too-many")

    def _follow(self, name: str, pinned: bytes, public: bytes, chain: bytes) -> None:
        """Return when ``chain`` leads from ``pinned`` to ``public``."""
        items = _items(chain)
        keys = [_key(item) for item in items]
        if not equal(keys[-1], public):
            raise AuthenticationError("pinned: a chain for another key", "key-changed")
        digest = sha256(pinned, chain)
        if digest in self._verified:
            return
        # After the pinned key; where the chain does not name it, it must have signed the first.
        start = 0
        for i in range(len(keys)):
            if equal(keys[i], pinned):
                start = i + 1
        signer = pinned
        for i in range(start, len(items)):
            context = _context(self._realm, name, signer)
            _, _, signed, signature = parse_sign1(items[i], context)
            if not self._crypto.verify(signer, signed, signature):
                raise AuthenticationError("pinned: the key before did not sign", "key-changed")
            signer = keys[i]
        if len(self._verified) == _MAX_REMEMBERED:
            self._verified.pop(0)
        self._verified.append(digest)
