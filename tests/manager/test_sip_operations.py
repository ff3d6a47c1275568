"""What an operator does while SIP links are open: stop, reload, revoke, another policy."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sipmessage

from keyferry_manager.config import FILE_NAME, template
from support.command import command
from support.manager_kit import REALM, Home, Running, until
from support.sip_device import EDHOC, SipDevice
from support.sip_phone import Phone


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", sip_port=0, drain_seconds=1)
    home.add("gauge-2", "pump-7")
    home.allow("gauge-2", "pump-7")
    home.allow("pump-7", "gauge-2")
    return home


@pytest.fixture
def phones(home: Home) -> Iterator[tuple[Running, Phone, Phone]]:
    with (
        home.running() as running,
        Phone(running, "gauge-2") as gauge,
        Phone(running, "pump-7") as pump,
    ):
        assert gauge.register().code == pump.register().code == 200
        yield running, gauge, pump


def later(device: SipDevice, method: str) -> sipmessage.Request:
    """The next request ``method``, whatever comes before it."""
    while True:
        found = device.receive()
        assert found is not None
        if isinstance(found, sipmessage.Request) and found.method == method:
            return found


def goodbye(device: SipDevice) -> bool:
    """Whether the connection ends with TLS's close_notify: an end of file and no error."""
    device.socket.settimeout(20)
    try:
        while device.socket.recv(65536):
            pass
    except OSError:
        return False
    return True


def test_what_is_on_its_way_arrives_before_the_end(home: Home) -> None:
    with (
        home.running() as running,
        Phone(running, "gauge-2") as gauge,
        Phone(running, "pump-7") as pump,
    ):
        assert gauge.register().code == pump.register().code == 200
        gauge.send(gauge.request("MESSAGE", "pump-7", b"one more"))
        got = pump.next("MESSAGE")
        port = running.look(lambda manager: manager.sip_port)
        drained = threading.Thread(
            target=lambda: running.wait(running.manager.drain()), daemon=True
        )
        drained.start()
        until(lambda: running.look(lambda manager: manager.observation.draining))
        assert drained.is_alive()  # it waits for the answer
        pump.respond(got)
        assert gauge.answer().code == 200
        drained.join(20)
        assert not drained.is_alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        running.wait(running.manager._suspend())
        assert goodbye(gauge)
        assert goodbye(pump)


def test_who_waits_for_an_answer_gets_one_at_the_end(home: Home) -> None:
    with (
        home.running() as running,
        Phone(running, "gauge-2") as gauge,
        Phone(running, "pump-7") as pump,
    ):
        assert gauge.register().code == pump.register().code == 200
        gauge.call()
        ringing = pump.next("INVITE")
        pump.take(ringing, 180)
        gauge.send(gauge.request("MESSAGE", "pump-7", b"never answered"))
        pump.next("MESSAGE")
        pump.invite("gauge-2")
        gauge.respond(later(gauge, "INVITE"), 100, "Trying")
        running.wait(running.manager.drain())  # for a second
        running.wait(running.manager._suspend())
        told: dict[str, list[str | int]] = {}
        for device in (gauge, pump):
            told[device.name] = []
            while (found := device.receive()) is not None:
                if isinstance(found, sipmessage.Request):
                    told[device.name].append(found.method)
                elif found.code >= 200:
                    told[device.name].append(found.code)
        # the caller of one and the sender of the other; the phone that rang; and a session that was
        # only asked for is over on both sides
        assert sorted(map(str, told["gauge-2"])) == ["480", "480", "CANCEL"], told
        assert sorted(map(str, told["pump-7"])) == ["480", "CANCEL"], told
    assert home.audit("link-down", "manager-stopped")


def test_a_session_goes_on_in_the_next_run(home: Home) -> None:
    credentials = [home.device(name) for name in ("gauge-2", "pump-7")]
    with (
        home.running() as running,
        SipDevice(running, "gauge-2", credentials[0]) as gauge,
        SipDevice(running, "pump-7", credentials[1]) as pump,
    ):
        assert gauge.register().code == pump.register().code == 200
        boots = gauge.call_id, pump.call_id
        session, _ = gauge.invite("pump-7")
        pump.respond(pump.next("INVITE"), found=((EDHOC, b"message_2"),))
        assert gauge.final().code == 200
    with (
        home.running() as running,
        SipDevice(running, "gauge-2", credentials[0]) as gauge,
        SipDevice(running, "pump-7", credentials[1]) as pump,
    ):
        # the same start of the same devices: the Call-ID says so
        gauge.call_id, pump.call_id = boots
        assert gauge.register().code == pump.register().code == 200
        kind = "application/octet-stream"
        gauge.send(gauge.inside("MESSAGE", "pump-7", session, (kind, b"a record"), number=9))
        got = pump.next("MESSAGE")
        assert got.body == b"a record"
        pump.respond(got)
        assert gauge.final().code == 200


def test_settings_that_change_are_in_force_on_links_that_are_there(
    phones: tuple[Running, Phone, Phone],
) -> None:
    running, gauge, pump = phones
    ports = {"mqtt_port": 0, "est_port": 0, "observe_port": 0, "time_port": 0, "sip_port": 0}
    wanted: dict[str, Any] = {**ports, "listen_host": "127.0.0.1", "drain_seconds": 1}
    wanted |= {"messages_per_second": 700, "route_mode": "strict", "max_links": 9}
    (running.home.folder / FILE_NAME).write_text(template(REALM, **wanted))
    running.look(lambda manager: manager.reconfigure())
    link: Any = running.look(lambda manager: manager.relay.registry.get("gauge-2").link)
    assert link._settings.requests_per_second == 700
    listener: Any = running.manager._sip_listener
    assert listener.limits.connections == 9 + 256
    false = 'addr="192.0.2.1:5061";leg=1;transport=tls;auth=mutual'
    assert gauge.ask("MESSAGE", "pump-7", b"x", hop_security=false).code == 403
    assert pump.nothing()


def test_a_policy_that_changes_is_in_force_on_links_that_are_there(
    phones: tuple[Running, Phone, Phone],
) -> None:
    running, gauge, pump = phones
    gauge.invite("pump-7")
    pump.respond(pump.next("INVITE"), found=((EDHOC, b"message_2"),))
    assert gauge.final().code == 200
    running.home.store(lambda store: store.disallow("gauge-2", "pump-7"))
    for device in (gauge, pump):
        bye = later(device, "BYE")
        assert "access-denied" in bye.headers["Reason"]
        assert not bye.headers.getlist("P-Asserted-Identity")  # the manager says it
        device.respond(bye)
    assert gauge.ask("MESSAGE", "pump-7", b"x").code == 403
    pump.send(pump.request("MESSAGE", "gauge-2", b"the other way round"))
    gauge.respond(gauge.next("MESSAGE"))
    assert pump.answer().code == 200


def test_a_revoked_device_loses_its_link(phones: tuple[Running, Phone, Phone]) -> None:
    running, gauge, pump = phones
    gauge.invite("pump-7")
    pump.respond(pump.next("INVITE"), found=((EDHOC, b"message_2"),))
    assert gauge.final().code == 200
    command(running.home.folder, "device", "revoke", "pump-7", "--reason", "key-compromise")
    assert "revoked" in later(gauge, "BYE").headers["Reason"]
    while (found := pump.receive()) is not None:
        assert isinstance(found, sipmessage.Request)
        assert found.method in ("ACK", "BYE", "MESSAGE")
        assert found.method == "ACK" or "revoked" in found.headers["Reason"]
    assert sorted(running.links()) == ["gauge-2"]
    gauge.send(gauge.request("MESSAGE", "pump-7", b"x"))
    while not hasattr(found := gauge.receive(), "code"):
        pass
    assert found.code == 480  # type: ignore[union-attr]
