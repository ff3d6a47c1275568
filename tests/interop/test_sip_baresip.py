"""baresip, a user agent that people use, on the SIP carrier: it registers and sends messages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.manager_kit import Home, Running, until
from support.sip_client import SipClient
from support.user_agents import Baresip

pytestmark = pytest.mark.needs("baresip")


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
    with Baresip(running, "pump-7", tmp_path / "agent", "gauge-2") as agent:
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
    shown = agent.shown()
    assert "what is the pressure?" in shown
    assert "Flow-Timer" in shown
