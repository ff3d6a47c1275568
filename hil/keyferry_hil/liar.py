"""A manager that lies: the realm's own TLS key in bad hands, or another realm's.

It ends the boards' links, registers them and relays between them as the manager does, and does to
each message on its way what a test says: change it, drop it, send it twice, later, or in another
order. It is the strongest position that anybody but the boards can have.
"""

import datetime
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keyferry_core import cbor
from keyferry_core import mqtt_codec as mqtt
from keyferry_core import signalling as s
from keyferry_core.errors import KeyferryError, code_of
from keyferry_hil.manager import REALM, Manager

Message = dict[int, Any]
_PACKET = 1 << 16


class Liar:
    """``meddle(message)`` returns what becomes of a message between two boards: a list of
    (seconds to wait, message); ``seen`` has each as it came. ``own_ca``: it cannot prove to be
    the realm."""

    def __init__(self, manager: Manager, *, own_ca: bool = False) -> None:
        self._context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(manager.home / "ca" / "issuing.pem")
        if own_ca:
            place = manager.home.parent / "liar.pem"
            _self_made(place)
            context.load_cert_chain(place)
        else:
            context.load_cert_chain(manager.home / "server.pem")
        self._listener = socket.create_server((manager.network.listen, 0))
        self.port: int = self._listener.getsockname()[1]
        self.meddle: Callable[[Message], list[tuple[float, Message]]] = lambda message: [
            (0.0, message)
        ]
        self.seen: list[Message] = []
        self.refused: list[str] = []
        self._links: dict[str, _Link] = {}
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(20)
        self._listener.close()

    def __enter__(self) -> "Liar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def deliver(self, to: str, message: Message, after: float = 0.0) -> None:
        """A message to a board that has a link, as it is."""
        if after and self._closing.wait(after):
            return
        with self._guard:
            link = self._links.get(to)
        if link is not None:
            link.publish(cbor.encode(message))

    def _accept(self) -> None:
        while not self._closing.is_set():
            ready, _, _ = select.select([self._listener], [], [], 0.1)
            if ready:
                plain, address = self._listener.accept()
                self._start(self._serve, plain, f"{address[0]}:{address[1]}")

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, plain: socket.socket, address: str) -> None:
        try:
            plain.settimeout(20)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._context.wrap_socket(plain, server_side=True) as secure:
                link = _Link(secure, address)
                while not self._closing.is_set():
                    for packet in link.packets():
                        self._packet(link, packet)
        except (OSError, KeyferryError, EOFError) as error:
            self.refused.append(str(error))
        finally:
            plain.close()

    def _packet(self, link: "_Link", packet: tuple) -> None:
        kind = packet[0]
        if kind == mqtt.TYPE_CONNECT:
            link.name = packet[1]
            link.send(mqtt.connack(mqtt.ACCEPTED))
        elif kind == mqtt.TYPE_SUBSCRIBE:
            link.send(mqtt.suback(packet[1], [1]))
            with self._guard:
                self._links[link.name] = link
        elif kind == mqtt.TYPE_PINGREQ:
            link.send(mqtt.PINGRESP)
        elif kind == mqtt.TYPE_PUBLISH:
            if packet[3]:
                link.send(mqtt.puback(packet[4]))
            message = s.check(cbor.decode(packet[2]), True)
            if not isinstance(message, dict):
                raise EOFError
            self._message(link, message)
        elif kind == mqtt.TYPE_DISCONNECT:
            raise EOFError

    def _message(self, link: "_Link", message: Message) -> None:
        if message[s.TYPE] == s.REGISTER:
            answer = {
                s.TYPE: s.REGISTERED,
                s.FROM: s.MANAGER,
                s.TO: link.name,
                s.ID: message[s.ID],
                s.EXPIRES: 3600,
                s.SEEN: link.address,
                s.INSTANCE: b"liarliar",
            }
            link.public_key = message.get(s.PUBLIC_KEY, b"")
            link.publish(cbor.encode(answer))
            return
        with self._guard:
            peer = self._links.get(message[s.TO])
        if peer is None:
            answer = {
                s.TYPE: s.ERROR,
                s.FROM: s.MANAGER,
                s.TO: link.name,
                s.ERROR_CODE: code_of("peer-offline"),
                s.TEXT: "",
            }
            answer |= {key: message[key] for key in (s.ID, s.SESSION) if key in message}
            link.publish(cbor.encode(answer))
            return
        if message[s.TYPE] in (s.CONNECT, s.ACCEPT):
            stated = message.get(s.ROUTE, [[link.address, s.TRANSPORT_MQTT_TLS, True]])[0]
            own = [f"127.0.0.1:{self.port}", s.TRANSPORT_MQTT_TLS, True, True]
            message[s.ROUTE] = [[*stated, True], own]
            message[s.CREDENTIAL] = link.certificate
            if link.public_key and message.get(s.PROFILE, s.PROFILE_CERT) == s.PROFILE_RPK:
                message[s.PUBLIC_KEY] = link.public_key
        self.seen.append(dict(message))
        for after, changed in self.meddle(dict(message)):
            if after:
                self._start(self.deliver, changed[s.TO], changed, after)
            else:
                self.deliver(changed[s.TO], changed)


class _Link:
    def __init__(self, secure: ssl.SSLSocket, address: str) -> None:
        self.address = address
        self.name = ""
        self.public_key = b""
        self.certificate = secure.getpeercert(True) or b""
        self._secure = secure
        self._reader = mqtt.Reader(_PACKET)
        self._guard = threading.Lock()
        self._number = 0

    def packets(self) -> list[tuple]:
        """The packets that have come, after a short wait for the first."""
        if not self._secure.pending():
            ready, _, _ = select.select([self._secure], [], [], 0.1)
            if not ready:
                return []
        with self._guard:  # one thread at a time in OpenSSL's object
            data = self._secure.recv(65536)
        if not data:
            raise EOFError
        self._reader.feed(data)
        return list(self._reader)

    def send(self, data: bytes) -> None:
        with self._guard:
            self._secure.sendall(data)

    def publish(self, payload: bytes) -> None:
        self._number = self._number % 0xFFFF + 1
        try:
            self.send(mqtt.publish("kf/d/" + self.name, payload, 1, self._number))
        except OSError:
            pass  # its link has ended; reading tells


def _self_made(place: Path) -> None:
    """A server certificate for the realm's name, of a CA that nobody trusts."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, REALM)])
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(REALM)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    place.touch(mode=0o600)
    place.write_bytes(certificate.public_bytes(pem) + private)
