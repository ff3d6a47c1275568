"""Timers of RFC 3261 over TLS, sections 16.6 and 17: B and F, C, and H; shortened to a second."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyferry_manager.carriers.sip import SipSettings
from support.manager_kit import Home, Running, until
from support.sip_phone import Phone


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", sip_port=0)
    home.add("gauge-2", "pump-7")
    home.allow("gauge-2", "pump-7")
    return home


@pytest.fixture
def phones(home: Home) -> Iterator[tuple[Running, Phone, Phone]]:
    with home.running() as running:
        running.look(hurry)
        with Phone(running, "gauge-2") as gauge, Phone(running, "pump-7") as pump:
            assert gauge.register().code == pump.register().code == 200
            yield running, gauge, pump


def hurry(manager: Any) -> None:
    manager.sip.settings = SipSettings(transaction=1.0, ringing=2.5)


def link(running: Running, name: str) -> Any:
    return running.look(lambda manager: manager.relay.registry.get(name).link)


def nothing_is_left(running: Running) -> None:
    for name in ("gauge-2", "pump-7"):
        until(lambda name=name: link(running, name).unsent == 0)
        assert link(running, name).invited == {}
    assert running.look(lambda manager: len(manager.sip.calls)) == 0


def test_the_standard_s_times() -> None:
    settings = SipSettings()
    assert settings.transaction == 32.0  # 64*T1
    assert settings.ringing > 180.0


def test_b_an_invite_without_any_answer(phones: tuple[Running, Phone, Phone]) -> None:
    running, gauge, pump = phones
    gauge.call()
    assert gauge.final().code == 408
    pump.next("INVITE")
    assert pump.nothing()  # CANCEL only after a provisional response (9.1)
    nothing_is_left(running)
    assert gauge.ask("OPTIONS").code == 200


def test_c_a_callee_that_rings_for_ever(phones: tuple[Running, Phone, Phone]) -> None:
    running, gauge, pump = phones
    gauge.call()
    got = pump.next("INVITE")
    pump.take(got, 180)
    assert gauge.answer().code == 100
    assert gauge.answer().code == 180
    assert gauge.final().code == 408
    cancel = pump.next("CANCEL")
    assert cancel.headers["Via"] == got.headers.getlist("Via")[0]  # the same branch
    pump.respond(cancel)
    # as it should: the INVITE's own answer, which nobody waits for any more
    pump.take(got, 487)
    nothing_is_left(running)


def test_c_begins_anew_with_each_provisional_response(phones: tuple[Running, Phone, Phone]) -> None:
    running, gauge, pump = phones
    gauge.call()
    got = pump.next("INVITE")
    for code in (180, 183, 180):  # each a second and a half after the one before
        pump.take(got, code)
        while gauge.answer().code != code:
            pass
        assert gauge.nothing(1.5)
    pump.take(got)
    accepted = gauge.final()
    assert accepted.code == 200
    assert pump.nothing()
    gauge.send(gauge.inside_call("BYE", accepted, 9))
    pump.respond(pump.next("BYE"))
    assert gauge.answer().code == 200
    nothing_is_left(running)


def test_f_a_request_in_a_call_without_an_answer(phones: tuple[Running, Phone, Phone]) -> None:
    running, gauge, pump = phones
    invite = gauge.call()
    pump.take(pump.next("INVITE"))
    accepted = gauge.final()
    gauge.send(gauge.inside_call("ACK", accepted, invite.cseq.sequence))
    pump.next("ACK")
    assert gauge.answer(gauge.inside_call("BYE", accepted, 9)).code == 408
    nothing_is_left(running)  # a BYE ends a call, answered or not


def test_h_a_refusal_that_is_not_acknowledged(phones: tuple[Running, Phone, Phone]) -> None:
    running, gauge, pump = phones
    invite = gauge.call()
    pump.take(pump.next("INVITE"), 486)
    pump.next("ACK")  # ours, of this hop
    refused = gauge.final()
    assert refused.code == 486
    # The final response came over TLS, so nothing waits for its ACK, and nothing is sent again.
    nothing_is_left(running)
    assert gauge.nothing(1.5)
    ack = gauge.request("ACK", "pump-7")
    for name in ("Via", "From", "Call-ID"):
        ack.headers.set(name, invite.headers[name])
    ack.headers.set("To", refused.headers["To"])
    ack.headers.set("CSeq", f"{invite.cseq.sequence} ACK")
    gauge.send(ack)  # late: it is dropped
    assert gauge.ask("OPTIONS").code == 200
    assert pump.nothing()


def test_an_answered_call_without_ack_is_forgotten(phones: tuple[Running, Phone, Phone]) -> None:
    running, gauge, pump = phones
    gauge.call()
    pump.take(pump.next("INVITE"))
    accepted = gauge.final()
    assert running.look(lambda manager: len(manager.sip.calls)) == 1
    running.look(lambda manager: manager.sip.calls.expire(manager.relay.now() + 32.0))
    assert running.look(lambda manager: len(manager.sip.calls)) == 1
    running.look(lambda manager: manager.sip.calls.expire(manager.relay.now() + 65.0))
    nothing_is_left(running)
    assert gauge.answer(gauge.inside_call("BYE", accepted, 9)).code == 481
