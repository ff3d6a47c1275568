"""The pre-provision hook as an HTTPS call: what it is told, and that it fails closed."""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from keyferry_manager.config import Config, template
from keyferry_manager.enrolment import Refused
from keyferry_manager.hook import HttpsHook
from keyferry_manager.problems import ConfigProblem
from support.manager_kit import Home

FACTS = {"name": "pump-7", "realm": "plant.example"}


class Checker(ThreadingHTTPServer):
    """An operator's service that answers as it is told."""

    status = 204
    body = b""
    pause = 0.0

    def __init__(self, certificate: Path) -> None:
        self.asked: list[object] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not believe us is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Checker

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.asked.append(json.loads(self.rfile.read(length)))
        time.sleep(self.server.pause)
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def checker(home: Home) -> Iterator[Checker]:
    server = Checker(home.folder / "server.pem")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(60)


def ask(home: Home, checker: Checker, seconds: float = 30, ca: str = "ca/root.pem") -> None:
    url = f"https://127.0.0.1:{checker.server_address[1]}/check"
    hook = HttpsHook(url, seconds, str(home.folder / ca))
    asyncio.run(hook.ask(FACTS))


@pytest.mark.parametrize("status", [200, 204])
def test_it_is_told_who_asks_and_can_allow(home: Home, checker: Checker, status: int) -> None:
    checker.status = status
    ask(home, checker)
    assert checker.asked == [FACTS]


def test_it_can_refuse_with_a_reason(home: Home, checker: Checker) -> None:
    checker.status, checker.body = 403, b"not in the \x1binventory\nmore"
    with pytest.raises(Refused) as caught:
        ask(home, checker)
    assert caught.value.name == "access-denied"
    assert caught.value.detail == "refused by the hook: not in the inventory"


@pytest.mark.parametrize("status", [201, 302, 400, 401, 404, 500, 503])
def test_any_other_status_refuses(home: Home, checker: Checker, status: int) -> None:
    checker.status = status
    with pytest.raises(Refused) as caught:
        ask(home, checker)
    assert caught.value.name == "internal"
    assert f"HTTP status {status}" in caught.value.detail
    assert len(checker.asked) == 1


def test_an_answer_is_read_to_a_bound(home: Home, checker: Checker) -> None:
    checker.status, checker.body = 403, b"x" * 1_000_000
    with pytest.raises(Refused) as caught:
        ask(home, checker)
    assert len(caught.value.detail) < 300


def test_a_late_answer_refuses(home: Home, checker: Checker) -> None:
    checker.pause = 5.0
    with pytest.raises(Refused) as caught:
        ask(home, checker, seconds=1)
    assert "no answer within 1 s" in caught.value.detail


def test_a_server_that_does_not_verify_is_told_nothing(home: Home, checker: Checker) -> None:
    for ca in ("ca/factory.pem", "ca/absent.pem"):
        with pytest.raises(Refused) as caught:
            ask(home, checker, ca=ca)
        assert caught.value.name == "internal"
    assert checker.asked == []


@pytest.mark.parametrize(
    "url", ["http://a.example/", "https://a b/", "https://user@a.example/", "ftp://x", "https://"]
)
def test_only_https_urls(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigProblem, match="hook_url"):
        Config.parse(template("plant.example", hook_url=url), tmp_path)
