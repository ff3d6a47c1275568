# heap: 512k
"""The MQTT carrier against a server that is scripted packet by packet."""

import asyncio

from keyferry_agent.carriers import mqtt as carrier_module
from keyferry_agent.errors import LinkError
from keyferry_core import mqtt_client
from keyferry_core import mqtt_codec as mqtt
from keyferry_core.errors import AuthenticationError, DecodeError
from support.agent_kit import Hub, fails, run, until
from support.portable import raises

DOWN = "kf/d/pump-7"
UP = "kf/u/pump-7"


class Server(Hub):
    """Only the MQTT of a hub: keeps what is published, answers nothing above it."""

    def __init__(self):
        Hub.__init__(self)
        self.published = []
        self.pings = 0
        self.answers = {}

    def packet(self, link, packet):
        if packet[0] in self.answers:
            link.answer(self.answers[packet[0]])
            return
        if packet[0] == mqtt.TYPE_PUBLISH:
            assert packet[1] == UP
            self.published.append((packet[2], packet[3]))
            if packet[3] and link.acknowledge:
                link.answer(mqtt.puback(packet[4]))
            return
        if packet[0] == mqtt.TYPE_PINGREQ:
            self.pings += 1
        Hub.packet(self, link, packet)


class Connection:
    """An open carrier whose messages are kept, with its running task."""

    def __init__(self, server, watch=60):
        self.server = server
        self.taken = []
        self.skipped = []
        self.carrier = server.carrier("pump-7", 60, self.skipped.append)
        self._watch = watch
        self.task = None

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *what):
        self.task.cancel()
        await fails(asyncio.CancelledError, self.task)
        await self.carrier.close(True)

    async def start(self):
        await self.carrier.open()
        self.carrier._keep_alive = self._watch  # on the wire it is whole seconds
        self.task = asyncio.create_task(self.carrier.run(self._take))

    async def _take(self, payload):
        self.taken.append(payload)

    @property
    def link(self):
        return self.server.links["pump-7"]


def test_messages_both_ways():
    async def main():
        server = Server()
        async with Connection(server) as connection:
            link = connection.link
            for qos in (0, 1):
                for size in (0, 1, 113, 114, 115, 116, 400, 16300):
                    link.deliver(bytes(size), qos)
                    await until(lambda: connection.taken)
                    assert connection.taken.pop() == bytes(size)
            assert len(server.acknowledged) == 8
            await connection.carrier.send(b"now")
            await until(lambda: server.published)
            assert server.published == [(b"now", 0)]
            connection.carrier.resume()
            await connection.carrier.keep(b"surely")
            await until(lambda: len(server.published) == 2)
            assert server.published[1] == (b"surely", 1)
        assert link.clean

    run(main())


def test_packets_in_any_pieces():
    async def main():
        server = Server()
        async with Connection(server) as connection:
            stream = b""
            for number in range(1, 6):
                stream += mqtt.publish(DOWN, bytes([number]) * 60 * number, 1, number)
            stream += mqtt.PINGRESP
            for size in (1, 2, 3, 50, 10000):
                for at in range(0, len(stream), size):
                    connection.link.answer(stream[at : at + size])
                    await asyncio.sleep(0)
            await until(lambda: len(connection.taken) == 25)
            assert connection.taken[20:] == [bytes([n]) * 60 * n for n in range(1, 6)]

    run(main())


def test_refusals_have_their_reasons():
    async def main():
        for code, kind in ((1, LinkError), (2, AuthenticationError), (3, LinkError)):
            server = Server()
            server.connack = code
            connection = Connection(server)
            await fails(kind, connection.start())
            await connection.carrier.close()
        for code in (4, 5):
            server.connack = code
            await fails(AuthenticationError, connection.start())
        server.connack = 0
        server.granted = mqtt.SUBSCRIBE_FAILED
        await fails(AuthenticationError, connection.start())
        await connection.carrier.close()

    run(main())


def test_answers_that_do_not_fit():
    async def main():
        for kind, answer in (
            (mqtt.TYPE_CONNECT, mqtt.PINGRESP),
            (mqtt.TYPE_CONNECT, mqtt.suback(1, [1])),
            (mqtt.TYPE_CONNECT, b"\x20\x03\x00\x00\x00"),
            (mqtt.TYPE_CONNECT, b"\xff\xff\xff\xff\xff\xff"),
            (mqtt.TYPE_CONNECT, b"\x30\xff\xff\xff\x7f"),
            (mqtt.TYPE_SUBSCRIBE, mqtt.connack()),
            (mqtt.TYPE_SUBSCRIBE, mqtt.suback(2, [1])),
            (mqtt.TYPE_SUBSCRIBE, mqtt.suback(1, [1, 1])),
        ):
            server = Server()
            server.answers[kind] = answer
            connection = Connection(server)
            await fails(DecodeError, connection.start())
            await connection.carrier.close()

    run(main())


def test_what_no_server_sends_ends_the_link():
    async def main():
        for data in (
            mqtt.PINGREQ,
            mqtt.DISCONNECT,
            mqtt.connect("x", 1),
            mqtt.connack(),
            mqtt.subscribe(1, [("a", 0)]),
            mqtt.suback(1, [1]),
            mqtt.unsuback(1),
            mqtt.publish("kf/d/pump-8", b""),
            mqtt.publish(UP, b""),
            b"\x36\x00",
            b"\x34\x06\x00\x01t\x00\x01x",
            b"\x00\x00",
        ):
            connection = Connection(Server())
            await connection.start()
            connection.link.answer(data)
            await asyncio.wait_for(fails(DecodeError, connection.task), 5)
            await connection.carrier.close()

    run(main())


def test_the_end_of_the_stream_ends_the_link():
    async def main():
        connection = Connection(Server())
        await connection.start()
        connection.link.reader.close()
        await fails(EOFError, connection.task)
        await connection.carrier.close()
        await connection.carrier.close()
        await fails(LinkError, connection.carrier.send(b"x"))

    run(main())


def test_a_silent_manager_is_noticed_and_a_quiet_one_is_not():
    async def main():
        server = Server()
        async with Connection(server, 0.1) as connection:
            await asyncio.sleep(1)
            assert not connection.task.done()
            assert server.pings > 5
        connection = Connection(server, 0.1)
        await connection.start()
        connection.link.mute = True
        error = await asyncio.wait_for(fails(LinkError, connection.task), 5)
        assert error.name == "timeout"
        await connection.carrier.close()

    run(main())


def test_a_manager_that_acknowledges_nothing_is_noticed():
    async def main():
        server = Server()
        connection = Connection(server, 0.1)
        await connection.start()
        connection.link.acknowledge = False
        connection.carrier.resume()
        await connection.carrier.keep(b"x")
        error = await asyncio.wait_for(fails(LinkError, connection.task), 5)
        assert error.name == "timeout"
        await connection.carrier.close()

    run(main())


def test_kept_messages_are_bounded_and_wait_for_room():
    async def main():
        server = Server()
        async with Connection(server) as connection:
            carrier, link = connection.carrier, connection.link
            link.acknowledge = False
            carrier.resume()
            for _ in range(carrier_module.WINDOW):
                await asyncio.wait_for(carrier.keep(b"x"), 5)
            more = asyncio.create_task(carrier.keep(b"more"))
            await asyncio.sleep(0.1)
            assert not more.done()
            # an answer from inside the handler does not wait, or nothing would ever move again
            await asyncio.wait_for(carrier.keep(b"urgent", False), 5)
            link.answer(mqtt.puback(1) + mqtt.puback(5) + mqtt.puback(77))
            await asyncio.wait_for(more, 5)
            await until(lambda: len(server.published) == 6)
            link.answer(b"".join([mqtt.puback(number) for number in (2, 3, 4, 6)]))
            await carrier.flush(5)
            # by bytes as well: one large message alone, small ones beside each other
            await asyncio.wait_for(carrier.keep(bytes(carrier_module.WINDOW_BYTES + 1)), 5)
            more = asyncio.create_task(carrier.keep(b"more"))
            await asyncio.sleep(0.1)
            assert not more.done()
            link.answer(mqtt.puback(7))
            await asyncio.wait_for(more, 5)

    run(main())


def test_kept_messages_go_out_again_on_the_next_link_after_resume():
    async def main():
        server = Server()
        connection = Connection(server)
        await connection.start()
        carrier = connection.carrier
        connection.link.acknowledge = False
        carrier.resume()
        await carrier.keep(b"one")
        await carrier.keep(b"two")
        await until(lambda: len(server.published) == 2)
        server.cut("pump-7")
        await fails(EOFError, connection.task)
        await carrier.close()
        waiting = asyncio.create_task(carrier.keep(b"three"))
        await connection.start()
        await asyncio.sleep(0.1)
        assert len(server.published) == 2
        carrier.resume()
        await asyncio.wait_for(waiting, 5)
        await until(lambda: len(server.published) == 5)
        assert [payload for payload, _ in server.published[2:]] == [b"one", b"two", b"three"]
        await carrier.flush(5)
        connection.task.cancel()
        await fails(asyncio.CancelledError, connection.task)
        await carrier.close()

    run(main())


def test_a_caller_that_gives_up_leaves_no_half_packet():
    async def main():
        server = Server()
        async with Connection(server) as connection:
            link = connection.link
            gate = asyncio.Event()
            drain = link.drain

            async def slow():
                await gate.wait()

            link.drain = slow
            tasks = []
            for number in range(20):
                message = bytes([number]) * 100
                tasks.append(asyncio.create_task(connection.carrier.send(message)))
            await asyncio.sleep(0.05)
            waiting = [task for task in tasks if not task.done()]
            assert len(waiting) == 20 - carrier_module.QUEUE - 1
            for task in waiting:
                task.cancel()
                await fails(asyncio.CancelledError, task)
            link.drain = drain
            gate.set()
            await connection.carrier.send(b"after")
            await until(lambda: (b"after", 0) in server.published)
            assert len(server.published) == carrier_module.QUEUE + 2

    run(main())


def test_a_writer_that_fails_ends_the_link():
    async def main():
        server = Server()
        connection = Connection(server)
        await connection.start()

        async def broken():
            raise OSError(32)

        connection.link.drain = broken
        await connection.carrier.send(b"x")
        error = await asyncio.wait_for(fails(LinkError, connection.task), 5)
        assert "writing failed" in error.detail
        await connection.carrier.close()

    run(main())


def test_a_packet_without_room_is_let_pass():
    async def main():
        kept = carrier_module._has_room
        server = Server()
        async with Connection(server) as connection:
            connection.link.deliver(b"first")
            await until(lambda: connection.taken)
            carrier_module._has_room = lambda size: False
            try:
                for qos in (0, 1):
                    for size in (513, 2000, 8000):
                        connection.link.deliver(bytes(size), qos)
                connection.link.deliver(b"small")
                await until(lambda: len(connection.taken) == 2)
            finally:
                carrier_module._has_room = kept
            connection.link.deliver(bytes(600))
            await until(lambda: len(connection.taken) == 3)
            assert connection.taken[1:] == [b"small", bytes(600)]
            assert len(connection.skipped) == 6
            # those with QoS 1 count as received, or they would come again and again
            await until(lambda: len(server.acknowledged) == 6)

    run(main())


def test_the_clients_parser_takes_only_what_a_server_sends():
    for data in (mqtt.PINGREQ, mqtt.DISCONNECT, mqtt.connect("x", 1), b"\x82\x05\x00\x01\x00\x01a"):
        raises(DecodeError, mqtt_client.parse, data[0], data[2:])
    assert mqtt_client.parse(0xD0, b"") == (mqtt.TYPE_PINGRESP,)
