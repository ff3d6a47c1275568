"""The TLS listener: who gets through, what the others are told, and what nobody can use up."""

import asyncio
import contextlib
import os
import socket
import ssl
import time
import warnings

import pytest

from keyferry_manager.carriers.tls import TlsLimits, TlsListener, server_context
from support.manager_kit import REALM, Home


class Echo(asyncio.Protocol):
    """Sends back what it gets, and stops reading while it cannot."""

    def __init__(self, peer):
        self.peer = peer
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"fail":
            raise RuntimeError("a fault of ours")
        if data == b"close":
            self.transport.write(b"last words")
            self.transport.close()
            return
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("tls") / "home")


@pytest.fixture(scope="module")
def device(home):
    return home.device("pump-7")


class World:
    def __init__(self, home, listener, made, refused, faults):
        self.home = home
        self.listener = listener
        self.made = made
        self.refused = refused
        self.faults = faults

    async def open(self, credentials=None, version=None):
        return await asyncio.open_connection(
            "127.0.0.1",
            self.listener.port,
            ssl=self.home.client_context(credentials, version),
            server_hostname=REALM,
        )

    async def read(self, credentials, version=None):
        """Open and read: in TLS 1.3 a client hears of a refusal only when it reads."""
        reader, writer = await self.open(credentials, version)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def until(self, condition):
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)


def run(home, test, *, required=True, **limits):
    """Run ``test(world)`` beside a listener. Nothing may be left of it at the end."""

    async def main():
        context = server_context(
            home.authority.server_file,
            home.authority.trusted_by_links(),
            certificate_required=required,
        )
        made, refused, faults = [], [], []

        def factory(peer):
            made.append(Echo(peer))
            return made[-1]

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        listener = TlsListener("test", context, factory, refused.append, TlsLimits(**limits))
        await listener.start("127.0.0.1", 0)
        world = World(home, listener, made, refused, faults)
        try:
            await test(world)
        finally:
            await listener.stop()
        assert (listener.connections, listener.handshakes) == (0, 0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not faults

    asyncio.run(main())


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_verified_peer_is_known_by_certificate_and_address(home, device, version):
    async def test(world):
        reader, writer = await world.open(device, version)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        peer = world.made[0].peer
        host, port = writer.get_extra_info("sockname")
        assert peer.address == f"{host}:{port}"
        assert peer.host == "127.0.0.1"
        assert peer.certificate_der == device.der
        writer.close()
        await writer.wait_closed()
        assert await world.made[0].lost is None
        assert world.refused == []

    run(home, test)


# What the client is told is the TLS alert: the error must not be a bare reset.
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("who", "reason", "told"),
    [
        ("nobody", "no-certificate", ("HANDSHAKE_FAILURE", "CERTIFICATE_REQUIRED")),
        ("stranger", "unknown-ca", ("UNKNOWN_CA",)),
        ("forged", "bad-signature", ("DECRYPT_ERROR",)),
        ("factory", "unknown-ca", ("UNKNOWN_CA",)),
        ("expired", "certificate-expired", ("CERTIFICATE_EXPIRED",)),
        ("early", "certificate-not-yet-valid", ("BAD_CERTIFICATE",)),
    ],
)
def test_the_client_and_the_operator_are_told_why(home, version, who, reason, told):
    credentials = {
        "nobody": lambda: None,
        "stranger": lambda: home.stranger("pump-7"),
        "forged": lambda: home.forged("pump-7"),
        "factory": lambda: home.factory("pump-7"),
        "expired": lambda: home.expired("pump-7"),
        "early": lambda: home.device("pump-7", now=time.time() + 86400),
    }[who]()

    async def test(world):
        with pytest.raises(ssl.SSLError) as caught:
            await world.read(credentials, version)
        assert any(word in caught.value.reason for word in told), caught.value
        await world.until(lambda: world.refused)
        refusal = world.refused[0]
        assert refusal.reason == reason
        assert refusal.listener == "test"
        assert refusal.address.startswith("127.0.0.1:")
        assert world.made == []

    run(home, test)


def test_without_a_certificate_where_none_is_required(home):
    async def test(world):
        _, writer = await world.open()
        await world.until(lambda: world.made)
        assert world.made[0].peer.certificate_der is None
        writer.close()
        await writer.wait_closed()

    run(home, test, required=False)


def test_a_bad_certificate_is_refused_even_where_none_is_required(home):
    async def test(world):
        with pytest.raises(ssl.SSLError):
            await world.read(home.stranger("pump-7"))
        assert world.made == []

    run(home, test, required=False)


@pytest.mark.parametrize(
    "greeting",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x10\x10\x00\x04MQTT", b"\x00" * 100, os.urandom(3000)],
)
def test_what_is_not_tls_is_refused(home, greeting):
    async def test(world):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.listener.port)
        writer.write(greeting)
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await world.until(lambda: world.refused)
        assert world.refused[0].reason == "not-our-tls"

    run(home, test)


def test_old_tls_is_refused(home, device):
    async def test(world):
        context = home.client_context(device)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection(
                "127.0.0.1", world.listener.port, ssl=context, server_hostname=REALM
            )
        await world.until(lambda: world.refused)
        assert world.refused[0].reason == "not-our-tls"

    run(home, test)


def test_a_handshake_that_does_not_end_is_ended(home):
    async def test(world):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.listener.port)
        writer.write(b"\x16\x03\x01")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert [refusal.reason for refusal in world.refused] == ["timeout"]

    run(home, test, handshake_timeout=0.2)


def test_one_address_cannot_take_every_handshake(home, device):
    async def test(world):
        idle = [await asyncio.open_connection("127.0.0.1", world.listener.port) for _ in range(4)]
        await world.until(lambda: world.listener.handshakes == 4)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.listener.port)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert [refusal.reason for refusal in world.refused] == ["too-many"]
        other = socket.socket()
        other.bind(("127.0.0.2", 0))
        other.connect(("127.0.0.1", world.listener.port))
        _, friend = await asyncio.open_connection(
            sock=other, ssl=home.client_context(device), server_hostname=REALM
        )
        friend.close()
        for _, writer in idle:
            writer.close()
        await world.until(lambda: world.listener.handshakes == 0)

    run(home, test, handshakes_per_address=4)


@pytest.mark.parametrize(
    ("limit", "detail"),
    [("connections", "connections"), ("connections_per_address", "connections of one address")],
)
def test_connections_are_bounded_and_come_back(home, device, limit, detail):
    async def test(world):
        _, first = await world.open(device)
        with pytest.raises((ssl.SSLError, OSError)):
            await world.open(device)
        assert [refusal.detail for refusal in world.refused] == [detail]
        first.close()
        await first.wait_closed()
        await world.until(lambda: world.listener.connections == 0)
        _, again = await world.open(device)
        again.close()

    run(home, test, **{limit: 1})


def test_megabytes_both_ways_with_back_pressure(home, device):
    async def test(world):
        reader, writer = await world.open(device)
        data = os.urandom(1 << 20) * 8

        async def send():
            for start in range(0, len(data), 100_000):
                writer.write(data[start : start + 100_000])
                await writer.drain()

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.2)  # the echo runs into a reader that does not read
        assert world.made[0].transport.get_write_buffer_size() < 1 << 20
        assert await reader.readexactly(len(data)) == data
        await sending
        writer.close()
        await writer.wait_closed()

    run(home, test)


def test_bytes_that_come_one_by_one(home, device):
    async def test(world):
        reader, writer = await world.open(device)
        for number in range(50):
            writer.write(bytes([number]))
            await asyncio.sleep(0)
        assert await reader.readexactly(50) == bytes(range(50))
        writer.close()

    run(home, test)


def test_the_last_words_arrive_before_the_end(home, device):
    async def test(world):
        reader, writer = await world.open(device)
        writer.write(b"close")
        assert await reader.read() == b"last words"
        writer.write(b"more that nobody wants")
        writer.close()
        await world.made[0].lost

    run(home, test)


def test_a_peer_that_cuts_the_socket_is_gone(home, device):
    async def test(world):
        _, writer = await world.open(device)
        await world.until(lambda: world.made)
        writer.transport.abort()
        await asyncio.wait_for(world.made[0].lost, 5)

    run(home, test)


def test_garbage_after_the_handshake_ends_that_connection(home, device):
    async def test(world):
        loop = asyncio.get_running_loop()
        plain = socket.create_connection(("127.0.0.1", world.listener.port))
        context = home.client_context(device)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname=REALM)
        plain.setblocking(False)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await loop.sock_sendall(plain, outgoing.read())
                incoming.write(await loop.sock_recv(plain, 65536))
        await loop.sock_sendall(plain, outgoing.read() + b"\x17\x03\x03\x00\x20" + b"z" * 32)
        await world.until(lambda: world.made)
        assert isinstance(await asyncio.wait_for(world.made[0].lost, 5), ssl.SSLError)
        plain.close()

    run(home, test)


def test_a_fault_of_ours_ends_that_connection_and_no_other(home, device):
    async def test(world):
        reader, writer = await world.open(device)
        _, victim = await world.open(device)
        victim.write(b"fail")
        await world.until(lambda: len(world.made) == 2)
        assert isinstance(await asyncio.wait_for(world.made[1].lost, 5), RuntimeError)
        assert [str(fault["exception"]) for fault in world.faults] == ["a fault of ours"]
        world.faults.clear()
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        writer.close()
        victim.close()

    run(home, test)


def test_a_tls_session_is_never_resumed(home, device):
    async def test(world):
        context = home.client_context(device, ssl.TLSVersion.TLSv1_3)
        for _ in range(2):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", world.listener.port, ssl=context, server_hostname=REALM
            )
            writer.write(b"x")
            await reader.readexactly(1)
            tls = writer.get_extra_info("ssl_object")
            assert not tls.session_reused
            assert tls.session is None or not tls.session.has_ticket
            writer.close()
            await writer.wait_closed()

    run(home, test)


def test_stopping_ends_open_connections_and_handshakes(home, device):
    async def test(world):
        reader, writer = await world.open(device)
        _, idle = await asyncio.open_connection("127.0.0.1", world.listener.port)
        await world.until(lambda: world.listener.handshakes == 1)
        await world.listener.stop()
        assert await reader.read() == b""
        idle.close()
        writer.close()

    run(home, test)
