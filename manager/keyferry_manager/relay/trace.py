"""A trace of everything the relay saw, one JSON object a line: what a demonstration shows, and
what anyone can search for plaintext. It slows the relay and grows without bound: not for service.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from keyferry_core import signalling as sig
from keyferry_manager.registry import Link


class TraceFile:
    """Appends to a file that only its owner reads.

    Each line has ``at`` (Unix seconds), ``link`` (the name that the channel proved), ``address``,
    ``from``, ``to``, ``type``, ``session``, ``checks`` (pairs of step and outcome), ``outcome``
    ("relayed", "answered" or the name of an error), ``octets``, ``sizes`` (bytes of each byte
    string), ``seen`` (hex of what came) and ``sent`` (hex of what was passed on).
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8")

    def __call__(
        self,
        link: Link,
        payload: bytes,
        message: dict[int, Any] | None,
        checks: list[tuple[str, str]],
        outcome: str,
        out: bytes,
    ) -> None:
        """Write one line."""
        message = message or {}
        session = message.get(sig.SESSION)
        entry = {
            "at": time.time(),
            "link": link.name,
            "address": link.address,
            "from": message.get(sig.FROM),
            "to": message.get(sig.TO),
            "type": sig.type_name(message) if message else None,
            "session": None if session is None else session.hex(),
            "checks": checks,
            "outcome": outcome,
            "octets": len(payload),
            "sizes": {
                sig.FIELDS[key][0]: len(value)
                for key, value in message.items()
                if isinstance(value, bytes)
            },
            "seen": payload.hex(),
            "sent": out.hex(),
        }
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
