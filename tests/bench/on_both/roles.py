"""One run of EDHOC with method 0 and suite 3, by both roles or by one that hears the other's part.

All randomness comes from a counter, so that what one role says can be written down beforehand, and
the other can then be run alone.
"""

from keyferry_core._compat import sha256
from keyferry_core.edhoc.credentials import by_x5t
from keyferry_core.suite import Crypto


class Counter:
    """In place of a random source: the hashes of 0, 1, 2…"""

    def __init__(self, seed):
        self._seed = seed
        self._number = 0

    def __call__(self, length):
        self._number += 1
        digest = sha256(self._seed, self._number.to_bytes(4, "big"))
        return digest[:length]


def credential(seed, public):
    """A credential as large as a device's certificate."""
    return by_x5t(seed * 40, public)


class Initiating:
    """The Initiator's three calls."""

    def __init__(self, crypto, keys, peer_public):
        from keyferry_core.edhoc.initiator import Initiator

        self._peer = credential(b"responder!", peer_public)
        self._role = Initiator(crypto, credential(b"initiator!", keys[1]), keys[0])

    def first(self):
        return self._role.message_1()

    def second(self, message_2):
        self._role.read_message_2(message_2)
        self._role.verify_message_2(self._peer)
        return self._role.message_3()

    def third(self, message_4):
        self._role.read_message_4(message_4)
        return self._role.exporter(1, b"", 16)


class Responding:
    """The Responder's two calls."""

    def __init__(self, crypto, keys, peer_public):
        from keyferry_core.edhoc.responder import Responder

        self._peer = credential(b"initiator!", peer_public)
        self._role = Responder(crypto, credential(b"responder!", keys[1]), keys[0])

    def first(self, message_1):
        self._role.read_message_1(message_1)
        return self._role.message_2(b"\x01")

    def second(self, message_3):
        self._role.read_message_3(message_3)
        self._role.verify_message_3(self._peer)
        return self._role.message_4(), self._role.exporter(1, b"", 16)


def both(make, keys_i, keys_r):
    """Both roles in one heap; the four messages. ``make(seed)`` gives a role its cryptography."""
    initiator = Initiating(make(b"i"), keys_i, keys_r[1])
    responder = Responding(make(b"r"), keys_r, keys_i[1])
    message_1 = initiator.first()
    message_2 = responder.first(message_1)
    message_3 = initiator.second(message_2)
    message_4, exported = responder.second(message_3)
    _same(initiator.third(message_4), exported)
    return message_1, message_2, message_3, message_4


def alone(role, make, keys_i, keys_r, messages):
    """One role, which answers as ``messages`` has it."""
    message_1, message_2, message_3, message_4 = messages
    if role == "initiator":
        initiator = Initiating(make(b"i"), keys_i, keys_r[1])
        _same(initiator.first(), message_1)
        _same(initiator.second(message_2), message_3)
        initiator.third(message_4)
    else:
        responder = Responding(make(b"r"), keys_r, keys_i[1])
        _same(responder.first(message_1), message_2)
        _same(responder.second(message_3)[0], message_4)


def _same(said, expected):
    # not an assertion: those are left out of what is compiled for a device
    if said != expected:
        raise ValueError("not the run that was written down")


def make(seed):
    return Crypto(Counter(seed))
