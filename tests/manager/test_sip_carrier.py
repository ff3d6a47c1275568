"""The SIP carrier over real TLS, with sipmessage as the other end's codec."""

from pathlib import Path

import pytest

from keyferry_core import signalling as sig
from keyferry_manager.app import Manager
from keyferry_manager.problems import ConfigProblem
from support.manager_kit import REALM, Home, Running, until
from support.sip_client import SipClient


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", sip_port=0)
    home.add("gauge-2", "pump-7", "valve-3")
    home.allow("gauge-2", "pump-7")
    return home


def registered(running: Running, name: str) -> bool:
    def look(manager: Manager) -> bool:
        presence = manager.relay.registry.get(name)
        return presence is not None and presence.registered

    return running.look(look)


def test_off_unless_configured(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert home.config.sip_port == -1
    with home.running() as running:
        assert running.look(lambda manager: manager.sip_port) == -1
    with pytest.raises(ConfigProblem, match="sip_port"):
        Home(tmp_path / "other", sip_port=-2)


def test_a_device_registers_asks_and_takes_leave(running: Running, home: Home) -> None:
    with SipClient(running, "pump-7") as pump:
        answer = pump.register(contact=f"<sip:pump-7@{pump.address};transport=tls>;q=0.5")
        assert (answer.code, answer.phrase) == (200, "OK")
        assert [(str(c.uri), c.parameters) for c in answer.contact] == [
            (f"sip:pump-7@{pump.address};transport=tls", {"q": "0.5", "expires": "3600"})
        ]
        assert answer.to_address.parameters["tag"]
        host, port = pump.address.split(":")
        assert (answer.via[0].parameters["received"], answer.via[0].parameters["rport"]) == (
            host,
            port,
        )
        assert registered(running, "pump-7")
        assert running.links() == {"pump-7": pump.address}
        home.audit("registered", addresses=[pump.address])
        # what is there, a refresh, a shorter one
        assert len(pump.ask("REGISTER").contact) == 1
        shorter = pump.register(expires="120").contact[0]
        assert shorter.parameters["expires"] == "120"
        # none is left, and the connection goes on
        assert pump.register(contact="*", expires="0").contact == []
        assert not registered(running, "pump-7")
        assert pump.ask("REGISTER").contact == []
        assert pump.register().code == 200
        assert registered(running, "pump-7")
        assert pump.register(expires="0").code == 200
        assert not registered(running, "pump-7")
    until(lambda: running.links() == {})
    home.audit("link-down")


def test_what_a_registration_may_not_be(running: Running) -> None:
    with SipClient(running, "pump-7") as pump:
        short = pump.register(expires="10")
        assert (short.code, short.headers["Min-Expires"]) == (423, "60")
        many = ", ".join(f"<sip:pump-7@192.0.2.{n}>" for n in range(1, 6))
        assert pump.register(contact=many).code == 403
        thousand = ", ".join(f"<sip:p@h{n}>" for n in range(600))
        assert pump.register(contact=thousand).code == 400
        assert pump.register(contact="<tel:+358>").code == 416
        assert pump.register(contact="*").code == 400
        assert pump.register(contact="<sip:a@h>;expires=60, <sip:b@h>;expires=90").code == 400
        assert pump.register(contact=f"<sip:a@{'x' * 70}>").code == 400
        assert not registered(running, "pump-7")
        request = pump.request("REGISTER", contact="<sip:pump-7@h>")
        assert pump.answer(request).code == 200
        assert pump.answer(request).code == 500  # the same CSeq again


def test_a_flow_of_rfc_5626(running: Running) -> None:
    with SipClient(running, "pump-7") as pump:
        instance = '"<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>"'
        answer = pump.register(
            contact=f"<sip:pump-7@{pump.address}>;reg-id=1;+sip.instance={instance}",
            supported="outbound, path",
            require="outbound",
        )
        assert answer.code == 200
        assert answer.headers["Require"] == "outbound"
        assert int(answer.headers["Flow-Timer"]) > 60
        assert f"+sip.instance={instance}" in answer.headers["Contact"]
        pump.send(b"\r\n\r\n")
        assert pump.ask("OPTIONS").code == 200
        assert pump.pongs == 1


def test_another_name_than_the_channels_is_refused(running: Running, home: Home) -> None:
    with SipClient(running, "gauge-2") as gauge, SipClient(running, "pump-7") as pump:
        assert gauge.register().code == 200
        assert pump.register().code == 200
        for sender in (
            f"<sip:valve-3@{REALM}>",
            "<sip:gauge-2@other.example>",
            f"<sip:gauge-2:pw@{REALM}>",
            f"<tel:gauge-2@{REALM}>",
            f'"gauge-2" <sip:valve-3@{REALM}>',
        ):
            answer = gauge.ask("MESSAGE", "pump-7", b"hello", sender=sender)
            assert answer.code == 403
            assert answer.headers["Warning"].startswith(
                f'399 {REALM} "identity-mismatch: From is not the name'
            )
        assert home.audit("identity-mismatch", "From says sip:valve-3")[0].name == "gauge-2"
        spoof = f'"x" <sip:gauge-2@{REALM}>;p="y" <sip:valve-3@{REALM}>'
        assert gauge.ask("MESSAGE", "pump-7", b"hello", sender=spoof).code == 400
        third = gauge.request("REGISTER", contact="<sip:a@h>")
        third.headers.set("To", f"<sip:pump-7@{REALM}>")
        assert gauge.answer(third).code == 403
        assert pump.nothing()
        assert registered(running, "pump-7")


def test_resolution_follows_names_rules_and_presence(running: Running, home: Home) -> None:
    with SipClient(running, "gauge-2") as gauge, SipClient(running, "pump-7") as pump:
        assert gauge.ask("OPTIONS", "pump-7").code == 403  # not registered yet
        assert gauge.register().code == 200
        assert gauge.ask("OPTIONS", "pump-7").code == 480
        assert pump.register(contact=f"<sip:x@{pump.address};transport=tls>").code == 200
        found = gauge.ask("OPTIONS", "pump-7")
        assert found.code == 200
        assert [str(c.uri) for c in found.contact] == [f"sip:pump-7@{pump.address};transport=tls"]
        with_key = gauge.ask("OPTIONS", "pump-7", accept="application/pkix-cert")
        assert with_key.headers["Content-Type"] == "application/pkix-cert"
        look = running.look(lambda m: m.relay.registry.get("pump-7").link.certificate_der)
        assert with_key.body == look
        assert gauge.ask("OPTIONS", "valve-3").code == 403
        home.audit("access-denied")
        assert gauge.ask("OPTIONS", "nobody").code in (403, 404)
        assert gauge.ask("OPTIONS", uri="sip:pump-7@other.example").code == 404
        assert gauge.ask("OPTIONS", "UPPER").code == 404
        ours = gauge.ask("OPTIONS")
        assert ours.headers["Allow"] == "REGISTER, INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE"


def test_a_message_and_its_one_answer(running: Running) -> None:
    with SipClient(running, "gauge-2") as gauge, SipClient(running, "pump-7") as pump:
        assert gauge.register().code == 200
        assert pump.register().code == 200
        leg = f'addr="{gauge.address}";leg=1;transport=tls;auth=mutual'
        request = gauge.request(
            "MESSAGE",
            "pump-7",
            "druck µ".encode(),
            hop_security=leg,
            p_asserted_identity=f"<sip:valve-3@{REALM}>",
        )
        gauge.send(request)
        got = pump.accept()
        assert (got.method, str(got.uri)) == ("MESSAGE", f"sip:pump-7@{pump.address};transport=tls")
        assert got.body == "druck µ".encode()
        assert got.from_address.uri.user == "gauge-2"
        assert got.headers.getlist("P-Asserted-Identity") == [f"<sip:gauge-2@{REALM}>"]
        first, second = got.headers.getlist("Hop-Security")
        assert first == f'addr="{gauge.address}";leg=1;transport=tls;auth=mutual;verified=yes'
        assert second == f'addr="{pump.address}";leg=2;transport=tls;auth=mutual;verified=yes'
        assert gauge.answer().code == 200
        for code, expected in ((603, 603), (415, 488), (486, 603), (513, 513)):
            gauge.send(gauge.request("MESSAGE", "pump-7", b"x"))
            pump.accept(code, "No")
            assert gauge.answer().code == expected
        # the other way no rule allows it
        assert pump.ask("MESSAGE", "gauge-2", b"x").code == 403
        assert gauge.nothing()
        # bytes that are no text
        gauge.send(
            gauge.request("MESSAGE", "pump-7", b"\xff\x00", content_type="application/octet-stream")
        )
        raw = pump.accept()
        assert (raw.headers["Content-Type"], raw.body) == ("application/octet-stream", b"\xff\x00")
        assert gauge.answer().code == 200


def test_messages_that_are_not_relayed(running: Running) -> None:
    with SipClient(running, "gauge-2") as gauge, SipClient(running, "pump-7") as pump:
        assert gauge.register().code == 200
        assert gauge.ask("MESSAGE", "pump-7", b"x").code == 480
        assert pump.register().code == 200
        other = gauge.ask("MESSAGE", "pump-7", b"x", content_type="image/png")
        assert (other.code, other.headers["Accept"]) == (
            415,
            "text/plain, application/octet-stream, application/edhoc+cbor-seq, application/sdp",
        )
        assert gauge.ask("MESSAGE", "pump-7", bytes(2049)).code == 513
        assert gauge.ask("MESSAGE", body=b"x").code == 404
        assert gauge.ask("MESSAGE", "pump-7", b"x", max_forwards="0").code == 483
        extension = gauge.ask("MESSAGE", "pump-7", b"x", proxy_require="gadget, outbound")
        assert (extension.code, extension.headers["Unsupported"]) == (420, "gadget")
        twice = 'addr="a:1";leg=1;transport=tls;auth=mutual, addr="b:2";leg=2'
        assert gauge.ask("MESSAGE", "pump-7", b"x", hop_security=twice).code == 400
        assert gauge.ask("CANCEL", "pump-7").code == 481
        assert gauge.ask("BYE", "pump-7").code == 481
        refused = gauge.ask("INFO", "pump-7")
        assert refused.code == 405
        assert "INVITE" in refused.headers["Allow"]
        assert gauge.ask("GARBAGE", "pump-7").code == 501
        gauge.send(gauge.request("ACK", "pump-7"))
        # an answer to nothing
        gauge.send(
            b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS h;branch=z9hG4bKx\r\nFrom: <sip:a>;tag=1\r\n"
            b"To: <sip:b>\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
        )
        assert gauge.ask("OPTIONS").code == 200
        assert pump.nothing()


def test_a_false_first_leg_is_refused_in_strict_mode(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", sip_port=0, route_mode="strict")
    home.add("gauge-2", "pump-7")
    home.allow("gauge-2", "pump-7")
    with (
        home.running() as running,
        SipClient(running, "gauge-2") as gauge,
        SipClient(running, "pump-7") as pump,
    ):
        good = f'addr="{gauge.address}";leg=1;transport=tls;auth=mutual'
        bad = 'addr="192.0.2.9:5061";leg=1;transport=tls;auth=mutual'
        assert gauge.register(hop_security=bad).code == 403
        # the first one may state none: its answer says what the address is
        assert gauge.register().code == 200
        assert gauge.ask("MESSAGE", "pump-7", b"x").code == 403
        mine = f'addr="{pump.address}";leg=1;transport=tls;auth=mutual'
        assert pump.register(hop_security=mine).code == 200
        assert gauge.ask("MESSAGE", "pump-7", b"x", hop_security=bad).code == 403
        home.audit("bad-route")
        assert pump.nothing()
        gauge.send(gauge.request("MESSAGE", "pump-7", b"x", hop_security=good))
        assert pump.accept().body == b"x"
        assert gauge.answer().code == 200


def test_devices_of_both_carriers_reach_each_other(running: Running, home: Home) -> None:
    home.allow("pump-7", "gauge-2")
    until(lambda: running.look(lambda m: m.relay.rules.decide("pump-7", "gauge-2").allowed))
    with SipClient(running, "gauge-2") as gauge, running.device("pump-7") as pump:
        assert gauge.register().code == 200
        gauge.send(gauge.request("MESSAGE", "pump-7", b"from SIP"))
        got = pump.receive(sig.SEND)
        assert (got[sig.FROM], got[sig.DATA]) == ("gauge-2", b"from SIP")
        assert got[sig.ROUTE][0][1] == sig.TRANSPORT_SIP_TLS
        pump.send({sig.TYPE: sig.DELIVERED, sig.TO: "gauge-2", sig.ID: got[sig.ID]})
        assert gauge.answer().code == 200
        pump.send({sig.TYPE: sig.SEND, sig.TO: "gauge-2", sig.ID: 77, sig.DATA: b"from MQTT"})
        back = gauge.accept()
        assert back.body == b"from MQTT"
        assert "transport=mqtts" in back.headers.getlist("Hop-Security")[0]
        assert pump.receive(sig.DELIVERED)[sig.ID] == 77


def test_broken_framing_is_answered_and_ends_the_connection(running: Running, home: Home) -> None:
    whole = (
        f"OPTIONS sip:{REALM} SIP/2.0\r\nVia: SIP/2.0/TLS h;branch=z9hG4bKa\r\n"
        f"From: <sip:pump-7@{REALM}>;tag=1\r\nTo: <sip:{REALM}>\r\nCall-ID: 1\r\n"
        "CSeq: 1 OPTIONS\r\n"
    ).encode()
    for end, code in (
        (b"\r\n", 400),
        (b"Content-Length: -1\r\n\r\n", 400),
        (b"Content-Length: 1\r\nl: 1\r\n\r\n", 400),
        (b"Content-Length: 99999\r\n\r\n", 513),
    ):
        with SipClient(running, "pump-7") as pump:
            pump.send(whole + end)
            assert pump.answer().code == code
            assert pump.closed()
    with SipClient(running, "pump-7") as pump:
        pump.send(whole.replace(b"SIP/2.0\r", b"SIP/9.9\r") + b"l: 0\r\n\r\n")
        assert pump.answer().code == 505
        assert pump.closed()
    with SipClient(running, "pump-7") as pump:
        pump.send(b"x" * 30000)
        assert pump.closed()
    home.audit("sip-malformed")


def test_requests_in_pieces_and_in_a_row(running: Running) -> None:
    with SipClient(running, "pump-7") as pump:
        data = bytes(pump.request("OPTIONS"))
        for index in range(len(data)):
            pump.send(data[index : index + 1])
        assert pump.answer().code == 200
        count = 200
        pump.send(b"\r\n".join(bytes(pump.request("OPTIONS")) for _ in range(count)))
        numbers = [pump.answer().cseq.sequence for _ in range(count)]
        assert numbers == list(range(2, count + 2))


def test_a_second_connection_takes_the_place_of_the_first(running: Running, home: Home) -> None:
    credentials = home.device("pump-7")
    with SipClient(running, "pump-7", credentials) as first:
        assert first.register().code == 200
        with SipClient(running, "pump-7", credentials) as second:
            assert second.register().code == 200
            assert first.closed()
            assert running.links() == {"pump-7": second.address}
        home.audit("link-replaced")


def test_a_removed_device_gets_no_link(running: Running, home: Home) -> None:
    credentials = home.device("ghost", known=False)
    with SipClient(running, "ghost", credentials) as ghost:
        ghost.send(b"\r\n\r\n")  # nobody is looked up before the first word
        assert ghost.closed()
    assert running.links() == {}


def test_via_is_answered_as_it_came(running: Running) -> None:
    with SipClient(running, "pump-7") as pump:
        request = pump.request("OPTIONS")
        via = 'SIP/2.0/TLS h.example:5061;branch=z9hG4bKq;x="a ; b,";received=9.9.9.9;rport'
        request.headers.setlist("Via", [via, "SIP/2.0/TLS 192.0.2.1;branch=z9hG4bKr"])
        answer = pump.answer(request)
        host, port = pump.address.split(":")
        assert answer.headers.getlist("Via") == [
            f'SIP/2.0/TLS h.example:5061;branch=z9hG4bKq;x="a ; b,";rport={port};received={host}',
            "SIP/2.0/TLS 192.0.2.1;branch=z9hG4bKr",
        ]
