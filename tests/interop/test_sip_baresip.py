"""baresip, a user agent that people use, on the SIP carrier: it registers and sends messages."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.manager_kit import Home, Running, until
from support.sip_client import SipClient

pytestmark = pytest.mark.needs("baresip")


def _modules() -> Path:
    """Where Debian has them: /usr/lib/baresip or, later, a folder for the machine's kind."""
    return next(iter(sorted(Path("/usr/lib").glob("**/baresip/modules"))))


class Baresip:
    """One process with a device's certificate, told what to do over its control port."""

    def __init__(self, running: Running, name: str, folder: Path, contact: str) -> None:
        home = running.home
        folder.mkdir()
        credentials = home.device(name)
        pem = folder / "identity.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(credentials.certificate.read_bytes() + credentials.key.read_bytes())
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.control = free.getsockname()[1]
        port = running.look(lambda manager: manager.sip_port)
        (folder / "config").write_text(
            f"module_path {_modules()}\n"
            "sip_listen 127.0.0.1:0\n"
            f"sip_certificate {pem}\n"
            f"sip_cafile {home.folder}/ca/root.pem\n"
            f"ctrl_tcp_listen 127.0.0.1:{self.control}\n"
            "module uuid.so\nmodule contact.so\nmodule_tmp account.so\n"
            "module ctrl_tcp.so\nmodule_app menu.so\n"
        )
        (folder / "accounts").write_text(
            f"<sip:{name}@plant.example;transport=tls>;auth_pass=none;sipnat=outbound"
            f';outbound="sip:127.0.0.1:{port};transport=tls";regint=600\n'
        )
        (folder / "contacts").write_text(f'"peer" <sip:{contact}@plant.example>\n')
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                ["baresip", "-f", str(folder), "-s"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def command(self, command: str, parameters: str = "") -> None:
        """Have it do something."""
        text = json.dumps({"command": command, "params": parameters})
        with socket.create_connection(("127.0.0.1", self.control), 20) as control:
            control.sendall(f"{len(text)}:{text},".encode())
            assert b'"ok":true' in control.recv(4096)

    def stop(self) -> None:
        """As a user stops it: it takes leave of the registrar first."""
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    home = Home(tmp_path / "home", sip_port=0)
    home.add("gauge-2", "pump-7")
    home.allow("gauge-2", "pump-7")
    home.allow("pump-7", "gauge-2")
    with home.running() as running:
        yield running


def _registered(running: Running, name: str) -> bool:
    presence = running.look(lambda manager: manager.relay.registry.get(name))
    return presence is not None and presence.registered


def test_it_registers_and_messages_go_both_ways(running: Running, tmp_path: Path) -> None:
    agent = Baresip(running, "pump-7", tmp_path / "agent", "gauge-2")
    try:
        until(lambda: _registered(running, "pump-7"))
        with SipClient(running, "gauge-2") as gauge:
            assert gauge.register().code == 200
            assert gauge.ask("OPTIONS", "pump-7").code == 200
            assert gauge.ask("MESSAGE", "pump-7", b"what is the pressure?").code == 200
            agent.command("message", "two bar")
            got = gauge.accept()
            assert got.body == b"two bar"
            assert got.from_address.uri.user == "pump-7"
        agent.stop()
        until(lambda: not _registered(running, "pump-7"))
    finally:
        agent.process.kill()
        agent.process.wait(20)
    shown = agent.output.read_text(errors="replace")
    assert "what is the pressure?" in shown
    assert "Flow-Timer" in shown
