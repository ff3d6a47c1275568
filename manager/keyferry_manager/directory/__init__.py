"""The directory of public keys: which certificates were issued, and which agreement keys stand.

``Directory`` is what the manager knows of it. It is the manager's own database (the store has these
methods), or RemoteDirectory: a process of its own behind a Unix socket.
"""

from collections.abc import Sequence
from typing import Protocol

from keyferry_manager.store.records import AgreementKey, Certificate

__all__ = ["Directory", "DirectoryUnavailable"]


class DirectoryUnavailable(OSError):
    """The directory does not answer, or not with what was asked for."""


class Directory(Protocol):
    """Every method may raise DirectoryUnavailable, and then nothing is to be believed."""

    async def certificate_by_serial(self, serial: str) -> Certificate | None:
        """The certificate with this serial (32 hexadecimal digits)."""
        ...

    async def publish(self, certificate: Certificate) -> None:
        """Register an issued certificate, before its device gets it."""
        ...

    async def agreement_keys(self) -> list[AgreementKey]:
        """The key of each device that registered one."""
        ...

    async def publish_keys(self, keys: Sequence[AgreementKey]) -> None:
        """Register keys; each takes the place of its device's earlier one."""
        ...
