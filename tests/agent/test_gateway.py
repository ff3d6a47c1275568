# heap: 1m
"""A gateway's parts without a network: table, certificate, and what is said in a session."""

import asyncio
import binascii
import os

from keyferry_agent import clock
from keyferry_agent.config import ConfigError
from keyferry_agent.errors import SessionEnded
from keyferry_agent.gateway import certificate, exchange, parties
from keyferry_agent.gateway.destination import Destination
from keyferry_agent.gateway.exchange import ASK, CHUNK, WATCH, WINDOW, Exchange
from keyferry_core import suite, x509
from keyferry_core._compat import sha256
from keyferry_core.errors import DecodeError, RemoteError
from support.agent_kit import NOW, Folder, fails, run, until
from support.agent_kit import certificate as device_certificate
from support.portable import raises

crypto = suite.Crypto(os.urandom)
TOKEN = "a token of 32 random bytes"


def entry(**changes):
    values = {"token": sha256(TOKEN.encode()).hex(), "to": ["pump-7", "valve-2"]}
    values.update(changes)
    return values


def table(**parties_):
    return parties.parse({"third_parties": parties_}, "/")


def test_a_table_and_who_is_in_it():
    found = table(alice=entry(ports=["pump-7:443"]), bob=entry(token="00" * 32))
    assert (found.host, found.port, found.connections, found.link_idle) == ("0.0.0.0", 8444, 6, 0)
    assert found.parties[0].ports == [("pump-7", 443)]
    alice = found.by_header("Bearer " + TOKEN)
    assert alice is found.parties[0]
    assert found.by_header("bearer   " + TOKEN) is alice
    basic = binascii.b2a_base64(("alice:" + TOKEN).encode()).decode().strip()
    assert found.by_header("Basic " + basic) is alice
    other = binascii.b2a_base64(("bob:" + TOKEN).encode()).decode().strip()
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer " + TOKEN + "x",
        "Bearer " + "x" * 5000,
        "Digest " + TOKEN,
        "Basic " + other,
        "Basic !!!",
        "Basic " + binascii.b2a_base64(b"\xff\xff:\xff").decode().strip(),
        "Basic " + binascii.b2a_base64((":" + TOKEN).encode()).decode().strip(),
        "Basic " + binascii.b2a_base64(b"alice").decode().strip(),
    ):
        assert found.by_header(header) is None, header


def test_a_party_without_a_token_has_none():
    with Folder() as folder:
        folder.write("phone.crt", device_certificate("panel-1"))
        values = {"third_parties": {"phone": {"certificate": "phone.crt", "to": ["pump-7"]}}}
        found = parties.parse(values, folder.path + "/")
        assert found.by_token("") is None
        phone = found.by_certificate(device_certificate("panel-1"), NOW)
        assert phone.name == "phone"
        assert found.by_certificate(device_certificate("pump-7"), NOW) is None
        assert found.by_certificate(b"", NOW) is None
        assert found.by_certificate(device_certificate("panel-1"), 0) is None
        assert found.certificates() == [device_certificate("panel-1")]


def test_what_a_table_cannot_say():
    good = {"third_parties": {"alice": entry()}}
    assert parties.parse(good, "/").parties[0].name == "alice"
    for wrong in (
        [],
        None,
        {"third_party": {}},
        {"listen": "8444"},
        {"listen": "host:99999"},
        {"listen": 7},
        {"hosts": "gw-1"},
        {"hosts": [7]},
        {"connections": True},
        {"connections": 1},
        {"idle": "60"},
        {"third_parties": []},
        {"third_parties": {"alice": []}},
        {"third_parties": {"Alice": entry()}},
        {"third_parties": {"alice": {"to": ["pump-7"]}}},
        {"third_parties": {"alice": entry(token="abc")}},
        {"third_parties": {"alice": entry(token=7)}},
        {"third_parties": {"alice": entry(to="pump-7")}},
        {"third_parties": {"alice": entry(to=["*"])}},
        {"third_parties": {"alice": entry(ports=["desk:22"])}},
        {"third_parties": {"alice": entry(ports=["pump-7:0"])}},
        {"third_parties": {"alice": entry(ports=["pump-7"])}},
        {"third_parties": {"alice": entry(certificate="../x")}},
        {"third_parties": {"alice": entry(certificate="missing.crt")}},
        {"third_parties": {"alice": entry(more=1)}},
    ):
        assert raises(ConfigError, parties.parse, wrong, "/").detail.startswith("gateway.json: ")


def test_who_fails_too_often_waits_and_others_do_not():
    async def main():
        failures = parties.Failures()
        for _ in range(parties.FAILURES):
            assert failures.wait("192.0.2.1") == 0
            failures.add("192.0.2.1")
        assert failures.wait("192.0.2.1") == parties.FAILURE_SECONDS
        assert failures.wait("192.0.2.2") == 0
        before = clock.uptime
        clock.uptime = lambda: before() + parties.FAILURE_SECONDS
        assert failures.wait("192.0.2.1") == 0
        for number in range(100):
            failures.add("192.0.3." + str(number))
        assert len(failures._known) <= 32

    run(main())


def test_a_certificate_of_its_own():
    async def main():
        told = []
        with Folder() as folder:
            place = folder.path + "/"
            hosts = ["gw-1.local", "192.0.2.8"]

            def event(name, **fields):
                told.append(name)

            raises(ConfigError, certificate.obtain, place, [], crypto, event)
            encoded, key = certificate.obtain(place, hosts, crypto, event)
            parsed = x509.parse(encoded)
            assert crypto.verify(parsed.public_key, parsed.tbs, parsed.signature)
            assert parsed.common_name == "gw-1.local"
            assert (parsed.not_before, parsed.not_after) == (NOW - 86400, NOW + 800 * 86400)
            assert parsed.ext_key_usage == (b"\x2b\x06\x01\x05\x05\x07\x03\x01",)
            assert b"\x82\x0agw-1.local\x87\x04\xc0\x00\x02\x08" in encoded
            assert certificate.obtain(place, hosts, crypto, event) == (encoded, key)
            clock.now = lambda: NOW + 750 * 86400
            again, same = certificate.obtain(place, hosts, crypto, event)
            assert same == key
            assert again != encoded
            assert told == ["gateway-certificate-made"] * 2
            folder.write("gateway.key", b"")
            raises(ConfigError, certificate.obtain, place, hosts, crypto, event)

    run(main())


def test_dates_of_a_certificate():
    for seconds, text in (
        (0, b"700101000000Z"),
        (951782400, b"000229000000Z"),
        (1793491199, b"261031235959Z"),
        (4102444799, b"20991231235959Z"),
    ):
        assert certificate._time(seconds)[2:] == text


class Pipe:
    """One end of a session in memory."""

    def __init__(self):
        self.other = None
        self.queue = []
        self.news = asyncio.Event()
        self.ended = ""
        self.peer = "gw-1"
        self.on_behalf_of = "alice"
        self.most = 0

    async def send(self, data):
        if self.ended:
            raise SessionEnded(self.ended)
        self.other.queue.append(data)
        self.other.most = max(self.other.most, len(self.other.queue))
        self.other.news.set()
        await asyncio.sleep(0)

    async def recv(self):
        while not self.queue:
            if self.ended:
                raise SessionEnded(self.ended)
            self.news.clear()
            await self.news.wait()
        return self.queue.pop(0)

    async def close(self):
        for end in (self, self.other):
            end.ended = end.ended or "session-closed"
            end.news.set()


def pipe():
    a, b = Pipe(), Pipe()
    a.other, b.other = b, a
    return a, b


def test_requests_and_streams_share_a_session():
    async def main():
        a, b = pipe()
        sent = []

        async def answer(path, asking):
            if path == "fault":
                raise ValueError("the application's")
            if path == "long":
                return bytes(40000)
            return {"path": path, "asking": asking} if path else None

        async def stream(path, asking, emit):
            for number in range(50):
                await emit(str(number))
                sent.append(number)

        Destination(answer, stream).serve(b)
        asker = Exchange(a)
        slow = await asker.open(WATCH, b"slow")
        assert await slow.opened() == 1
        channel = await asker.open(ASK, b"status")
        assert await channel.opened() == 2
        data = await channel.recv()
        assert b'"gw-1 for alice"' in data
        assert channel.length == len(data)
        assert await channel.recv() is None
        for path, error in (
            (b"", "unknown-name"),
            (b"fault", "internal"),
            (b"long", "too-large"),
            (b"a b", "malformed"),
            (b"\xff", "malformed"),
            (b"x" * 200, "malformed"),
        ):
            channel = await asker.open(ASK, path)
            assert (await fails(RemoteError, channel.opened())).name == error
        # the reader took nothing: the other side waits, and that is all that is kept
        assert len(sent) == WINDOW
        assert len(slow._queue) == WINDOW
        got = []
        while True:
            data = await slow.recv()
            if data is None:
                break
            got.append(int(data))
        assert got == list(range(50))
        assert asker.count() == 0
        assert a.most <= 3 * WINDOW + 4
        # given up in the middle: the other side stops as well
        del sent[:]
        channel = await asker.open(WATCH, b"again")
        await channel.opened()
        await channel.give_up()
        await until(lambda: asker.count() == 0)
        count = len(sent)
        await asyncio.sleep(0.05)
        assert len(sent) == count < 50
        await asker.close()

    run(main())


def test_channels_are_bounded_and_end_with_the_session():
    async def main():
        a, b = pipe()

        async def stream(path, asking, emit):
            await asyncio.sleep(60)

        Destination(None, stream).serve(b)
        asker = Exchange(a)
        channels = []
        for _ in range(exchange.MAX_CHANNELS):
            channels.append(await asker.open(WATCH, b"x"))
        assert (await fails(RemoteError, asker.open(ASK, b"x"))).name == "too-many"
        await b.close()
        for channel in channels:
            assert (await fails(RemoteError, channel.recv())).name == "session-closed"
        assert asker.count() == 0

    run(main())


def test_a_peer_that_does_not_keep_to_the_frames_loses_its_session():
    frames = {
        "short": b"\x00\x00",
        "unknown kind": b"\x09\x00\x01",
        "too long": b"\x03\x00\x01" + bytes(CHUNK + 1),
        "an opening where none is served": b"\x00\x00\x05x",
        "credit that was not used": b"\x07\x00\x01\x01",
        "no such type": b"\x03\x00\x01\x09",
    }

    async def main():
        for name in sorted(frames):
            a, b = pipe()
            asker = Exchange(a)
            channel = await asker.open(WATCH, b"x")
            assert channel.number == 1
            await b.send(frames[name])
            await until(lambda end=a: end.ended)
            assert (await fails(RemoteError, channel.wait())).name == "malformed", name
        a, b = pipe()
        asker = Exchange(a)
        channel = await asker.open(WATCH, b"x")
        for _ in range(WINDOW + 1):
            await b.send(bytes((exchange.DATA, 0, 1)) + b"more than was granted")
        await until(lambda: a.ended)
        # for a channel that is over, a frame is no news
        a, b = pipe()
        asker = Exchange(a)
        await b.send(bytes((exchange.DATA, 0, 9)) + b"late")
        await asyncio.sleep(0.02)
        assert not a.ended
        await asker.close()

    run(main())


def test_paths():
    for good in ("", "status", "a/b-c_d.~9"):
        assert exchange.check_path(good) == good
    for bad in ("a b", "ä", "%41", "a?b", "x" * 129):
        raises(DecodeError, exchange.check_path, bad)
