"""What the manager is measured against, each in processes of its own, pinned to one core.

A bare relay and a bare TLS server over asyncio's own TLS; mosquitto alone, which routes by topic;
mosquitto with a worker on paho-mqtt, which reads where a message goes; and signing with
``cryptography`` and nothing around it.
"""

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cbor2
import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import event
from sqlalchemy.engine import Engine

from bench.bench_relay import AckedRelay, BareRelay
from keyferry_core import signalling as sig
from keyferry_hil.free_port import free_port
from keyferry_manager.app import Manager
from keyferry_manager.carriers.tls import server_context
from support.manager_kit import Home

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PATIENCE = 20.0
_TESTS = Path(__file__).parent.parent


class RivalMissing(Exception):
    """A program that is measured against is not installed."""


# -- inside the server processes ---------------------------------------------------------------


class _Silent(asyncio.Protocol):
    """A TLS server that does nothing but the handshake."""


def _context(home: Home) -> Any:
    return server_context(
        home.authority.server_file, home.authority.trusted_by_links(), certificate_required=True
    )


async def _serve_bare(home: Home, protocol: type[asyncio.Protocol]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=_context(home), backlog=512)
    await _answer({"port": server.sockets[0].getsockname()[1]}, {})


async def _serve_manager(home: Home) -> None:
    counts = {"statements": 0}

    def count(*_: object) -> None:
        counts["statements"] += 1

    event.listen(Engine, "before_cursor_execute", count)
    manager = Manager(home.folder)
    await manager.start()
    ports = {
        "port": manager.mqtt_port,
        "est_port": manager.est_port,
        "sip_port": manager.sip_port,
    }
    await _answer(ports, counts)
    await manager.stop()


async def _answer(ports: dict[str, int], counts: dict[str, int]) -> None:
    """Print the ports, then the counts for each line of standard input."""
    print(json.dumps(ports), flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(counts), flush=True)


def _work(port: int) -> None:
    """The worker beside mosquitto: from kf/u/FROM to kf/d/TO."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="worker", protocol=paho.MQTTv311)
    client.max_inflight_messages_set(1000)
    client.max_queued_messages_set(0)

    def relay(client: Any, _: object, message: Any) -> None:
        to = cbor2.loads(message.payload)[sig.TO]
        client.publish(f"kf/d/{to}", message.payload, message.qos)

    def no_delay(client: Any, _: object, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ready(client: Any, _: object, *__: object) -> None:
        print(json.dumps({"port": 0}), flush=True)

    client.on_message = relay
    client.on_socket_open = no_delay
    client.on_subscribe = ready
    client.connect("127.0.0.1", port)
    client.subscribe("kf/u/#", 1)
    client.loop_forever()


def _sign(home: Home, request: bytes, seconds: float) -> None:
    """Issue certificates for one request with ``cryptography`` alone; print how many a second of
    processor time."""
    key = serialization.load_pem_private_key(
        (home.folder / "ca" / "issuing.key").read_bytes(), None
    )
    issuer = home.authority.issuing
    began = time.process_time()
    count = 0
    while time.process_time() - began < seconds:
        issue(request, issuer, key)
        count += 1
    print(json.dumps({"per_cpu_second": count / (time.process_time() - began)}), flush=True)


def issue(request_der: bytes, issuer: x509.Certificate, key: Any) -> bytes:
    """The least that a CA does: read a request, check its signature, sign a certificate."""
    import datetime

    from cryptography.hazmat.primitives import hashes

    request = x509.load_der_x509_csr(request_der)
    if not request.is_signature_valid:
        raise ValueError("the request is not signed by its key")
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(issuer.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=90))
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("sip:a@b.example")]), False
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.DER)


# -- outside -----------------------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """Seconds of processor time so far, of all threads of a process: in nanoseconds where the
    kernel says so, else in its ticks, of which a short round has few."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


class Process:
    """One process of a server, on a core of its own."""

    def __init__(self, command: list[str], core: int) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(_TESTS)},
        )
        os.sched_setaffinity(self.process.pid, {core})

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise RuntimeError("the server did not start")
        return json.loads(text)

    def ask(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        return self.line()

    def cpu(self) -> float:
        """Seconds of processor time so far, of all its threads."""
        return cpu_of(self.process.pid)

    def resident(self) -> int:
        """Bytes of memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE

    def stop(self) -> None:
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


class Server:
    """What is measured: one process, or mosquitto and its worker."""

    def __init__(self, processes: list[Process], ports: dict[str, int]) -> None:
        self.processes = processes
        self.port = ports["port"]
        self.est_port = ports.get("est_port", 0)
        self.sip_port = ports.get("sip_port", 0)

    def cpu(self) -> float:
        return sum(process.cpu() for process in self.processes)

    def resident(self) -> int:
        return sum(process.resident() for process in self.processes)

    def counts(self) -> dict[str, int]:
        return self.processes[0].ask()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()


def python(kind: str, home: Home, core: int) -> Server:
    """``relay``, ``tls`` or ``manager`` in a process of its own."""
    process = Process([sys.executable, "-m", "bench.rivals", kind, str(home.folder)], core)
    try:
        return Server([process], process.line())
    except BaseException:
        process.stop()
        raise


def mosquitto(home: Home, core: int, worker: bool) -> Server:
    """mosquitto with the manager's certificate; its worker on plain TCP, to its advantage."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("mosquitto", path=path)
    if program is None:
        raise RivalMissing("mosquitto is not installed: 'make system' does it")
    secure, plain = free_port(), free_port()
    folder = home.folder
    trusted = folder / "trusted.pem"
    pem = serialization.Encoding.PEM
    trusted.write_bytes(
        b"".join(
            x509.load_der_x509_certificate(der).public_bytes(pem)
            for der in home.authority.trusted_by_links()
        )
    )
    settings = folder / "mosquitto.conf"
    settings.write_text(
        f"user {_user()}\n"
        "per_listener_settings false\nallow_anonymous true\npersistence false\n"
        "log_type none\nset_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\n"
        f"listener {secure} 127.0.0.1\ncafile {trusted}\n"
        f"certfile {home.authority.server_file}\nkeyfile {home.authority.server_file}\n"
        "require_certificate true\nuse_identity_as_username true\n"
        f"listener {plain} 127.0.0.1\n"
    )
    processes = [Process([program, "-c", str(settings)], core)]
    server = Server(processes, {"port": secure})
    try:
        _listening(secure)
        if worker:
            processes.append(
                Process([sys.executable, "-m", "bench.rivals", "worker", str(plain)], core)
            )
            processes[1].line()
    except BaseException:
        server.stop()
        raise
    return server


def signing(home: Home, core: int, request: bytes, seconds: float) -> float:
    """Certificates a second of processor time, by ``cryptography`` and nothing else."""
    arguments = ["sign", str(home.folder), request.hex(), str(seconds)]
    process = Process([sys.executable, "-m", "bench.rivals", *arguments], core)
    try:
        return process.line()["per_cpu_second"]
    finally:
        process.stop()


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _listening(port: int) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def _main() -> None:
    kind, *arguments = sys.argv[1:]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    if kind == "worker":
        _work(int(arguments[0]))
        return
    home = Home.existing(Path(arguments[0]))
    if kind == "relay":
        asyncio.run(_serve_bare(home, BareRelay))
    elif kind == "acked":
        asyncio.run(_serve_bare(home, AckedRelay))
    elif kind == "tls":
        asyncio.run(_serve_bare(home, _Silent))
    elif kind == "manager":
        asyncio.run(_serve_manager(home))
    elif kind == "sign":
        _sign(home, bytes.fromhex(arguments[1]), float(arguments[2]))
    else:
        raise SystemExit(f"no such server: {kind}")


if __name__ == "__main__":
    _main()
