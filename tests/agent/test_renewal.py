# heap: 1m
"""An agent on its way to an identity, and from one certificate to the next."""

import asyncio
import json

from keyferry_agent.config import ConfigError
from keyferry_agent.errors import EnrolmentRefused, LinkError
from keyferry_agent.store import Store
from keyferry_core import est_codec
from keyferry_core import signalling as s
from keyferry_core.errors import (
    LocalError,
    RemoteError,
)
from support.agent_kit import Hub, fails, run, set_clock
from support.enrol_kit import (
    CERTIFICATE,
    DATA,
    DUE,
    GOOD,
    ISSUING,
    NEXT,
    NEXT_PRIVATE,
    PRIVATE,
    RUN_OUT,
    Device,
    Enrolment,
    agent_of,
)


def test_an_agent_enrols_once_and_starts_from_flash_afterwards():
    async def main():
        with Device() as device:
            enrolment = Enrolment(GOOD)
            for _ in range(2):
                agent, events = agent_of(device, enrolment, Hub())
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
            agent, events = agent_of(device, enrolment, Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            assert events.names().count("enrol-failed") == 2
        with Device() as device:
            agent, events = agent_of(device, Enrolment([GOOD[0], refused]), Hub())
            error = await fails(EnrolmentRefused, agent.start())
            assert error.name == "bad-credentials"
            assert events.names()[-2:] == ["enrol-refused", "start-failed"]

    run(main())


def test_no_enrolment_before_the_clock_is_set():
    async def main():
        with Device() as device:
            enrolment = Enrolment(GOOD)
            agent, events = agent_of(device, enrolment, Hub())
            for seconds in (0, 946684800, 1793491199):
                set_clock(seconds)
                error = await fails(LocalError, agent.start())
                assert error.name == "clock-wrong"
                assert events.names()[-2:] == ["clock-not-set", "start-failed"]
            assert enrolment.used == 0

    run(main())


def test_an_identity_that_no_longer_holds_is_replaced():
    async def main():
        with Device() as device:
            agent, events = agent_of(device, Enrolment(GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            # another name was written into the configuration; there is no token any more
            settings = {"name": "pump-8", "realm": DATA["realm"]}
            device.write("config.json", json.dumps(settings).encode())
            agent, events = agent_of(device, Enrolment(GOOD), Hub())
            await fails(ConfigError, agent.start())
            assert events.all("identity-unusable")[0]["error"] == "name-not-allowed"

    run(main())


def test_an_expired_certificate_is_renewed_if_the_manager_lets_us():
    async def main():
        with Device() as device:
            device.store.set_identity(DATA["name"], DATA["realm"], PRIVATE, RUN_OUT, ISSUING)
            enrolment = Enrolment(GOOD)
            agent, events = agent_of(device, enrolment, Hub())
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
            agent, events = agent_of(device, Enrolment([GOOD[0], refused], GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            assert events.all("renewal-refused")[0]["error"] == "access-denied"
            assert [event["by"] for event in events.all("enrol-start")] == ["certificate", "token"]
        # and without one, it says so and keeps what it has, should its clock be wrong
        with Device(token=False) as device:
            device.store.set_identity(DATA["name"], DATA["realm"], PRIVATE, CERTIFICATE, ISSUING)
            set_clock(2398377601)
            agent, events = agent_of(device, Enrolment([GOOD[0], refused]), Hub())
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
            agent, _ = agent_of(device, Enrolment(GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            for script, failed in ((NEXT, 0), ([OSError(111)], 1)):
                set_clock(DUE)
                enrolment = Enrolment(script)
                agent, events = agent_of(device, enrolment, Hub())
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
            agent, events = agent_of(device, enrolment, hub)
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
            agent, events = agent_of(device, enrolment, hub)
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
            agent, events = agent_of(device, enrolment, hub)
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
            agent, events = agent_of(device, enrolment, hub)
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
            agent, events = agent_of(device, enrolment, hub)
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
            agent, events = agent_of(device, Enrolment(GOOD, NEXT), hub)
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
            agent, events = agent_of(device, Enrolment(GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            assert Store(device.path).identity is not None
            await asyncio.wait_for(agent.factory_reset(), 10)
            assert events.names()[-2:] == ["stopped", "factory-reset"]
            assert device.names() == ["config.json", "root.der"]
            # with another token it enrols again
            device.write("token", b"another\n")
            Store(device.path).set_pending(PRIVATE)
            agent, _ = agent_of(device, Enrolment(GOOD), Hub())
            await asyncio.wait_for(agent.start(), 10)
            await agent.stop()
            # and the same by a file
            device.write("factory-reset", b"")
            device.write("token", b"a third\n")
            enrolment = Enrolment([GOOD[0], b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n"])
            agent, events = agent_of(device, enrolment, Hub())
            await fails(EnrolmentRefused, agent.start())
            assert events.names()[0] == "factory-reset"
            assert "key-made" in events.names()
            assert "factory-reset" not in device.names()
            store = Store(device.path)
            assert store.identity is None
            assert store.pending not in (None, PRIVATE)

    run(main())
