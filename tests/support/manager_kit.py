"""A manager for tests: its home, its devices' certificates, and clients to talk to it.

CPython only. The manager runs in a thread of its own, so that tests are plain code that blocks.
"""

import asyncio
import contextlib
import datetime
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from paho.mqtt.enums import CallbackAPIVersion

from keyferry_core import mqtt_codec, names
from keyferry_core import signalling as sig
from keyferry_core.errors import name_of
from keyferry_manager.app import Manager
from keyferry_manager.authority import LocalAuthority, record
from keyferry_manager.config import FILE_NAME, Config, template
from keyferry_manager.relay import wire
from keyferry_manager.store import AuditEntry, SessionRow, Store

Result = TypeVar("Result")

REALM = "plant.example"
PAUSE = 20.0  # longest wait for something that should happen at once, on a busy machine


@dataclass(frozen=True)
class Credentials:
    """PEM files of a client: certificate (with chain, if any) and key."""

    certificate: Path
    key: Path

    @property
    def der(self) -> bytes:
        """The leaf."""
        pem = self.certificate.read_bytes()
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


class Home:
    """A manager's home made for one test, with what the command line would do to it."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        ports = {"mqtt_port": 0, "est_port": 0, "observe_port": 0, "time_port": 0}
        changes = {"listen_host": "127.0.0.1", **ports, **settings}
        (folder / FILE_NAME).write_text(template(REALM, **changes))
        self.config = Config.load(folder)
        self.authority = LocalAuthority.create(self.config)
        self.store(lambda store: store.migrate())
        self._files = 0

    @classmethod
    def existing(cls, folder: Path) -> Self:
        """A home that was made before, in this process or another."""
        home = cls.__new__(cls)
        home.folder = folder
        home.config = Config.load(folder)
        home.authority = LocalAuthority(home.config)
        home._files = 1000
        return home

    def store(self, ask: Callable[[Store], Coroutine[Any, Any, Result]]) -> Result:
        """Run one call on the store, from outside the manager, as the command line does."""

        async def run() -> Result:
            async with Store.open(self.config.database_url) as store:
                return await ask(store)

        return asyncio.run(run())

    def audit(self, event: str, detail: str = "", **fields: object) -> list[AuditEntry]:
        """The audit entries of one kind, with these fields and with ``detail`` as a part of
        theirs, waiting until there is one."""
        found: list[AuditEntry] = []

        def there() -> bool:
            entries = self.store(lambda store: store.audit_entries(1000, event=event))
            found[:] = [
                entry
                for entry in entries
                if detail in entry.detail and fields.items() <= dict(entry.fields).items()
            ]
            return bool(found)

        until(there)
        return found

    def session(self, session: bytes) -> SessionRow:
        """What was written down of a session that has ended, waiting until it is."""
        found: list[SessionRow] = []

        def there() -> bool:
            rows = self.store(lambda store: store.sessions(1000))
            found[:] = [row for row in rows if row.session == session.hex() and row.ended_at]
            return bool(found)

        until(there)
        return found[0]

    def add(self, *devices: str) -> None:
        """Make devices known."""
        for name in devices:
            self.store(lambda store, name=name: store.add_device(name))

    def allow(self, initiator: str, responder: str) -> None:
        """Write a rule."""
        self.store(lambda store: store.allow(initiator, responder))

    def device(self, name: str, *, now: float | None = None, known: bool = True) -> Credentials:
        """A device with a certificate of ours. ``known`` False leaves it out of the store."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.authority.issue_device(name, key.public_key(), now)
        if known:
            if self.store(lambda store: store.device(name)) is None:
                self.add(name)
            row = record(certificate, "token", time.time() if now is None else now)
            self.store(lambda store: store.record_certificate(row))
        return self.saved(key, certificate)

    def factory(self, name: str) -> Credentials:
        """A factory identity."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self.saved(key, self.authority.issue_factory(name, key.public_key()))

    def stranger(self, name: str) -> Credentials:
        """A certificate of the shape that we issue, of a CA that is not ours."""
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another CA")])
        now = time.time()
        return self._signed(name, ec.generate_private_key(ec.SECP256R1()), now, now + 86400, issuer)

    def forged(self, name: str) -> Credentials:
        """A certificate that names our CA as its issuer and is not signed by it."""
        now = time.time()
        return self._signed(name, ec.generate_private_key(ec.SECP256R1()), now, now + 86400)

    def expired(self, name: str) -> Credentials:
        """A certificate of our CA that ended yesterday. It is not in the store."""
        pem = (self.folder / "ca" / "issuing.key").read_bytes()
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        now = time.time()
        return self._signed(name, key, now - 90 * 86400, now - 86400)

    def _signed(
        self,
        name: str,
        ca_key: ec.EllipticCurvePrivateKey,
        start: float,
        end: float,
        issuer: x509.Name | None = None,
    ) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        identity = x509.UniformResourceIdentifier(names.identity(name, REALM))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer or self.authority.issuing.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime.fromtimestamp(start, datetime.UTC))
            .not_valid_after(datetime.datetime.fromtimestamp(end, datetime.UTC))
            .add_extension(x509.SubjectAlternativeName([identity]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .sign(ca_key, hashes.SHA256())
        )
        return self.saved(key, certificate)

    def client_context(
        self, credentials: Credentials | None, version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """TLS of a client that trusts our root alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.folder / "ca" / "root.pem")
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if credentials is not None:
            context.load_cert_chain(credentials.certificate, credentials.key)
        return context

    @contextlib.contextmanager
    def running(self, **arguments: Any) -> Iterator["Running"]:
        """The manager, started, and stopped at the end."""
        running = Running(self, **arguments)
        running.start()
        try:
            yield running
        finally:
            running.stop()

    def saved(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Credentials:
        """A key and its certificate, in files of their own."""
        self._files += 1
        folder = self.folder / f"client-{self._files}"
        folder.mkdir()
        credentials = Credentials(folder / "certificate.pem", folder / "key.pem")
        pem = serialization.Encoding.PEM
        credentials.certificate.write_bytes(certificate.public_bytes(pem))
        credentials.key.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return credentials


class Running:
    """A manager in a thread with its own event loop."""

    def __init__(self, home: Home, **arguments: Any) -> None:
        self.home = home
        self.manager = Manager(home.folder, **arguments)
        self.loop = asyncio.new_event_loop()
        self.faults: list[str] = []
        self.loop.set_exception_handler(self._fault)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start, and wait until it listens."""
        self._thread.start()
        self.wait(self.manager.start())

    def stop(self) -> None:
        """Stop. Nothing may be left behind, and nothing may have gone wrong inside."""
        self.wait(self.manager.stop())
        left = self.wait(_other_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PAUSE)
        self.loop.close()
        assert left == []
        assert self.faults == []

    def wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run something in the manager's loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def look(self, function: Callable[[Manager], Result]) -> Result:
        """Look at something of the manager, in its own thread."""

        async def run() -> Result:
            return function(self.manager)

        return self.wait(run())

    @property
    def port(self) -> int:
        """MQTT."""
        return self.manager.mqtt_port

    def links(self) -> dict[str, str]:
        """Names that have a link, with the address of it."""
        return self.look(
            lambda manager: {
                presence.name: presence.link.address
                for presence in manager.relay.registry
                if presence.link is not None
            }
        )

    def device(self, name: str, **arguments: Any) -> "PahoDevice":
        """A paho client with a new certificate, connected, subscribed and registered."""
        client = PahoDevice(self, name, self.home.device(name), **arguments)
        client.connect()
        client.register()
        return client

    def raw(self, credentials: Credentials | None, **arguments: Any) -> "RawClient":
        """A client that sends what it is told."""
        return RawClient(self, credentials, **arguments)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")


async def _other_tasks() -> list[str]:
    mine = asyncio.current_task()
    return [task.get_name() for task in asyncio.all_tasks() if task is not mine]


class PahoDevice:
    """A device that is played by paho-mqtt, an MQTT client that is not ours."""

    def __init__(
        self,
        running: Running,
        name: str,
        credentials: Credentials | None,
        *,
        client_id: str | None = None,
        qos: int = 1,
        keep_alive: int = 60,
        version: ssl.TLSVersion | None = None,
        instance: bytes = b"",
    ) -> None:
        self.running = running
        self.name = name
        self.qos = qos
        self.keep_alive = keep_alive
        self.inbox: queue.Queue[dict[int, Any]] = queue.Queue()
        self.reason: Any = None
        self.lost = threading.Event()
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        self.granted: list[Any] = []
        self.instance = instance or os.urandom(8)
        self._id = 0
        self.client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name if client_id is None else client_id,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.tls_set_context(running.home.client_context(credentials, version))
        client.on_socket_open = _no_delay
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message

    def connect(self) -> Any:
        """Connect and subscribe. Returns paho's reason code; raises ssl.SSLError or OSError."""
        self.client.connect("127.0.0.1", self.running.port, self.keep_alive)
        self.client.loop_start()
        until(lambda: self._connected.is_set() or self.lost.is_set())
        if self._connected.is_set() and not self.reason.is_failure:
            self.subscribe(f"kf/d/{self.name}")
        return self.reason

    def subscribe(self, topic: str) -> Any:
        """Subscribe to a topic, and return what was granted."""
        self._subscribed.clear()
        self.client.subscribe(topic, self.qos)
        assert self._subscribed.wait(PAUSE)
        return self.granted[0]

    def register(self) -> dict[int, Any]:
        """Register, and return the answer."""
        self.send({sig.TYPE: sig.REGISTER, sig.INSTANCE: self.instance, sig.ADDRESSES: []})
        return self.receive(sig.REGISTERED)

    def send(self, message: dict[int, Any]) -> dict[int, Any]:
        """Send a message; FROM, TO and ID are filled in where they are absent."""
        message = dict(message)
        message.setdefault(sig.FROM, self.name)
        if message[sig.TYPE] in sig.TO_MANAGER:
            message.setdefault(sig.TO, names.MANAGER)
            self._id += 1
            message.setdefault(sig.ID, self._id)
        self.publish(wire.encode(message))
        return message

    def publish(self, payload: bytes, topic: str | None = None, retain: bool = False) -> None:
        """Publish bytes."""
        self.client.publish(topic or f"kf/u/{self.name}", payload, self.qos, retain)

    def receive(self, kind: int | None = None, seconds: float = PAUSE) -> dict[int, Any]:
        """The next message; it must be of this kind."""
        message = self.inbox.get(timeout=seconds)
        assert kind is None or message[sig.TYPE] == kind, message
        return message

    def refusal(self, name: str) -> dict[int, Any]:
        """The next message, which must be the error ``name``."""
        message = self.receive(sig.ERROR)
        assert name_of(message[sig.ERROR_CODE]) == name, message
        return message

    def nothing(self, seconds: float = 0.3) -> bool:
        """Whether nothing arrives."""
        with contextlib.suppress(queue.Empty):
            self.inbox.put(self.inbox.get(timeout=seconds))
            return False
        return True

    def offer(self, peer: str, session: bytes | None = None) -> bytes:
        """Ask for a session with a message_1 that only looks like one."""
        session = session or os.urandom(16)
        message_1 = b"message_1 " + os.urandom(27)
        self.send(
            {
                sig.TYPE: sig.CONNECT,
                sig.TO: peer,
                sig.SESSION: session,
                sig.PROFILE: sig.PROFILE_CERT,
                sig.MESSAGE_1: message_1,
            }
        )
        return session

    def accept(self, offered: dict[int, Any]) -> None:
        """Accept an offer."""
        self.send(
            {
                sig.TYPE: sig.ACCEPT,
                sig.TO: offered[sig.FROM],
                sig.SESSION: offered[sig.SESSION],
                sig.MESSAGE_2: b"message_2",
            }
        )

    def say(self, peer: str, session: bytes, record: bytes) -> None:
        """Send a record."""
        self.send({sig.TYPE: sig.MESSAGE, sig.TO: peer, sig.SESSION: session, sig.RECORD: record})

    def close(self) -> None:
        """Disconnect as a well-behaved client does."""
        self.client.disconnect()
        self.client.loop_stop()

    def drop(self) -> None:
        """Lose the link without a goodbye."""
        sock: Any = self.client.socket()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, _: Any) -> None:
        assert not flags.session_present
        self.reason = reason
        self._connected.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, _: Any) -> None:
        if self.reason is None:
            self.reason = reason
        self.lost.set()

    def _on_subscribe(self, client: Any, data: Any, mid: int, reasons: Any, _: Any) -> None:
        self.granted = list(reasons)
        self._subscribed.set()

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        assert message.topic == f"kf/d/{self.name}"
        self.inbox.put(sig.check(wire.decode_map(message.payload), False))


class RawClient:
    """A TLS socket and the codec: it can break every rule."""

    def __init__(
        self,
        running: Running,
        credentials: Credentials | None,
        version: ssl.TLSVersion | None = None,
    ) -> None:
        plain = socket.create_connection(("127.0.0.1", running.port), PAUSE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = running.home.client_context(credentials, version)
        self.socket = context.wrap_socket(plain, server_hostname=REALM)
        self.reader = mqtt_codec.Reader(1 << 20)

    @property
    def address(self) -> str:
        """Our address, as the manager should see it."""
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    def send(self, data: bytes) -> None:
        """Send bytes. That the other side has closed shows when reading."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def packet(self, seconds: float = PAUSE) -> tuple | None:
        """The next packet, None when the manager has closed. TimeoutError."""
        end = time.monotonic() + seconds
        while True:
            packet = self.reader.next_packet()
            if packet is not None:
                return packet
            self.socket.settimeout(max(0.001, end - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise
            except OSError:
                return None
            if not data:
                return None
            self.reader.feed(data)

    def closed(self, seconds: float = PAUSE) -> bool:
        """Read to the end: whether the manager closes."""
        try:
            while self.packet(seconds) is not None:
                pass
        except TimeoutError:
            return False
        return True

    def connect(self, client_id: str, keep_alive: int = 60, **arguments: Any) -> int:
        """Send CONNECT and return the code of CONNACK."""
        self.send(mqtt_codec.connect(client_id, keep_alive, **arguments))
        packet = self.packet()
        assert packet is not None
        assert packet[0] == mqtt_codec.TYPE_CONNACK
        assert packet[2] is False
        return packet[1]

    def subscribe(self, topic: str, qos: int = 0) -> int:
        """Subscribe and return the code of SUBACK."""
        self.send(mqtt_codec.subscribe(1, [(topic, qos)]))
        packet = self.packet()
        assert packet is not None
        assert packet[:2] == (mqtt_codec.TYPE_SUBACK, 1)
        return packet[2][0]

    def message(self, seconds: float = PAUSE) -> dict[int, Any]:
        """The next signalling message; anything else on the way is passed over."""
        while True:
            packet = self.packet(seconds)
            assert packet is not None
            if packet[0] == mqtt_codec.TYPE_PUBLISH:
                return sig.check(wire.decode_map(packet[2]), False)

    def close(self) -> None:
        """Close the socket at once."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def until(condition: Callable[[], bool], seconds: float = PAUSE) -> None:
    """Wait for a condition; AssertionError when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.01)


def _no_delay(client: Any, data: Any, sock: Any) -> None:
    # Without it every acknowledgement waits for the other side's delayed one.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
