"""A fake of a secure element: keys stay inside, and callers hold the number of a slot.

For tests of whoever calls a backend, and an example for whoever writes one. Not part of what goes
onto a device.
"""

from keyferry_core.errors import LocalError
from keyferry_core.suite import Crypto

TYPE_CHECKING = False
if TYPE_CHECKING:
    from keyferry_core.suite import Random


class SlotCrypto(Crypto):
    """``keys``: private keys that are inside from the start, in slots 0, 1, 2…"""

    def __init__(self, random: "Random", keys: tuple | list = ()) -> None:
        super().__init__(random)
        self._slots = list(keys)

    def _inside(self, private: bytes) -> bytes:
        if not isinstance(private, bytes) or len(private) != 1 or private[0] >= len(self._slots):
            raise LocalError("bad-argument", "no such slot")
        return self._slots[private[0]]

    def generate(self) -> tuple[bytes, bytes]:
        private, public = super().generate()
        self._slots.append(private)
        return bytes([len(self._slots) - 1]), public

    def public_key(self, private: bytes) -> bytes:
        return super().public_key(self._inside(private))

    def ecdh(self, private: bytes, peer: bytes) -> bytes:
        return super().ecdh(self._inside(private), peer)

    def sign(self, private: bytes, message: bytes) -> bytes:
        return super().sign(self._inside(private), message)
