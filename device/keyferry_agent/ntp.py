"""The time of an NTP server (RFC 5905; what a simple client does, RFC 4330), which nobody signed.

One question, one answer. The question's transmit timestamp is 64 random bits, which the answer must
give back as its originate timestamp: who does not see the question cannot answer it. Who does see
it can say any time, so the caller decides how far it goes with that (timekeeper.py).

Only needed now and then: the agent forgets this module after use.
"""

import asyncio
import errno
import socket

from keyferry_agent import clock
from keyferry_agent.errors import LinkError
from keyferry_core.errors import AuthenticationError, DecodeError, RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds for an answer, and between two looks whether it is there.
ANSWER_TIMEOUT = 5
_LOOK = 0.02
# Bytes of an answer without extensions; more are let pass and ignored.
_LENGTH = 48
_MOST = 512
# From 1900, where NTP counts from, to 1970; and the seconds of an era, which ends in 2036.
_TO_UNIX = 2208988800
_ERA = 1 << 32
# Root delay / 2 + root dispersion from which a server does not know the time (RFC 5905, MAXDIST's
# cap MAXDISP), in units of 1/65536 s.
_TOO_FAR = 16 << 16
# Datagrams that are no answer to our question, after which the rest is not looked at.
_MOST_OTHERS = 16


async def ask(host: str, port: int, random: "Callable[[int], bytes]", floor: int) -> int:
    """Unix seconds by the server ``host``, of the era in which ``floor`` is or is just past.

    RemoteError: "access-denied" when the server wants no more questions from us, "too-many" when
    it wants fewer, "timeout"; AuthenticationError for what is no answer to our question;
    DecodeError "ntp: …" for one that is of no use; LinkError when the network does not let us.
    """
    nonce = random(8)
    plain = None
    try:
        found = socket.getaddrinfo(host, port)[0]
        plain = socket.socket(found[0], socket.SOCK_DGRAM)
        plain.setblocking(False)
        plain.connect(found[-1])  # nothing from elsewhere is received
        # version 4, mode 3, and nothing that would tell our clock
        plain.send(bytes((0x23,)) + bytes(39) + nonce)
        elapsed = clock.stopwatch()
        others = 0
        while True:
            try:
                data = plain.recv(_MOST)
            except OSError as error:
                if error.args[0] != errno.EAGAIN:
                    raise
                if elapsed() >= ANSWER_TIMEOUT * 1000:
                    raise RemoteError("timeout", "ntp: no answer from " + host) from None
                await asyncio.sleep(_LOOK)
                continue
            try:
                return read(data, nonce, floor)
            except AuthenticationError:
                # somebody's guess must not keep the true answer from us
                others += 1
                if others == _MOST_OTHERS:
                    raise
    except OSError as error:
        raise LinkError("ntp: " + str(error)) from None
    finally:
        if plain is not None:
            plain.close()


def read(data: bytes, nonce: bytes, floor: int) -> int:
    """The time that an answer to the question with ``nonce`` says. Errors: see ``ask``."""
    if len(data) < _LENGTH:
        raise AuthenticationError("ntp: cut short")
    if data[0] & 7 != 4 or not 3 <= data[0] >> 3 & 7 <= 4:
        raise AuthenticationError("ntp: not a server's answer")
    if data[24:32] != nonce:
        raise AuthenticationError("ntp: the answer to another question")
    if data[1] == 0:  # a kiss of death: there are four letters in place of the time
        if data[12:16] in (b"DENY", b"RSTR"):
            raise RemoteError("access-denied", "ntp: the server wants no question from us")
        if data[12:16] == b"RATE":
            raise RemoteError("too-many", "ntp: the server wants fewer questions")
        raise DecodeError("ntp: the server does not say the time")
    if data[1] > 15 or data[0] >> 6 == 3:
        raise DecodeError("ntp: the server does not know the time")
    number = int.from_bytes
    if number(data[4:8], "big") // 2 + number(data[8:12], "big") >= _TOO_FAR:
        raise DecodeError("ntp: the server is not sure of the time")
    seconds = number(data[40:44], "big")
    if not seconds and not number(data[44:48], "big"):
        raise DecodeError("ntp: no time in it")
    seconds += data[44] >> 7  # to the nearest second
    seconds -= _TO_UNIX
    # An answer does not say its era: it is the first in which the time is after the floor. One a
    # little before it must not come out 136 years later, so half an era is let back.
    while seconds < floor - _ERA // 2:
        seconds += _ERA
    return seconds
