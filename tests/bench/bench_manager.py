"""``make bench-manager``: the manager against the least that others do, all in one run.

Each server has the last core for itself and the load generator, a process of its own, the first.
What counts is work for each second of the server's processor time, and its ratio to the others:
that holds on a machine that is busy with other things too. ``busy`` is how much of the time the
server had work: near 100 % says that the generator was not what held it up.
"""

import asyncio
import base64
import contextlib
import http.client
import os
import resource
import selectors
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from bench import rivals
from bench.bench_relay import BURST, RECORD, AckedPair, BarePair, End, ManagerPair
from bench.command import bench_home, options_parser, report
from keyferry_core import mqtt_codec as mqtt
from keyferry_core import names
from keyferry_core import signalling as sig
from keyferry_manager.authority import record
from keyferry_manager.relay import wire
from keyferry_manager.store import Store
from support.est_client import PKCS10, PREFIX, csr, new_key
from support.manager_kit import REALM, Credentials, Home

PAIRS = 4
TRIPS = 2000
TARGETS = {
    "relay to bare": 0.75,  # also at QoS 1, though that relay acknowledges nothing
    "relay to mosquitto and worker": 3.0,
    "handshakes to bare": 0.9,
    "KB an idle link": 60.0,
}


class BrokerPair:
    """Two devices at mosquitto. ``routed``: the broker alone, by topic; else through the worker."""

    def __init__(self, home: Home, port: int, number: int, qos: int, routed: bool) -> None:
        self.qos = qos
        self.names = [f"pump-{number}", f"valve-{number}"]
        self.ends = [End(home, port, home.device(name, known=False)) for name in self.names]
        for name, end in zip(self.names, self.ends, strict=True):
            end.socket.sendall(mqtt.connect(name, 0) + mqtt.subscribe(1, [(f"kf/d/{name}", qos)]))
            assert end.read(4) == mqtt.connack()
            assert end.read(5) == mqtt.suback(1, [qos])
        message = {sig.TYPE: sig.MESSAGE, sig.FROM: self.names[0], sig.TO: self.names[1],
                   sig.SESSION: os.urandom(16), sig.RECORD: os.urandom(RECORD)}  # fmt: skip
        payload = wire.encode(message)
        down = f"kf/d/{self.names[1]}"
        up = down if routed else f"kf/u/{self.names[0]}"
        self._packet = lambda number: mqtt.publish(up, payload, qos, number if qos else 0)
        self.down = len(mqtt.publish(down, payload, qos, 7 if qos else 0))
        self.id_at = 3 + 2 + len(down)
        self._number = 0

    def send(self, count: int) -> None:
        packets = []
        for _ in range(count):
            self._number = self._number % 0xFFFF + 1
            packets.append(self._packet(self._number))
        self.ends[0].socket.sendall(b"".join(packets))

    receive = ManagerPair.receive


# -- what is measured ---------------------------------------------------------------------------


def relays(server: rivals.Server, pairs: list[Any], seconds: float) -> dict[str, float]:
    """Load the server with every pair at once, then time single messages of one pair."""
    for pair in pairs:  # warm
        pair.send(BURST)
        pair.receive(BURST)
    with selectors.DefaultSelector() as selector:
        for pair in pairs:
            selector.register(pair.ends[1].socket, selectors.EVENT_READ, pair)
            pair.send(BURST)
        own, used, began, relayed = time.process_time(), server.cpu(), time.monotonic(), 0
        while time.monotonic() - began < seconds:
            for key, _ in selector.select():
                key.data.receive(BURST)
                key.data.send(BURST)
                relayed += BURST
        took, used = time.monotonic() - began, server.cpu() - used
        own = time.process_time() - own
    for pair in pairs:
        pair.receive(BURST)
    trips = []
    for _ in range(TRIPS):
        one = time.perf_counter()
        pairs[0].send(1)
        pairs[0].receive(1)
        trips.append((time.perf_counter() - one) * 1000)
    trips.sort()
    return {
        "per_second": relayed / took,
        "per_cpu_second": relayed / used,
        "us": 1e6 * used / relayed,
        "busy": used / took,
        "generator_busy": own / took,
        "p50_ms": trips[len(trips) // 2],
        "p99_ms": trips[len(trips) * 99 // 100],
    }


def medians(results: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure the middle one."""
    return {what: statistics.median(each[what] for each in results) for what in results[0]}


def handshakes(
    home: Home, server: Any, credentials: Credentials, seconds: float, port: int = 0
) -> dict[str, float]:
    """Connections with TLS 1.2 and both certificates, as MicroPython makes them, and no word
    after that."""
    context = home.client_context(credentials, ssl.TLSVersion.TLSv1_2)
    port = port or server.port
    own, used, began, count = time.process_time(), server.cpu(), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context.wrap_socket(plain, server_hostname=REALM).close()
        count += 1
    took, used = time.monotonic() - began, server.cpu() - used
    own = time.process_time() - own
    return {
        "per_second": count / took,
        "per_cpu_second": count / used,
        "us": 1e6 * used / count,
        "ms": 1e3 * used / count,
        "busy": used / took,
        "generator_busy": own / took,
    }


def enrolments(
    home: Home, server: rivals.Server, credentials: Credentials, body: bytes, seconds: float
) -> dict[str, float]:
    """Renewals over one connection: request checked, certificate signed, written to the store."""
    connection = http.client.HTTPSConnection(
        "127.0.0.1", server.est_port, context=home.client_context(credentials), timeout=20
    )
    context: Any = connection._context  # type: ignore[attr-defined]
    context.check_hostname = True
    headers = {"Content-Type": PKCS10, "Content-Transfer-Encoding": "base64", "Host": REALM}

    def one() -> None:
        connection.request("POST", PREFIX + "simplereenroll", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"enrolment: {answer.status} {text[:200]!r}")

    one()
    used, began, count = server.cpu(), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        one()
        count += 1
    took, used = time.monotonic() - began, server.cpu() - used
    connection.close()
    return {
        "per_second": count / took,
        "per_cpu_second": count / used,
        "ms": 1e3 * used / count,
        "busy": used / took,
    }


def idle(home: Home, server: rivals.Server, devices: list[tuple[str, Credentials]]) -> float:
    """Bytes of the server's memory for each link that does nothing; with CONNECT, SUBSCRIBE and
    a registration where it speaks MQTT."""
    before = server.resident()
    with contextlib.ExitStack() as stack:
        for name, credentials in devices:
            end = End(home, server.port, credentials)
            stack.callback(end.socket.close)
            if not server.est_port:
                continue
            register = {sig.TYPE: sig.REGISTER, sig.FROM: name, sig.TO: names.MANAGER, sig.ID: 1,
                        sig.INSTANCE: os.urandom(8), sig.ADDRESSES: []}  # fmt: skip
            packets = mqtt.connect(name, 0) + mqtt.subscribe(1, [(f"kf/d/{name}", 1)])
            end.socket.sendall(packets + mqtt.publish(f"kf/u/{name}", wire.encode(register)))
            reader = mqtt.Reader(1 << 16)
            while (packet := reader.next_packet()) is None or packet[0] != mqtt.TYPE_PUBLISH:
                if packet is None:
                    reader.feed(end.read(1))
        time.sleep(2)  # whatever is still to be freed or written
        return (server.resident() - before) / len(devices)


# -- the whole ----------------------------------------------------------------------------------


def many(home: Home, count: int) -> list[tuple[str, Credentials]]:
    """Devices with certificates, in the store; all for one key, which TLS does not mind."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = []

    async def work() -> None:
        async with Store.open(home.config.database_url) as store:
            for number in range(count):
                name = f"idle-{number}"
                certificate = home.authority.issue_device(name, key.public_key())
                await store.add_device(name)
                await store.record_certificate(record(certificate, "token", time.time()))
                made.append((name, home.saved(key, certificate)))

    asyncio.run(work())
    return made


class Run:
    """All measurements, in one home."""

    def __init__(self, home: Home, core: int, seconds: float, links: int, rounds: int) -> None:
        self.home = home
        self.core = core
        self.seconds = seconds
        self.links = links
        self.rounds = rounds
        self.missing = ""

    @contextlib.contextmanager
    def server(self, kind: str) -> Iterator[rivals.Server]:
        if kind.startswith("mosquitto"):
            server = rivals.mosquitto(self.home, self.core, kind.endswith("worker"))
        else:
            server = rivals.python(kind, self.home, self.core)
        try:
            yield server
        finally:
            server.stop()

    def relays(self) -> dict[str, dict[str, float]]:
        """Each server in turn, again and again: what else the machine does meets all alike."""
        # What QoS 1 is to be compared with fairly acknowledges as well: twice the TLS records.
        kinds = [("bare relay", "relay", 0), ("bare relay, acked", "acked", 1)]
        for what, kind in (
            ("manager", "manager"),
            ("mosquitto", "mosquitto"),
            ("mosquitto and worker", "mosquitto worker"),
        ):
            kinds += [(f"{what}, QoS {qos}", kind, qos) for qos in (0, 1)]
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(self.rounds):
            for what, kind, qos in kinds:
                try:
                    found.setdefault(what, []).append(self._relays(kind, qos))
                except rivals.RivalMissing as missing:
                    self.missing = str(missing)
        return {what: medians(results) for what, results in found.items() if results}

    def _relays(self, kind: str, qos: int) -> dict[str, float]:
        with self.server(kind) as server, contextlib.ExitStack() as stack:
            pairs = [self._pair(kind, server.port, n, qos) for n in range(PAIRS)]
            for pair in pairs:
                for end in pair.ends:
                    stack.callback(end.socket.close)
            before = server.counts().get("statements", 0) if kind == "manager" else 0
            result = relays(server, pairs, self.seconds)
            if kind == "manager":
                after = server.counts()["statements"]
                relayed = result["per_second"] * self.seconds + TRIPS
                result["statements_per_1000"] = 1000 * (after - before) / relayed
            return result

    def _pair(self, kind: str, port: int, number: int, qos: int) -> Any:
        if kind in ("relay", "acked"):
            return (BarePair if kind == "relay" else AckedPair)(self.home, port, number)
        if kind == "manager":
            return ManagerPair(self.home, port, number, qos)
        return BrokerPair(self.home, port, number, qos, kind == "mosquitto")

    def handshakes(self) -> dict[str, dict[str, float]]:
        found = {}
        credentials = self.home.device("knocks")
        for what, kind in (
            ("bare TLS server", "tls"),
            ("manager", "manager"),
            ("mosquitto", "mosquitto"),
        ):
            try:
                with self.server(kind) as server:
                    found[what] = handshakes(self.home, server, credentials, self.seconds)
            except rivals.RivalMissing as missing:
                self.missing = str(missing)
        return found

    def enrolments(self) -> dict[str, dict[str, float]]:
        key = new_key()
        certificate = self.home.authority.issue_device("renews", key.public_key())

        async def keep(store: Store) -> None:
            await store.add_device("renews")
            await store.record_certificate(record(certificate, "token", time.time()))

        self.home.store(keep)
        credentials = self.home.saved(key, certificate)
        name = x509.UniformResourceIdentifier(f"sip:renews@{REALM}")
        request = csr(key, "renews", [name])
        bare = rivals.signing(self.home, self.core, request, self.seconds)
        body = base64.b64encode(request)
        with self.server("manager") as server:
            found = enrolments(self.home, server, credentials, body, self.seconds)
        return {"bare signing": {"per_cpu_second": bare}, "manager": found}

    def idle(self) -> dict[str, float]:
        devices = many(self.home, self.links)
        found = {}
        for what, kind in (("bare TLS server", "tls"), ("manager", "manager")):
            with self.server(kind) as server:
                found[what] = idle(self.home, server, devices)
        return found


def measure(seconds: float, links: int, rounds: int, parts: list[str]) -> dict[str, Any]:
    """Everything in ``parts``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    limits = {
        "messages_per_second": 1_000_000,
        "enrolments_per_hour": 10_000,
        "address_enrolments_per_hour": 1_000_000,
        "log_level": "error",
    }
    with bench_home(limits) as (home, core):
        run = Run(home, core, seconds, links, rounds)
        found: dict[str, Any] = {part: getattr(run, part)() for part in parts}
        found["missing"] = run.missing
    found["ratios"] = ratios(found)
    return found


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """What the targets are about."""
    result: dict[str, float] = {}

    def each(part: str, one: str, other: str, name: str) -> None:
        rows = found.get(part, {})
        if one in rows and other in rows:
            result[name] = rows[one]["per_cpu_second"] / rows[other]["per_cpu_second"]

    for qos in (0, 1):
        mine = f"manager, QoS {qos}"
        each("relays", mine, "bare relay", f"relay to bare, QoS {qos}")
        if qos:
            each("relays", mine, "bare relay, acked", "relay to bare that acknowledges, QoS 1")
        each("relays", mine, f"mosquitto, QoS {qos}", f"relay to mosquitto alone, QoS {qos}")
        worker = f"mosquitto and worker, QoS {qos}"
        each("relays", mine, worker, f"relay to mosquitto and worker, QoS {qos}")
    each("handshakes", "manager", "bare TLS server", "handshakes to bare")
    each("handshakes", "manager", "mosquitto", "handshakes to mosquitto")
    each("enrolments", "manager", "bare signing", "enrolments to bare signing")
    if "idle" in found:
        result["KB an idle link"] = found["idle"]["manager"] / 1000
        result["KB an idle link, bare"] = found["idle"]["bare TLS server"] / 1000
    return result


def show(found: dict[str, Any]) -> None:
    """Print it as tables."""
    for part in ("relays", "handshakes", "enrolments"):
        rows = found.get(part, {})
        if not rows:
            continue
        columns = list(next(iter(reversed(rows.values()))))
        if part == "relays":
            columns = ["per_second", "per_cpu_second", "us", "busy", "p50_ms", "p99_ms"]
        print(f"{part:24}" + "".join(f"{column:>16}" for column in columns))
        for what, row in rows.items():
            cells = [f"{row[c]:16.3f}" if c in row else " " * 16 for c in columns]
            print(f"{what:24}" + "".join(cells))
            if "statements_per_1000" in row:
                print(f"{'':24}{row['statements_per_1000']:.3f} statements a thousand relays")
        print()
    for what, ratio in found["ratios"].items():
        target = next((f"  target {TARGETS[t]:g}" for t in TARGETS if what.startswith(t)), "")
        print(f"{what:42}{ratio:10.2f}{'' if 'bare' in what and 'KB' in what else target}")
    if found["missing"]:
        print(found["missing"], file=sys.stderr)


PARTS = ("relays", "handshakes", "enrolments", "idle")


def main() -> None:
    parser = options_parser(__doc__, PARTS)
    parser.add_argument("--seconds", type=float, default=3.0, help="load time of each server")
    parser.add_argument("--links", type=int, default=1000, help="idle links")
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each server relays; the median counts"
    )
    options = parser.parse_args()
    found = measure(
        options.seconds, options.links, max(1, options.rounds), options.part or list(PARTS)
    )
    report(found, show, options.json)


if __name__ == "__main__":
    main()
