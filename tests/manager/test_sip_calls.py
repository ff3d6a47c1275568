"""Calls of standard user agents through the manager: a stateful proxy under its rules."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sipmessage

from support.manager_kit import REALM, Home, Running, until
from support.sip_phone import SDP, Phone


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", sip_port=0)
    home.add("gauge-2", "pump-7", "valve-3")
    home.allow("gauge-2", "pump-7")
    return home


def calls(running: Running) -> int:
    return running.look(lambda manager: len(manager.sip.calls))


@pytest.fixture
def phones(running: Running) -> Iterator[tuple[Phone, Phone]]:
    with Phone(running, "gauge-2") as gauge, Phone(running, "pump-7") as pump:
        assert gauge.register().code == pump.register().code == 200
        yield gauge, pump


def test_a_call_from_invite_to_bye(
    running: Running, home: Home, phones: tuple[Phone, Phone]
) -> None:
    gauge, pump = phones
    leg = f'addr="{gauge.address}";leg=1;transport=tls;auth=mutual'
    invite = gauge.call(
        hop_security=leg,
        p_asserted_identity=f"<sip:valve-3@{REALM}>",
        x_unknown="stays, as it is",
        require="100rel",  # for the callee and not for a proxy
        route=f"<sip:{REALM};transport=tls;lr>",
    )
    assert gauge.answer().code == 100
    got = pump.next("INVITE")
    assert got.body == SDP
    assert str(got.uri) == f"sip:pump-7@{pump.address};transport=tls"
    assert got.headers["Max-Forwards"] == "69"
    assert got.headers.getlist("P-Asserted-Identity") == [f"<sip:gauge-2@{REALM}>"]
    assert got.headers["X-Unknown"] == "stays, as it is"
    assert got.headers["Require"] == "100rel"
    assert not got.headers.getlist("Route")
    assert len(got.headers.getlist("Record-Route")) == 1
    assert ";lr>" in got.headers["Record-Route"]
    assert got.headers.getlist("Hop-Security") == [
        f"{leg};verified=yes",
        f'addr="{pump.address}";leg=2;transport=tls;auth=mutual;verified=yes',
    ]
    ours, theirs = got.via
    assert ours.parameters["branch"] != theirs.parameters["branch"]
    host, port = gauge.address.split(":")
    assert (theirs.parameters["received"], theirs.parameters["rport"]) == (host, port)
    pump.take(got, 180)
    ringing = gauge.answer()
    assert (ringing.code, len(ringing.via)) == (180, 1)
    pump.take(got, p_asserted_identity=f"<sip:valve-3@{REALM}>")
    accepted = gauge.answer()
    assert (accepted.code, accepted.phrase, accepted.body) == (200, "Whatever", SDP)
    assert accepted.headers.getlist("P-Asserted-Identity") == [f"<sip:pump-7@{REALM}>"]
    assert len(accepted.headers.getlist("Hop-Security")) == 2
    gauge.send(gauge.inside_call("ACK", accepted, invite.cseq.sequence))
    ack = pump.next("ACK")
    assert str(ack.uri) == f"sip:pump-7@{pump.address};transport=tls"
    # the callee changes the session, the caller refuses, and that ACK is hop by hop
    change = pump.inside_call("INVITE", got, 7, SDP, mine="To")
    pump.send(change)
    assert pump.answer().code == 100
    again = gauge.next("INVITE")
    assert again.headers.getlist("Record-Route")
    gauge.respond(again, 488, "Not Acceptable Here")
    assert pump.final().code == 488
    gauge.next("ACK")
    nack = pump.inside_call("ACK", got, 7, mine="To")
    nack.headers.set("Via", change.headers["Via"])
    pump.send(nack)
    # in the dialog anything goes that both know
    gauge.send(gauge.inside_call("INFO", accepted, 20, b"x"))
    info = pump.next("INFO")
    pump.respond(info, 202, "Fine")
    assert gauge.answer().code == 202
    assert calls(running) == 1
    pump.send(pump.inside_call("BYE", got, 8, mine="To"))
    bye = gauge.next("BYE")
    assert bye.headers["P-Asserted-Identity"] == f"<sip:pump-7@{REALM}>"
    gauge.respond(bye)
    assert pump.answer().code == 200
    until(lambda: calls(running) == 0)
    assert gauge.answer(gauge.inside_call("BYE", accepted, 30)).code == 481
    for event in ("call-asked", "call-accepted", "call-ended"):
        home.audit(event)


def test_a_call_that_is_declined(phones: tuple[Phone, Phone], running: Running) -> None:
    gauge, pump = phones
    for code in (486, 603, 302):
        invite = gauge.call()
        assert gauge.answer().code == 100
        pump.take(pump.next("INVITE"), code)
        ack = pump.next("ACK")  # the proxy's own
        assert len(ack.via) == 1
        assert gauge.answer().code == code
        nack = gauge.request("ACK", "pump-7")
        nack.headers.set("Via", invite.headers["Via"])
        nack.headers.set("Call-ID", invite.headers["Call-ID"])
        gauge.send(nack)
        assert calls(running) == 0
    assert pump.nothing()


def test_cancel_is_hop_by_hop(phones: tuple[Phone, Phone], running: Running) -> None:
    gauge, pump = phones

    def cancel(invite: sipmessage.Request) -> None:
        request = gauge.request("CANCEL", "pump-7")
        for key in ("Via", "From", "To", "Call-ID"):
            request.headers.set(key, invite.headers[key])
        request.headers.set("CSeq", f"{invite.cseq.sequence} CANCEL")
        assert gauge.answer(request).code == 200

    for early in (True, False):
        invite = gauge.call()
        assert gauge.answer().code == 100
        got = pump.next("INVITE")
        if early:
            pump.take(got, 180)
            assert gauge.answer().code == 180
        cancel(invite)
        if not early:
            assert pump.nothing()  # not before a provisional response (section 9.1)
            pump.take(got, 100)
        passed = pump.next("CANCEL")
        assert passed.via[0].parameters["branch"] == got.via[0].parameters["branch"]
        assert len(passed.via) == 1
        pump.respond(passed)
        pump.take(got, 487)
        pump.next("ACK")
        assert gauge.answer().code == 487
        assert calls(running) == 0


def test_calls_that_are_not_admitted(running: Running, home: Home) -> None:
    home.allow("gauge-2", "valve-3")
    until(lambda: running.look(lambda m: m.relay.rules.decide("gauge-2", "valve-3").allowed))
    with (
        Phone(running, "gauge-2") as gauge,
        Phone(running, "pump-7") as pump,
        running.device("valve-3") as valve,
    ):
        gauge.call()
        assert gauge.final().code == 403  # register first
        assert gauge.register().code == 200
        gauge.call()
        assert gauge.final().code == 480
        assert pump.register().code == 200
        pump.call("gauge-2")
        denied = pump.final()
        assert denied.code == 403
        assert denied.headers["Warning"].startswith(f'399 {REALM} "access-denied')
        home.audit("access-denied")
        gauge.call("valve-3")  # on MQTT: no calls there
        assert gauge.final().code == 488
        for change, code in (
            ({"from": f"<sip:pump-7@{REALM}>;tag=1"}, 403),
            ({"from": gauge.identity}, 400),
            ({"max_forwards": "0"}, 483),
            ({"proxy_require": "gadget"}, 420),
            ({"route": f"<sip:{REALM};lr>, <sip:192.0.2.66;lr>"}, 403),
            ({"hop_security": 'addr="1.2.3.4:5";leg=1;transport=tls, addr="a:1";leg=1'}, 400),
            ({"uri": "sip:pump-7@other.example"}, 404),
            ({"uri": f"sip:{REALM}"}, 404),
            ({"uri": "tel:+358"}, 416),
        ):
            gauge.call(**change)
            assert gauge.final().code == code, change
        home.audit("identity-mismatch")
        home.audit("bad-route")
        # forged Via: nothing but the connection decides where an answer goes
        gauge.call("valve-3", via="SIP/2.0/TLS 192.0.2.66:5061;branch=z9hG4bKforged;rport")
        answer = gauge.final()
        assert answer.code == 488
        assert answer.via[0].parameters["received"] == "127.0.0.1"
        assert pump.nothing()
        assert valve.nothing()
        assert calls(running) == 0


def test_a_false_first_leg(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", sip_port=0, route_mode="strict")
    home.add("gauge-2", "pump-7")
    home.allow("gauge-2", "pump-7")
    with (
        home.running() as running,
        Phone(running, "gauge-2") as gauge,
        Phone(running, "pump-7") as pump,
    ):
        leg = 'addr="{}";leg=1;transport=tls;auth=mutual'
        for phone in (gauge, pump):
            assert phone.register(hop_security=leg.format(phone.address)).code == 200
        for false in (leg.format("192.0.2.9:5061"), None):
            gauge.call(**({} if false is None else {"hop_security": false}))
            refused = gauge.final()
            assert refused.code == 403
            assert refused.headers["Warning"].startswith(f'399 {REALM} "bad-route')
        home.audit("bad-route")
        assert pump.nothing()
        gauge.call(hop_security=leg.format(gauge.address))
        pump.take(pump.next("INVITE"), 486)
        assert gauge.final().code == 486


def test_a_false_first_leg_is_marked_where_nat_is_allowed_for(
    phones: tuple[Phone, Phone], home: Home
) -> None:
    gauge, pump = phones
    gauge.call(hop_security='addr="192.0.2.9:5061";leg=1;transport=tls;auth=mutual')
    got = pump.next("INVITE")
    assert got.headers.getlist("Hop-Security")[0].endswith("verified=no")
    home.audit("route-mismatch")


def test_peers_that_vanish(running: Running, home: Home) -> None:
    credentials = home.device("pump-7")
    with Phone(running, "gauge-2") as gauge:
        assert gauge.register().code == 200
        with Phone(running, "pump-7", credentials) as pump:
            assert pump.register().code == 200
            invite = gauge.call()
            got = pump.next("INVITE")
            pump.take(got)
            accepted = gauge.final()
            gauge.send(gauge.inside_call("ACK", accepted, invite.cseq.sequence))
            pump.next("ACK")
            gauge.call()
            pump.next("INVITE")
        assert gauge.final().code == 480  # while it rings
        until(lambda: "pump-7" not in running.links())
        assert gauge.answer(gauge.inside_call("INFO", accepted, 30)).code == 430
        with Phone(running, "pump-7", credentials) as pump:
            assert pump.register().code == 200
            # the dialog goes on over the new flow
            gauge.send(gauge.inside_call("BYE", accepted, 31))
            pump.respond(pump.next("BYE"))
            assert gauge.answer().code == 200
        assert calls(running) == 0


def test_a_rule_that_is_withdrawn_ends_a_call(
    phones: tuple[Phone, Phone], running: Running, home: Home
) -> None:
    gauge, pump = phones
    gauge.call()
    pump.take(pump.next("INVITE"))
    accepted = gauge.final()
    home.store(lambda store: store.disallow("gauge-2", "pump-7"))
    until(lambda: not running.look(lambda m: m.relay.rules.decide("gauge-2", "pump-7").allowed))
    assert gauge.answer(gauge.inside_call("INFO", accepted, 30)).code == 403
    assert calls(running) == 0
