"""The proxy for boards without a network: what it carries, and what it refuses."""

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from keyferry_core import hdlc
from keyferry_core import serial_link as sl
from keyferry_hil.drivers.serial_log import SerialLog
from keyferry_hil.drivers.virtual import VirtualBoardProcess
from keyferry_hil.fakes import FakeConsole
from keyferry_hil.manager import Manager
from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import BoardSpec, Network, SerialPort, Virtual
from keyferry_hil.uart.proxy import Proxy
from support.processes import environment

pytestmark = pytest.mark.timeout(300)
REALM = "bench.example"
REQUEST = b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: bench.example\r\n\r\n"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    one = Manager(Network(), tmp_path_factory.mktemp("manager"))
    try:
        one.start()
        yield one
    finally:
        one.remove()


def root(manager: Manager) -> bytes:
    return ssl.PEM_cert_to_DER_cert((manager.home / "ca" / "root.pem").read_text())


class Board:
    """What a board says, on a fake console that a proxy has."""

    def __init__(self, host: str, ports: set[int], key: Any = None) -> None:
        self.console = FakeConsole(answer=self._heard)
        self._decoder = hdlc.Decoder(sl.MAX_FRAME)
        self._lock = threading.RLock()
        self.end = sl.End(1)
        self.key = key
        self.messages: list[tuple[int, bytes]] = []
        self.text = b""
        self.noted: list[str] = []
        self.carried: list[bytes] = []
        self.proxy = Proxy(
            self.console, host, ports, seen=self.carried.append, note=self.noted.append
        )

    def _heard(self, data: bytes) -> bytes:
        with self._lock:
            for is_frame, piece in self._decoder.feed(data):
                if not is_frame:
                    self.text += piece
                elif piece[1] == self.end.connection:
                    message = self.end.receive(piece)
                    if message is not None:
                        self._take(*message)
                elif piece[0] == sl.RESET:  # of another connection
                    self.messages.append((piece[0], piece[1:]))
            return self._out()

    def _out(self) -> bytes:
        out = b"".join(hdlc.encode(frame) for frame in self.end.out)
        self.end.out.clear()
        return out

    def _take(self, kind: int, data: bytes) -> None:
        self.messages.append((kind, data))
        if kind == sl.SIGN and self.key is not None:
            content = sl.certificate_verify(data)
            r, s = utils.decode_dss_signature(self.key.sign(content, ec.ECDSA(hashes.SHA256())))
            self.end.send(sl.SIGNATURE, r.to_bytes(32, "big") + s.to_bytes(32, "big"))

    def send(self, kind: int, data: bytes = b"") -> None:
        with self._lock:
            self.end.send(kind, data)
            self.console.said.append(self._out())

    def wait(self, kind: int, seconds: float = 20) -> bytes:
        """The data of the first message of this kind."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in list(self.messages):
                if message[0] == kind:
                    self.messages.remove(message)
                    return message[1]
            time.sleep(0.01)
        raise AssertionError(f"kind {kind} did not come, but {self.messages}, {self.noted}")

    def open(self, port: int, roots: list[bytes], realm: str = REALM, leaf: bytes = b"") -> None:
        self.send(sl.OPEN, sl.open_request(port, realm, leaf, roots))

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.close()


def test_it_carries_what_the_board_asks(manager: Manager) -> None:
    port = manager.ports["est_port"]
    with Board("127.0.0.1", {port}) as board:
        board.open(port, [root(manager)])
        board.wait(sl.OPENED)
        board.console.said.append(b"text of the board\n")
        board.send(sl.DATA, REQUEST)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += board.wait(sl.DATA)
        assert answer.startswith(b"HTTP/1.1 200")
        assert board.proxy.read_some(1) == b"text of the board\n"
        board.proxy.write(b"text to the board\n")
        assert board.text == b"text to the board\n"


def test_the_board_signs_the_handshake(manager: Manager) -> None:
    files = manager.add("signs", factory=True)
    key = serialization.load_der_private_key(files["factory.key"], None)
    port = manager.ports["mqtt_port"]
    with Board("127.0.0.1", {port}, key) as board:
        board.open(manager.ports["mqtt_port"], [root(manager)], leaf=files["factory.crt"])
        assert len(board.wait(sl.SIGN)) == 32
        # a factory certificate opens no link, and the manager says so in TLS
        code, _ = sl.parse_end(board.wait(sl.CLOSE))
        assert code in ("authentication-failed", "peer-gone")


def test_a_wrong_signature_opens_nothing(manager: Manager) -> None:
    files = manager.add("forges", factory=True)
    port = manager.ports["est_port"]
    with Board("127.0.0.1", {port}, ec.generate_private_key(ec.SECP256R1())) as board:
        board.open(port, [root(manager)], leaf=files["factory.crt"])
        name, text = sl.parse_end(board.wait(sl.CLOSE))
        assert name == "authentication-failed"
        assert "signature is wrong" in text


def test_it_opens_no_other_ports_and_trusts_what_the_board_trusts(manager: Manager) -> None:
    port = manager.ports["est_port"]
    other = Manager(Network(), manager.log.parent / "other")
    try:
        stranger = root(other)
    finally:
        other.remove()
    for asked, trusted, realm, leaf, expected in (
        (port + 1, root(manager), REALM, b"", "access-denied"),
        (port, stranger, REALM, b"", "authentication-failed"),
        (port, root(manager), "other.example", b"", "authentication-failed"),
        (port, b"no certificate", REALM, b"", "authentication-failed"),
        (port, root(manager), REALM, b"no certificate", "malformed"),
    ):
        with Board("127.0.0.1", {port}) as board:
            board.open(asked, [trusted], realm, leaf)
            name, _ = sl.parse_end(board.wait(sl.CLOSE))
            assert name == expected, board.noted


def test_nobody_there() -> None:
    with Board("127.0.0.1", {1}) as board:
        board.open(1, [b"root"])
        assert sl.parse_end(board.wait(sl.CLOSE))[0] == "peer-gone"


def test_hostile_boards_end_their_own_link_and_the_next_one_works(manager: Manager) -> None:
    port = manager.ports["est_port"]
    with Board("127.0.0.1", {port}) as board:
        for number, frames in enumerate(
            (
                [b"", b"\x01", bytes([sl.DATA, 9, 0]) + b"before OPEN"],
                [bytes([sl.OPEN, 10, 0]) + b"\xff\xff"],
                [bytes([sl.OPEN | sl.MORE, 11, n]) + bytes(sl.MAX_DATA) for n in range(40)],
                [bytes([sl.OPEN, 12, 0]) + sl.open_request(port, REALM, b"", [b"x"])[:60]],
                [bytes([0x7F, 13, 0]), bytes([0, 13, 0])],
                [bytes([sl.SIGNATURE, 14, 0]) + bytes(64)],
            )
        ):
            board.console.said.append(os.urandom(500) + b"\n")
            for frame in frames:
                board.console.said.append(hdlc.encode(frame))
            board.console.said.append(b"~torn\n~" + b"a" * 5000 + b"\n")
            board.end = sl.End(100 + number)
            board.messages.clear()
            board.open(port, [root(manager)])
            board.wait(sl.OPENED)
            board.send(sl.DATA, REQUEST)
            assert board.wait(sl.DATA).startswith(b"HTTP/1.1 200")
        # data of a connection that is over: the board hears that it is
        board.console.said.append(hdlc.encode(bytes([sl.DATA, 55, 0]) + b"x"))
        while board.wait(sl.RESET)[0] != 55:
            pass  # of the ones before


def test_a_lost_port_is_told_to_who_uses_the_console() -> None:
    proxy = Proxy(FakeConsole([b"last words"], lost=True), "127.0.0.1", {1})
    try:
        assert proxy.read_some(5) == b"last words"
        with pytest.raises(BenchProblem, match="port-lost"):
            proxy.read_some(5)
    finally:
        proxy.close()


def test_logs_have_no_contents_of_frames() -> None:
    log = SerialLog()
    log.framed(True)
    frame = hdlc.encode(bytes([sl.DATA, 1, 0]) + b"Authorization: Basic secret")
    log.sent(frame)
    log.sent(b'{"do": "ping"}\n')
    log.received(b'{"event": "a"}\r\n' + frame[:20])
    log.received(frame[20:] + frame[:-2] + b"\n" + b'{"event": "b"}\n')
    said = "\n".join(log.since())
    assert "[DATA, 27 bytes]" in said
    assert "torn frame" in said
    assert '"ping"' in said
    assert '{"event": "a"}' in said
    assert '{"event": "b"}' in said
    assert "secret" not in said
    assert "Basic" not in said


APP = """
import asyncio, os, sys
import hil_app
for name in hil_app._NETWORK:
    sys.modules[name] = hil_app.Absent(name)
import socket, tls
for use in (lambda: socket.socket(), lambda: tls.SSLContext(0)):
    try:
        use()
    except AttributeError as error:
        print("stopped", error)
"""
MAIN = """
import asyncio, json, os, sys
from keyferry_agent.agent import Agent
from keyferry_agent.uart import Line, Serial
from keyferry_core.suite import for_board
def show(event, **fields):
    fields["event"] = event
    print(json.dumps(fields))
async def main():
    crypto = for_board(os.urandom)
    line = Line(sys.stdin.buffer, sys.stdout.buffer)
    await Agent(events=show, crypto=crypto, network=Serial(line, crypto)).start()
    show("ready", modules=[name for name in sys.modules if name in ("keyferry_agent.link",)])
    while True:
        await asyncio.sleep(1)
asyncio.run(main())
"""


def test_the_command_serves_a_board_that_runs_its_own_main(
    manager: Manager, tmp_path: Path
) -> None:
    """As in the field: main.py starts the agent, and `keyferry bench proxy` is at the other end.

    And nothing of a network is reachable in the bench's own application: what tries is reported.
    """
    from keyferry_hil.board import Board as Real

    spec = BoardSpec(
        "u1", "virtual", SerialPort(path=str(tmp_path / "u1" / "port")), virtual=Virtual()
    )
    process = VirtualBoardProcess(spec)
    try:
        board = Real(spec, SerialLog(), tmp_path / "state")
        board.to_prompt()
        board.flash()
        said = board.repl.run(APP)
        assert said.count("stopped") == 2
        assert '"socket.socket"' in said
        assert '"tls.SSLContext"' in said
        for name, data in manager.add("u1").items():
            board.repl.write_secret("/" + name, data)
        board.repl.write_file("/main.py", MAIN.encode())
        board.set_clock()
        board.close()
        proxy = subprocess.Popen(
            [
                *(sys.executable, "-m", "keyferry_manager", "bench", "proxy"),
                *("--port", spec.port.path, "--host", "127.0.0.1"),
                *("--allow", str(manager.ports["mqtt_port"])),
                *("--allow", str(manager.ports["est_port"])),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment({}),
        )
        try:
            assert proxy.stdout is not None
            board.virtual.hard_reset()
            for line in proxy.stdout:
                at = line.find('{"')
                event = json.loads(line[at:]) if at >= 0 else {}
                if event.get("event") == "ready":
                    assert event["modules"] == []
                    break
            else:
                raise AssertionError("it was not ready")
            manager.wait_online("u1")
        finally:
            proxy.terminate()
            _, errors = proxy.communicate(timeout=30)
        assert "the board signed a handshake" in errors
        assert proxy.returncode == 0
    finally:
        process.stop()
