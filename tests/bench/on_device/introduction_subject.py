"""Two devices introduced in one heap, from signalling to a record and its answer.

``introduction FILE``: a JSON file with what identities.json says of panel-1 and pump-7.
"""

import gc
import json
import os
import sys

import parties

from keyferry_core import cbor
from keyferry_core import signalling as s
from keyferry_core.session import Initiator, Responder

gc.threshold(8192)  # as the agent has it


def relayed(message, credential=None):
    """What a manager hands on, after the codec and the contract."""
    if credential is not None:
        message[s.CREDENTIAL] = credential
    return s.check(cbor.decode(cbor.encode(message)), False)


def run(identities):
    crypto = parties.crypto("core", os.urandom)
    a = parties.Device(crypto, identities, "panel-1", False)
    b = parties.Device(crypto, identities, "pump-7", False)
    now = identities["now"]
    trust = parties.trust(crypto, identities)
    initiator = Initiator(a.identity, trust, crypto, b.name)
    responder = Responder(b.identity, trust, crypto)
    accept = responder.on_connect(relayed(initiator.connect(), a.certificate))
    session_a = initiator.on_accept(relayed(accept, b.certificate), now)
    first = relayed(session_a.seal(b"hello"))
    session_b = responder.on_message(first, now)
    heard = session_b.open(first), session_a.open(relayed(session_b.seal(b"welcome")))
    if heard != (b"hello", b"welcome"):
        raise ValueError(heard)


with open(sys.argv[1]) as file:
    run(json.load(file))
print("done")
