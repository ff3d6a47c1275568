# heap: 1m
"""A realm goes from one root to the next: what a device holds, believes, states and refuses."""

import asyncio
import json
import os

from agent.test_enrol import Server, ok
from keyferry_agent import agent as agent_module
from keyferry_agent import config, enrol
from keyferry_agent.agent import Agent
from keyferry_agent.store import Store, StoreError, pack_held
from keyferry_core import anchors, est_codec, suite
from keyferry_core import signalling as s
from keyferry_core.errors import AuthenticationError
from keyferry_core.trust import Trust
from support.agent_kit import NOW, Events, Folder, Hub, fails, run, until
from support.portable import raises, vectors

DATA = vectors("rollover")
OLD_ROOT, OLD, NEW_ROOT, NEW = [
    bytes.fromhex(DATA[label]) for label in ("old root", "old issuing", "new root", "new issuing")
]
BEFORE, BOTH, AFTER = [
    est_codec.parse_certs(DATA["cacerts"][label].encode()) for label in ("before", "both", "after")
]
crypto = suite.Crypto(os.urandom)


def device(label, generation):
    made = DATA["devices"][label]
    return bytes.fromhex(made["private"]), bytes.fromhex(made[generation])


def raws(found):
    return [[certificate.raw for certificate in part] for part in found]


class Board:
    """A device's folder: under the old CA, with what it fetched last, and told by Hub or Server."""

    def __init__(self, label="pump-7", generation="old", held=BEFORE):
        self.label = label
        self.folder = Folder()
        self.folder.__enter__()
        self.path = self.folder.path
        settings = {"name": label, "realm": DATA["realm"], "send_certificates": 1}
        self.folder.write("config.json", json.dumps(settings).encode())
        self.folder.write("root.der", OLD_ROOT)
        private, certificate = device(label, generation)
        issuer = OLD if generation == "old" else NEW
        value = b""
        if held is not None:
            roots = [OLD_ROOT] if generation == "old" or held == BOTH else []
            value = held_value(crypto, roots or [NEW_ROOT], held)
        Store(self.path).set_identity(label, DATA["realm"], private, certificate, issuer, value)
        self.seen = []
        self.events = Events()

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.folder.__exit__(*what)

    def event(self, event, **fields):
        self.seen.append((event, fields))

    @property
    def store(self):
        return Store(self.path)

    def follow(self, server, wanted):
        loaded = config.load(self.path)
        return enrol.simplereenroll(
            loaded, self.store, crypto, self.event, False, None, server, wanted
        )

    def agent(self, hub, enrolment=None):
        carrier = hub.carrier(self.label)
        return Agent(self.path, self.events, carrier=carrier, enrolment=enrolment)


def held_value(crypto, roots, found):
    kept = raws(anchors.accept(crypto, roots, found, NOW))
    return pack_held(OLD_ROOT, anchors.group(found), *kept)


def test_a_root_is_believed_that_the_one_we_hold_certified():
    roots, issuers = raws(anchors.accept(crypto, [OLD_ROOT], BOTH, NOW))
    assert roots == [OLD_ROOT, NEW_ROOT]
    assert sorted(issuers) == sorted([OLD, NEW])
    # from the oldest to the newest, in whatever order they come
    again, _ = raws(anchors.accept(crypto, roots, list(reversed(BOTH)), NOW, OLD))
    assert again == roots
    assert raws(anchors.accept(crypto, [OLD_ROOT], BEFORE, NOW)) == [[OLD_ROOT], [OLD]]
    # who slept through it all gets there as well
    assert raws(anchors.accept(crypto, [OLD_ROOT], AFTER, NOW)) == [[NEW_ROOT], [NEW]]
    # and what is withdrawn is dropped
    assert raws(anchors.accept(crypto, roots, AFTER, NOW, NEW)) == [[NEW_ROOT], [NEW]]


def test_a_root_that_nobody_introduced_is_not_believed():
    for label, text in DATA["not introduced"].items():
        found = est_codec.parse_certs(text.encode())
        assert raws(anchors.accept(crypto, [OLD_ROOT], found, NOW)) == [[OLD_ROOT], [OLD]], label
    for label, text in DATA["refused"].items():
        found = est_codec.parse_certs(text.encode())
        error = raises(AuthenticationError, anchors.accept, crypto, [OLD_ROOT], found, NOW)
        assert "no issuing CA under our root" in error.detail, label


def test_a_root_that_was_replaced_does_not_come_back():
    held = [OLD_ROOT, NEW_ROOT]
    # before the switch the operator may take it all back
    assert raws(anchors.accept(crypto, held, BEFORE, NOW, OLD)) == [[OLD_ROOT], [OLD]]
    # after it only who has the old key would
    error = raises(AuthenticationError, anchors.accept, crypto, held, BEFORE, NOW, NEW)
    assert "the root over our certificate is missing" in error.detail
    raises(AuthenticationError, anchors.accept, crypto, [NEW_ROOT], BEFORE, NOW, NEW)


def test_roots_and_what_they_introduce_have_their_dates():
    late = 2398377601
    error = raises(AuthenticationError, anchors.accept, crypto, [OLD_ROOT], BOTH, late)
    assert "expired" in error.detail


def test_what_is_stated_depends_on_all_of_it_and_on_no_order():
    assert anchors.group(BOTH) == anchors.group(sorted(BOTH))
    groups = [anchors.group(found) for found in (BEFORE, BOTH, AFTER)]
    stated = [anchors.statement(issuer, group) for issuer in (OLD, NEW) for group in groups]
    for position, one in enumerate(stated):
        assert len(one) == s.ANCHORS_LENGTH
        assert one not in stated[:position]


def test_the_store_keeps_both_and_forgets_them_under_another_root():
    with Board() as board:
        assert board.store.held(OLD_ROOT) == (anchors.group(BEFORE), [OLD_ROOT], [])
        store = board.store
        store.set_held(held_value(crypto, [OLD_ROOT], BOTH))
        group, roots, issuers = board.store.held(OLD_ROOT)
        assert (group, roots) == (anchors.group(BOTH), [OLD_ROOT, NEW_ROOT])
        assert sorted(issuers) == sorted([OLD, NEW])
        assert board.store.identity[4] == OLD
        # a new certificate does not change it
        private, certificate = device("pump-7", "new")
        board.store.set_identity("pump-7", DATA["realm"], private, certificate, NEW)
        assert board.store.held(OLD_ROOT)[1] == [OLD_ROOT, NEW_ROOT]
        # a board that is provisioned anew believes what it was given
        assert board.store.held(NEW_ROOT) == (b"", [NEW_ROOT], [])
        raises(StoreError, board.store.set_held, b"short")


def test_a_device_learns_of_a_new_root_and_keeps_its_certificate():
    with Board() as board:
        before = board.store.identity
        server = Server([ok(DATA["cacerts"]["both"])])
        run(board.follow(server, anchors.statement(OLD, anchors.group(BOTH))))
        assert len(server.requests) == 1
        assert board.store.identity == before
        assert board.store.held(OLD_ROOT)[1] == [OLD_ROOT, NEW_ROOT]
        assert board.seen[-1] == ("authorities", {"roots": 2, "issuers": 2})


def test_a_device_renews_when_another_ca_signs():
    for held, cacerts in ((BEFORE, "both"), (BOTH, "both"), (BEFORE, "after")):
        with Board(held=held) as board:
            found = est_codec.parse_certs(DATA["cacerts"][cacerts].encode())
            server = Server([ok(DATA["cacerts"][cacerts]), ok(DATA["enrolled"]["pump-7"])])
            run(board.follow(server, anchors.statement(NEW, anchors.group(found))))
            assert board.store.identity[3:] == (device("pump-7", "new")[1], NEW)
            assert NEW_ROOT in board.store.held(OLD_ROOT)[1]
            assert (OLD_ROOT in board.store.held(OLD_ROOT)[1]) == (cacerts == "both")


def test_what_was_not_introduced_changes_nothing():
    wanted = b"whatever"
    for group in ("not introduced", "refused"):
        for label, text in DATA[group].items():
            with Board() as board:
                before = board.store.identity
                server = Server([ok(text)])
                if group == "refused":
                    run(fails(AuthenticationError, board.follow(server, wanted)))
                    assert board.store.held(OLD_ROOT)[0] == anchors.group(BEFORE), label
                else:
                    run(board.follow(server, wanted))
                assert len(server.requests) == 1
                assert board.store.identity == before, label
                assert board.store.held(OLD_ROOT)[1:] == ([OLD_ROOT], []), label


class Enrolment:
    """EST from a script, for an agent; ``asked`` holds what was wanted each time."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.asked = []

    async def simplereenroll(
        self, config, store, crypto, event, new_key=False, tls=None, opener=None, wanted=b""
    ):
        self.asked.append(wanted)
        server = Server(self.scripts.pop(0) if self.scripts else [OSError(111)])
        await enrol.simplereenroll(config, store, crypto, event, new_key, tls, server, wanted)


def stated(hub):
    return [message[s.ANCHORS] for message in hub.seen if message[s.TYPE] == s.REGISTER]


def quick():
    agent_module.TICK = 0.05
    agent_module.FOLLOW_WITHIN = 0


def test_an_agent_follows_by_est_and_then_over_the_link():
    async def main():
        quick()
        with Board() as board:
            hub = Hub()
            hub.anchors = started = anchors.statement(OLD, anchors.group(BOTH))
            enrolment = Enrolment([ok(DATA["cacerts"]["both"])])
            agent = board.agent(hub, enrolment)
            await asyncio.wait_for(agent.start(), 10)
            await until(lambda: len(stated(hub)) == 2)
            assert stated(hub) == [anchors.statement(OLD, anchors.group(BEFORE)), started]
            assert enrolment.asked == [started]
            # the new CA signs: it is known already, so that a renewal over the link does
            hub.anchors = switched = anchors.statement(NEW, anchors.group(BOTH))
            answer = {s.CREDENTIAL: device("pump-7", "new")[1], s.ISSUER: NEW}
            hub.certificates.append(answer)
            await agent._register()
            await until(lambda: stated(hub)[-1] == switched)
            assert len(enrolment.asked) == 1
            assert board.store.identity[4] == NEW
            assert board.events.all("enrol-start")[-1]["by"] == "link"
            # and the old one is withdrawn
            hub.anchors = finished = anchors.statement(NEW, anchors.group(AFTER))
            enrolment.scripts.append([ok(DATA["cacerts"]["after"])])
            await agent._register()
            await until(lambda: stated(hub)[-1] == finished)
            assert board.store.held(OLD_ROOT)[1:] == ([NEW_ROOT], [NEW])
            assert len(board.events.all("enrolled")) == 1
            await agent.stop()

    run(main())


def test_an_agent_of_a_version_before_asks_once():
    async def main():
        quick()
        with Board(held=None) as board:
            hub = Hub()
            hub.anchors = anchors.statement(OLD, anchors.group(BEFORE))
            enrolment = Enrolment([ok(DATA["cacerts"]["before"])])
            agent = board.agent(hub, enrolment)
            await asyncio.wait_for(agent.start(), 10)
            await until(lambda: len(stated(hub)) == 2)
            assert stated(hub) == [bytes(8), hub.anchors]
            await agent.stop()

    run(main())


def test_an_agent_that_cannot_follow_stays_as_it_is_and_tries_again_later():
    async def main():
        quick()
        agent_module.FOLLOW_AGAIN = 600
        with Board() as board:
            hub = Hub()
            hub.anchors = anchors.statement(NEW, anchors.group(BOTH))
            enrolment = Enrolment([ok(DATA["refused"]["the new pair alone"])])
            agent = board.agent(hub, enrolment)
            before = board.store.identity
            await asyncio.wait_for(agent.start(), 10)
            await until(lambda: len(stated(hub)) == 2)
            assert board.events.all("renewal-failed")[0]["error"] == "authentication-failed"
            assert board.store.identity == before
            assert stated(hub)[0] == stated(hub)[1]
            await asyncio.sleep(0.2)
            assert len(enrolment.asked) == 1
            await agent.stop()

    run(main())


def test_peers_of_two_generations_are_believed_by_who_holds_both():
    both = Trust(crypto, DATA["realm"], OLD, NEW)
    for trust, generations in (
        (both, ("old", "new")),
        (Trust(crypto, DATA["realm"], NEW, OLD), ("old", "new")),
        (Trust(crypto, DATA["realm"], OLD), ("old",)),
        (Trust(crypto, DATA["realm"], NEW), ("new",)),
    ):
        for generation in ("old", "new"):
            _, certificate = device("pump-7", generation)
            if generation in generations:
                assert trust.check(certificate, NOW)[0] == "pump-7"
            else:
                error = raises(AuthenticationError, trust.check, certificate, NOW)
                assert "another issuer" in error.detail
    # each CA has its own dates
    both._issuers[0].not_after = NOW - 1
    raises(AuthenticationError, both.check, device("gauge-2", "old")[1], NOW)
    assert both.check(device("gauge-2", "new")[1], NOW)[0] == "gauge-2"


def test_devices_of_two_generations_meet():
    async def main():
        with Board("pump-7", "old", BOTH) as a, Board("gauge-2", "new", BOTH) as b:
            hub = Hub()
            hub.deliver_certificates = False
            one, other = a.agent(hub), b.agent(hub)
            for agent in (one, other):
                await asyncio.wait_for(agent.start(), 10)
            for caller, called in ((one, b), (other, a)):
                session = await caller.connect(called.label, 10)
                theirs = other if called is b else one
                accepted = await asyncio.wait_for(theirs.incoming().__anext__(), 10)
                assert session.fingerprint == accepted.fingerprint
                await session.close()
            for agent in (one, other):
                await agent.stop()

    run(main())
