"""Two devices with certificates of the vectors, and an honest manager in between; portable."""

import os

from keyferry_core import cbor, suite
from keyferry_core import signalling as s
from keyferry_core.session import Identity, Initiator, Responder
from keyferry_core.trust import Trust
from support.portable import vectors

crypto = suite.Crypto(os.urandom)
DATA = vectors("identities")
NOW = DATA["now"]
LEG = ["10.0.0.7:8883", s.TRANSPORT_MQTT_TLS, True]


def certificate(label):
    return bytes.fromhex(DATA["devices"][label]["certificate"])


def keys(label):
    device = DATA["devices"][label]
    return bytes.fromhex(device["private"]), bytes.fromhex(device["public"])


def identity(label, agreement=None):
    name = next(part for part in label.split() if "-" in part)
    private, public = keys(label)
    return Identity(name, DATA["realm"], private, public, certificate(label), agreement)


def trust():
    return Trust(crypto, DATA["realm"], bytes.fromhex(DATA["issuer"]))


def relay(message, credential=None, endorsed=None):
    """What an honest manager hands on; every message passes through the codec and the contract."""
    sent = s.check(cbor.decode(cbor.encode(message)), True)
    if credential is not None:
        sent[s.CREDENTIAL] = certificate(credential)
    if endorsed is not None:
        sent[s.PUBLIC_KEY] = endorsed
    if s.ROUTE in sent:
        sent[s.ROUTE] = [sent[s.ROUTE][0] + [True], ["192.0.2.1:8883", 1, True, True]]
    return s.check(cbor.decode(cbor.encode(sent)), False)


def introduce(a="panel-1", b="pump-7"):
    initiator = Initiator(identity(a), trust(), crypto, "pump-7")
    responder = Responder(identity(b), trust(), crypto)
    accept = responder.on_connect(relay(initiator.connect(LEG), a), LEG)
    session_a = initiator.on_accept(relay(accept, b), NOW)
    first = relay(session_a.seal(b"hello"))
    session_b = responder.on_message(first, NOW)
    assert session_b.open(first) == b"hello"
    return session_a, session_b


def changed(message, key, value):
    """A message with another value in it."""
    other = dict(message)
    other[key] = value
    return other
