"""The directory of public keys as a process: what it takes, and what a manager does without it."""

import asyncio
import base64
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyferry_core import rpk
from keyferry_core.suite_cryptography import CryptographyCrypto
from keyferry_manager.authority import record
from keyferry_manager.directory import DirectoryUnavailable
from keyferry_manager.directory.remote import RemoteDirectory, key_document
from keyferry_manager.store import AgreementKey, Certificate
from support.est_client import EstClient, csr, new_key
from support.manager_kit import Credentials, Home, PahoDevice
from support.processes import LOCAL, Served, answer, keyferry


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    home = tmp_path / "directory"
    keyferry("init", home, "--realm", "plant.example", "--role", "directory", *LOCAL)
    assert sorted(path.name for path in home.iterdir()) == [
        "keyferry.db",
        "keyferry.toml",
        "policy.toml",
    ]
    with Served(home, "directory", "serve") as process:
        yield process


@pytest.fixture
def home(tmp_path: Path, served: Served) -> Home:
    """A manager's home that uses the directory."""
    return Home(tmp_path / "home", directory_socket=served.ready["socket"])


def issued(home: Home, name: str) -> tuple[Certificate, ec.EllipticCurvePrivateKey]:
    key = new_key()
    return record(home.authority.issue_device(name, key.public_key()), "token", 1e9), key


def ask(served: Served, method: str, path: str, body: bytes = b"") -> httpx.Response:
    transport = httpx.HTTPTransport(uds=served.ready["socket"])
    with httpx.Client(transport=transport, base_url="http://directory", timeout=60) as client:
        return client.request(method, path, content=body)


def with_directory(socket: str, work: Any) -> Any:
    async def run() -> Any:
        directory = RemoteDirectory(socket)
        try:
            return await work(directory)
        finally:
            await directory.close()

    return asyncio.run(run())


def agreement_key(name: str, key: ec.EllipticCurvePrivateKey, at: float = 0.0) -> AgreementKey:
    """A device's key for the profile rpk, endorsed as the device does it."""
    crypto = CryptographyCrypto(os.urandom)
    private = key.private_numbers().private_value.to_bytes(32, "big")
    signer = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    _, public = crypto.generate()
    endorsed = rpk.endorse(crypto, private, name, public)
    return AgreementKey(name, rpk.key_id(public).hex(), endorsed, signer, at)


def test_only_its_user_can_open_the_socket(served: Served) -> None:
    found = os.stat(served.ready["socket"])
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_what_is_published_is_there_after_a_restart(served: Served, home: Home) -> None:
    certificate, key = issued(home, "pump-7")
    endorsed = agreement_key("pump-7", key)

    async def publish(directory: RemoteDirectory) -> None:
        await directory.publish(certificate)
        await directory.publish(certificate)  # the same again
        await directory.publish_keys([endorsed])

    async def read(directory: RemoteDirectory) -> tuple[Certificate | None, list[AgreementKey]]:
        return (
            await directory.certificate_by_serial(certificate.serial),
            await directory.agreement_keys(),
        )

    with_directory(served.ready["socket"], publish)
    served.stop()
    with Served(served.home, "directory", "serve") as again:
        found, keys = with_directory(again.ready["socket"], read)
    assert found == certificate
    assert [replace(item, registered_at=0.0) for item in keys] == [endorsed]
    (listed,) = answer("directory", "list", "--home", served.home)
    assert (listed["name"], listed["agreement_key"]) == ("pump-7", endorsed.key_id)


def test_it_believes_no_field(served: Served, home: Home) -> None:
    certificate, key = issued(home, "pump-7")
    document = {
        "der": base64.b64encode(certificate.der).decode(),
        "admission": "token",
        "issued_at": 1e9,
        "device": "valve-2",  # not asked for: what counts is in the certificate
        "serial": "0" * 32,
    }
    assert ask(served, "POST", "/certificates", json.dumps(document).encode()).status_code == 204
    found = ask(served, "GET", f"/certificates/{certificate.serial}").json()
    assert (found["device"], found["serial"]) == ("pump-7", certificate.serial)
    assert ask(served, "GET", "/certificates/" + "0" * 32).status_code == 404
    # another certificate with a serial that is taken
    other = certificate.der[:-1] + bytes([certificate.der[-1] ^ 1])
    twin = {**document, "der": base64.b64encode(other).decode()}
    assert ask(served, "POST", "/certificates", json.dumps(twin).encode()).status_code == 409
    # a key that no certificate of the device endorsed
    stranger = agreement_key("pump-7", new_key())
    for forged in (
        stranger,
        replace(agreement_key("pump-7", key), signer=stranger.signer),
        agreement_key("valve-2", key),
    ):
        body = json.dumps([key_document(forged)]).encode()
        assert ask(served, "POST", "/keys", body).status_code == 403
    assert ask(served, "GET", "/keys").json() == []


@pytest.mark.parametrize("path", ["/certificates", "/keys"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[{}]",
        b"[1]",
        b'"der"',
        b"[" * 100_000,
        b'{"der": "AAAA", "admission": "token", "issued_at": 0}',
        b'{"der": "AAAA", "admission": [], "issued_at": 0}',
        b'[{"endorsed": "AAAA", "signer": "AAAA"}]',
        b'[{"endorsed": 1, "signer": null}]',
        b"\xff\xfe",
    ],
)
def test_hostile_bodies(served: Served, path: str, body: bytes) -> None:
    assert ask(served, "POST", path, body).status_code == 400
    assert ask(served, "GET", "/keys").json() == []


def test_too_much_is_refused(served: Served) -> None:
    assert ask(served, "POST", "/keys", b" " * (1 << 21)).status_code == 413


def enrol(home: Home, port: int, name: str, secret: str) -> Any:
    key = new_key()
    found = EstClient(home, port).enroll(csr(key, name), basic=(name, secret))
    if found.status != 200:
        return found, None
    return found, home.saved(key, found.certificates[0])


def token(home: Home, name: str) -> str:
    return answer("device", "add", name, "--token", "--home", home.folder)["token"]


def link(running: Any, name: str, credentials: Credentials) -> PahoDevice:
    client = PahoDevice(running, name, credentials)
    client.connect()
    client.register()
    return client


def test_a_manager_reads_and_registers_through_it(served: Served, home: Home) -> None:
    secret = token(home, "pump-7")
    with home.running() as running:
        _, credentials = enrol(home, running.manager.est_port, "pump-7", secret)
        client = link(running, "pump-7", credentials)
        (listed,) = answer("directory", "list", "--home", served.home)
        assert listed["name"] == "pump-7"
        client.client.disconnect()
        # the store has it and the directory does not: no link
        unknown = home.device("valve-2")
        refused = PahoDevice(running, "valve-2", unknown)
        assert refused.connect().is_failure


def test_without_it_nobody_new_gets_in(served: Served, home: Home) -> None:
    first, second = token(home, "pump-7"), token(home, "valve-2")
    with home.running() as running:
        port = running.manager.est_port
        _, credentials = enrol(home, port, "pump-7", first)
        link(running, "pump-7", credentials).client.disconnect()
        served.stop()
        refused, _ = enrol(home, port, "valve-2", second)
        assert (refused.status, refused.error) == (503, "internal")
        assert int(refused.headers["retry-after"]) > 0
        # known from before: in memory
        link(running, "pump-7", credentials).client.disconnect()
        with Served(served.home, "directory", "serve"):
            taken, other = enrol(home, port, "valve-2", second)
            assert taken.status == 200
        link(running, "valve-2", other).client.disconnect()
    # a manager that starts without it says so, and one that knows nobody lets nobody in
    said = keyferry("serve", "--home", home.folder, code=1)
    assert "start 'keyferry directory serve' first" in said
    with Served(served.home, "directory", "serve") as back, home.running() as running:
        back.stop()
        client = PahoDevice(running, "pump-7", credentials)
        assert client.connect().is_failure


def test_answers_that_are_wrong_are_not_believed(tmp_path: Path) -> None:
    answers: dict[str, bytes] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = answers["next"]
        assert head.startswith(b"GET ")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async def main() -> None:
        path = str(tmp_path / "s")
        server = await asyncio.start_unix_server(serve, path)
        directory = RemoteDirectory(path)
        full = json.dumps([key_document(AgreementKey("a", "00", b"", b"", 0.0))] * 500).encode()
        try:
            for body in (b"[", b"{}", b"null", b'{"der": 1}', b'{"der": "AA=="}', b"x" * (5 << 20)):
                answers["next"] = body
                with pytest.raises(DirectoryUnavailable):
                    await directory.certificate_by_serial("00")
            for body in (b"{}", b"[1]", b'[{"device": 1}]', full):
                answers["next"] = body
                with pytest.raises(DirectoryUnavailable):
                    await directory.agreement_keys()
        finally:
            await directory.close()
            server.close()
            await server.wait_closed()

    asyncio.run(main())


def test_what_a_killed_process_left_is_no_obstacle(served: Served) -> None:
    # a second one on the same socket says so, and the first goes on
    said = keyferry("directory", "serve", "--home", served.home, code=1)
    assert "cannot listen on" in said
    assert ask(served, "GET", "/keys").status_code == 200
    served.process.kill()
    served.process.wait(60)
    assert Path(served.ready["socket"]).is_socket()
    with Served(served.home, "directory", "serve") as again:
        assert ask(again, "GET", "/keys").status_code == 200
    assert not Path(served.ready["socket"]).exists()
