"""What the manager saw, and whether anything in it should not have been seen."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

Entry = dict[str, Any]


class Trace:
    """Follows the file that ``keyferry serve --trace`` writes."""

    def __init__(self, path: Path) -> None:
        self.entries: list[Entry] = []
        self.path = path
        self._read = 0

    def poll(self) -> None:
        """Take in the whole lines that came since."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._read += len(whole) + len(newline)
        self.entries += [json.loads(line) for line in whole.splitlines()]

    async def wait_for(
        self, wanted: Callable[[Entry], bool], *, after: int = 0, timeout: float = 10.0
    ) -> Entry | None:
        """The first entry of ``entries[after:]`` that is wanted, or None after ``timeout``."""
        end = time.monotonic() + timeout
        while True:
            self.poll()
            for entry in self.entries[after:]:
                if wanted(entry):
                    return entry
            if time.monotonic() >= end:
                return None
            await asyncio.sleep(0.02)


def private_key_of(public: object, files: Iterable[bytes]) -> bytes | None:
    """The private key for a public one on P-256, looked for among the bytes of a device's flash.

    Nothing is assumed of the keystore but that it keeps the 32 bytes in a row: each stretch is
    tried against the public key.
    """
    assert isinstance(public, ec.EllipticCurvePublicKey)
    wanted = public.public_numbers()
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for data in files:
        # CBOR and DER both put the length, 32, right before the key.
        for start in range(1, len(data) - 31):
            if data[start - 1] != 32:
                continue
            number = int.from_bytes(data[start : start + 32], "big")
            if not 0 < number < order:
                continue
            tried = ec.derive_private_key(number, ec.SECP256R1()).public_key()
            if tried.public_numbers() == wanted:
                return data[start : start + 32]
    return None


class Haystack:
    """Everything that the manager received, passed on, wrote to its log or keeps on its disk."""

    def __init__(self, trace: Trace, places: Iterable[Path]) -> None:
        trace.poll()
        self._parts = [
            bytes.fromhex(entry[key]) for entry in trace.entries for key in ("seen", "sent")
        ]
        for place in places:
            paths = place.rglob("*") if place.is_dir() else [place]
            self._parts += [path.read_bytes() for path in paths if path.is_file()]
        self.octets = sum(len(part) for part in self._parts)

    def holds(self, secret: bytes) -> bool:
        """Whether ``secret`` is in there: as it is, or in hexadecimal."""
        forms = (secret, secret.hex().encode())
        return any(form in part for part in self._parts for form in forms)
