"""Measures heap: what each module takes, then a run of EDHOC by both roles (method 0, suite 3).

Arguments: what this image calls the loop of a multiplication (p256_point._run), then the modules
to import, each after those that it needs. Prints one JSON object a line and, after import and
inside the run, the interpreter's map of its heap; the host reads both.
"""

import gc
import json
import struct
import sys

import micropython


def used():
    gc.collect()
    return gc.mem_alloc()


def say(event, **fields):
    fields["event"] = event
    print(json.dumps(fields))


gc.threshold(8192)  # as the agent has it
before = used()
say("start", used=before, block=4 * struct.calcsize("P"))
for name in sys.argv[2:]:
    __import__(name)
    now = used()
    say("module", name=name, bytes=now - before)
    before = now

from keyferry_core import p256_point  # noqa: E402
from keyferry_core._compat import sha256  # noqa: E402
from keyferry_core.edhoc.credentials import by_x5t  # noqa: E402
from keyferry_core.edhoc.initiator import Initiator  # noqa: E402
from keyferry_core.edhoc.responder import Responder  # noqa: E402
from keyferry_core.suite import Crypto  # noqa: E402


class Counter:
    """In place of a random source, so that each run takes the same way: hashes of 0, 1, 2…"""

    def __init__(self, seed):
        self._seed = seed
        self._number = 0

    def __call__(self, length):
        self._number += 1
        return sha256(self._seed, self._number.to_bytes(4, "big"))[:length]


def run():
    crypto_i, crypto_r = Crypto(Counter(b"i")), Crypto(Counter(b"r"))
    private_i, public_i = crypto_i.generate()
    private_r, public_r = crypto_r.generate()
    # credentials as large as certificates
    known_i, known_r = by_x5t(b"initiator!" * 40, public_i), by_x5t(b"responder!" * 40, public_r)
    initiator = Initiator(crypto_i, known_i, private_i)
    responder = Responder(crypto_r, known_r, private_r)
    responder.read_message_1(initiator.message_1())
    initiator.read_message_2(responder.message_2(b"\x01"))
    initiator.verify_message_2(known_r)
    responder.read_message_3(initiator.message_3())
    responder.verify_message_3(known_i)
    initiator.read_message_4(responder.message_4())
    if initiator.exporter(1, b"", 16) != responder.exporter(1, b"", 16):
        raise ValueError("two keys of one run differ")


run()  # loads what the roles load at need, so that only data is counted below
say("imported", used=used())
micropython.mem_info(1)
multiply = getattr(p256_point, sys.argv[1])


def watched(*arguments):
    # inside a multiplication everything is alive: messages, keys, tables
    print("live", used())
    micropython.mem_info(1)
    return multiply(*arguments)


setattr(p256_point, sys.argv[1], watched)
run()
setattr(p256_point, sys.argv[1], multiply)
run()  # once more without the collections that measuring makes, as on a device
say("done", used=used())
