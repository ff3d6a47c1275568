"""Devices with good certificates and bad manners: none of them may harm another.

While each of them does its worst, two honest devices exchange messages, and none may be lost.
"""

import contextlib
import os
import random
import resource
import socket
import ssl
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyferry_core import mqtt_codec as mqtt
from keyferry_core import names
from keyferry_core import signalling as sig
from keyferry_core.errors import name_of
from keyferry_manager.relay import wire
from support.manager_kit import Home, until

# Exchanges of the honest devices beside hostile ones, however slow the machine is.
ENOUGH = 20


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(
        tmp_path_factory.mktemp("hostile") / "home",
        max_handshakes=32,
        queue_messages=64,
        messages_per_second=5000,
    )
    for name in ("pump-7", "hostile"):
        home.allow(name, "valve-2")
    home.allow("pump-7", "hostile")
    home.add("pump-7", "valve-2", "hostile")
    return home


@pytest.fixture(scope="module")
def running(home):
    with home.running() as running:
        yield running


@pytest.fixture(scope="module")
def hostile(home):
    return home.device("hostile")


@pytest.fixture
def honest(running):
    """Two honest devices with a session."""
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        yield Honest(pump, valve)


class Honest:
    def __init__(self, pump, valve):
        self.pump, self.valve = pump, valve
        self.session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)

    def exchange(self, seconds):
        """Exchange messages for a while; assert that none was lost. One that takes longer than
        the pause of the kit counts as lost."""
        end = time.monotonic() + seconds
        number = 0
        while number < ENOUGH or time.monotonic() < end:
            self.pump.say("valve-2", self.session, b"%d" % number)
            assert self.valve.receive(sig.MESSAGE)[sig.RECORD] == b"%d" % number
            self.valve.say("pump-7", self.session, b"%d" % number)
            assert self.pump.receive(sig.MESSAGE)[sig.RECORD] == b"%d" % number
            number += 1


@contextlib.contextmanager
def meanwhile(work):
    """Run ``work(stop)`` in a thread until the block ends; what it raises is raised here."""
    stop = threading.Event()
    failed = []

    def run():
        try:
            work(stop)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
    assert not failed, failed


def online(running, hostile, qos=0):
    client = running.raw(hostile)
    assert client.connect("hostile") == mqtt.ACCEPTED
    assert client.subscribe("kf/d/hostile", qos) == qos
    register = {
        sig.TYPE: sig.REGISTER, sig.FROM: "hostile", sig.TO: names.MANAGER, sig.ID: 1,
        sig.INSTANCE: os.urandom(8), sig.ADDRESSES: [],
    }  # fmt: skip
    client.send(mqtt.publish("kf/u/hostile", wire.encode(register)))
    assert client.message()[sig.TYPE] == sig.REGISTERED
    return client


def test_a_flood_of_small_packets(running, hostile, honest):
    def flood(stop):
        with online(running, hostile) as client:
            while not stop.is_set():
                client.send(mqtt.PINGREQ * 4000)

    with meanwhile(flood):
        honest.exchange(2)


def test_a_flood_of_bad_messages(running, hostile, honest):
    def flood(stop):
        with online(running, hostile) as client:
            bad = b"".join(mqtt.publish("kf/u/hostile", os.urandom(40)) for _ in range(200))
            client.socket.setblocking(False)
            while not stop.is_set():
                with contextlib.suppress(ssl.SSLError, OSError):
                    client.socket.sendall(bad)
                with contextlib.suppress(ssl.SSLError, OSError):
                    client.socket.recv(65536)

    with meanwhile(flood):
        honest.exchange(2)


def test_a_flood_of_offers_to_the_same_peer(running, hostile, honest):
    """The honest session goes on; the flood is told that it is too much."""

    def flood(stop):
        with online(running, hostile) as client:
            refused = 0
            while not stop.is_set() or not refused:
                offer = {
                    sig.TYPE: sig.CONNECT, sig.FROM: "hostile", sig.TO: "valve-2",
                    sig.SESSION: os.urandom(16), sig.PROFILE: 0, sig.MESSAGE_1: b"1" * 1000,
                }  # fmt: skip
                client.send(mqtt.publish("kf/u/hostile", wire.encode(offer)))
                with contextlib.suppress(TimeoutError):
                    message = client.message(0.01)
                    assert name_of(message[sig.ERROR_CODE]) == "too-many"
                    refused += 1

    valve = honest.valve
    offers = []
    with meanwhile(flood):
        end = time.monotonic() + 2
        while time.monotonic() < end:
            honest.pump.say("valve-2", honest.session, b"x")
            while True:
                message = valve.receive()
                if message[sig.TYPE] == sig.MESSAGE:
                    break
                offers.append(message)
    assert {message[sig.FROM] for message in offers} == {"hostile"}
    assert len(offers) == running.manager.relay.sessions.per_pair
    running.look(lambda manager: _end_sessions(manager, "hostile"))


def _end_sessions(manager, name):
    for session in manager.relay.sessions.of(name):
        manager.relay.end_session(session, "timeout")


def test_a_peer_that_never_reads_costs_only_those_who_write_to_it(running, hostile, honest):
    client = online(running, hostile)
    session = honest.pump.offer("hostile")
    offer = client.message()
    accept = {sig.TYPE: sig.ACCEPT, sig.FROM: "hostile", sig.TO: "pump-7",
              sig.SESSION: offer[sig.SESSION], sig.MESSAGE_2: b"2"}  # fmt: skip
    client.send(mqtt.publish("kf/u/hostile", wire.encode(accept)))
    honest.pump.receive(sig.ACCEPT)
    record = os.urandom(8000)
    told = None
    for _ in range(4000):  # until its socket, its transport and its queue are full
        honest.pump.say("hostile", session, record)
        if not honest.pump.inbox.empty():
            told = honest.pump.refusal("too-many")
            break
        time.sleep(0.0005)
    assert told is not None, "the queue of a peer that does not read has no bound"
    assert told[sig.SESSION] == session
    while not honest.pump.nothing(0.3):
        honest.pump.refusal("too-many")
    honest.exchange(1)
    client.close()
    honest.pump.send({sig.TYPE: sig.END, sig.TO: "hostile", sig.SESSION: session})


def test_half_sent_packets_and_idle_connections(running, hostile, honest):
    clients = []
    for cut in (1, 5, 20):
        client = running.raw(hostile)
        client.send(mqtt.connect("hostile", 60)[:cut])
        clients.append(client)
    last = online(running, hostile)
    last.send(mqtt.publish("kf/u/hostile", b"x" * 1000)[:500])
    honest.exchange(1)
    for client in (*clients, last):
        client.close()


def test_connections_that_never_finish_their_handshake(running, honest):
    port = running.port
    idle = []
    try:
        for _ in range(64):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(b"\x16\x03\x01\x02")
            idle.append(sock)
        until(lambda: running.look(lambda m: m._mqtt_listener.handshakes) > 0)
        assert running.look(lambda manager: manager._mqtt_listener.handshakes) <= 16
        honest.exchange(1)
    finally:
        for sock in idle:
            sock.close()
    until(lambda: running.look(lambda manager: manager._mqtt_listener.handshakes) == 0)


def test_a_thousand_handshakes_beside_honest_traffic(running, hostile, honest):
    def reconnect(stop):
        while not stop.is_set():
            with contextlib.suppress(OSError), running.raw(hostile) as client:
                client.connect("hostile")

    with meanwhile(reconnect), meanwhile(reconnect):
        honest.exchange(3)


def test_waiting_connections_of_one_certificate_are_few(running, hostile):
    waiting = []
    closed = 0
    for _ in range(12):
        with contextlib.suppress(OSError):
            client = running.raw(hostile)
            waiting.append(client)
    time.sleep(0.3)
    for client in waiting:
        with contextlib.suppress(TimeoutError):
            client.packet(0.01)
            closed += 1
        client.close()
    assert closed == 12 - 8


GOOD = [
    mqtt.PINGREQ,
    mqtt.subscribe(1, [("kf/d/hostile", 1)]),
    mqtt.unsubscribe(2, ["kf/d/hostile"]),
    mqtt.publish("kf/u/hostile", b"x" * 20),
    mqtt.publish("kf/u/hostile", b"x" * 20, 1, 9),
    mqtt.puback(3),
]


@given(
    st.lists(st.sampled_from(GOOD), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    st.randoms(use_true_random=False),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_packets_with_changed_bytes(running, hostile, packets, changes, order):
    stream = bytearray(b"".join(packets))
    for where, value in changes:
        stream[where % len(stream)] = value
    with running.raw(hostile) as client:
        assert client.connect("hostile") == mqtt.ACCEPTED
        pos = 0
        while pos < len(stream):
            size = order.randint(1, 40)
            client.send(stream[pos : pos + size])
            pos += size
        client.send(mqtt.PINGREQ)
        with contextlib.suppress(TimeoutError):
            while client.packet(0.05) is not None:
                pass
    assert running.faults == []


def test_random_bytes_after_connect_never_break_the_manager(running, hostile, honest):
    noise = random.Random(7)
    for _ in range(40):
        with running.raw(hostile) as client:
            assert client.connect("hostile") == mqtt.ACCEPTED
            client.send(noise.randbytes(noise.randint(1, 3000)))
            with contextlib.suppress(TimeoutError):
                client.packet(0.02)
    honest.exchange(0.5)
    assert running.faults == []


def test_ten_thousand_registrations_of_one_device(running, home, hostile, honest):
    """Each with another instance and other addresses: one entry is left of them, and each got its
    answer."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count, burst = 10_000, 100

    def register(number):
        message = {
            sig.TYPE: sig.REGISTER, sig.FROM: "hostile", sig.TO: names.MANAGER, sig.ID: number,
            sig.INSTANCE: number.to_bytes(8, "big"), sig.ADDRESSES: [f"192.0.2.1:{number}"] * 4,
        }  # fmt: skip
        return mqtt.publish("kf/u/hostile", wire.encode(message))

    def flood(stop):
        with online(running, hostile) as client:
            for start in range(0, count, burst):
                numbers = range(start, start + burst)
                client.send(b"".join(register(number) for number in numbers))
                for number in numbers:
                    answer = client.message()
                    assert (answer[sig.TYPE], answer[sig.ID]) == (sig.REGISTERED, number)
            done.set()
            stop.wait(60)

    done = threading.Event()
    with meanwhile(flood):
        while not done.is_set():
            honest.exchange(0.1)
        presence = running.look(lambda manager: manager.relay.registry.get("hostile"))
        assert presence.addresses == [f"192.0.2.1:{count - 1}"] * 4
        assert presence.instance == (count - 1).to_bytes(8, "big")
        assert running.look(lambda manager: len(manager.relay.registry)) <= 3
    entries = home.store(lambda store: store.audit_entries(10_000, name="hostile"))
    assert len([entry for entry in entries if entry.event == "registered"]) <= 30
    # KiB on Linux. What is not bounded would be a kilobyte for each at the least.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000
