"""sipp, baresip and linphone register, call each other and send messages through the manager.

``pytest -s`` shows what each of them wrote.
"""

from pathlib import Path

import pytest

from support.manager_kit import Home, Running, until
from support.sip_device import SipDevice
from support.sip_phone import Phone
from support.user_agents import SECONDS, Agent, Baresip, Linphone, Sipp

SCENARIOS = Path(__file__).parent / "sipp"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", sip_port=0)
    home.add("gauge-2", "pump-7")
    home.allow("gauge-2", "pump-7")
    home.allow("pump-7", "gauge-2")
    return home


def registered(running: Running, name: str) -> bool:
    presence = running.look(lambda manager: manager.relay.registry.get(name))
    return presence is not None and presence.registered


def joins(running: Running, agent: Agent) -> None:
    until(lambda: registered(running, agent.name), SECONDS)


@pytest.mark.needs("sipp", "stunnel4", "baresip")
def test_sipp_calls_baresip(running: Running, home: Home, tmp_path: Path) -> None:
    with (
        Baresip(running, "pump-7", tmp_path / "pump", "gauge-2", "auto") as pump,
        Sipp(running, "gauge-2", tmp_path / "gauge") as gauge,
    ):
        joins(running, pump)
        gauge.run(SCENARIOS / "caller.xml", "pump-7")
        messages = gauge.finished()
        assert "SIP/2.0 100 Trying" in messages
        assert "Record-Route: <sip:" in messages
        pump.shows("two bar", "Call established")
    for event in ("call-asked", "call-accepted", "call-ended"):
        home.audit(event)


@pytest.mark.needs("sipp", "stunnel4")
def test_sipp_under_another_name(running: Running, home: Home, tmp_path: Path) -> None:
    with (
        SipDevice(running, "pump-7") as pump,
        Sipp(running, "gauge-2", tmp_path / "gauge") as gauge,
    ):
        assert pump.register().code == 200
        gauge.run(SCENARIOS / "spoof.xml", "pump-7")
        assert 'Warning: 399 plant.example "identity-mismatch' in gauge.finished()
        assert pump.nothing()
    assert home.audit("identity-mismatch")[0].name == "gauge-2"


@pytest.mark.needs("sipp", "stunnel4")
def test_sipp_is_called(running: Running, home: Home, tmp_path: Path) -> None:
    with (
        Phone(running, "gauge-2") as gauge,
        Sipp(running, "pump-7", tmp_path / "pump") as pump,
    ):
        assert gauge.register().code == 200
        pump.run(SCENARIOS / "callee.xml", "gauge-2", call_id="sipp-%u@pump-7")
        joins(running, pump)
        invite = gauge.call(call_id="sipp-1@pump-7")
        ringing = gauge.receive()
        while ringing is not None and getattr(ringing, "code", 0) < 180:
            ringing = gauge.receive()
        assert ringing is not None
        assert ringing.code == 180  # type: ignore[union-attr]
        accepted = gauge.final()
        assert accepted.code == 200
        assert accepted.headers["P-Asserted-Identity"] == "<sip:pump-7@plant.example>"
        gauge.send(gauge.inside_call("ACK", accepted, invite.cseq.sequence))
        bye = gauge.inside_call("BYE", accepted, invite.cseq.sequence + 1)
        assert gauge.answer(bye).code == 200
        messages = pump.finished()
    assert "P-Asserted-Identity: <sip:gauge-2@plant.example>" in messages
    assert running.look(lambda manager: len(manager.sip.calls)) == 0
    home.audit("call-ended")


@pytest.mark.needs("baresip")
def test_baresip_calls_baresip(running: Running, tmp_path: Path) -> None:
    with (
        Baresip(running, "pump-7", tmp_path / "pump", "gauge-2", "auto") as pump,
        Baresip(running, "gauge-2", tmp_path / "gauge", "pump-7") as gauge,
    ):
        joins(running, pump)
        joins(running, gauge)
        gauge.command("dial", "sip:pump-7@plant.example")
        for agent in (gauge, pump):
            agent.shows("Call established")
        assert running.look(lambda manager: len(manager.sip.calls)) == 1
        pump.command("hangup")
        until(lambda: running.look(lambda manager: len(manager.sip.calls)) == 0, SECONDS)
        gauge.shows("session closed")


@pytest.mark.needs("linphonec", "baresip")
def test_linphone_registers_calls_and_sends_messages(running: Running, tmp_path: Path) -> None:
    with (
        Baresip(running, "pump-7", tmp_path / "pump", "gauge-2", "auto") as pump,
        Linphone(running, "gauge-2", tmp_path / "gauge") as gauge,
    ):
        joins(running, pump)
        joins(running, gauge)
        gauge.command("chat sip:pump-7@plant.example two bar")
        pump.shows("two bar")
        gauge.command("call sip:pump-7@plant.example")
        pump.shows("Call established")
        gauge.command("terminate")
        until(lambda: running.look(lambda manager: len(manager.sip.calls)) == 0, SECONDS)
