# heap: 1m
"""Enrolment against a scripted EST server: what is believed, what is refused, what is kept."""

import asyncio
import json
import os

from keyferry_agent import config, enrol
from keyferry_agent.agent import Agent
from keyferry_agent.config import ConfigError
from keyferry_agent.errors import EnrolmentLater, EnrolmentRefused, LinkError
from keyferry_agent.store import Store
from keyferry_core import est_codec, suite
from keyferry_core import signalling as s
from keyferry_core.errors import (
    AuthenticationError,
    DecodeError,
    KeyferryError,
    LocalError,
    RemoteError,
)
from support.agent_kit import Events, Folder, Hub, fails, run, set_clock
from support.portable import vectors

DATA = vectors("enrolment")
PRIVATE = bytes.fromhex(DATA["private"])
CERTIFICATE = bytes.fromhex(DATA["certificate"])
ISSUING = bytes.fromhex(DATA["issuing"])
RUN_OUT = est_codec.parse_certs(DATA["enrolled"]["bad: expired"].encode())[0]
crypto = suite.Crypto(os.urandom)


def ok(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body.encode())


GOOD = [ok(DATA["cacerts"]["good"]), ok(DATA["enrolled"]["good"])]
# the next key is made by Enrolment below, where a renewal wants a new one
NEXT = [GOOD[0], ok(DATA["enrolled"]["next key"])]
NEXT_PRIVATE = bytes.fromhex(DATA["next private"])
# after two thirds of a life from 2026 to 2046, and the longest jitter
DUE = 2215000000


class Server:
    """Answers one after another, over one connection until an answer says close. An answer that
    is an exception is raised; ``piece`` is how many bytes come at a time."""

    def __init__(self, answers, piece=100):
        self.answers = list(answers)
        self.requests = []
        self.opened = 0
        self.closed = 0
        self._piece = piece
        self._left = b""

    async def __call__(self):
        self.opened += 1
        self._left = b""
        return self, self

    def write(self, data):
        self.requests.append(data)

    async def drain(self):
        answer = self.answers.pop(0) if self.answers else b""
        if isinstance(answer, Exception):
            raise answer
        self._left += answer

    async def read(self, count):
        await asyncio.sleep(0)
        count = min(count, self._piece)
        data, self._left = self._left[:count], self._left[count:]
        return data

    def close(self):
        self.closed += 1

    async def wait_closed(self):
        pass


class Device:
    """A folder of a device that has never been started, and what enrolment needs of it."""

    def __init__(self, token=True, pending=PRIVATE):
        self._folder = Folder()
        self._token = token
        self._pending = pending

    def __enter__(self):
        folder = self._folder.__enter__()
        settings = {"name": DATA["name"], "realm": DATA["realm"], "est_port": 8443}
        folder.write("config.json", json.dumps(settings).encode())
        folder.write("root.der", bytes.fromhex(DATA["root"]))
        if self._token:
            folder.write("token", b"one-time\n")
        self.path = folder.path
        self.config = config.load(folder.path)
        self.store = Store(folder.path)
        if self._pending is not None:
            # the answers were made beforehand, for this key
            self.store.set_pending(self._pending)
        self.seen = []
        return self

    def __exit__(self, *what):
        self._folder.__exit__(*what)

    def event(self, event, **fields):
        self.seen.append((event, fields))

    def names(self):
        return self._folder.names()

    def write(self, name, data):
        self._folder.write(name, data)

    def simpleenroll(self, server):
        return enrol.simpleenroll(self.config, self.store, crypto, self.event, server)

    def simplereenroll(self, server, new_key=False):
        return enrol.simplereenroll(
            self.config, self.store, crypto, self.event, new_key, None, server
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
        assert device.store.generation == 3


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


class Enrolment:
    """In place of the module enrol: the real one, with a server of ours behind it."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.used = 0

    def _server(self):
        return Server(self.scripts.pop(0) if self.scripts else [OSError(111)])

    async def simpleenroll(self, *arguments):
        self.used += 1
        await enrol.simpleenroll(*arguments, self._server())

    async def simplereenroll(self, config, store, crypto, event, new_key=False, tls=None):
        self.used += 1
        if new_key and store.identity[2] == PRIVATE:  # the link, asked first, has made one
            store.set_pending(NEXT_PRIVATE)
        await enrol.simplereenroll(config, store, crypto, event, new_key, tls, self._server())


def _agent(device, enrolment, hub):
    events = Events()
    made = Agent(device.path, events, carrier=hub.carrier(DATA["name"]), enrolment=enrolment)
    return made, events


def test_an_agent_enrols_once_and_starts_from_flash_afterwards():
    async def main():
        with Device() as device:
            enrolment = Enrolment(GOOD)
            for _ in range(2):
                agent, events = _agent(device, enrolment, Hub())
                await asyncio.wait_for(agent.start(), 10)
                await agent.stop()
                assert "registered" in events.names()
            assert enrolment.used == 1
            assert device.names() == ["config.json", "identity.0", "identity.1", "root.der"]

    run(main())


def test_an_agent_tries_again_after_trouble_and_not_after_a_refusal():
    async def main():
        from keyferry_agent import identity

        with Device() as device:
            identity.BACKOFF = (0, 0)
            refused = b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n"
            enrolment = Enrolment([OSError(111)], [EOFError()], GOOD)
            agent, events = _agent(device, enrolment, Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            assert events.names().count("enrol-failed") == 2
        with Device() as device:
            agent, events = _agent(device, Enrolment([GOOD[0], refused]), Hub())
            error = await fails(EnrolmentRefused, agent.start())
            assert error.name == "bad-credentials"
            assert events.names()[-1] == "enrol-refused"

    run(main())


def test_no_enrolment_before_the_clock_is_set():
    async def main():
        with Device() as device:
            enrolment = Enrolment(GOOD)
            agent, events = _agent(device, enrolment, Hub())
            for seconds in (0, 946684800, 1793491199):
                set_clock(seconds)
                error = await fails(LocalError, agent.start())
                assert error.name == "clock-wrong"
                assert events.names()[-1] == "clock-not-set"
            assert enrolment.used == 0

    run(main())


def test_an_identity_that_no_longer_holds_is_replaced():
    async def main():
        with Device() as device:
            agent, events = _agent(device, Enrolment(GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            # another name was written into the configuration; there is no token any more
            settings = {"name": "pump-8", "realm": DATA["realm"]}
            device.write("config.json", json.dumps(settings).encode())
            agent, events = _agent(device, Enrolment(GOOD), Hub())
            await fails(ConfigError, agent.start())
            assert events.all("identity-unusable")[0]["error"] == "name-not-allowed"

    run(main())


def test_an_expired_certificate_is_renewed_if_the_manager_lets_us():
    async def main():
        with Device() as device:
            device.store.set_identity(DATA["name"], DATA["realm"], PRIVATE, RUN_OUT, ISSUING)
            enrolment = Enrolment(GOOD)
            agent, events = _agent(device, enrolment, Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            assert "expired" in events.all("identity-unusable")[0]["detail"]
            assert events.all("enrol-start")[0]["by"] == "certificate"
            assert Store(device.path).identity[3] == CERTIFICATE

    run(main())


def test_an_expired_certificate_that_is_refused_leaves_the_first_way_to_enrol():
    async def main():
        refused = b"HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n"
        with Device() as device:
            device.store.set_identity(DATA["name"], DATA["realm"], PRIVATE, RUN_OUT, ISSUING)
            device.store.set_pending(PRIVATE)
            agent, events = _agent(device, Enrolment([GOOD[0], refused], GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            assert events.all("renewal-refused")[0]["error"] == "access-denied"
            assert [event["by"] for event in events.all("enrol-start")] == ["certificate", "token"]
        # and without one, it says so and keeps what it has, should its clock be wrong
        with Device(token=False) as device:
            device.store.set_identity(DATA["name"], DATA["realm"], PRIVATE, CERTIFICATE, ISSUING)
            set_clock(2398377601)
            agent, events = _agent(device, Enrolment([GOOD[0], refused]), Hub())
            # the root has run out by then as well, so nothing is asked
            starting = asyncio.create_task(agent.start())
            while "enrol-failed" not in events.names():
                await asyncio.sleep(0.01)
            starting.cancel()
            await fails(asyncio.CancelledError, starting)
            assert Store(device.path).identity is not None

    run(main())


def test_a_renewal_that_is_due_comes_before_the_link():
    async def main():
        with Device() as device:
            agent, _ = _agent(device, Enrolment(GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            for script, failed in ((NEXT, 0), ([OSError(111)], 1)):
                set_clock(DUE)
                enrolment = Enrolment(script)
                agent, events = _agent(device, enrolment, Hub())
                await asyncio.wait_for(agent.start(), 10)
                await agent.stop()
                assert enrolment.used == 1
                assert len(events.all("renewal-failed")) == failed
                assert len(events.all("enrolled")) == 1 - failed
                names = [name for name in events.names() if name != "key-proved"]
                assert names[-3:] == ["link-up", "registered", "stopped"]
                # the new key came with the new certificate, and was proved by the link
                assert Store(device.path).identity[2] == NEXT_PRIVATE
                assert not Store(device.path).unproved
                assert len(events.all("key-proved")) == 1 - failed

    run(main())


def test_renewal_when_asked():
    async def main():
        with Device() as device:
            hub = Hub()
            enrolment = Enrolment(GOOD, GOOD, [OSError(111)], GOOD)
            agent, events = _agent(device, enrolment, hub)
            await asyncio.wait_for(agent.start(), 10)
            await asyncio.wait_for(agent.renew(), 10)
            error = await fails(LinkError, asyncio.wait_for(agent.renew(), 10))
            assert error.name == "peer-gone"
            # two that ask at the same time get the same answer
            both = [asyncio.create_task(agent.renew()) for _ in range(2)]
            for task in both:
                await asyncio.wait_for(task, 10)
            assert enrolment.used == 4
            while events.names().count("registered") < 4:
                await asyncio.sleep(0.01)
            await agent.stop()
            await fails(LocalError, agent.renew())
            assert events.names().count("enrolled") == 3

    run(main())


def _certified(certificate, issuer=ISSUING):
    return {s.CREDENTIAL: certificate, s.ISSUER: issuer}


def test_renewal_over_the_link():
    async def main():
        with Device() as device:
            hub = Hub()
            enrolment = Enrolment(GOOD)
            agent, events = _agent(device, enrolment, hub)
            await asyncio.wait_for(agent.start(), 10)
            hub.certificates = [_certified(CERTIFICATE)]
            await asyncio.wait_for(agent.renew(), 10)
            request = hub.seen[-1]
            assert (request[s.TYPE], request[s.TO]) == (s.CERTIFY, "manager")
            assert 250 < len(request[s.REQUEST]) < 400
            assert enrolment.used == 1, "that was the first certificate"
            assert events.all("enrol-start")[1]["by"] == "link"
            assert len(events.all("enrolled")) == 2
            # with a new key: the answer is for it, and the old one is in no file any more
            new = bytes.fromhex(DATA["next private"])
            Store(device.path).set_pending(new)
            (following,) = est_codec.parse_certs(DATA["enrolled"]["next key"].encode())
            hub.certificates = [_certified(following)]
            await asyncio.wait_for(agent.renew(new_key=True), 10)
            assert Store(device.path).identity[2:4] == (new, following)
            while events.names().count("registered") < 3:
                await asyncio.sleep(0.01)
            assert hub.opened == 3, "each certificate has a link of its own"
            assert enrolment.used == 1
            await agent.stop()

    run(main())


def test_what_the_manager_refuses_over_the_link_ends_nothing():
    async def main():
        with Device() as device:
            hub = Hub()
            enrolment = Enrolment(GOOD)
            agent, events = _agent(device, enrolment, hub)
            await asyncio.wait_for(agent.start(), 10)
            for name in ("revoked", "too-many", "internal"):
                hub.refuse[s.CERTIFY] = name
                error = await fails(RemoteError, asyncio.wait_for(agent.renew(), 10))
                assert error.name == name
                assert events.all("renewal-failed")[-1]["error"] == name
            assert (await agent.resolve("pump-8"))["online"] is False, "the link stands"
            assert (hub.opened, enrolment.used) == (1, 1)
            assert device.store.damaged == 0
            await agent.stop()

    run(main())


def test_est_is_asked_where_the_link_does_not_do():
    """An answer that does not hold, one that cannot be, and a link that ends meanwhile."""

    async def main():
        with Device() as device:
            hub = Hub()
            enrolment = Enrolment(GOOD, GOOD, GOOD, GOOD, GOOD, GOOD)
            agent, events = _agent(device, enrolment, hub)
            await asyncio.wait_for(agent.start(), 10)
            (other,) = est_codec.parse_certs(DATA["enrolled"]["next key"].encode())
            wrong = [
                _certified(other),  # for another key than ours
                _certified(RUN_OUT),
                _certified(CERTIFICATE, bytes.fromhex(DATA["root"])[:-1] + b"x"),
                {s.CREDENTIAL: CERTIFICATE},  # without its issuer
            ]
            for number, answer in enumerate(wrong):
                hub.certificates = [answer]
                await asyncio.wait_for(agent.renew(), 10)
                assert enrolment.used == number + 2
                assert len(events.all("certify-failed")) == number + 1
                while events.names().count("registered") < number + 2:
                    await asyncio.sleep(0.01)
            hub.meddle = lambda message: (
                hub.cut(DATA["name"]) if message[s.TYPE] == s.CERTIFY else message
            )
            await asyncio.wait_for(agent.renew(), 10)
            assert enrolment.used == 6
            assert Store(device.path).identity[3] == CERTIFICATE
            await agent.stop()

    run(main())


def test_a_certificate_is_renewed_in_time_and_the_link_made_anew():
    async def main():
        from keyferry_agent import agent as agent_module

        agent_module.TICK = 0.05
        with Device() as device:
            hub = Hub()
            enrolment = Enrolment(GOOD, NEXT, [OSError(111)])
            agent, events = _agent(device, enrolment, hub)
            await asyncio.wait_for(agent.start(), 10)
            await asyncio.sleep(0.3)
            assert enrolment.used == 1
            set_clock(DUE)
            while hub.opened < 2:
                await asyncio.sleep(0.01)
            assert enrolment.used == 2
            assert events.all("link-down")[0]["retry_ms"] == 0
            while events.names().count("registered") < 2:
                await asyncio.sleep(0.01)
            # the server had the same certificate again, so it tries again, after an hour
            await asyncio.sleep(0.3)
            assert enrolment.used == 2
            for number in (3, 4):
                set_clock(DUE + 3601 * (number - 2))
                while len(events.all("renewal-failed")) < number - 2:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.3)
                assert enrolment.used == number
            while events.names().count("registered") < 4:
                await asyncio.sleep(0.01)
            await agent.stop()

    run(main())


def test_a_renewed_key_that_opens_no_link_is_given_up_for_the_one_before_it():
    async def main():
        with Device() as device:
            hub = Hub()
            agent, events = _agent(device, Enrolment(GOOD, NEXT), hub)
            await asyncio.wait_for(agent.start(), 10)
            hub.connack = 5  # from now on the manager refuses
            task = asyncio.create_task(agent.renew(True))
            while not events.all("key-given-up"):
                await asyncio.sleep(0.01)
            hub.connack = 0
            while events.names().count("registered") < 2:
                await asyncio.sleep(0.01)
            await asyncio.wait_for(task, 10)
            await agent.stop()
            store = Store(device.path)
            assert (store.identity[2], store.unproved) == (PRIVATE, False)

    run(main())


def test_a_factory_reset_erases_the_keys_and_nothing_else():
    async def main():
        with Device() as device:
            agent, events = _agent(device, Enrolment(GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            assert Store(device.path).identity is not None
            await asyncio.wait_for(agent.factory_reset(), 10)
            assert events.names()[-2:] == ["stopped", "factory-reset"]
            assert device.names() == ["config.json", "root.der"]
            # with another token it enrols again
            device.write("token", b"another\n")
            Store(device.path).set_pending(PRIVATE)
            agent, _ = _agent(device, Enrolment(GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            # and the same by a file
            device.write("factory-reset", b"")
            device.write("token", b"a third\n")
            enrolment = Enrolment([GOOD[0], b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n"])
            agent, events = _agent(device, enrolment, Hub())
            await fails(EnrolmentRefused, agent.start())
            assert events.names()[0] == "factory-reset"
            assert "key-made" in events.names()
            assert "factory-reset" not in device.names()
            store = Store(device.path)
            assert store.identity is None
            assert store.pending not in (None, PRIVATE)

    run(main())
