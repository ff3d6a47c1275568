"""Sessions on SIP, with the other carrier and with itself, by codecs that are not ours."""

import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keyferry_core import rpk
from keyferry_core import signalling as sig
from keyferry_core.errors import code_of
from keyferry_core.suite_cryptography import CryptographyCrypto
from support.est_client import csr, new_key
from support.manager_kit import REALM, Credentials, Home, Running, until
from support.pem_keys import key_of
from support.sip_device import CERTIFICATE, EDHOC, ENDORSED, RECORD, SipDevice, parts

CRYPTO = CryptographyCrypto(os.urandom)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", sip_port=0)
    home.add("gauge-2", "pump-7", "valve-3")
    home.allow("gauge-2", "pump-7")
    return home


def sessions(running: Running) -> int:
    return running.look(lambda manager: len(manager.relay.sessions))


def scalar(credentials: Credentials) -> bytes:
    return key_of(credentials).private_numbers().private_value.to_bytes(32, "big")


def der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


def test_a_session_between_two_devices_on_sip(running: Running, home: Home) -> None:
    first, second = home.device("gauge-2"), home.device("pump-7")
    with (
        SipDevice(running, "gauge-2", first) as gauge,
        SipDevice(running, "pump-7", second) as pump,
    ):
        assert gauge.register().code == pump.register().code == 200
        leg = f'addr="{gauge.address}";leg=1;transport=tls;auth=mutual'
        session, invite = gauge.invite(
            "pump-7", hop_security=leg, p_asserted_identity=f"<sip:valve-3@{REALM}>"
        )
        assert gauge.answer().code == 100
        asked = pump.next("INVITE")
        assert asked.headers["Call-ID"] == session.hex()
        assert asked.headers["Key-Profile"] == "cert"
        assert asked.from_address.parameters["tag"] == session.hex()[:16]
        assert "tag" not in asked.to_address.parameters
        assert asked.headers.getlist("P-Asserted-Identity") == [f"<sip:gauge-2@{REALM}>"]
        assert asked.headers.getlist("Hop-Security") == [
            f"{leg};verified=yes",
            f'addr="{pump.address}";leg=2;transport=tls;auth=mutual;verified=yes',
        ]
        assert parts(asked) == [(EDHOC, b"message_1"), (CERTIFICATE, der(first.certificate))]
        mine = f'addr="{pump.address}";leg=1;transport=tls;auth=mutual'
        pump.respond(asked, found=((EDHOC, b"message_2"),), hop_security=mine)
        accepted = gauge.final()
        assert accepted.code == 200
        assert accepted.cseq.sequence == invite.cseq.sequence
        assert accepted.to_address.parameters["tag"] == session.hex()[16:]
        assert accepted.headers["P-Asserted-Identity"] == f"<sip:pump-7@{REALM}>"
        assert accepted.headers.getlist("Hop-Security") == [
            f"{mine};verified=yes",
            f'addr="{gauge.address}";leg=2;transport=tls;auth=mutual;verified=yes',
        ]
        assert parts(accepted) == [(EDHOC, b"message_2"), (CERTIFICATE, der(second.certificate))]
        number = invite.cseq.sequence
        gauge.send(
            gauge.inside(
                "ACK", "pump-7", session, (EDHOC, b"message_3"), (RECORD, b"r1"), number=number
            )
        )
        confirmed = pump.next("ACK")
        assert parts(confirmed) == [(EDHOC, b"message_3"), (RECORD, b"r1")]
        assert confirmed.cseq.sequence == asked.cseq.sequence
        # a record each way, message_4 with one
        pump.send(
            pump.inside(
                "MESSAGE", "gauge-2", session, (EDHOC, b"4"), (RECORD, b"\r\n--"), initiator=False
            )
        )
        assert pump.answer().code == 200
        got = gauge.next("MESSAGE")
        assert parts(got) == [(EDHOC, b"4"), (RECORD, b"\r\n--")]
        gauge.respond(got)
        gauge.send(gauge.inside("MESSAGE", "pump-7", session, (RECORD, b"r2" * 2000)))
        assert gauge.answer().code == 200
        got = pump.next("MESSAGE")
        assert parts(got) == [(RECORD, b"r2" * 2000)]
        assert got.cseq.sequence == asked.cseq.sequence + 1
        pump.respond(got)
        until(lambda: running.look(lambda m: m.relay.sessions.all()[0].messages) == 5)
        # the end
        reason = 'SIP;cause=480;text="limit-reached: enough"'
        gauge.send(gauge.inside("BYE", "pump-7", session, reason=reason))
        assert gauge.answer().code == 200
        bye = pump.next("BYE")
        assert bye.headers["Reason"] == reason
        assert bye.headers["P-Asserted-Identity"] == f"<sip:gauge-2@{REALM}>"
        pump.respond(bye)
        assert sessions(running) == 0
        again = gauge.inside("MESSAGE", "pump-7", session, (RECORD, b"late"))
        assert gauge.answer(again).code == 481
        assert gauge.answer(gauge.inside("BYE", "pump-7", session)).code == 481
    for event in ("exchange-asked", "exchange-accepted", "session-ended"):
        home.audit(event)


def test_a_session_from_sip_to_mqtt(running: Running) -> None:
    with SipDevice(running, "gauge-2") as gauge, running.device("pump-7") as pump:
        assert gauge.register().code == 200
        session, invite = gauge.invite("pump-7")
        offered = pump.receive(sig.CONNECT)
        assert offered[sig.SESSION] == session
        assert offered[sig.MESSAGE_1] == b"message_1"
        assert offered[sig.ROUTE][0] == [gauge.address, sig.TRANSPORT_SIP_TLS, True, True]
        pump.accept(offered)
        accepted = gauge.final()
        assert parts(accepted)[0] == (EDHOC, b"message_2")
        assert "transport=mqtts" in accepted.headers.getlist("Hop-Security")[0]
        number = invite.cseq.sequence
        gauge.send(gauge.inside("ACK", "pump-7", session, (EDHOC, b"message_3"), number=number))
        assert pump.receive(sig.MESSAGE)[sig.MESSAGE_3] == b"message_3"
        pump.say("gauge-2", session, b"record")
        got = gauge.next("MESSAGE")
        assert parts(got) == [(RECORD, b"record")]
        gauge.respond(got)
        gauge.send(gauge.inside("MESSAGE", "pump-7", session, (RECORD, b"back")))
        assert pump.receive(sig.MESSAGE)[sig.RECORD] == b"back"
        assert gauge.answer().code == 200
        pump.send(
            {
                sig.TYPE: sig.END,
                sig.TO: "gauge-2",
                sig.SESSION: session,
                sig.ERROR_CODE: code_of("session-closed"),
            }
        )
        bye = gauge.next("BYE")
        assert bye.headers["Reason"] == 'SIP;cause=480;text="session-closed"'
        gauge.respond(bye)


def test_a_session_from_mqtt_to_sip_and_its_refusals(running: Running, home: Home) -> None:
    home.allow("pump-7", "gauge-2")
    until(lambda: running.look(lambda m: m.relay.rules.decide("pump-7", "gauge-2").allowed))
    with SipDevice(running, "gauge-2") as gauge, running.device("pump-7") as pump:
        assert gauge.register().code == 200
        session = pump.offer("gauge-2")
        asked = gauge.next("INVITE")
        assert asked.headers["Call-ID"] == session.hex()
        gauge.respond(asked, found=((EDHOC, b"message_2"),))
        assert pump.receive(sig.ACCEPT)[sig.MESSAGE_2] == b"message_2"
        # message_3 that the initiator repeats: first in ACK, then in MESSAGE
        content = {sig.TO: "gauge-2", sig.SESSION: session, sig.MESSAGE_3: b"3", sig.RECORD: b"r"}
        pump.send({sig.TYPE: sig.MESSAGE, **content})
        assert parts(gauge.next("ACK")) == [(EDHOC, b"3"), (RECORD, b"r")]
        pump.send({sig.TYPE: sig.MESSAGE, **content})
        again = gauge.next("MESSAGE")
        assert parts(again) == [(EDHOC, b"3"), (RECORD, b"r")]
        # which the responder does not like at all
        gauge.respond(again)
        reason = 'SIP;cause=488;text="key-exchange-failed: no";reject'
        gauge.send(
            gauge.inside("BYE", "pump-7", session, (EDHOC, b"\x01"), initiator=False, reason=reason)
        )
        assert gauge.answer().code == 200
        refused = pump.receive(sig.REJECT)
        assert refused[sig.ERROR_CODE] == code_of("key-exchange-failed")
        assert (refused[sig.TEXT], refused[sig.EDHOC_ERROR]) == ("no", b"\x01")
        # a refusal at once, with a name of the table and without
        for code, fields, name, text in (
            (603, {"warning": f'399 {REALM} "declined: not today"'}, "declined", "not today"),
            (480, {"warning": f'399 {REALM} "limit-reached"'}, "limit-reached", None),
            (415, {}, "unsupported", None),
            (486, {}, "declined", None),
        ):
            session = pump.offer("gauge-2")
            asked = gauge.next("INVITE")
            gauge.respond(asked, code, "No", **fields)
            assert gauge.next("ACK").headers["CSeq"] == f"{asked.cseq.sequence} ACK"
            refused = pump.receive(sig.REJECT)
            assert (refused[sig.SESSION], refused.get(sig.TEXT)) == (session, text)
            assert refused[sig.ERROR_CODE] == code_of(name)
        # 200 with nothing in it
        session = pump.offer("gauge-2")
        gauge.respond(gauge.next("INVITE"))
        gauge.next("ACK")
        gauge.respond(gauge.next("BYE"))
        assert pump.receive(sig.REJECT)[sig.ERROR_CODE] == code_of("malformed")
        # the initiator refuses message_2: ACK without a body, then BYE
        session = pump.offer("gauge-2")
        gauge.respond(gauge.next("INVITE"), found=((EDHOC, b"message_2"),))
        pump.receive(sig.ACCEPT)
        pump.send(
            {
                sig.TYPE: sig.REJECT,
                sig.TO: "gauge-2",
                sig.SESSION: session,
                sig.ERROR_CODE: code_of("authentication-failed"),
                sig.EDHOC_ERROR: b"\x02",
            }
        )
        assert gauge.next("ACK").body == b""
        bye = gauge.next("BYE")
        assert bye.headers["Reason"].endswith('"authentication-failed";reject')
        assert parts(bye) == [(EDHOC, b"\x02")]
        gauge.respond(bye)
        assert sessions(running) == 0


def test_invites_that_the_relay_refuses(running: Running, home: Home) -> None:
    with SipDevice(running, "gauge-2") as gauge, SipDevice(running, "valve-3") as valve:
        gauge.invite("pump-7")
        assert gauge.answer().code == 100
        unregistered = gauge.final()
        assert unregistered.code == 403
        assert unregistered.headers["Warning"].startswith(f'399 {REALM} "not-registered: ')
        assert gauge.register().code == valve.register().code == 200
        gauge.invite("pump-7")
        offline = gauge.final()
        assert offline.code == 480
        assert not offline.headers.getlist("P-Asserted-Identity")
        gauge.invite("valve-3")
        denied = gauge.final()
        assert denied.code == 403
        assert denied.headers["Warning"].startswith(f'399 {REALM} "access-denied: ')
        home.audit("access-denied")
        session = os.urandom(16)
        for change, code in (
            ({"Call-ID": "x" * 32}, 400),
            ({"Call-ID": session.hex().upper()}, 400),
            ({"From": f"{gauge.identity};tag=other"}, 400),
            ({"Key-Profile": "other"}, 488),
            ({"Hop-Security": 'addr="a:1";leg=2;transport=tls'}, 400),
            ({"From": f"<sip:pump-7@{REALM}>;tag={session.hex()[:16]}"}, 403),
            ({"Require": "gadget"}, 420),
        ):
            request = gauge.inside("INVITE", "valve-3", session, (EDHOC, b"message_1"))
            for key, value in change.items():
                request.headers.set(key, value)
            gauge.send(request)
            assert gauge.final().code == code, change
        gauge.send(gauge.inside("INVITE", "valve-3", session, (EDHOC, b"x" * 1025)))
        assert gauge.final().code == 400
        assert valve.nothing()
        assert sessions(running) == 0


def test_cancel_in_every_order(running: Running) -> None:
    with SipDevice(running, "gauge-2") as gauge, SipDevice(running, "pump-7") as pump:
        assert gauge.register().code == pump.register().code == 200

        def cancelled(session: bytes, invite: object) -> None:
            cancel = gauge.inside("CANCEL", "pump-7", session)
            cancel.headers.set("Via", invite.headers["Via"])
            cancel.headers.set("CSeq", f"{invite.cseq.sequence} CANCEL")
            gauge.send(cancel)
            answers = [gauge.final(), gauge.final()]
            assert [(a.code, a.cseq.method) for a in answers] == [(200, "CANCEL"), (487, "INVITE")]

        # after a provisional response: hop by hop
        session, invite = gauge.invite("pump-7")
        asked = pump.next("INVITE")
        pump.respond(asked, 180, "Ringing")
        pump.respond(pump.request("OPTIONS"), 200)  # an answer to nothing
        assert pump.ask("OPTIONS").code == 200  # the 180 was read
        cancelled(session, invite)
        cancel = pump.next("CANCEL")
        assert cancel.headers["Via"] == asked.headers["Via"]
        assert cancel.cseq.sequence == asked.cseq.sequence
        pump.respond(cancel)
        pump.respond(asked, 487, "Request Terminated")
        pump.next("ACK")
        # before one: nothing is sent, and a 200 that comes is ended
        session, invite = gauge.invite("pump-7")
        asked = pump.next("INVITE")
        cancelled(session, invite)
        assert pump.nothing()
        pump.respond(asked, found=((EDHOC, b"message_2"),))
        assert pump.next("ACK").body == b""
        pump.respond(pump.next("BYE"))
        assert sessions(running) == 0
        late = gauge.inside("CANCEL", "pump-7", session)
        assert gauge.answer(late).code == 481


def test_sessions_go_on_over_a_new_connection(running: Running, home: Home) -> None:
    credentials = home.device("gauge-2")
    with SipDevice(running, "pump-7") as pump:
        assert pump.register().code == 200
        with SipDevice(running, "gauge-2", credentials) as gauge:
            assert gauge.register().code == 200
            call_id = gauge.call_id
            session, _ = gauge.invite("pump-7")
            asked = pump.next("INVITE")
        with SipDevice(running, "gauge-2", credentials) as gauge:
            gauge.call_id = call_id
            gauge.cseq = 100
            assert gauge.register().code == 200
            # the final response comes on the connection that there is
            pump.respond(asked, found=((EDHOC, b"message_2"),))
            assert parts(gauge.final())[0] == (EDHOC, b"message_2")
            gauge.send(gauge.inside("ACK", "pump-7", session, (EDHOC, b"message_3")))
            pump.next("ACK")
            gauge.call_id = "another-start"
            assert gauge.register().code == 200
            bye = pump.next("BYE")  # it has started anew: the manager says so
            assert bye.headers["Reason"].startswith('SIP;cause=480;text="peer-restarted')
            assert not bye.headers.getlist("P-Asserted-Identity")
            pump.respond(bye)


def test_keys_and_certificates_over_the_connection(running: Running, home: Home) -> None:
    first, second = home.device("gauge-2"), home.device("pump-7")
    endorsed = {}
    for name, credentials in (("gauge-2", first), ("pump-7", second)):
        public = CRYPTO.generate()[1]
        endorsed[name] = rpk.endorse(CRYPTO, scalar(credentials), name, public)
    with (
        SipDevice(running, "gauge-2", first) as gauge,
        SipDevice(running, "pump-7", second) as pump,
    ):
        # registered with the key, and delivered with the request and its answer
        for device in (gauge, pump):
            request = device.request(
                "REGISTER",
                body=endorsed[device.name],
                content_type=ENDORSED,
                contact=f"<sip:{device.name}@{device.name}.invalid;transport=tls>",
            )
            answer = device.answer(request)
            assert answer.code == 200
            run = running.look(lambda m: m.relay.instance.hex())
            assert answer.headers["Manager-Instance"] == run
        found = gauge.ask("OPTIONS", "pump-7", accept=f"{CERTIFICATE}, {ENDORSED}, multipart/mixed")
        assert parts(found) == [
            (CERTIFICATE, der(second.certificate)),
            (ENDORSED, endorsed["pump-7"]),
        ]
        assert found.contact == []  # it has no address
        gauge.invite("pump-7", key_profile="rpk")
        assert gauge.answer().code == 100
        asked = pump.next("INVITE")
        assert asked.headers["Key-Profile"] == "rpk"
        assert parts(asked)[2] == (ENDORSED, endorsed["gauge-2"])
        pump.respond(asked, found=((EDHOC, b"message_2"),))
        assert parts(gauge.final())[2] == (ENDORSED, endorsed["pump-7"])
        # another's key
        wrong = gauge.request(
            "REGISTER",
            body=endorsed["pump-7"],
            content_type=ENDORSED,
            contact="<sip:gauge-2@gauge-2.invalid>",
        )
        assert gauge.answer(wrong).code == 403
        # a certificate for a new key
        key = new_key()
        renewal = gauge.request(
            "REGISTER", body=csr(key, "gauge-2"), content_type="application/pkcs10"
        )
        certified = gauge.answer(renewal)
        assert certified.code == 200
        (kind, leaf), (_, issuer) = parts(certified)
        assert kind == CERTIFICATE
        made = x509.load_der_x509_certificate(leaf)
        assert made.public_key() == key.public_key()
        made.verify_directly_issued_by(x509.load_der_x509_certificate(issuer))
        bad = gauge.request("REGISTER", body=b"no request", content_type="application/pkcs10")
        refused = gauge.answer(bad)
        assert refused.code >= 400
        assert refused.headers["Warning"]
        assert gauge.ask("OPTIONS").code == 200


def test_third_parties_and_anchors_have_their_fields(running: Running, home: Home) -> None:
    home.allow("gauge-2 for alice", "valve-3")
    until(
        lambda: running.look(lambda m: m.relay.rules.decide("gauge-2 for alice", "valve-3").allowed)
    )
    with SipDevice(running, "gauge-2") as gauge, SipDevice(running, "valve-3") as valve:
        answer = gauge.register(trust_anchors="00" * 8)
        current = running.look(lambda m: m.relay.anchors.current)
        assert answer.headers["Trust-Anchors"] == current.hex()
        same = gauge.register(trust_anchors=current.hex()).headers
        assert same.getlist("Trust-Anchors") == []
        assert gauge.register(trust_anchors="0").code == 400
        assert valve.register().code == 200
        # the rule is for alice: not for the gateway itself, and for nobody else
        for third in ({}, {"on_behalf_of": "bob"}):
            gauge.invite("valve-3", **third)
            assert gauge.final().code == 403
        gauge.invite("valve-3", on_behalf_of="Alice")
        assert gauge.final().code == 400
        gauge.invite("valve-3", on_behalf_of="alice")
        asked = valve.next("INVITE")
        assert asked.headers.getlist("On-Behalf-Of") == ["alice"]
