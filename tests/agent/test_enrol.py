# heap: 1m
"""Enrolment against a scripted EST server: what is believed, what is refused, what is kept."""

import asyncio

from keyferry_agent import enrol
from keyferry_agent.config import ConfigError
from keyferry_agent.errors import EnrolmentLater, EnrolmentRefused, LinkError
from keyferry_agent.store import Store
from keyferry_core import est_codec
from keyferry_core.errors import (
    AuthenticationError,
    DecodeError,
    KeyferryError,
)
from support.agent_kit import fails, run
from support.enrol_kit import (
    CERTIFICATE,
    DATA,
    GOOD,
    ISSUING,
    PRIVATE,
    Device,
    Server,
    ok,
)


def test_enrolment_with_a_token():
    for piece in (1, 7, 100000):
        with Device() as device:
            server = Server(GOOD, piece)
            run(device.simpleenroll(server))
            expected = (DATA["name"], DATA["realm"], PRIVATE, CERTIFICATE, ISSUING)
            assert Store(device.path).identity == expected
            assert Store(device.path).pending is None
            assert "token" not in device.names()
            assert [event for event, _ in device.seen] == [
                "key-reused",
                "enrol-start",
                "certificate-request",
                "enrolled",
            ]
            fields = device.seen[-1][1]
            assert fields["name"] == "pump-7"
            assert fields["not_after"] == 2398377600
            assert bytes.fromhex(fields["serial"])
            assert (server.opened, server.closed) == (1, 1)
            get, post = server.requests
            assert get.startswith(b"GET /.well-known/est/cacerts HTTP/1.1\r\n")
            assert b"\r\nHost: plant.example:8443\r\n" in get
            # the token goes with the request that needs it, and with no other
            assert b"Authorization" not in get
            assert post.startswith(b"POST /.well-known/est/simpleenroll HTTP/1.1\r\n")
            header = "Authorization: " + est_codec.basic("pump-7", "one-time")
            assert header.encode() in post
            assert "one-time" not in repr(device.seen)
            assert PRIVATE.hex() not in repr(device.seen)


def test_the_key_is_made_and_kept_before_anything_is_asked():
    with Device(pending=None) as device:
        error = run(fails(LinkError, device.simpleenroll(Server([OSError(111)]))))
        assert error.name == "peer-gone"
        private = Store(device.path).pending
        assert len(private) == 32
        assert device.seen[0] == ("key-made", {"curve": "P-256"})
        # the retry asks for a certificate of the same key
        device.store = Store(device.path)
        server = Server([ok(DATA["cacerts"]["good"]), OSError(104)])
        run(fails(LinkError, device.simpleenroll(server)))
        assert device.seen[-3][0] == "key-reused"
        assert Store(device.path).pending == private
        assert "token" in device.names()


def test_connections_that_are_closed_after_each_answer():
    with Device() as device:
        answers = []
        for body in (DATA["cacerts"]["good"], DATA["enrolled"]["good"]):
            answers.append(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body.encode())
        server = Server(answers)
        run(device.simpleenroll(server))
        assert (server.opened, server.closed) == (2, 2)
        assert device.store.identity is not None


def test_all_good_answers():
    for cacerts in DATA["cacerts"]:
        for enrolled in DATA["enrolled"]:
            if cacerts.startswith("bad") or enrolled.startswith("bad") or "next" in enrolled:
                continue
            with Device() as device:
                answers = [ok(DATA["cacerts"][cacerts]), ok(DATA["enrolled"][enrolled])]
                run(device.simpleenroll(Server(answers)))
                assert device.store.identity[3:] == (CERTIFICATE, ISSUING)


def test_a_ca_that_is_not_under_our_root_gets_no_request():
    for label in DATA["cacerts"]:
        if label.startswith("bad"):
            with Device() as device:
                server = Server([ok(DATA["cacerts"][label]), GOOD[1]])
                run(fails(AuthenticationError, device.simpleenroll(server)))
                assert len(server.requests) == 1, label
                assert device.store.identity is None
                assert "token" in device.names()
                assert server.closed == 1


def test_certificates_that_are_not_ours_are_refused():
    for label in DATA["enrolled"]:
        if label.startswith("bad"):
            with Device() as device:
                server = Server([GOOD[0], ok(DATA["enrolled"][label])])
                run(fails(AuthenticationError, device.simpleenroll(server)))
                assert device.store.identity is None, label
                assert device.store.pending == PRIVATE
                assert "token" in device.names()


def test_a_root_of_another_realm():
    with Device() as device:
        device.write("root.der", bytes.fromhex(DATA["other root"]))
        run(fails(AuthenticationError, device.simpleenroll(Server(GOOD))))
        device.write("root.der", b"\x30\x00")
        run(fails(DecodeError, device.simpleenroll(Server(GOOD))))


def test_refusals_are_told_from_troubles():
    for status, body, kind, name in (
        (401, "bad-credentials: used", EnrolmentRefused, "bad-credentials"),
        (401, "", EnrolmentRefused, "bad-credentials"),
        (403, "name-not-allowed: no", EnrolmentRefused, "name-not-allowed"),
        (403, "<html>", EnrolmentRefused, "access-denied"),
        (400, "key-not-allowed: no", EnrolmentRefused, "key-not-allowed"),
        (404, "\x00\xff", EnrolmentRefused, "internal"),
        (202, "later", EnrolmentLater, "timeout"),
        (408, "timeout: too slow", EnrolmentLater, "timeout"),
        (429, "too-many: slow down", EnrolmentLater, "too-many"),
        (500, "internal: sorry", EnrolmentLater, "internal"),
        (503, "nonsense", EnrolmentLater, "internal"),
    ):
        answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body.encode()))
        with Device() as device:
            server = Server([GOOD[0], answer + body.encode()])
            error = run(fails(kind, device.simpleenroll(server)))
            assert error.name == name, status
            assert str(status) in error.detail
            assert "token" in device.names()
            assert device.store.pending == PRIVATE


def test_when_to_ask_again():
    for value, seconds in (
        (b"0", 0),
        (b"120", 120),
        (b"99999", 99999),
        (b"100000", 0),
        (b"-1", 0),
        (b"Fri, 31 Dec 2027 23:59:59 GMT", 0),
        (b"", 0),
    ):
        answer = b"HTTP/1.1 202 X\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n"
        with Device() as device:
            error = run(fails(EnrolmentLater, device.simpleenroll(Server([GOOD[0], answer]))))
            assert error.seconds == seconds, value


def test_answers_that_are_no_answers():
    for answer in (
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        ok("not base64!"),
        ok(""),
        ok("AAAA"),
        OSError(-30592),
        ValueError("certificate not trusted"),
        EOFError(),
    ):
        for position in (0, 1):
            answers = list(GOOD)
            answers[position] = answer
            with Device() as device:
                run(fails(KeyferryError, device.simpleenroll(Server(answers))))
                assert device.store.identity is None
                assert "token" in device.names()


def test_a_server_that_says_nothing():
    class Silent(Server):
        async def read(self, count):
            await asyncio.sleep(60)

    kept = enrol.ANSWER_TIMEOUT
    enrol.ANSWER_TIMEOUT = 0.1
    try:
        with Device() as device:
            server = Silent(GOOD)
            assert run(fails(LinkError, device.simpleenroll(server))).name == "timeout"
            assert server.closed == 1
    finally:
        enrol.ANSWER_TIMEOUT = kept


def test_nothing_to_enrol_with():
    with Device(token=False) as device:
        run(fails(ConfigError, device.simpleenroll(Server(GOOD))))
        device.write("factory.crt", b"x")
        run(fails(ConfigError, device.simpleenroll(Server(GOOD))))


def test_the_factory_identity_goes_before_a_token():
    with Device() as device:
        device.write("factory.crt", b"x")
        device.write("factory.key", b"x")
        server = Server(GOOD)
        run(device.simpleenroll(server))
        assert b"Authorization" not in server.requests[1]
        assert device.seen[1][1]["by"] == "factory"


def test_renewal_with_the_same_key():
    with Device() as device:
        run(fails(ConfigError, device.simplereenroll(Server(GOOD))))
        run(device.simpleenroll(Server(GOOD)))
        server = Server(GOOD)
        run(device.simplereenroll(server))
        assert server.requests[1].startswith(b"POST /.well-known/est/simplereenroll ")
        assert b"Authorization" not in server.requests[1]
        assert device.store.identity[2] == PRIVATE
        # the key, three times to see that there is room, the certificate, and then the renewal's
        assert device.store.generation == 6


def test_renewal_with_a_new_key():
    with Device() as device:
        run(device.simpleenroll(Server(GOOD)))
        new = bytes.fromhex(DATA["next private"])
        device.store.set_pending(new)
        # what comes back is for the old key: refused, and the old identity stands
        run(fails(AuthenticationError, device.simplereenroll(Server(GOOD), True)))
        assert device.store.identity[2:4] == (PRIVATE, CERTIFICATE)
        assert device.store.pending == new
        answers = [GOOD[0], ok(DATA["enrolled"]["next key"])]
        run(device.simplereenroll(Server(answers), True))
        assert device.store.identity[2] == new
        assert device.store.pending is None
