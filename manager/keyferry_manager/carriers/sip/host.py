"""What the SIP carrier needs from the manager, beyond what every carrier does."""

from typing import Any, Protocol

from keyferry_manager.carriers.mqtt import Host
from keyferry_manager.registry import Link, Session


class SipHost(Host, Protocol):
    """The manager as ``SipEndpoint`` sees it. Only ``identify`` may wait."""

    def take(self, link: Link, message: dict[int, Any]) -> None:
        """A plain message of the device, or its report on one, as a map."""
        ...

    def session(self, session_id: bytes) -> Session | None:
        """The relay's session, if there is one."""
        ...

    def admit(self, link: Link, message: dict[int, Any]) -> tuple[Link, list[list[Any]]]:
        """Hold a call of ``link``, with the keys of a connect but its own, to what a connect is
        held to. The callee's link and both legs; RemoteError, which is written down."""
        ...

    def leg(self, link: Link, stated: list[Any] | None) -> list[Any]:
        """The checked leg of a device that answers a call; one that differs is written down."""
        ...

    def link_of(self, name: str) -> Link | None:
        """The link on which a device is registered."""
        ...

    def allowed(self, caller: str, callee: str) -> bool:
        """Whether a rule still lets these two talk."""
        ...

    def note(self, event: str, link: Link, detail: str = "", **fields: object) -> None:
        """Write down what happened, in log and audit trail."""
        ...
