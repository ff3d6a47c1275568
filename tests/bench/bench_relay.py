"""How fast the manager relays, against the least that any relay over TLS must do.

Prints, for the manager with QoS 0 and 1 and for a bare relay (length-prefixed messages, asyncio's
own TLS, no check at all): relays per second, relays per second of the server's processor time,
and the round trip of a single message. The ratios to the bare relay are what can be compared
between machines. ``PYTHONPATH=tests python tests/bench/bench_relay.py --help``
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keyferry_core import mqtt_codec as mqtt
from keyferry_core import names
from keyferry_core import signalling as sig
from keyferry_manager.app import Manager
from keyferry_manager.carriers.tls import server_context
from keyferry_manager.relay import wire
from support.manager_kit import REALM, Credentials, Home

RECORD = 240  # bytes of a record: with its envelope a message has about 300
BURST = 8  # messages that a sender has on the way
_HEAD = 2


# -- servers, each in a process of its own ---------------------------------------------------


class BareRelay(asyncio.Protocol):
    """Forwards each message to the other end of the pair: two bytes of length, then the message.
    The first message says which pair, and which end."""

    ends: dict[bytes, asyncio.Transport] = {}  # noqa: RUF012  # one relay in this process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.other = b""
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        pos = 0
        while len(buffer) - pos >= _HEAD:
            end = pos + _HEAD + int.from_bytes(buffer[pos : pos + _HEAD], "big")
            if end > len(buffer):
                break
            if self.other:
                self.ends[self.other].write(buffer[pos:end])
            else:
                me = buffer[pos + _HEAD : end]
                self.ends[me] = self.transport
                self.other = me[:-1] + (b"b" if me[-1:] == b"a" else b"a")
            pos = end
        self.buffer = buffer[pos:]


class AckedRelay(BareRelay):
    """The same with what QoS 1 asks of any server: each message has a number, the sender hears
    that its message was taken, and the receiver's acknowledgement is read. An acknowledgement is
    four bytes, as MQTT's: a length of two, then the number."""

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        pos = 0
        acks = []
        while len(buffer) - pos >= _HEAD:
            end = pos + _HEAD + int.from_bytes(buffer[pos : pos + _HEAD], "big")
            if end > len(buffer):
                break
            if not self.other:
                me = buffer[pos + _HEAD : end]
                self.ends[me] = self.transport
                self.other = me[:-1] + (b"b" if me[-1:] == b"a" else b"a")
                self.unacknowledged: dict[bytes, float] = {}
                self.peers[me] = self
            elif end - pos == 2 * _HEAD:
                self.unacknowledged.pop(buffer[pos + _HEAD : end], None)
            else:
                number = buffer[pos + _HEAD : pos + 2 * _HEAD]
                self.peers[self.other].unacknowledged[number] = time.monotonic()
                self.ends[self.other].write(buffer[pos:end])
                acks.append(b"\0\2" + number)
            pos = end
        self.buffer = buffer[pos:]
        if acks:
            self.transport.write(b"".join(acks))

    peers: dict[bytes, "AckedRelay"] = {}  # noqa: RUF012


async def serve_bare(home: Home) -> None:
    context = server_context(
        home.authority.server_file, home.authority.trusted_by_links(), certificate_required=True
    )
    server = await asyncio.get_running_loop().create_server(BareRelay, "127.0.0.1", 0, ssl=context)
    await answer(server.sockets[0].getsockname()[1])


async def serve_manager(home: Home) -> None:
    manager = Manager(home.folder)
    await manager.start()
    await answer(manager.mqtt_port)
    await manager.stop()


async def answer(port: int) -> None:
    """Print the port, then the processor time spent so far for each line of standard input."""
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"cpu": time.process_time(), "peak_kib": peak}), flush=True)


class Server:
    """A server in a process on a core of its own."""

    def __init__(self, kind: str, home: Home, core: int) -> None:
        command = [sys.executable, __file__, "--serve", kind, "--home", str(home.folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        os.sched_setaffinity(self.process.pid, {core})
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def usage(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


# -- the load --------------------------------------------------------------------------------


class End:
    """One device: a socket that sends ready-made bytes and counts what comes."""

    def __init__(self, home: Home, port: int, credentials: Credentials) -> None:
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = home.client_context(credentials)
        self.socket = context.wrap_socket(plain, server_hostname=REALM)
        self.got = b""

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        while len(self.got) < size:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the server closed")
            self.got += data
        taken, self.got = self.got[:size], self.got[size:]
        return taken


class BarePair:
    """Two devices at the bare relay."""

    def __init__(self, home: Home, port: int, number: int) -> None:
        self.ends = []
        for side in (b"a", b"b"):
            end = End(home, port, home.device(f"bare-{number}{side.decode()}", known=False))
            me = b"%d" % number + side
            end.socket.sendall(len(me).to_bytes(_HEAD, "big") + me)
            self.ends.append(end)
        message = os.urandom(RECORD + 60)
        self.up = len(message).to_bytes(_HEAD, "big") + message
        self.down = len(self.up)

    def send(self, count: int) -> None:
        self.ends[0].socket.sendall(self.up * count)

    def receive(self, count: int) -> None:
        self.ends[1].read(self.down * count)


class AckedPair(BarePair):
    """Two devices at the bare relay that acknowledges."""

    def send(self, count: int) -> None:
        self.ends[0].socket.sendall(self.up * count)

    def receive(self, count: int) -> None:
        packets = self.ends[1].read(self.down * count)
        starts = range(_HEAD, len(packets), self.down)
        acks = b"".join(b"\0\2" + packets[at : at + 2] for at in starts)
        self.ends[1].socket.sendall(acks)
        self.ends[0].read(4 * count)


class ManagerPair:
    """Two devices that the manager has introduced to each other."""

    def __init__(self, home: Home, port: int, number: int, qos: int) -> None:
        self.qos = qos
        self.names = [f"pump-{number}", f"valve-{number}"]
        self.ends = [End(home, port, home.device(name)) for name in self.names]
        home.allow(*self.names)
        for name, end in zip(self.names, self.ends, strict=True):
            end.socket.sendall(mqtt.connect(name, 0) + mqtt.subscribe(1, [(f"kf/d/{name}", qos)]))
            assert end.read(4) == mqtt.connack()
            assert end.read(5) == mqtt.suback(1, [qos])
            self._up(end, name, {sig.TYPE: sig.REGISTER, sig.TO: names.MANAGER, sig.ID: 1,
                                 sig.INSTANCE: os.urandom(8), sig.ADDRESSES: []})  # fmt: skip
            self._down(end)
        self.session = os.urandom(16)
        time.sleep(1.2)  # the rule takes effect
        ask = {sig.TYPE: sig.CONNECT, sig.TO: self.names[1], sig.SESSION: self.session,
               sig.PROFILE: 0, sig.MESSAGE_1: b"1"}  # fmt: skip
        self._up(self.ends[0], self.names[0], ask)
        assert self._down(self.ends[1])[sig.TYPE] == sig.CONNECT
        accept = {sig.TYPE: sig.ACCEPT, sig.TO: self.names[0], sig.SESSION: self.session,
                  sig.MESSAGE_2: b"2"}  # fmt: skip
        self._up(self.ends[1], self.names[1], accept)
        assert self._down(self.ends[0])[sig.TYPE] == sig.ACCEPT
        message = {sig.TYPE: sig.MESSAGE, sig.FROM: self.names[0], sig.TO: self.names[1],
                   sig.SESSION: self.session, sig.RECORD: os.urandom(RECORD)}  # fmt: skip
        payload = wire.encode(message)
        self.up = mqtt.publish(f"kf/u/{self.names[0]}", payload, qos, 7 if qos else 0)
        self.down = len(mqtt.publish(f"kf/d/{self.names[1]}", payload, qos, 7 if qos else 0))
        self.id_at = 3 + 2 + len(f"kf/d/{self.names[1]}")

    def _up(self, end: End, name: str, message: dict[int, Any]) -> None:
        payload = wire.encode({sig.FROM: name, **message})
        end.socket.sendall(mqtt.publish(f"kf/u/{name}", payload))

    def _down(self, end: End) -> dict[int, Any]:
        reader = mqtt.Reader(1 << 20)
        while True:
            reader.feed(end.read(1))
            packet = reader.next_packet()
            if packet is not None:
                assert packet[0] == mqtt.TYPE_PUBLISH
                if packet[3]:
                    end.socket.sendall(mqtt.puback(packet[4]))
                return wire.decode_map(packet[2])

    def send(self, count: int) -> None:
        self.ends[0].socket.sendall(self.up * count)

    def receive(self, count: int) -> None:
        packets = self.ends[1].read(self.down * count)
        if self.qos:
            starts = range(self.id_at, len(packets), self.down)
            acks = b"".join(b"\x40\x02" + packets[at : at + 2] for at in starts)
            self.ends[1].socket.sendall(acks)
            self.ends[0].read(4 * count)


@dataclass
class Result:
    """What was measured of one server."""

    what: str
    relays_per_second: float
    relays_per_cpu_second: float
    p50_ms: float
    p99_ms: float
    peak_mib: float


def measure(what: str, server: Server, pairs: list[Any], seconds: float) -> Result:
    """Load the server with every pair at once, then time single messages of one pair."""
    for pair in pairs:  # warm
        pair.send(BURST)
        pair.receive(BURST)
    selector = selectors.DefaultSelector()
    for pair in pairs:
        selector.register(pair.ends[1].socket, selectors.EVENT_READ, pair)
        pair.send(BURST)
    before, started, relayed = server.usage()["cpu"], time.monotonic(), 0
    while time.monotonic() - started < seconds:
        for key, _ in selector.select():
            key.data.receive(BURST)
            key.data.send(BURST)
            relayed += BURST
    took, used = time.monotonic() - started, server.usage()
    for pair in pairs:
        pair.receive(BURST)
    selector.close()
    trips = []
    for _ in range(2000):
        one = time.perf_counter()
        pairs[0].send(1)
        pairs[0].receive(1)
        trips.append((time.perf_counter() - one) * 1000)
    trips.sort()
    return Result(
        what,
        relayed / took,
        relayed / (used["cpu"] - before),
        trips[len(trips) // 2],
        trips[len(trips) * 99 // 100],
        used["peak_kib"] / 1024,
    )


def run(seconds: float, pairs: int) -> list[Result]:
    """Measure all three, the bare relay first."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    results = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        limits = {"messages_per_second": 1_000_000, "log_level": "error"}
        home = Home(Path(folder) / "home", **limits)
        for what in ("bare relay", "manager, QoS 0", "manager, QoS 1"):
            kind = "bare" if what == "bare relay" else "manager"
            server = Server(kind, home, cores[-1])
            try:
                made: list[Any] = []
                for number in range(pairs):
                    if kind == "bare":
                        made.append(BarePair(home, server.port, number))
                    else:
                        made.append(ManagerPair(home, server.port, number, int(what[-1])))
                for pair in made:
                    for end in pair.ends:
                        stack.callback(end.socket.close)
                results.append(measure(what, server, made, seconds))
            finally:
                server.stop()
    os.sched_setaffinity(0, set(cores))
    return results


def as_json(results: list[Result]) -> dict[str, Any]:
    """The results, and the ratio of each to the bare relay, which is the first."""
    bare = results[0].relays_per_cpu_second
    ratio = {result.what: result.relays_per_cpu_second / bare for result in results}
    return {"results": [asdict(result) for result in results], "ratio": ratio}


def show(results: list[Result]) -> None:
    """Print them as a table."""
    bare = results[0].relays_per_cpu_second
    print(f"{'':16}{'relays/s':>10}{'/cpu s':>10}{'ratio':>8}{'p50 ms':>8}{'p99 ms':>8}{'MiB':>6}")
    for result in results:
        print(
            f"{result.what:16}{result.relays_per_second:10.0f}{result.relays_per_cpu_second:10.0f}"
            f"{result.relays_per_cpu_second / bare:8.2f}{result.p50_ms:8.3f}"
            f"{result.p99_ms:8.3f}{result.peak_mib:6.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="load time of each server")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of devices")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=("bare", "manager"), help=argparse.SUPPRESS)
    parser.add_argument("--home", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        home = Home.existing(Path(options.home))
        asyncio.run((serve_bare if options.serve == "bare" else serve_manager)(home))
        return
    results = run(options.seconds, options.pairs)
    if options.json:
        print(json.dumps(as_json(results)))
    else:
        show(results)


if __name__ == "__main__":
    main()
