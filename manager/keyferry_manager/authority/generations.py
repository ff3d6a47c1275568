"""The generations of a realm's CA: which folder holds the one that signs, and which stands beside.

``ca/`` itself is the first generation's folder, ``ca/2`` the second's, and so on. While a CA rolls
over there are two; ``ca/rollover.json`` says in which phase that is. Each phase begins with one
rename of that file, so that a crash leaves the one before or the one after.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from keyferry_manager.authority import files
from keyferry_manager.problems import AuthorityProblem

STATE_FILE = "rollover.json"
FIRST = ""
_NAME = re.compile(r"[2-9]|[1-9][0-9]{1,3}")

# ``started``: the new CA is known, the old one signs. ``switched``: the new one signs, the old one
# is believed. ``finished``: the old one is not believed any more.
Phase = Literal["started", "switched", "finished"]


@dataclass(frozen=True, slots=True)
class Generation:
    """A root CA, the issuing CA under it, and the name of their folder below ``ca/``."""

    name: str
    folder: Path
    root: x509.Certificate
    issuing: x509.Certificate

    @classmethod
    def load(cls, ca: Path, name: str) -> Self:
        """Read the certificates of a generation. AuthorityProblem says what is amiss."""
        folder = ca / name
        root = files.load_certificates(folder / "root.pem")[0]
        issuing = files.load_certificates(folder / "issuing.pem")[0]
        try:
            issuing.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature):
            raise AuthorityProblem(
                f"{folder}/issuing.pem is not signed by root.pem: restore both from one backup."
            ) from None
        return cls(name, folder, root, issuing)


@dataclass(frozen=True, slots=True)
class State:
    """What ``rollover.json`` says. ``current`` signs; ``other`` stands beside it, or nothing."""

    current: str = FIRST
    other: str | None = None
    phase: Phase | None = None
    # When the phase began, Unix time.
    since: int = 0

    @classmethod
    def load(cls, ca: Path) -> Self:
        """The state of a folder; without the file it never rolled over."""
        path = ca / STATE_FILE
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise AuthorityProblem(f"{path} cannot be read: {error.strerror}.") from None
        except ValueError:
            raise _unreadable(path) from None
        try:
            found = cls(value["current"], value["other"], value["phase"], value["since"])
        except (KeyError, TypeError):
            raise _unreadable(path) from None
        names = [found.current, *([] if found.other is None else [found.other])]
        good = all(isinstance(item, str) and (not item or _NAME.fullmatch(item)) for item in names)
        two = found.other is not None
        if (
            not good
            or not isinstance(found.since, int)
            or found.phase not in ("started", "switched", "finished")
            or two != (found.phase != "finished")
        ):
            raise _unreadable(path)
        return found

    def save(self, ca: Path) -> None:
        """Begin this phase."""
        value = {
            "current": self.current,
            "other": self.other,
            "phase": self.phase,
            "since": self.since,
        }
        files.replace(ca / STATE_FILE, json.dumps(value).encode() + b"\n")


def _unreadable(path: Path) -> AuthorityProblem:
    return AuthorityProblem(f"{path} is not what this Keyferry wrote: restore it from a backup.")
