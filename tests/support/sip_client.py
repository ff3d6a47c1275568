"""A SIP client for tests: messages by sipmessage, which is not ours, over TLS. CPython only."""

import contextlib
import itertools
import socket
import time
from typing import Any, Self

import sipmessage

from support.manager_kit import PAUSE, REALM, Credentials, Running

_NUMBERS = itertools.count(1)


class SipClient:
    """One connection. ``ask`` sends a request and returns its final response."""

    def __init__(self, running: Running, name: str, credentials: Credentials | None = None) -> None:
        self.name = name
        self.realm = REALM
        credentials = credentials or running.home.device(name)
        port = running.look(lambda manager: manager.sip_port)
        plain = socket.create_connection(("127.0.0.1", port), PAUSE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = running.home.client_context(credentials)
        self.socket = context.wrap_socket(plain, server_hostname=REALM)
        self.call_id = f"boot{next(_NUMBERS)}@{name}"
        self.cseq = 0
        self.pongs = 0
        self._data = b""

    @property
    def address(self) -> str:
        """Our address, as the manager should see it."""
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    @property
    def identity(self) -> str:
        """Our address of record."""
        return f"<sip:{self.name}@{REALM}>"

    def request(
        self,
        method: str,
        to: str = "",
        body: bytes = b"",
        sender: str = "",
        uri: str = "",
        **fields: Any,
    ) -> sipmessage.Request:
        """A request to the device ``to``, "" for the manager. ``a_b`` among the fields is A-B."""
        whom = f"sip:{to}@{REALM}" if to else f"sip:{REALM}"
        request = sipmessage.Request(method, sipmessage.URI.parse(uri or whom), body=body)
        self.cseq += 1
        headers = request.headers
        branch = f"z9hG4bK{next(_NUMBERS)}"
        headers.set("Via", f"SIP/2.0/TLS {self.address};branch={branch};rport")
        headers.set("Max-Forwards", "70")
        headers.set("From", f"{sender or self.identity};tag=t{self.cseq}")
        headers.set("To", self.identity if method == "REGISTER" else f"<{whom}>")
        headers.set("Call-ID", self.call_id)
        headers.set("CSeq", f"{self.cseq} {method}")
        if body:
            headers.set("Content-Type", "text/plain")
        for key, value in fields.items():
            headers.set(key.replace("_", "-").title(), value)
        headers.set("Content-Length", str(len(body)))
        return request

    def send(self, data: bytes | sipmessage.Request | sipmessage.Response) -> None:
        """Send bytes. That the other side has closed shows when reading."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data if isinstance(data, bytes) else bytes(data))

    def receive(self, seconds: float = PAUSE) -> sipmessage.Request | sipmessage.Response | None:
        """The next message, None when the manager has closed. TimeoutError."""
        end = time.monotonic() + seconds
        while True:
            while self._data[:2] == b"\r\n":
                self.pongs += 1
                self._data = self._data[2:]
            head, mark, rest = self._data.partition(b"\r\n\r\n")
            if mark:
                message = sipmessage.Message.parse(head + mark)
                length = message.content_length or 0
                if len(rest) >= length:
                    message.body = rest[:length]
                    self._data = rest[length:]
                    return message
            self.socket.settimeout(max(0.001, end - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise
            except OSError:
                return None
            if not data:
                return None
            self._data += data

    def answer(self, request: sipmessage.Request | None = None) -> sipmessage.Response:
        """The next message, which is a response."""
        if request is not None:
            self.send(request)
        found = self.receive()
        assert isinstance(found, sipmessage.Response), found
        if request is not None:
            for key in ("Call-ID", "CSeq", "From"):
                assert found.headers.get(key) == request.headers.get(key)
        return found

    def ask(self, method: str, to: str = "", body: bytes = b"", **rest: Any) -> sipmessage.Response:
        """Send a request and return its response."""
        return self.answer(self.request(method, to, body, **rest))

    def register(self, **fields: Any) -> sipmessage.Response:
        """Register this connection."""
        fields.setdefault("contact", f"<sip:{self.name}@{self.address};transport=tls>")
        return self.ask("REGISTER", **fields)

    def accept(self, code: int = 200, phrase: str = "OK") -> sipmessage.Request:
        """Take the next request, and answer it."""
        request = self.receive()
        assert isinstance(request, sipmessage.Request), request
        response = sipmessage.Response(code, phrase)
        for key in ("Via", "From", "To", "Call-ID", "CSeq"):
            response.headers.setlist(key, request.headers.getlist(key))
        response.headers.set("To", request.headers["To"] + ";tag=callee")
        response.headers.set("Content-Length", "0")
        self.send(response)
        return request

    def nothing(self, seconds: float = 0.3) -> bool:
        """Whether nothing arrives."""
        try:
            return self.receive(seconds) is None
        except TimeoutError:
            return True

    def closed(self) -> bool:
        """Read to the end: whether the manager closes."""
        try:
            while self.receive() is not None:
                pass
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Close the socket at once."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
