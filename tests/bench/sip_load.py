"""The load on a SIP server: devices that send ready-made requests and answer at once.

It knows no server: it takes what RFC 3261 leaves open (tags, branches, routes, contacts) from the
messages that it gets. One process, no threads, so that it fits on one core.
"""

import os
import re
import selectors
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from support.manager_kit import REALM, Credentials, Home

# Of a MESSAGE; the whole is about 480 bytes.
TEXT = b"t" * 100
SDP = (
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
)
_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)", re.I)
_COPIED = re.compile(rb"\r\n((?:Via|Record-Route|From|To|Call-ID|CSeq):[^\r]*)", re.I)
_TO = re.compile(rb"\r\nTo:[^\r]*", re.I)
_CALL_ID = re.compile(rb"\r\nCall-ID: *([^\r]*)", re.I)
_CONTACT = re.compile(rb"\r\nContact:[^<\r]*<([^>\r]*)>", re.I)
_ROUTES = re.compile(rb"\r\nRecord-Route: *([^\r]*)", re.I)
_METHOD = re.compile(rb"\r\nCSeq: *\d+ +([A-Z]+)", re.I)


class Wrong(Exception):
    """The server answered something else than it should."""


class Device:
    """One connection. ``heard`` takes each message; what it returns is sent at once."""

    def __init__(self, home: Home, port: int, name: str, credentials: Credentials) -> None:
        self.name = name.encode()
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(20)
        context = home.client_context(credentials)
        self.socket: ssl.SSLSocket = context.wrap_socket(plain, server_hostname=REALM)
        host, at = self.socket.getsockname()
        self.address = f"{host}:{at}".encode()
        self.heard: Callable[[bytes], bytes] = lambda message: b""
        self._data = b""
        self._number = 0
        # Distinguishes this connection's dialogs and transactions from all others'.
        self.mark = os.urandom(6).hex().encode()
        self.identity = b"sip:%b@%b" % (self.name, REALM.encode())
        self.contact = b"<sip:%b@%b;transport=tls>" % (self.name, self.address)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def read(self) -> None:
        """Take what there is, and send what it calls for."""
        data = self.socket.recv(65536)
        if not data:
            raise Wrong(f"the server closed the connection of {self.name.decode()}")
        while self.socket.pending():
            data += self.socket.recv(65536)
        data = self._data + data if self._data else data
        out = []
        pos = 0
        while True:
            end = data.find(b"\r\n\r\n", pos)
            if end < 0:
                break
            found = _LENGTH.search(data, pos, end + 2)
            stop = end + 4 + (int(found[1]) if found else 0)
            if stop > len(data):
                break
            answer = self.heard(data[pos:stop])
            if answer:
                out.append(answer)
            pos = stop
        self._data = data[pos:]
        if out:
            self.socket.sendall(b"".join(out))

    def head(self, method: bytes, uri: bytes, number: int, cseq: int, call: bytes = b"") -> bytes:
        """Start line, Via, Max-Forwards, Call-ID and CSeq of a request."""
        call = call or b"%b-%d" % (self.mark, number)
        return (
            b"%b %b SIP/2.0\r\nVia: SIP/2.0/TLS %b;branch=z9hG4bK%b%d%b;rport\r\n"
            b"Max-Forwards: 70\r\nCall-ID: %b\r\nCSeq: %d %b\r\n"
        ) % (
            method, uri, self.address, self.mark, number, method[:1].lower(), call, cseq, method,
        )  # fmt: skip


def status(message: bytes) -> int:
    """The status of a response, 0 for a request."""
    return int(message[8:11]) if message.startswith(b"SIP/2.0 ") else 0


def expect(message: bytes, code: int) -> None:
    if status(message) != code:
        raise Wrong(f"expected {code}, got {message[:600].decode(errors='replace')}")


def ok(request: bytes, extra: bytes = b"", body: bytes = b"") -> bytes:
    """200 to a request."""
    end = request.find(b"\r\n\r\n")
    fields = _COPIED.findall(request, 0, end + 2)
    return b"SIP/2.0 200 OK\r\n%b\r\n%bContent-Length: %d\r\n\r\n%b" % (
        b"\r\n".join(fields), extra, len(body), body,
    )  # fmt: skip


class Work(ABC):
    """What devices do again and again, ``at_once`` units at a time, while ``going``."""

    at_once = 8

    def __init__(self, *devices: Device) -> None:
        self.devices = devices
        self.going = False
        self.open = 0
        self.done = 0

    def begin(self) -> None:
        self.going = True
        self.open = self.at_once
        self.devices[0].socket.sendall(b"".join(self.ask() for _ in range(self.at_once)))

    def again(self) -> bytes:
        """A unit is over: the next one, if there is to be one."""
        self.done += 1
        if self.going:
            return self.ask()
        self.open -= 1
        return b""

    @abstractmethod
    def ask(self) -> bytes:
        """The first message of a unit."""


class Registrations(Work):
    """A device that registers again and again: one Call-ID and a CSeq that goes up, so they come
    one after the other."""

    at_once = 1

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        device.heard = self._heard
        self._fixed = (
            b"From: <%b>;tag=%b\r\nTo: <%b>\r\nContact: %b\r\nExpires: 3600\r\n"
            b"Content-Length: 0\r\n\r\n"
        ) % (device.identity, device.mark, device.identity, device.contact)

    def ask(self) -> bytes:
        device = self.devices[0]
        number = device.next_number()
        uri = b"sip:" + REALM.encode()
        return device.head(b"REGISTER", uri, number, number, device.mark) + self._fixed

    def _heard(self, message: bytes) -> bytes:
        expect(message, 200)
        return self.again()

    def once(self) -> None:
        """Register, and no more."""
        self.begin()
        self.going = False
        while self.open:
            self.devices[0].read()


class Messages(Work):
    """A pair of devices: one sends MESSAGEs, the other answers each with 200."""

    def __init__(self, caller: Device, callee: Device) -> None:
        super().__init__(caller, callee)
        self._uri = callee.identity
        self._fixed = (
            b"From: <%b>;tag=%b\r\nTo: <%b>\r\n"
            b'Hop-Security: addr="%b";leg=1;transport=tls;auth=mutual\r\n'
            b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
        ) % (caller.identity, caller.mark, callee.identity, caller.address, len(TEXT), TEXT)
        caller.heard = self._answered
        callee.heard = self._asked

    def ask(self) -> bytes:
        number = self.devices[0].next_number()
        return self.devices[0].head(b"MESSAGE", self._uri, number, number) + self._fixed

    def _answered(self, message: bytes) -> bytes:
        if message.startswith(b"SIP/2.0 1"):
            return b""
        expect(message, 200)
        return self.again()

    def _asked(self, message: bytes) -> bytes:
        if not message.startswith(b"MESSAGE ") or message.count(b"\r\nHop-Security:") != 2:
            raise Wrong(f"expected a MESSAGE with two legs, got {message[:900]!r}")
        return ok(message)


class CallsOf(Work):
    """A pair of devices: one calls, the other answers; ACK, and at once BYE."""

    at_once = 4

    def __init__(self, caller: Device, callee: Device) -> None:
        super().__init__(caller, callee)
        self._uri = callee.identity
        self._tag = b";tag=" + callee.mark
        self._answer = b"Contact: %b\r\nContent-Type: application/sdp\r\n" % callee.contact
        self._parties = b"From: <%b>;tag=%b\r\n" % (caller.identity, caller.mark)
        self._rest = (
            b"To: <%b>\r\nContact: %b\r\n"
            b'Hop-Security: addr="%b";leg=1;transport=tls;auth=mutual\r\n'
            b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%b"
        ) % (callee.identity, caller.contact, caller.address, len(SDP), SDP)
        caller.heard = self._answered
        callee.heard = self._asked

    def ask(self) -> bytes:
        number = self.devices[0].next_number()
        head = self.devices[0].head(b"INVITE", self._uri, number, 1)
        return head + self._parties + self._rest

    def _answered(self, message: bytes) -> bytes:
        code = status(message)
        if 100 <= code < 200:
            return b""
        expect(message, 200)
        method = _METHOD.search(message)
        if method is None or method[1] == b"BYE":
            return self.again()
        to, contact, call = (pattern.search(message) for pattern in (_TO, _CONTACT, _CALL_ID))
        if to is None or contact is None or call is None:
            raise Wrong(f"no To, Contact or Call-ID: {message[:600]!r}")
        # The order is turned around: what was recorded last is nearest to the callee.
        routes = b"".join(b"Route: %b\r\n" % route for route in reversed(_ROUTES.findall(message)))
        rest = b"%b%b%b\r\nContent-Length: 0\r\n\r\n" % (self._parties, routes, to[0][2:])
        device = self.devices[0]
        number = device.next_number()
        ack = device.head(b"ACK", contact[1], number, 1, call[1])
        bye = device.head(b"BYE", contact[1], number, 2, call[1])
        return ack + rest + bye + rest

    def _asked(self, message: bytes) -> bytes:
        if message.startswith(b"INVITE "):
            answer = ok(message, self._answer, SDP)
            to = _TO.search(answer)
            assert to is not None
            return answer[: to.end()] + self._tag + answer[to.end() :]
        if message.startswith(b"BYE "):
            return ok(message)
        if not message.startswith(b"ACK "):
            raise Wrong(f"expected INVITE, ACK or BYE, got {message[:600]!r}")
        return b""


def load(works: list[Work], seconds: float, cpu: Callable[[], float]) -> dict[str, float]:
    """Have all of them go on for a time. Units a second, and what they cost the server."""
    with selectors.DefaultSelector() as selector:
        for work in works:
            for device in work.devices:
                selector.register(device.socket, selectors.EVENT_READ, device)
            work.begin()

        def run(goes_on: Callable[[], object]) -> None:
            while goes_on():
                found = selector.select(20)
                if not found:
                    raise Wrong("the server fell silent")
                for key, _ in found:
                    key.data.read()

        warm = time.monotonic() + min(0.3, seconds / 4)
        run(lambda: time.monotonic() < warm)
        done = sum(work.done for work in works)
        own, used, began = time.process_time(), cpu(), time.monotonic()
        run(lambda: time.monotonic() < began + seconds)
        took, used = time.monotonic() - began, cpu() - used
        own = time.process_time() - own
        done = sum(work.done for work in works) - done
        for work in works:
            work.going = False
        run(lambda: any(work.open for work in works))
    return {
        "per_second": done / took,
        "per_cpu_second": done / used if used else 0.0,
        "us": 1e6 * used / done if done else 0.0,
        "busy": used / took,
        "generator_busy": own / took,
    }
