"""A device that enrols, and a scripted EST server. Runs on both runtimes."""

import asyncio
import json
import os

from keyferry_agent import config, enrol
from keyferry_agent.agent import Agent
from keyferry_agent.store import Store
from keyferry_core import est_codec, suite
from support.agent_kit import Events, Folder
from support.portable import vectors

DATA = vectors("enrolment")
PRIVATE = bytes.fromhex(DATA["private"])
CERTIFICATE = bytes.fromhex(DATA["certificate"])
ISSUING = bytes.fromhex(DATA["issuing"])
RUN_OUT = est_codec.parse_certs(DATA["enrolled"]["bad: expired"].encode())[0]
crypto = suite.Crypto(os.urandom)


def ok(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body.encode())


GOOD = [ok(DATA["cacerts"]["good"]), ok(DATA["enrolled"]["good"])]
# the next key is made by Enrolment below, where a renewal wants a new one
NEXT = [GOOD[0], ok(DATA["enrolled"]["next key"])]
NEXT_PRIVATE = bytes.fromhex(DATA["next private"])
# after two thirds of a life from 2026 to 2046, and the longest jitter
DUE = 2215000000


class Server:
    """Answers one after another, over one connection until an answer says close. An answer that
    is an exception is raised; ``piece`` is how many bytes come at a time."""

    def __init__(self, answers, piece=100):
        self.answers = list(answers)
        self.requests = []
        self.opened = 0
        self.closed = 0
        self._piece = piece
        self._left = b""

    async def __call__(self):
        self.opened += 1
        self._left = b""
        return self, self

    def write(self, data):
        self.requests.append(data)

    async def drain(self):
        answer = self.answers.pop(0) if self.answers else b""
        if isinstance(answer, Exception):
            raise answer
        self._left += answer

    async def read(self, count):
        await asyncio.sleep(0)
        count = min(count, self._piece)
        data, self._left = self._left[:count], self._left[count:]
        return data

    def close(self):
        self.closed += 1

    async def wait_closed(self):
        pass


class Device:
    """A folder of a device that has never been started, and what enrolment needs of it."""

    def __init__(self, token=True, pending=PRIVATE):
        self._folder = Folder()
        self._token = token
        self._pending = pending

    def __enter__(self):
        folder = self._folder.__enter__()
        settings = {"name": DATA["name"], "realm": DATA["realm"], "est_port": 8443}
        folder.write("config.json", json.dumps(settings).encode())
        folder.write("root.der", bytes.fromhex(DATA["root"]))
        if self._token:
            folder.write("token", b"one-time\n")
        self.path = folder.path
        self.config = config.load(folder.path)
        self.store = Store(folder.path)
        if self._pending is not None:
            # the answers were made beforehand, for this key
            self.store.set_pending(self._pending)
        self.seen = []
        return self

    def __exit__(self, *what):
        self._folder.__exit__(*what)

    def event(self, event, **fields):
        self.seen.append((event, fields))

    def names(self):
        return self._folder.names()

    def write(self, name, data):
        self._folder.write(name, data)

    def simpleenroll(self, server):
        return enrol.simpleenroll(self.config, self.store, crypto, self.event, server)

    def simplereenroll(self, server, new_key=False):
        return enrol.simplereenroll(
            self.config, self.store, crypto, self.event, new_key, None, server
        )


class Enrolment:
    """In place of the module enrol: the real one, with a server of ours behind it."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.used = 0

    def _server(self):
        return Server(self.scripts.pop(0) if self.scripts else [OSError(111)])

    async def simpleenroll(self, config, store, crypto, event):
        self.used += 1
        await enrol.simpleenroll(config, store, crypto, event, self._server())

    async def simplereenroll(self, config, store, crypto, event, new_key=False, tls=None):
        self.used += 1
        if new_key and store.identity[2] == PRIVATE:  # the link, asked first, has made one
            store.set_pending(NEXT_PRIVATE)
        await enrol.simplereenroll(config, store, crypto, event, new_key, tls, self._server())


def agent_of(device, enrolment, hub):
    events = Events()
    made = Agent(device.path, events, carrier=hub.carrier(DATA["name"]), enrolment=enrolment)
    return made, events
