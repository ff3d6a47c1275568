"""One question to four readers of SIP: who sent this, with which method and number?"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

import aiosipua
import sipmessage

from keyferry_core import sip_check, sip_codec
from keyferry_core.sip_fields import SipError

try:
    from sippy.SipRequest import SipRequest as SippyRequest
except ImportError:  # its requirements have files for one platform only: pyproject.toml
    if sys.platform == "linux" and sys.version_info < (3, 14):
        import platform

        assert platform.machine() != "x86_64", "sippy is missing"
    SippyRequest = None


@dataclass(frozen=True)
class Reading:
    """What one reader found."""

    method: str
    user: str
    host: str
    tag: str | None
    call_id: str
    number: int


def ours(data: bytes) -> Reading | int:
    """The core's reading, or the status of its refusal."""
    try:
        message = sip_codec.parse(data)
        sip_check.check(message)
    except SipError as error:
        return error.sip_status
    sender = message.from_()
    tag = sender.get(b"tag")
    return Reading(
        message.method.decode(),
        unquote(sender.uri.user.decode()),
        sender.uri.host.decode(),
        None if tag is None else tag.decode(),
        message.one(b"call-id").decode(),
        message.cseq()[0],
    )


def _sipmessage(data: bytes) -> Reading | None:
    try:
        message = sipmessage.Message.parse(data)
        assert isinstance(message, sipmessage.Request)
        sender = message.from_address
        return Reading(
            message.method,
            sender.uri.user or "",
            sender.uri.host.lower(),
            sender.parameters.get("tag"),
            message.call_id,
            message.cseq.sequence,
        )
    except (ValueError, KeyError, AssertionError):
        return None


def _aiosipua(data: bytes) -> Reading | None:
    try:
        message = aiosipua.SipMessage.parse(data)
        assert isinstance(message, aiosipua.SipRequest)
        sender, number = message.from_addr, message.cseq
        assert sender is not None
        assert number is not None
        return Reading(
            message.method,
            unquote(sender.uri.user or ""),
            sender.uri.host.lower(),
            sender.tag,
            message.call_id or "",
            number.seq,
        )
    except (ValueError, AssertionError):
        return None


def _sippy(data: bytes) -> Reading | None:
    assert SippyRequest is not None
    try:
        message = SippyRequest(data.decode())
        sender = message.getHFBody("from")
        number, _ = message.getHFBody("cseq").getCSeq()
        url = sender.getUrl()
        return Reading(
            str(message.getMethod()),
            unquote(url.username or ""),
            url.host.lower(),
            sender.getTag(),
            str(message.getHFBody("call-id")),
            number,
        )
    except Exception:  # it refuses with whatever comes
        return None


PEERS: dict[str, Callable[[bytes], Reading | None]] = {
    "sipmessage": _sipmessage,
    "aiosipua": _aiosipua,
}
if SippyRequest is not None:
    PEERS["sippy"] = _sippy
