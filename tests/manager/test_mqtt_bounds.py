"""The MQTT endpoint's bounds and times, with a host and a transport of our own."""

import asyncio
import time

import pytest

from keyferry_core import mqtt_codec as mqtt
from keyferry_manager.carriers.mqtt import MqttEndpoint, MqttSettings, State
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.identity import Identity


class FakeTransport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.reading = True
        self.closing = False

    def write(self, data):
        assert not self.closing
        self.written += data

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def close(self):
        self.closing = True

    def abort(self):
        self.closing = True

    def packets(self):
        reader = mqtt.Reader(1 << 20)
        reader.feed(bytes(self.written))
        self.written.clear()
        return list(reader)


class FakeHost:
    def __init__(self, life=1000.0):
        self.expires_at = time.time() + life
        self.received = []
        self.events = []
        self.slow = asyncio.Event()
        self.slow.set()

    async def identify(self, peer):
        await self.slow.wait()
        return Identity("pump-7", self.expires_at)

    def link_up(self, link):
        self.events.append("up")

    def link_down(self, link, clean, reason):
        self.events.append(("down", clean, reason))

    def receive(self, link, payload):
        self.received.append(payload)

    def refused(self, event, name, address, detail):
        self.events.append(event)


async def fake_link(qos=None, host=None, **settings):
    endpoint = MqttEndpoint(host or FakeHost(), MqttSettings(**settings))
    link = endpoint(ChannelPeer("192.0.2.1:4000", b"certificate"))
    transport = FakeTransport()
    link.connection_made(transport)
    link.data_received(mqtt.connect("pump-7", 0))
    await asyncio.sleep(0.01)
    assert transport.packets() == [(mqtt.TYPE_CONNACK, 0, False)]
    if qos is not None:
        link.data_received(mqtt.subscribe(1, [("kf/d/pump-7", qos)]))
        transport.packets()
    return endpoint, link, transport


def test_unacknowledged_messages_are_bounded_and_the_rest_waits():
    async def main():
        endpoint, link, transport = await fake_link(1, in_flight=4, queue_messages=3)
        assert [link.send(b"%d" % number) for number in range(8)] == [True] * 7 + [False]
        sent = transport.packets()
        assert [packet[2] for packet in sent] == [b"0", b"1", b"2", b"3"]
        assert endpoint.queued_bytes == 3
        link.data_received(mqtt.puback(sent[1][4]) + mqtt.puback(999) + mqtt.puback(sent[1][4]))
        assert [packet[2] for packet in transport.packets()] == [b"4"]
        for packet in sent:
            link.data_received(mqtt.puback(packet[4]))
        assert [packet[2] for packet in transport.packets()] == [b"5", b"6"]
        assert endpoint.queued_bytes == 0

    asyncio.run(main())


def test_acknowledgements_go_out_in_one_piece_and_only_for_what_was_taken():
    async def main():
        host = FakeHost()
        endpoint, link, transport = await fake_link(1, host)
        writes = []
        write = transport.write
        transport.write = lambda data: (writes.append(len(host.received)), write(data))
        up = [mqtt.publish("kf/u/pump-7", b"%d" % number, 1, number) for number in range(1, 9)]
        link.data_received(b"".join(up))
        assert writes == [8], "all eight were taken before one write"
        acks = transport.packets()
        assert acks == [(mqtt.TYPE_PUBACK, number) for number in range(1, 9)]

        # A fault of ours: what was not taken is not acknowledged, what was before it is.
        def fail(link, payload):
            if payload == b"11":
                raise RuntimeError("ours")
            host.received.append(payload)

        host.receive = fail
        up = [mqtt.publish("kf/u/pump-7", b"%d" % number, 1, number) for number in (10, 11, 12)]
        with pytest.raises(RuntimeError):
            link.data_received(b"".join(up))
        assert transport.packets() == [(mqtt.TYPE_PUBACK, 10)]
        assert endpoint.queued_bytes == 0

    asyncio.run(main())


@pytest.mark.parametrize("last", [mqtt.publish("kf/u/another", b"x"), mqtt.DISCONNECT, b"\xf0\x00"])
def test_what_was_taken_is_acknowledged_also_when_the_link_ends_with_it(last):
    async def main():
        _, link, transport = await fake_link(1)
        link.data_received(mqtt.publish("kf/u/pump-7", b"x", 1, 77) + last)
        assert transport.closing
        assert transport.packets() == [(mqtt.TYPE_PUBACK, 77)]

    asyncio.run(main())


def test_the_acknowledgements_of_a_window_make_room_for_the_next():
    async def main():
        _, link, transport = await fake_link(1, in_flight=4, queue_messages=8)
        assert all(link.send(b"%d" % number) for number in range(12))
        for first in (0, 4, 8):
            packets = transport.packets()
            assert [packet[2] for packet in packets] == [b"%d" % (first + n) for n in range(4)]
            assert link.unsent == 12 - first
            link.data_received(b"".join(mqtt.puback(packet[4]) for packet in packets))
        assert link.unsent == 0

    asyncio.run(main())


def test_a_full_transport_holds_messages_back_in_order():
    async def main():
        endpoint, link, transport = await fake_link(0, queue_bytes=10)
        link.pause_writing()
        assert [link.send(b"12345"), link.send(b"6789"), link.send(b"ab")] == [True, True, False]
        assert transport.packets() == []
        link.resume_writing()
        assert [packet[2] for packet in transport.packets()] == [b"12345", b"6789"]
        assert endpoint.queued_bytes == 0

    asyncio.run(main())


def test_all_queues_together_are_bounded():
    async def main():
        endpoint, link, _ = await fake_link(0, all_queues_bytes=10)
        link.pause_writing()
        endpoint.queued_bytes = 8  # of other links
        assert not link.send(b"123")
        assert link.send(b"12")
        link.connection_lost(None)
        assert endpoint.queued_bytes == 8

    asyncio.run(main())


def test_identifiers_go_round_and_skip_what_is_in_flight():
    async def main():
        _, link, transport = await fake_link(1, in_flight=2, packets_per_second=1_000_000)
        link.send(b"first")
        for number in range(0xFFFF + 2):
            link.send(b"x")
            packets = transport.packets()
            link.data_received(mqtt.puback(packets[-1][4]))
            if number in (0, 0xFFFD, 0xFFFE):
                assert packets[-1][4] == (2 if number != 0xFFFD else 0xFFFF), number
        transport.packets()

    asyncio.run(main())


def test_a_device_that_acknowledges_nothing_is_dropped():
    async def main():
        endpoint, link, transport = await fake_link(1, acknowledge_timeout=0.1)
        link.send(b"x")
        await asyncio.sleep(0.25)
        assert transport.closing
        assert endpoint.host.events == [
            "up",
            "acknowledge-timeout",
            ("down", False, "acknowledge-timeout"),
        ]

    asyncio.run(main())


def test_a_link_ends_with_its_certificate():
    async def main():
        endpoint, _, transport = await fake_link(0, FakeHost(life=0.2))
        assert not transport.closing
        await asyncio.sleep(0.3)
        assert transport.closing
        assert endpoint.host.events[1:] == [
            "certificate-expired",
            ("down", False, "certificate-expired"),
        ]

    asyncio.run(main())


def test_a_device_that_acknowledges_is_not_dropped():
    async def main():
        _, link, transport = await fake_link(1, acknowledge_timeout=0.1)
        for _ in range(6):
            link.send(b"x")
            await asyncio.sleep(0.05)
            link.data_received(mqtt.puback(transport.packets()[0][4]))
        assert not transport.closing

    asyncio.run(main())


def test_a_flood_has_its_turns_and_its_rate_and_loses_nothing():
    async def main():
        endpoint, link, transport = await fake_link(0, packets_per_second=200)
        await asyncio.sleep(0.05)
        flood = b"".join(mqtt.publish("kf/u/pump-7", b"%d" % number) for number in range(300))
        link.data_received(flood)
        assert len(endpoint.host.received) == 32, "others must have their turn"
        assert not transport.reading
        await asyncio.sleep(0.1)
        assert 190 < len(endpoint.host.received) < 260, "the burst is spent, the rate counts"
        await asyncio.sleep(0.8)
        assert endpoint.host.received == [b"%d" % number for number in range(300)]
        assert transport.reading

    asyncio.run(main())


def test_connect_is_awaited_for_a_while_only():
    async def main():
        endpoint = MqttEndpoint(FakeHost(), MqttSettings(connect_timeout=0.05))
        link = endpoint(ChannelPeer("192.0.2.1:4000", b"certificate"))
        transport = FakeTransport()
        link.connection_made(transport)
        await asyncio.sleep(0.15)
        assert transport.closing
        assert endpoint.host.events == ["connect-timeout"]
        assert not endpoint.arrivals.waiting

    asyncio.run(main())


def test_what_follows_connect_waits_for_the_identification():
    async def main():
        endpoint = MqttEndpoint(FakeHost())
        endpoint.host.slow.clear()
        link = endpoint(ChannelPeer("192.0.2.1:4000", b"certificate"))
        transport = FakeTransport()
        link.connection_made(transport)
        link.data_received(mqtt.connect("pump-7", 0) + mqtt.publish("kf/u/pump-7", b"early"))
        await asyncio.sleep(0.01)
        assert endpoint.host.received == []
        assert not transport.reading
        assert not link.send(b"too early")
        endpoint.host.slow.set()
        await asyncio.sleep(0.01)
        assert endpoint.host.received == [b"early"]
        assert transport.reading

    asyncio.run(main())


def test_a_connection_lost_while_it_is_identified_never_comes_up():
    async def main():
        endpoint = MqttEndpoint(FakeHost())
        endpoint.host.slow.clear()
        link = endpoint(ChannelPeer("192.0.2.1:4000", b"certificate"))
        link.connection_made(FakeTransport())
        link.data_received(mqtt.connect("pump-7", 0))
        await asyncio.sleep(0.01)
        link.connection_lost(None)
        endpoint.host.slow.set()
        await asyncio.sleep(0.01)
        assert endpoint.host.events == []
        assert (link.state, len(endpoint.arrivals.tasks), len(endpoint.arrivals.waiting)) == (
            State.ENDED,
            0,
            0,
        )

    asyncio.run(main())


def test_one_certificate_cannot_hold_many_connections_that_wait():
    async def main():
        endpoint = MqttEndpoint(FakeHost(), MqttSettings(waiting_per_certificate=2))
        made = []
        for certificate in (b"one", b"one", b"one", b"two"):
            link = endpoint(ChannelPeer("192.0.2.1:4000", certificate))
            transport = FakeTransport()
            link.connection_made(transport)
            made.append((link, transport))
        assert [transport.closing for _, transport in made] == [False, False, True, False]
        for link, _ in made:
            link.connection_lost(None)
        assert not endpoint.arrivals.waiting

    asyncio.run(main())
