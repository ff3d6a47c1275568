"""HTTP on the TLS listener. It stands on uvicorn's protocol class, which is not uvicorn's public
interface: these tests are the contract that a new version of it must keep."""

import asyncio
import inspect
import json

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from keyferry_manager.carriers import http
from keyferry_manager.carriers.http import HttpEndpoint
from keyferry_manager.carriers.tls import ChannelPeer, TlsListener, server_context
from support.manager_kit import REALM, Home


async def tell_peer(scope, receive, send):
    """An ASGI application that says who it thinks is asking."""
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(30)
    if scope["path"] == "/fail":
        raise RuntimeError("a fault of ours")
    peer = scope["extensions"]["keyferry"]["peer"]
    assert isinstance(peer, ChannelPeer)
    said = {
        "address": peer.address,
        "certificate": peer.certificate_der.hex() if peer.certificate_der else None,
        "client": list(scope["client"]),
        "scheme": scope["scheme"],
        "length": len(body),
    }
    answer = json.dumps(said).encode()
    length = (b"content-length", b"%d" % len(answer))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("http") / "home")


@pytest.fixture(scope="module")
def device(home):
    return home.device("pump-7")


class World:
    def __init__(self, home, listener, endpoint):
        self.home, self.listener, self.endpoint = home, listener, endpoint

    async def open(self, credentials=None):
        context = self.home.client_context(credentials)
        return await asyncio.open_connection(
            "127.0.0.1", self.listener.port, ssl=context, server_hostname=REALM
        )

    async def ask(self, data, credentials=None):
        """Send bytes on a new connection and return all that comes back."""
        reader, writer = await self.open(credentials)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()


def run(home, test):
    async def main():
        context = server_context(
            home.authority.server_file,
            home.authority.trusted_by_links(),
            certificate_required=False,
        )
        endpoint = HttpEndpoint(tell_peer)
        listener = TlsListener("http", context, endpoint, lambda refusal: None)
        await listener.start("127.0.0.1", 0)
        try:
            await test(World(home, listener, endpoint))
        finally:
            await endpoint.stop(0.1)
            await listener.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def split(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode(), body


def test_the_protocol_class_is_as_we_know_it():
    assert list(inspect.signature(H11Protocol.__init__).parameters)[:4] == [
        "self",
        "config",
        "server_state",
        "app_state",
    ]
    config = uvicorn.Config(tell_peer, http="h11", ws="none", lifespan="off", log_config=None)
    config.load()
    assert config.http_protocol_class is H11Protocol

    async def main():
        protocol = H11Protocol(config, ServerState(), {})
        assert protocol.app is config.loaded_app
        for name in ("connection_made", "data_received", "shutdown", "send_400_response"):
            assert callable(getattr(protocol, name))
        assert protocol.server_state.default_headers == []
        assert protocol.server_state.tasks == protocol.server_state.connections == set()

    asyncio.run(main())


def test_the_application_is_told_the_verified_peer(home, device):
    async def test(world):
        reader, writer = await world.open(device)
        writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        _, body = split(await reader.read())
        host, port = writer.get_extra_info("sockname")
        said = json.loads(body)
        assert said["address"] == f"{host}:{port}"
        assert said["certificate"] == device.der.hex()
        assert said["scheme"] == "https"
        writer.close()

    run(home, test)


def test_no_header_changes_who_it_is(home):
    async def test(world):
        head, body = split(
            await world.ask(
                b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\n"
                b"X-Forwarded-Proto: http\r\nForwarded: for=203.0.113.9\r\n"
                b"X-SSL-Client-Cert: pump-7\r\nConnection: close\r\n\r\n"
            )
        )
        said = json.loads(body)
        assert said["certificate"] is None
        assert said["client"][0] == "127.0.0.1"
        assert said["address"].startswith("127.0.0.1:")
        assert said["scheme"] == "https"
        assert "date:" in head
        assert "server:" not in head

    run(home, test)


def test_several_requests_on_one_connection_and_a_pipeline(home):
    async def test(world):
        one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await world.ask(one + one + last)
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.count(b'"length": 3') == 2

    run(home, test)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_bad_requests(home, request_):
    async def test(world):
        answer = await world.ask(request_)
        assert answer.startswith(b"HTTP/1.1 400") or b"chunked" in request_

    run(home, test)


def test_a_head_is_bounded(home):
    async def test(world):
        answer = await world.ask(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000)
        assert answer.startswith(b"HTTP/1.1 400")

    run(home, test)


@pytest.mark.parametrize(
    "start", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"]
)
def test_a_head_that_does_not_come_ends_the_connection(home, start, monkeypatch):
    monkeypatch.setattr(http, "_HEAD_TIMEOUT", 0.4)

    async def test(world):
        reader, writer = await world.open()
        writer.write(start)
        ended = asyncio.create_task(reader.read())
        while not ended.done():  # a byte now and then does not help
            writer.write(b"X")
            await asyncio.wait([ended], timeout=0.1)
            assert world.listener.connections <= 1
        writer.close()

    async def bounded(world):
        await asyncio.wait_for(test(world), 3)

    run(home, bounded)


def test_an_upgrade_is_not_followed(home):
    async def test(world):
        answer = await world.ask(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 200")

    run(home, test)


def test_a_fault_of_the_application_is_an_answer(home):
    async def test(world):
        answer = await world.ask(b"GET /fail HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500")
        assert b"a fault of ours" not in answer

    run(home, test)


def test_stopping_does_not_wait_for_a_slow_request(home):
    async def test(world):
        reader, writer = await world.open()
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        await asyncio.wait_for(world.endpoint.stop(0.1), 2)
        await world.listener.stop()
        await asyncio.wait_for(reader.read(), 2)
        writer.close()

    run(home, test)
