"""A relay without a network: links that keep what they are given, and a clock of our own."""

from keyferry_core import cbor, names, signalling
from keyferry_core import signalling as sig
from keyferry_core.errors import name_of
from keyferry_manager.policy import Rules
from keyferry_manager.relay import Relay, RelaySettings

SESSION = bytes(range(16))


class FakeLink:
    """A link that keeps what it is given, decoded; ``room`` is how much it takes."""

    def __init__(self, name, address=None, room=1000):
        self.name = name
        self.address = address or f"192.0.2.{len(name)}:4000"
        self.transport = sig.TRANSPORT_MQTT_TLS
        self.certificate_der = b"certificate of " + name.encode()
        self.room = room
        self.raw = []
        self.closed = False

    def send(self, payload):
        if self.closed or len(self.raw) >= self.room:
            return False
        self.raw.append(payload)
        return True

    def close(self):
        self.closed = True

    def take(self):
        """The one message that came, as the device's own codec reads it."""
        assert len(self.raw) == 1, self.raw
        return signalling.check(cbor.decode(self.raw.pop()), False)

    def error(self):
        message = self.take()
        assert message[sig.TYPE] == sig.ERROR
        assert message[sig.FROM] == names.MANAGER
        assert message[sig.TO] == self.name
        return name_of(message[sig.ERROR_CODE])


class FakeTrail:
    def __init__(self):
        self.events = []
        self.sessions = []
        self.links = {}
        self.keys = []

    def ok(self, event, name, address, detail="", **fields):
        self.events.append((event, name, detail))

    def refused(self, event, name, address, detail="", **fields):
        self.events.append((event, name, detail))

    def session(self, session):
        self.sessions.append((session.state, session.end_reason))

    def link(self, presence):
        self.links[presence.link_id] = (presence.name, tuple(presence.addresses))

    def link_ended(self, link_id):
        del self.links[link_id]

    def key(self, key):
        self.keys.append(key)


class World:
    """A relay with pump-7, which may ask for valve-2, and a clock of our own."""

    def __init__(self, **settings):
        self.time = 1000.0
        self.trail = FakeTrail()
        self.traced = []
        self.relay = Relay(
            RelaySettings(**settings),
            self.trail,
            lambda *entry: self.traced.append(entry),
            now=lambda: self.time,
            wall=lambda: self.time + 1e9,
        )
        self.relay.set_rules(
            Rules.of([("pump-7", "valve-2")]), ["pump-7", "valve-2", "third", "away"]
        )
        self.pump = self.join("pump-7")
        self.valve = self.join("valve-2")

    def join(self, name, instance=b"instance"):
        link = FakeLink(name)
        self.relay.link_up(link)
        self.send(link, {sig.TYPE: sig.REGISTER, sig.INSTANCE: instance, sig.ADDRESSES: []})
        assert link.take()[sig.TYPE] == sig.REGISTERED
        return link

    def send(self, link, message):
        message = {sig.FROM: link.name, **message}
        if message[sig.TYPE] in sig.TO_MANAGER:
            message = {sig.TO: names.MANAGER, sig.ID: 7, **message}
        self.relay.receive(link, cbor.encode(message))

    def offer(self, **changes):
        connect = {
            sig.TYPE: sig.CONNECT,
            sig.TO: "valve-2",
            sig.SESSION: SESSION,
            sig.PROFILE: sig.PROFILE_CERT,
            sig.MESSAGE_1: b"one",
        }
        self.send(self.pump, {**connect, **changes.get("fields", {})})

    def accept(self, link=None, to="pump-7"):
        accept = {sig.TYPE: sig.ACCEPT, sig.TO: to, sig.SESSION: SESSION, sig.MESSAGE_2: b"two"}
        self.send(link or self.valve, accept)

    def say(self, link, to, **fields):
        self.send(
            link, {sig.TYPE: sig.MESSAGE, sig.TO: to, sig.SESSION: SESSION, sig.RECORD: b"record"}
        )

    def open(self):
        self.offer()
        self.valve.take()
        self.accept()
        self.pump.take()

    def after(self, seconds):
        self.time += seconds
        self.relay.tick()

    def events(self):
        return [event for event, _, _ in self.trail.events]
