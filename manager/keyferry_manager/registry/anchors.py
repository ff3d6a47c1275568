"""Which CA certificates the devices hold, and which they should: 8 bytes stand for each set, and
for the CA in it that signs (authority/chain.py, certificates_digest)."""


class Anchors:
    """What the manager delivers now, and what devices said since it was last written down."""

    def __init__(self) -> None:
        self.current = b""
        self._stated: dict[str, bytes] = {}
        self._said: dict[str, bytes] = {}

    def state(self, name: str, digest: bytes) -> bool:
        """A device says over its own link what it holds. True when that is what it should."""
        if self._said.get(name) != digest:
            self._said[name] = self._stated[name] = digest
        return not self.current or digest == self.current

    def take(self) -> dict[str, bytes]:
        """What is to be written down, by name; ``put_back`` if that fails."""
        taken, self._stated = self._stated, {}
        return taken

    def put_back(self, taken: dict[str, bytes]) -> None:
        """It was not written; what was said since then stays."""
        self._stated = {**taken, **self._stated}

    def keep(self, names: frozenset[str]) -> None:
        """Forget devices that are gone."""
        for name in [name for name in self._said if name not in names]:
            del self._said[name]
            self._stated.pop(name, None)
