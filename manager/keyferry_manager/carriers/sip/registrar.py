"""REGISTER and OPTIONS: who a device is, where it is, its keys and its certificate."""

from typing import TYPE_CHECKING, Any

from keyferry_core import signalling as sig
from keyferry_core import sip_parts
from keyferry_core.errors import RemoteError
from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import SipError
from keyferry_manager.carriers.sip import dialect
from keyferry_manager.carriers.sip.answers import Fields

if TYPE_CHECKING:
    from keyferry_manager.carriers.sip.link import SipLink


class Registrar:
    """The registration of the device at the end of ``link``."""

    def __init__(self, link: "SipLink") -> None:
        self._link = link
        self._until = 0.0
        self._last: tuple[bytes, int] = (b"", -1)  # Call-ID and CSeq of the last one
        self._asked: dialect.Binding | None = None
        self.binding: dialect.Binding | None = None
        self.contact = b""

    @property
    def until(self) -> float:
        """When the registration ends, of the loop's clock."""
        return self._until

    def register(self, message: Message) -> None:
        """REGISTER. SipError for what it may not be."""
        link = self._link
        binding = dialect.Binding(message)
        call_id, number = message.one(b"call-id"), message.cseq()[0]
        if call_id == self._last[0] and number <= self._last[1]:
            raise SipError(500, "CSeq is not higher than before")  # section 10.3, step 7
        self._last = (call_id, number)
        if binding.seconds is None:
            if message.body:
                link.put(message, dialect.certify(message, link.name, link.next_number()))
            else:
                link.respond(message, 200, self._fields())
        elif binding.seconds:
            found = dialect.register(message, binding, link.name, link.next_number())
            self._asked = binding
            link.put(message, found)
        else:
            # It takes leave. The link stays, as a new one that has not registered.
            self.binding = None
            link.host.link_down(link, True, "unregistered")
            link.respond(message, 200)
            link.come_again()

    def registered(self, asked: Message, message: dict[int, Any]) -> None:
        """The relay has taken the registration."""
        link = self._link
        binding = self.binding = self._asked
        assert binding is not None
        self._until = link.now + message[sig.EXPIRES]
        self.contact = binding.contacts[0].raw.split(b"?")[0]
        extra = self._fields()
        extra.append((sip_parts.MANAGER_INSTANCE, message[sig.INSTANCE].hex().encode()))
        if sig.ANCHORS in message:
            extra.append((sip_parts.TRUST_ANCHORS, message[sig.ANCHORS].hex().encode()))
        if binding.outbound:
            timer = str(link.endpoint.settings.flow_timer).encode()
            extra += [(b"Require", b"outbound"), (b"Flow-Timer", timer)]
        link.respond(asked, 200, extra)

    def certified(self, asked: Message, message: dict[int, Any]) -> None:
        """A certificate was made."""
        parts = [
            (sip_parts.CERTIFICATE, message[key])
            for key in (sig.CREDENTIAL, sig.ISSUER)
            if key in message
        ]
        kind, body = sip_parts.join(parts, self._link.boundary())
        fields = [*self._fields(), (b"Content-Type", kind)]
        self._link.respond(asked, 200, fields, body=body)

    def resolved(self, asked: Message, message: dict[int, Any]) -> None:
        """Where a device is, and its keys for whoever accepts them."""
        wanted = message[sig.NAME]
        if not message[sig.ONLINE]:
            self._link.fail(asked, RemoteError("peer-offline"))
            return
        extra: Fields = []
        seconds = str(message[sig.EXPIRES])
        for address in message[sig.ADDRESSES]:
            value = f"<sip:{wanted}@{address};transport=tls>;expires={seconds}"
            extra.append((b"Contact", value.encode()))
        accept = (asked.first(b"accept") or b"").lower()
        parts = [
            (kind, message[key])
            for kind, key in (
                (sip_parts.CERTIFICATE, sig.CREDENTIAL),
                (sip_parts.ENDORSED, sig.PUBLIC_KEY),
            )
            if kind in accept and key in message
        ]
        if len(parts) > 1 and sip_parts.MULTIPART not in accept:
            del parts[1:]
        kind, body = sip_parts.join(parts, self._link.boundary())
        if parts:
            extra.append((b"Content-Type", kind))
        self._link.respond(asked, 200, extra, body=body)

    def _fields(self) -> list[tuple[bytes, bytes]]:
        left = int(self._until - self._link.now + 0.5)
        if self.binding is None or left <= 0:
            return []
        return [(b"Contact", value) for value in self.binding.fields(left)]
