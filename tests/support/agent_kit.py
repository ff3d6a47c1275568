"""Agents without a network: identities, a folder as flash, and a hub that plays the manager.

The hub speaks MQTT over streams in memory, so agents use their real carrier on it.
"""

import asyncio
import os

from keyferry_agent import agent as agent_module
from keyferry_agent import clock, identity
from keyferry_agent.agent import Agent
from keyferry_agent.carriers.mqtt import MqttCarrier
from keyferry_agent.store import Store
from keyferry_core import cbor
from keyferry_core import mqtt_codec as mqtt
from keyferry_core import signalling as s
from keyferry_core._compat import CPYTHON
from keyferry_core.errors import code_of
from keyferry_core.suite import Crypto
from support.portable import vectors

DATA = vectors("identities")
NOW = DATA["now"]
REALM = DATA["realm"]
ISSUER = bytes.fromhex(DATA["issuer"])


_REAL = (clock.now, clock.rtc, clock.uptime)


def set_clock(seconds=NOW):
    """What both clocks of a device show: the one that can be set, and the one that cannot."""
    clock.now = clock.rtc = clock.uptime = lambda: seconds


def run(coroutine):
    """asyncio.run, with nothing left over for the next one."""
    set_clock()
    agent_module.BACKOFF = (0, 0)
    agent_module.TICK = 10
    agent_module.FOLLOW_WITHIN = 20
    identity.BACKOFF = (1, 300)
    try:
        return asyncio.run(coroutine)
    finally:
        clock.now, clock.rtc, clock.uptime = _REAL
        if not CPYTHON:  # its one loop keeps the tasks that were not awaited
            asyncio.new_event_loop()


async def until(condition, seconds=10):
    """Wait until ``condition()`` holds."""
    for _ in range(seconds * 100):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


async def fails(kind, awaitable):
    """The error of class ``kind`` that ``awaitable`` raises."""
    try:
        result = await awaitable
    except kind as error:
        return error
    raise AssertionError("expected " + kind.__name__ + ", got " + repr(result)[:200])


class Folder:
    """A directory for one device's files; ``with`` removes it."""

    def __init__(self):
        self.path = "/tmp/keyferry-test-" + os.urandom(8).hex()

    def __enter__(self):
        os.mkdir(self.path)
        return self

    def __exit__(self, *what):
        for name in os.listdir(self.path):
            os.remove(self.path + "/" + name)
        os.rmdir(self.path)

    def write(self, name, data):
        with open(self.path + "/" + name, "wb") as file:
            file.write(data)

    def names(self):
        return sorted(os.listdir(self.path))


class Events(list):
    """A callable for an agent's events, which keeps them as (name, fields)."""

    def __call__(self, event, **fields):
        assert "ms" in fields
        self.append((event, fields))

    def all(self, name):
        return [fields for event, fields in self if event == name]

    def names(self):
        return [event for event, _ in self]


class Reader:
    """What the device reads; the hub feeds it."""

    def __init__(self):
        self.data = b""
        self.closed = False
        self.news = asyncio.Event()

    def feed(self, data):
        self.data += data
        self.news.set()

    def close(self):
        self.closed = True
        self.news.set()

    async def readexactly(self, count):
        while len(self.data) < count:
            if self.closed:
                raise EOFError
            self.news.clear()
            await self.news.wait()
        found, self.data = self.data[:count], self.data[count:]
        return found


class Link:
    """One connection, seen from the hub; it is the device's writer as well."""

    def __init__(self, hub):
        self.hub = hub
        self.reader = Reader()
        self.name = ""
        self.packets = mqtt.Reader(20000)
        self.mute = False
        self.clean = False
        self.acknowledge = True
        self.sent = 0

    def write(self, data):
        if self.reader.closed:
            raise OSError(32)
        self.packets.feed(data)
        for packet in self.packets:
            if not self.mute:
                self.hub.packet(self, packet)

    async def drain(self):
        await asyncio.sleep(0)

    def close(self):
        self.reader.close()
        self.hub.closed(self)

    async def wait_closed(self):
        pass

    def answer(self, data):
        self.reader.feed(data)

    def deliver(self, payload, qos=1):
        """A message to the device, as bytes."""
        self.sent += 1
        topic = "kf/d/" + self.name
        self.reader.feed(mqtt.publish(topic, payload, qos, self.sent if qos else 0))


class Hub:
    """The manager's side: relays as an honest manager does, unless a test meddles.

    ``refuse`` maps a message type to the name of the error that answers it; ``meddle(message)``
    may change a message on its way, or return None to lose it. ``seen`` holds what devices sent.
    """

    def __init__(self):
        self.links = {}
        self.seen = []
        self.acknowledged = []
        self.refuse = {}
        self.meddle = lambda message: message
        self.connack = mqtt.ACCEPTED
        self.granted = 1
        self.opened = 0
        self.expires = 3600
        self.allow_opening = True
        self.deliver_certificates = True
        self.instances = {}
        self.boot = b"manager1"
        self.keys = {}
        self.anchors = b""  # what devices are to state
        self.certificates = []  # answers to those that are asked for over the link
        self.addresses = {}
        self.trusts = {}  # what devices want of their peers besides a certificate
        self.vouches = {}  # and what there is, by name
        self.small = []  # sessions with the profile rpk

    async def open(self):
        if not self.allow_opening:
            raise OSError(111)
        self.opened += 1
        link = Link(self)
        return link.reader, link

    def carrier(self, name, keep_alive=60, skipped=lambda length: None):
        return MqttCarrier(name, keep_alive, self.open, skipped)

    def closed(self, link):
        if self.links.get(link.name) is link:
            del self.links[link.name]

    def cut(self, name):
        """End a device's link, as a lost network would."""
        link = self.links.pop(name)
        link.reader.close()

    def packet(self, link, packet):
        kind = packet[0]
        if kind == mqtt.TYPE_CONNECT:
            link.name = packet[1]
            link.answer(mqtt.connack(self.connack))
        elif kind == mqtt.TYPE_SUBSCRIBE:
            assert packet[2] == [("kf/d/" + link.name, 1)]
            link.answer(mqtt.suback(packet[1], [self.granted]))
            self.links[link.name] = link
        elif kind == mqtt.TYPE_PINGREQ:
            link.answer(mqtt.PINGRESP)
        elif kind == mqtt.TYPE_PUBACK:
            self.acknowledged.append(packet[1])
        elif kind == mqtt.TYPE_DISCONNECT:
            link.clean = True
        else:
            assert kind == mqtt.TYPE_PUBLISH
            assert packet[1] == "kf/u/" + link.name
            if packet[3] and link.acknowledge:
                link.answer(mqtt.puback(packet[4]))
            self.message(link, s.check(cbor.decode(packet[2]), True))

    def message(self, link, message):
        assert message[s.FROM] == link.name
        self.seen.append(message)
        message = self.meddle(dict(message))
        if message is None:
            return
        kind = message[s.TYPE]
        if kind in self.refuse:
            self.error(link, self.refuse[kind], message)
        elif kind == s.REGISTER:
            self.instances[link.name] = message[s.INSTANCE]
            self.addresses[link.name] = message[s.ADDRESSES]
            self.trusts[link.name] = message.get(s.TRUST, 0)
            if s.PUBLIC_KEY in message:
                self.keys[link.name] = message[s.PUBLIC_KEY]
            if s.VOUCH in message:
                self.vouches[link.name] = message[s.VOUCH]
            answer = {
                s.TYPE: s.REGISTERED,
                s.ID: message[s.ID],
                s.EXPIRES: self.expires,
                s.SEEN: "192.0.2.7:1234",
                s.INSTANCE: self.boot,
            }
            if self.anchors and message[s.ANCHORS] != self.anchors:
                answer[s.ANCHORS] = self.anchors
            self.reply(link, answer)
        elif kind == s.RESOLVE:
            answer = {
                s.TYPE: s.RESOLVED,
                s.ID: message[s.ID],
                s.NAME: message[s.NAME],
                s.ONLINE: message[s.NAME] in self.links,
                s.ADDRESSES: self.addresses.get(message[s.NAME], []),
            }
            if answer[s.ONLINE] and answer[s.NAME] in self.keys:
                answer[s.PUBLIC_KEY] = self.keys[answer[s.NAME]]
            self.reply(link, answer)
        elif kind == s.CERTIFY:
            if self.certificates:
                answer = dict(self.certificates.pop(0))
                answer[s.TYPE] = s.CERTIFIED
                answer[s.ID] = message[s.ID]
                self.reply(link, answer)
            else:
                self.error(link, "unsupported", message)
        else:
            peer = self.links.get(message[s.TO])
            if peer is None:
                self.error(link, "peer-offline", message)
                return
            if kind in (s.CONNECT, s.ACCEPT, s.SEND):
                stated = message.get(s.ROUTE, [["192.0.2.9:1", 1, True]])[0]
                message[s.ROUTE] = [list(stated) + [True], ["192.0.2.1:8883", 1, True, True]]
            if kind in (s.CONNECT, s.ACCEPT):
                if s.CREDENTIAL not in message and self.deliver_certificates:
                    message[s.CREDENTIAL] = certificate(message[s.FROM])
                if message.get(s.PROFILE) == s.PROFILE_RPK:
                    self.small.append(message[s.SESSION])
                if message[s.SESSION] in self.small and message[s.FROM] in self.keys:
                    message[s.PUBLIC_KEY] = self.keys[message[s.FROM]]
                if self.trusts.get(peer.name) and message[s.FROM] in self.vouches:
                    message.setdefault(s.VOUCH, self.vouches[message[s.FROM]])
            peer.deliver(cbor.encode(message))

    def reply(self, link, message):
        message[s.FROM] = s.MANAGER
        message[s.TO] = link.name
        link.deliver(cbor.encode(message))

    def error(self, link, name, message):
        answer = {s.TYPE: s.ERROR, s.ERROR_CODE: code_of(name), s.TEXT: "because"}
        for key in (s.ID, s.SESSION):
            if key in message:
                answer[key] = message[key]
        self.reply(link, answer)

    def types(self):
        """The types of the messages that devices sent, in their order."""
        return [s.type_name(message) for message in self.seen]


def certificate(label):
    return bytes.fromhex(DATA["devices"][label]["certificate"])


def provision(folder, name, label=None, **settings):
    """What a device has on its flash after it enrolled."""
    import json

    settings["name"] = name
    settings["realm"] = REALM
    folder.write("config.json", json.dumps(settings).encode())
    device = DATA["devices"][label or name]
    private, public = bytes.fromhex(device["private"]), device["certificate"]
    Store(folder.path).set_identity(name, REALM, private, bytes.fromhex(public), ISSUER)


class Party:
    """An agent on a hub with its flash and its events; ``async with`` starts and stops it."""

    def __init__(self, hub, name, label=None, watchdog=None, board=None, **settings):
        self.folder = Folder()
        self.folder.__enter__()
        try:
            provision(self.folder, name, label, **settings)
            self.events = Events()
            self.hub = hub
            self.name = name
            # the core's own on both runtimes; CPython's backend is in tests/e2e
            self.agent = Agent(
                self.folder.path,
                self.events,
                Crypto(os.urandom),
                carrier=hub.carrier(name),
                watchdog=watchdog,
                board=board,
            )
        except BaseException:
            self.folder.__exit__()
            raise

    async def __aenter__(self):
        await asyncio.wait_for(self.agent.start(), 10)
        return self

    async def __aexit__(self, *what):
        try:
            await asyncio.wait_for(self.agent.stop(), 10)
        finally:
            self.folder.__exit__()

    @property
    def link(self):
        return self.hub.links[self.name]

    async def next(self):
        """The next session that a peer began."""
        return await asyncio.wait_for(self.agent.incoming().__anext__(), 10)


async def introduce(a, b):
    """A session between two parties, as both sides have it."""
    session = await a.agent.connect(b.name, 10)
    return session, await b.next()
