"""Signed time over plain HTTP: what the device's code believes, and what everybody else gets."""

import http.client
import os
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from keyferry_core import signed_time, suite
from keyferry_core.errors import AuthenticationError
from keyferry_manager.carriers import signed_time as carrier
from support.manager_kit import REALM, Home

CRYPTO = suite.Crypto(os.urandom)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def ask(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.headers["connection"] == "close"
    connection.close()
    return answer.status, body


def test_a_device_believes_it_and_only_for_its_own_nonce(home: Home) -> None:
    root = home.authority.root.public_bytes(Encoding.DER)
    with home.running() as running:
        nonce = os.urandom(16)
        status, body = ask(running.manager.time_port, f"/time/{nonce.hex()}")
        assert status == 200
        now = signed_time.open_answer(CRYPTO, root, REALM, nonce, body)
        assert abs(now - int(__import__("time").time())) < 60
        with pytest.raises(AuthenticationError, match="another question"):
            signed_time.open_answer(CRYPTO, root, REALM, os.urandom(16), body)


def test_other_questions_are_refused(home: Home) -> None:
    with home.running() as running:
        port = running.manager.time_port
        for path in ("/", "/time/", "/time/00", f"/time/{'0' * 33}", f"/time/{'G' * 32}"):
            assert ask(port, path)[0] == 404
        assert ask(port, f"/time/{'0' * 32}", "POST")[0] == 405
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            connection.sendall(b"\x16\x03\x01 this is no HTTP \r\n\r\n")
            connection.settimeout(20)
            assert b"400" in connection.recv(100)


def test_signatures_are_bounded(home: Home) -> None:
    clock = [1000.0]
    app = carrier.SignedTime(home.authority.server_file, REALM, lambda: clock[0])
    path = "/time/" + "0" * 32
    answers = [app._answer("GET", path)[0] for _ in range(carrier._PER_SECOND + 1)]
    assert answers.count(200) == carrier._PER_SECOND
    assert answers[-1] == 429
    clock[0] += 1
    assert app._answer("GET", path)[0] == 200


def test_connections_of_one_address_are_bounded(home: Home) -> None:
    with home.running() as running:
        port = running.manager.time_port
        idle = []
        try:
            for _ in range(carrier.PER_ADDRESS):
                idle.append(socket.create_connection(("127.0.0.1", port), 20))
                idle[-1].sendall(b"GET")  # it never ends
            with socket.create_connection(("127.0.0.1", port), 20) as late:
                late.settimeout(20)
                try:
                    assert late.recv(1) == b""
                except ConnectionResetError:
                    pass
        finally:
            for connection in idle:
                connection.close()


def test_it_is_off_unless_it_is_wanted(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", time_port=-1)
    with home.running() as running:
        assert running.manager.time_port == -1
