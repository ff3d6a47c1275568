"""Which key each peer had when this device first met it: the file of ``"trust": "pinned"``.

What decides is ``keyferry_core.pinned``; here is what it has learned, whole after a power cut
(slots.py). Only loaded to read or write that; the agent forgets this module after use.
"""

from keyferry_agent.slots import GENERATION, Slots, StoreError
from keyferry_core._compat import sha256
from keyferry_core.errors import DecodeError
from keyferry_core.names import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_agent.config import Config
    from keyferry_core.pinned import Pinned

# keys of the map
_REALM, _KEYS = 2, 3
_KEY_LENGTH = 65


class Pins(Slots):
    """The pinned keys on the flash: two files, with 132 bytes and less for each name."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder + "pins")

    def well_formed(self, state: dict) -> bool:
        keys = state.get(_KEYS)
        if len(state) != 3 or not isinstance(state.get(_REALM), str) or not isinstance(keys, dict):
            return False
        for name in keys:
            key = keys[name]
            if not isinstance(key, bytes) or len(key) != _KEY_LENGTH:
                return False
            try:
                check_name(name)
            except DecodeError:
                return False
        return True

    def of(self, realm: str) -> dict | None:
        """{name: 65-byte key} of ``realm``. None: there were some, and no file of them is whole."""
        if not self.generation and self.damaged > 1:
            return None
        if self._state.get(_REALM) != realm:
            return {}
        return dict(self._state[_KEYS])

    def put(self, realm: str, keys: dict) -> None:
        """Write ``keys``. StoreError: the flash still has what it had."""
        self.commit({GENERATION: 0, _REALM: realm, _KEYS: keys})


def keep(config: "Config", made: "Pinned", event: "Callable[..., None]", pin: tuple) -> None:
    """Pin the key of a peer that has proved to have it.

    AuthenticationError: another session pinned another key. StoreError for the first key of a
    name that cannot be kept, since the next start would take any. One that followed it can be
    followed again.
    """
    name, before, public = pin
    if not made.pin(name, before, public):
        return
    try:
        Pins(config.folder).put(config.realm, made.pins or {})
    except StoreError as error:
        event("store-failed", error=error.name, detail=error.detail)
        if before is None:
            made.unpin(name)
            raise
    was = "" if before is None else sha256(before)[:8].hex()
    event("peer-pinned", peer=name, key=sha256(public)[:8].hex(), was=was)


def unpin(config: "Config", made: "Pinned", event: "Callable[..., None]", name: str) -> None:
    """Forget the key of ``name``, or of all for "": the next one that it comes with is pinned.

    StoreError: the flash still has it; or all were lost, which only forgetting all ends.
    """
    pins = Pins(config.folder)
    if name:
        left = pins.of(config.realm)
        if left is None:
            raise StoreError("pins: both files are damaged: unpin all")
        left.pop(name, None)
        pins.put(config.realm, left)
    else:
        pins.erase()
    made.unpin(name)
    event("peer-unpinned", peer=name)
