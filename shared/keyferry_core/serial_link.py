"""What a board without a network and the computer beside it say to each other (docs/hil.md).

The computer has the TLS connection, the board its key. A frame (``hdlc``) is kind, connection and
number, a byte each, and up to 192 bytes: with what framing adds it fits the 256 bytes that ports
keep for a program that is busy. Frames with a number are sent one at a time, and again
until their ACK comes: a line that tears or loses costs time only. A message longer than a frame is
in several, all but the last with MORE.

    board  OPEN       CBOR [port, realm, certificate, [root, ...]]; the connection's number is new
    host   SIGN       the hash of the TLS 1.3 handshake up to its CertificateVerify, 32 bytes
    board  SIGNATURE  ES256 over what ``certificate_verify`` makes of it, 64 bytes
    host   OPENED     the other end is verified
    both   DATA       what is in the TLS connection
    host   CLOSE      CBOR [error code, text]: the end, after all data
    both   RESET      has no number and no ACK: there is no such connection (any more)
"""

from keyferry_core import cbor
from keyferry_core.errors import DecodeError, LocalError, RemoteError, code_of, name_of
from keyferry_core.names import check_realm

OPEN, SIGN, SIGNATURE, OPENED, DATA, CLOSE, ACK, RESET = range(1, 9)
MORE = 0x80
MAX_DATA = 192
MAX_FRAME = MAX_DATA + 3
MAX_MESSAGE = 6144
HASH_LENGTH = 32
SIGNATURE_LENGTH = 64
# Seconds of one tick; ticks until a frame goes out again, doubled each time up to the second
# number; ticks without an ACK after which the other end is gone. A small board that computes does
# not listen for seconds.
TICK = 0.25
_AGAIN = (4, 8)
_GONE = 120


def certificate_verify(transcript: bytes) -> bytes:
    """What a client of TLS 1.3 signs (RFC 8446, section 4.4.3). DecodeError.

    Made on the board from nothing but a hash, so that whoever asks for the signature gets one that
    is good for a TLS handshake and for nothing else: neither for EDHOC nor for a certificate.
    """
    if len(transcript) != HASH_LENGTH:
        raise DecodeError("serial: a handshake's hash has 32 bytes")
    return b" " * 64 + b"TLS 1.3, client CertificateVerify\x00" + transcript


def open_request(port: int, realm: str, certificate: bytes, roots: list) -> bytes:
    """The message OPEN. All DER; ``certificate`` is empty where none is shown. The board knows the
    manager's port, and the computer its address."""
    return cbor.encode([port, realm, certificate, roots])


def parse_open(data: bytes) -> tuple:
    """``(port, realm, certificate, roots)``. DecodeError."""
    value = cbor.decode(data)
    if not isinstance(value, list) or len(value) != 4:
        raise DecodeError("serial: OPEN has four items")
    port, realm, certificate, roots = value
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise DecodeError("serial: port: expected 1 to 65535")
    if not isinstance(certificate, bytes):
        raise DecodeError("serial: certificate: expected bytes")
    if not isinstance(roots, list) or not 0 < len(roots) <= 4:
        raise DecodeError("serial: expected 1 to 4 roots")
    for root in roots:
        if not isinstance(root, bytes) or not root:
            raise DecodeError("serial: root: expected bytes")
    return port, check_realm(realm), certificate, roots


def end_of(error: str, text: str) -> bytes:
    """The message CLOSE; ``error`` is a name of the table of errors."""
    return cbor.encode([code_of(error), text[:96]])


def parse_end(data: bytes) -> tuple:
    """``(name of the error, text)``. DecodeError."""
    value = cbor.decode(data)
    if not isinstance(value, list) or len(value) != 2:
        raise DecodeError("serial: CLOSE has two items")
    code, text = value
    if isinstance(code, bool) or not isinstance(code, int) or not isinstance(text, str):
        raise DecodeError("serial: CLOSE has a number and a text")
    return name_of(code), text


class End:
    """One end of one connection, without I/O and without a clock.

    ``out``: frames to write now, for ``hdlc.encode``. ``tick()`` is called each TICK seconds.
    While ``hold`` is set what comes is not acknowledged, so no more comes; ``go_on`` ends that.
    """

    def __init__(self, connection: int) -> None:
        self.connection = connection
        self.out: list[bytes] = []
        self.hold = False
        self._queue: list[bytes] = []  # the first one is under way
        self._number = 0
        self._expected = 0
        self._owed = -1
        self._parts = b""
        self._silent = 0
        self._ticks = 0
        self._again = _AGAIN[0]

    @property
    def waiting(self) -> int:
        """Frames that were not acknowledged yet."""
        return len(self._queue)

    def send(self, kind: int, data: bytes = b"") -> None:
        """Send a message of up to 6144 bytes. LocalError."""
        if len(data) > MAX_MESSAGE:
            raise LocalError("too-large", "serial: " + str(len(data)) + " bytes")
        idle = not self._queue
        for start in range(0, max(len(data), 1), MAX_DATA):
            more = MORE if start + MAX_DATA < len(data) and kind != DATA else 0
            self._queue.append(bytes((kind | more,)) + data[start : start + MAX_DATA])
        if idle:
            self._put()

    def tick(self) -> None:
        """Time goes by. RemoteError("timeout") when the other end is gone."""
        if not self._queue:
            return
        self._silent += 1
        if self._silent > _GONE:
            raise RemoteError("timeout", "serial: no answer")
        self._ticks -= 1
        if self._ticks <= 0:
            again = min(2 * self._again, _AGAIN[1])
            self._put()
            self._again = self._ticks = again

    def receive(self, frame: bytes) -> tuple | None:
        """The message ``(kind, data)`` that a frame of this connection completes, if it does.

        DecodeError for what no such end sends; the connection cannot go on then.
        """
        if len(frame) < 3 or len(frame) > MAX_FRAME or frame[1] != self.connection:
            raise DecodeError("serial: not a frame of this connection")
        kind = frame[0] & ~MORE
        number = frame[2]
        if not OPEN <= kind <= RESET:
            raise DecodeError("serial: kind " + str(kind))
        if kind == RESET:
            return kind, b""
        if kind == ACK:
            if self._queue and number == self._number:
                self._queue.pop(0)
                self._number = (number + 1) & 0xFF
                self._silent = 0
                if self._queue:
                    self._put()
            return None  # else: of a frame that went out twice
        if number == (self._expected - 1) & 0xFF:
            if self._owed < 0:
                self._acknowledge(number)
            return None
        if number != self._expected:
            raise DecodeError("serial: a frame is missing")
        self._expected = (number + 1) & 0xFF
        if self.hold:
            self._owed = number
        else:
            self._acknowledge(number)
        if len(self._parts) + len(frame) > MAX_MESSAGE + 3:
            raise DecodeError("serial: too large", "too-large")
        data = self._parts + frame[3:]
        if frame[0] & MORE:
            self._parts = data
            return None
        self._parts = b""
        return kind, data

    def go_on(self) -> None:
        """Acknowledge what was held back."""
        self.hold = False
        if self._owed >= 0:
            self._acknowledge(self._owed)
            self._owed = -1

    def _acknowledge(self, number: int) -> None:
        self.out.append(bytes((ACK, self.connection, number)))

    def _put(self) -> None:
        frame = self._queue[0]
        self.out.append(frame[:1] + bytes((self.connection, self._number)) + frame[1:])
        self._again = self._ticks = _AGAIN[0]


def reset(connection: int) -> bytes:
    """The frame that says that there is no such connection."""
    return bytes((RESET, connection, 0))
