"""Errors that an application of the agent can meet (rows of the core's table), and waiting."""

import asyncio

from keyferry_agent import clock
from keyferry_core.errors import AuthenticationError, KeyferryError, RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class LinkError(RemoteError):
    """The link to the manager could not be made, or it ended. ``detail`` says how."""

    def __init__(self, detail: str, name: str = "peer-gone") -> None:
        super().__init__(name, detail)


class SessionEnded(RemoteError):
    """The session is over, and ``name`` says why: session-closed, peer-gone, peer-restarted…"""

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(name, detail)


class EnrolmentRefused(RemoteError):
    """The manager does not want this device: asking again will not help."""

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(name, detail)


class EnrolmentLater(RemoteError):
    """The manager will not decide now: ask again after ``seconds`` (0 when it did not say)."""

    def __init__(self, name: str, detail: str, seconds: int) -> None:
        super().__init__(name, detail)
        self.seconds = seconds


def explain(error: Exception) -> KeyferryError:
    """One of the core's errors for whatever ended a link."""
    if isinstance(error, KeyferryError):
        return error
    if isinstance(error, asyncio.TimeoutError):
        return LinkError("no answer in time", "timeout")
    if isinstance(error, EOFError):
        return LinkError("the manager closed the link")
    if isinstance(error, ValueError):
        # mbedTLS did not accept the server's certificate; its text says why
        text = str(error)
        if "validity" in text:
            text += " (by our clock it is " + str(clock.rtc()) + ")"
            return AuthenticationError("server certificate: " + text, "clock-wrong")
        return AuthenticationError("server certificate: " + text)
    if isinstance(error, OSError):
        number = error.args[0] if error.args else 0
        # those nearer to 0 come of looking a name up
        if isinstance(number, int) and number <= -0x1000:
            # an alert: in TLS 1.2 this is how a server refuses a client's certificate
            return LinkError("TLS: " + str(error), "authentication-failed")
        return LinkError(str(error))
    return KeyferryError("internal", type(error).__name__ + ": " + str(error))


def jitter(seconds: int, random: "Callable[[int], bytes]") -> int:
    """Milliseconds, half to all of ``seconds``: a plant's devices must not come back as one."""
    return seconds * (500 + random(1)[0] * 500 // 255)
