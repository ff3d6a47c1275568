"""One table of errors, and the exceptions that carry a row of it.

A row's *name* and *text* are safe to send to a stranger. An exception's ``detail`` is for the
log of the side that raised it, and is never put on the wire.
"""

# name, code in signalling, SIP status (RFC 3261), HTTP status (RFC 9110), text for the other side.
# 40 on: enrolment (EST, RFC 7030). 60 on: calls that our own code should not have made.
# One text and not 30 tuples, since on a board it then stays in flash and costs no heap.
_TABLE = """
malformed #1 400 400 the message is malformed
identity-mismatch #2 403 403 'from' is not the name this link was authenticated for
access-denied #3 403 403 the access rules do not allow this
unknown-name #4 404 404 no device of this name is known
peer-offline #5 480 503 the device is known but has no link
not-registered #6 403 403 register before anything else
unknown-session #7 481 404 there is no such session
declined #8 603 403 the peer declined
too-large #9 513 413 the message is too large
too-many #10 503 429 too many at once: slow down
timeout #11 408 504 no answer in time
unsupported #12 488 415 this is not supported here
authentication-failed #13 403 403 a signature, tag or certificate did not verify
bad-route #14 403 403 the stated route is not the one seen
key-exchange-failed #15 488 409 the key exchange failed
peer-restarted #16 480 410 the peer started anew and lost the session
peer-gone #17 480 410 the peer's link ended
session-closed #18 480 410 the peer closed the session
limit-reached #19 480 410 the keys have reached their limit: make a new session
internal #20 500 500 an error inside; the operator's log says more
replaced #21 480 409 another link of the same device took over
revoked #22 403 403 the certificate, or its key, was revoked
device-gone #23 410 410 the device of this name was removed
manager-restarted #24 480 410 the manager started anew and lost the session
not-endorsed #25 403 403 the owner has not signed for this key
key-changed #26 403 403 the peer's key is not the one that was pinned for its name
bad-credentials #40 401 401 the name or the one-time token is wrong, used or expired
bad-signature #41 403 400 the request is not signed by the key that it carries
key-not-allowed #42 488 400 the key must be ECDSA on P-256
name-not-allowed #43 403 403 this credential does not entitle to the requested name
certificate-required #44 403 401 present a client certificate or a one-time token
not-offered #45 501 501 this operation is refused on purpose
wrong-state #60 500 500 this call is not possible now
bad-argument #61 500 500 an argument is out of range
clock-wrong #62 500 500 the clock is wrong, or a certificate has run out
storage-failed #63 500 500 the storage does not take what is written
"""


def _row(key: str) -> list:
    # every row starts after a line feed, and only the code column has a '#'
    start = _TABLE.find(key)
    if start < 0:
        raise KeyError(key)
    start = _TABLE.rfind("\n", 0, start + 1) + 1
    return _TABLE[start : _TABLE.find("\n", start)].split(" ", 4)


def rows() -> list:
    """The whole table: ``(name, code, SIP status, HTTP status, text)`` of every error."""
    table = [line.split(" ", 4) for line in _TABLE.strip().split("\n")]
    return [(row[0], int(row[1][1:]), int(row[2]), int(row[3]), row[4]) for row in table]


def code_of(name: str) -> int:
    """The wire code of the error ``name``. KeyError for a name that is not in the table."""
    return int(_row("\n" + name + " #")[1][1:])


def name_of(code: int) -> str:
    """The name for a wire code, ``"internal"`` for one that this version does not know."""
    try:
        return _row(" #" + str(code) + " ")[0]
    except KeyError:
        return "internal"


class KeyferryError(Exception):
    """Base of every error the core raises.

    ``name`` is a row of the table; ``text`` is that row's safe sentence; ``detail`` is for the log.
    """

    def __init__(self, name: str, detail: str = "") -> None:
        row = _row("\n" + name + " #")
        self.name = name
        self.code = int(row[1][1:])
        self.sip_status = int(row[2])
        self.http_status = int(row[3])
        self.text = row[4]
        # images for devices have numbers in place of the sentences: keyferry_firmware.details
        self.detail = detail if isinstance(detail, str) else "#%06x" % detail
        super().__init__(name + ": " + (self.detail or self.text))


class LocalError(KeyferryError):
    """Our own caller asked for something impossible. Nothing was sent, no state moved."""


class StateError(LocalError):
    """A call in the wrong state. The state did not move."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("wrong-state", detail)


class RemoteError(KeyferryError):
    """The other side, or whoever wrote these bytes, broke the protocol or said an error."""


class DecodeError(RemoteError):
    """Bytes from outside that are not what the standard says."""

    def __init__(self, detail: str = "", name: str = "malformed") -> None:
        super().__init__(name, detail)


class AuthenticationError(RemoteError):
    """A tag, signature, point or certificate that does not verify."""

    def __init__(self, detail: str = "", name: str = "authentication-failed") -> None:
        super().__init__(name, detail)
