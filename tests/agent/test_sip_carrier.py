# heap: 768k
"""The SIP carrier against a manager that is scripted in memory, and agents that use it."""

import asyncio

from keyferry_agent.carriers import sip as carrier_module
from keyferry_agent.carriers.sip import SipCarrier
from keyferry_agent.errors import LinkError
from keyferry_core import signalling as s
from keyferry_core import sip_check, sip_codec, sip_parts
from keyferry_core.errors import DecodeError, LocalError, code_of, name_of
from keyferry_core.sip_fields import SipError
from support.agent_kit import Reader, fails, run, until
from support.portable import raises

REALM = "plant.example"
SESSION = bytes(range(16))
DIGITS = sip_parts.call_id(SESSION)


class Stream(Reader):
    """What the device reads, in pieces of any size."""

    async def read(self, count):
        while not self.data:
            if self.closed:
                return b""
            self.news.clear()
            await self.news.wait()
        return await self.readexactly(min(count, len(self.data)))


class Manager:
    """The other end of each link that is opened; it is the device's writer as well."""

    def __init__(self):
        self.opened = 0
        self.mute = False
        self.hello = b"\r\n"
        self.acknowledge = True
        self.refuse = 0
        self.pings = 0
        self.requests = []
        self.responses = []
        self.random = 0

    async def open(self):
        self.opened += 1
        self.reader = Stream()
        self.framing = sip_codec.Reader()
        return self.reader, self

    def carrier(self, skipped=lambda length: None, keep_alive=60):
        return SipCarrier(("pump-7", REALM, self.bytes), keep_alive, self.open, skipped)

    def bytes(self, count):
        self.random += 1
        return bytes([self.random & 255]) * count

    def write(self, data):
        if self.reader.closed:
            raise OSError(32)
        before = self.framing.pings
        self.framing.feed(data)
        for message in self.framing:
            sip_check.check(message)
            if message.method:
                self.request(message)
            else:
                self.responses.append(message)
        # a keep-alive at the very end is seen when more comes, so look for it here
        if data == b"\r\n\r\n":
            assert self.framing.pings == before + 1
            self.pings += 1
            if not self.mute:
                self.reader.feed(self.hello)

    def request(self, message):
        self.requests.append(message)
        if self.mute or message.method == b"ACK":
            return
        if message.method == b"REGISTER":
            contact = message.first(b"contact") + b";expires=600"
            fields = [(b"Contact", contact), (b"Flow-Timer", b"60")]
            self.answer(message, 200, fields)
        elif message.method == b"INVITE":
            self.answer(message, 100)
        elif self.acknowledge:
            self.answer(message, self.refuse or 200)

    def answer(self, message, status, fields=(), parts=(), tag=b"m"):
        found = sip_codec.response(message, status, tag)
        via = found.fields[0][2].replace(b";rport", b";rport=5") + b";received=192.0.2.7"
        found.fields[0] = (b"via", b"Via", via)
        for name, value in fields:
            found.add(name, value)
        kind, found.body = sip_parts.join(list(parts), b"0123456789abcdef")
        if kind:
            found.add(b"Content-Type", kind)
        self.reader.feed(sip_codec.encode(found))

    def record(self, data, number=1, kind=b"application/octet-stream"):
        """A MESSAGE of a session that the device began."""
        tags = sip_parts.tags(SESSION)
        who = b"<sip:panel-1@plant.example>"
        fields = [
            (b"Via", b"SIP/2.0/TLS plant.example;branch=z9hG4bK" + str(number).encode()),
            (b"From", who + b";tag=" + tags[1]),
            (b"To", b"<sip:pump-7@plant.example>;tag=" + tags[0]),
            (b"Call-ID", DIGITS),
            (b"CSeq", str(number).encode() + b" MESSAGE"),
            (b"Max-Forwards", b"70"),
            (b"P-Asserted-Identity", who),
            (b"Content-Type", kind),
        ]
        return sip_codec.encode(sip_codec.request(b"MESSAGE", b"sip:pump-7@h", fields, data))

    async def drain(self):
        await asyncio.sleep(0)

    def close(self):
        self.reader.close()

    async def wait_closed(self):
        pass

    def methods(self):
        return [message.method for message in self.requests]


class Connection:
    """An open carrier whose messages are kept, with its running task."""

    def __init__(self, manager, look=10, keep_alive=60):
        self.manager = manager
        self.taken = []
        self.refused = []
        self.skipped = []
        self.carrier = manager.carrier(self.skipped.append, keep_alive)
        carrier_module.LOOK = look

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *what):
        self.task.cancel()
        await fails(asyncio.CancelledError, self.task)
        await self.carrier.close(True)
        carrier_module.LOOK = 10

    async def start(self):
        await self.carrier.open()
        self.task = asyncio.create_task(self.carrier.run(self._take))

    async def _take(self, payload):
        try:
            message = self.carrier.decode(payload)
        except DecodeError as error:
            self.refused.append(error)
            return
        if message is not None:
            self.taken.append(message)

    async def session(self):
        """A session that we began, and that is confirmed."""
        await self.carrier.send(
            {
                s.TYPE: s.CONNECT,
                s.FROM: "pump-7",
                s.TO: "panel-1",
                s.SESSION: SESSION,
                s.PROFILE: 0,
                s.MESSAGE_1: b"1",
            }
        )
        await until(lambda: self.manager.methods()[-1:] == [b"INVITE"])
        invite = self.manager.requests[-1]
        who = [(b"P-Asserted-Identity", b"<sip:panel-1@plant.example>")]
        parts = [(sip_parts.EDHOC, b"2")]
        self.manager.answer(invite, 200, who, parts, sip_parts.tags(SESSION)[1])
        await until(lambda: self.taken)
        assert self.taken.pop()[s.TYPE] == s.ACCEPT
        self.carrier.resume()
        await self.carrier.keep(record(b"", s.MESSAGE_3), False)
        await until(lambda: self.manager.methods()[-1] == b"ACK")


def record(data, key=s.RECORD):
    return {
        s.TYPE: s.MESSAGE,
        s.FROM: "pump-7",
        s.TO: "panel-1",
        s.SESSION: SESSION,
        key: data or b"3",
    }


def register(number=1):
    return {
        s.TYPE: s.REGISTER,
        s.FROM: "pump-7",
        s.TO: s.MANAGER,
        s.ID: number,
        s.INSTANCE: b"instance",
        s.ADDRESSES: [],
    }


def test_a_registration_and_a_leave():
    async def main():
        manager = Manager()
        async with Connection(manager) as connection:
            await connection.carrier.send(register())
            await until(lambda: connection.taken)
            assert connection.taken[0][s.SEEN] == "192.0.2.7:5"
            assert connection.carrier.transport == s.TRANSPORT_SIP_TLS
        assert manager.requests[-1].first(b"expires") == b"0"

    run(main())


def test_messages_in_any_pieces():
    async def main():
        manager = Manager()
        async with Connection(manager) as connection:
            await connection.session()
            stream = b""
            for number in range(1, 6):
                stream += manager.record(bytes([number]) * 60 * number, number) + b"\r\n"
            for size in (1, 3, 50, 10000):
                for at in range(0, len(stream), size):
                    manager.reader.feed(stream[at : at + size])
                    await asyncio.sleep(0)
            await until(lambda: len(connection.taken) == 20)
            found = [message[s.RECORD] for message in connection.taken[15:]]
            assert found == [bytes([n]) * 60 * n for n in range(1, 6)]
            await until(lambda: len(manager.responses) == 20)
            assert [message.status for message in manager.responses] == [200] * 20

    run(main())


def test_who_is_no_manager_gets_no_registration():
    async def main():
        for hello in (b"HT", b"\r\r", b"\n\n"):
            manager = Manager()
            manager.hello = hello
            connection = Connection(manager)
            await fails(DecodeError, connection.start())
            await connection.carrier.close()
        manager = Manager()
        connection = Connection(manager)
        waiting = asyncio.create_task(connection.start())
        manager.mute = True
        await asyncio.sleep(0.05)
        manager.reader.close()
        await fails(EOFError, waiting)
        await connection.carrier.close()
        assert manager.requests == []

    run(main())


def test_broken_framing_ends_the_link_and_a_bad_message_does_not():
    async def main():
        manager = Manager()
        async with Connection(manager) as connection:
            await connection.session()
            manager.reader.feed(manager.record(b"x", 1, b"text/html"))
            manager.reader.feed(manager.record(b"good", 2))
            await until(lambda: connection.taken)
            assert connection.taken[0][s.RECORD] == b"good"
            await until(lambda: len(manager.responses) == 2)
            assert [message.status for message in manager.responses] == [415, 200]
            assert len(connection.refused) == 1
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"MESSAGE sip:x SIP/2.0\r\nVia: x\r\n\r\n",
            b"MESSAGE sip:x SIP/2.0\r\nContent-Length: -1\r\n\r\n",
            b"MESSAGE sip:x SIP/2.0\r\nContent-Length: 99999\r\n\r\n",
            b"\x00" * 5000,
            b"x" * 5000,
        ):
            connection = Connection(Manager())
            await connection.start()
            connection.manager.reader.feed(data)
            await asyncio.wait_for(fails(SipError, connection.task), 20)
            await connection.carrier.close()

    run(main())


def test_the_end_of_the_stream_ends_the_link():
    async def main():
        connection = Connection(Manager())
        await connection.start()
        connection.manager.reader.close()
        await fails(EOFError, connection.task)
        await connection.carrier.close()
        await connection.carrier.close()
        await fails(LinkError, connection.carrier.send(register()))

    run(main())


def test_kept_messages_wait_for_room_and_outlive_the_link():
    async def main():
        manager = Manager()
        connection = Connection(manager)
        await connection.start()
        await connection.session()
        manager.acknowledge = False
        sent = 0

        async def send_all():
            nonlocal sent
            for number in range(6):
                await connection.carrier.keep(record(b"r" + str(number).encode()))
                sent += 1

        sender = asyncio.create_task(send_all())
        await until(lambda: manager.methods().count(b"MESSAGE") == carrier_module.WINDOW)
        await asyncio.sleep(0.05)
        assert sent == carrier_module.WINDOW
        manager.reader.close()
        await fails(EOFError, connection.task)
        await connection.carrier.close()
        # the next link: what was not answered goes again, then the rest
        manager.acknowledge = True
        manager.requests = []
        await connection.start()
        await connection.carrier.send(register())
        await until(lambda: connection.taken)
        assert manager.methods() == [b"REGISTER"]
        connection.carrier.resume()
        await asyncio.wait_for(sender, 20)
        await connection.carrier.flush(10)
        bodies = [message.body for message in manager.requests[1:]]
        assert bodies == [b"r0", b"r1", b"r2", b"r3", b"r4", b"r5"]
        # and one that cannot be said is not kept
        over = {s.TYPE: s.END, s.FROM: "pump-7", s.TO: "panel-1", s.SESSION: SESSION}
        await connection.carrier.keep(over)
        await fails(LocalError, connection.carrier.keep(record(b"late")))
        await connection.carrier.flush(10)
        assert manager.methods()[-1] == b"BYE"
        connection.task.cancel()
        await fails(asyncio.CancelledError, connection.task)
        await connection.carrier.close()

    run(main())


def test_refused_records_are_reported():
    async def main():
        manager = Manager()
        async with Connection(manager) as connection:
            await connection.session()
            manager.refuse = 480
            await connection.carrier.keep(record(b"r"))
            await until(lambda: connection.taken)
            error = connection.taken.pop()
            assert (error[s.TYPE], error[s.SESSION]) == (s.ERROR, SESSION)
            assert name_of(error[s.ERROR_CODE]) == "peer-offline"

    run(main())


def test_a_silent_manager_is_noticed_and_a_quiet_one_is_not():
    async def main():
        manager = Manager()
        clock = [0]

        def ticks():
            clock[0] += 1
            return clock[0]

        async with Connection(manager, 0.1, 1) as connection:
            carrier_module.clock.uptime = ticks
            await until(lambda: manager.pings > 3)
            assert not connection.task.done()
        connection = Connection(manager, 0.1, 1)
        await connection.start()
        carrier_module.clock.uptime = ticks
        manager.mute = True
        error = await asyncio.wait_for(fails(LinkError, connection.task), 20)
        assert error.name == "timeout"
        await connection.carrier.close()
        carrier_module.LOOK = 10

    run(main())


def test_bodies_without_room_are_skipped():
    async def main():
        manager = Manager()
        room = carrier_module._has_room
        async with Connection(manager) as connection:
            await connection.session()
            try:
                carrier_module._has_room = lambda size: size < 40000
                manager.reader.feed(manager.record(b"x" * 8000, 1))
                manager.reader.feed(manager.record(b"small", 2))
                await until(lambda: connection.taken)
            finally:
                carrier_module._has_room = room
            assert connection.taken[0][s.RECORD] == b"small"
            assert len(connection.skipped) == 1
            assert 7000 < connection.skipped[0] <= 8000
            await until(lambda: len(manager.responses) == 2)
            assert [message.status for message in manager.responses] == [513, 200]
            assert sip_parts.error_of(manager.responses[0])[0] == code_of("too-large")

    run(main())


def test_what_is_no_carrier_is_told():
    from keyferry_agent.config import ConfigError, parse

    values = {"name": "pump-7", "realm": REALM, "carrier": "sip"}
    assert (parse(values).carrier, parse(values).sip_port) == ("sip", 5061)
    assert parse({"name": "pump-7", "realm": REALM}).carrier == "mqtt"
    for wrong in ("SIP", "", 1, None):
        values["carrier"] = wrong
        assert "carrier" in raises(ConfigError, parse, values).detail
