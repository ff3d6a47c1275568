"""A certificate over the link: what EST's simplereenroll decides, asked for in signalling."""

import asyncio
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from keyferry_core import signalling as sig
from keyferry_core.errors import RemoteError, name_of
from keyferry_manager.authority import certificate_key, serial_text
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.certifier import Certifier
from keyferry_manager.enrolment import Refused
from keyferry_manager.problems import AuthorityUnavailable
from support.est_client import EstClient, csr, new_key, spoiled
from support.manager_kit import Credentials, Home, PahoDevice, Running, until
from support.pem_keys import key_of
from support.relay_kit import World


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", failures_per_minute=1000)


def joined(running: Running, credentials: Credentials, name: str = "pump-7") -> PahoDevice:
    device = PahoDevice(running, name, credentials)
    assert not device.connect().is_failure
    device.register()
    return device


def certify(device: PahoDevice, der: bytes) -> dict:
    sent = device.send({sig.TYPE: sig.CERTIFY, sig.REQUEST: der})
    answer = device.receive()
    assert answer[sig.ID] == sent[sig.ID]
    return answer


def refused(answer: dict, error: str) -> str:
    assert answer[sig.TYPE] == sig.ERROR, answer
    assert name_of(answer[sig.ERROR_CODE]) == error, answer
    return answer[sig.TEXT]


def leaf(answer: dict) -> x509.Certificate:
    assert answer[sig.TYPE] == sig.CERTIFIED, answer
    return x509.load_der_x509_certificate(answer[sig.CREDENTIAL])


def test_a_device_gets_a_certificate_over_its_link(running: Running):
    home = running.home
    credentials = home.device("pump-7")
    new = new_key()
    with joined(running, credentials) as pump:
        for key in (key_of(credentials), new):
            answer = certify(pump, csr(key, "pump-7"))
            certificate = leaf(answer)
            issuer = x509.load_der_x509_certificate(answer[sig.ISSUER])
            assert issuer == home.authority.issuing
            certificate.verify_directly_issued_by(issuer)
            assert certificate.public_key() == key.public_key()
            found = home.authority.identify(answer[sig.CREDENTIAL])
            assert (found.kind, found.name) == ("device", "pump-7")
            row = home.store(lambda store: store.certificates("pump-7"))[0]
            assert (row.serial, row.admission) == (serial_text(certificate), "renewal")
            assert home.audit("enrolled", serial=row.serial)[0].name == "pump-7"
        assert pump.register()[sig.TYPE] == sig.REGISTERED, "the link is none the worse"
        refused(certify(pump, csr(name="pump-8")), "name-not-allowed")
        wanted = {("certify", "200"): 2, ("certify", "403"): 1}
        until(lambda: running.look(lambda m: dict(m.measures.enrolments)) == wanted)
    with running.raw(home.saved(new, certificate)) as link:
        assert link.connect("pump-7") == 0


def test_what_est_refuses_is_refused_here_with_the_same_name(running: Running):
    home = running.home
    other, credentials = home.device("pump-8"), home.device("pump-7")
    key = key_of(credentials)
    cases = {
        "name-not-allowed": csr(key, "pump-8"),
        "key-not-allowed": csr(key_of(other), "pump-7"),
        "bad-signature": spoiled(csr(key, "pump-7")),
        "malformed": b"no request",
    }
    est = EstClient(home, running.manager.est_port, credentials)
    with joined(running, credentials) as pump:
        for error, der in cases.items():
            text = refused(certify(pump, der), error)
            given = est.enroll(der, again=True)
            assert given.error == error
            assert given.body.decode() == f"{error}: {text}\n", "the same sentence on both ways"
            # The batch of one may have been written, and that of the other not yet.
            until(lambda: len(home.audit("enrolment-refused", error=error)) == 2)  # noqa: B023
            entries = home.audit("enrolment-refused", error=error)
            assert [entry.fields["operation"] for entry in entries] == ["certify", "simplereenroll"]
            assert {(entry.name, entry.outcome) for entry in entries} == {("pump-7", "refused")}
            assert len({entry.detail for entry in entries}) == 1
        assert len(home.store(lambda store: store.certificates("pump-7"))) == 1
        p384 = csr(ec.generate_private_key(ec.SECP384R1()), "pump-7")
        assert "P-256" in refused(certify(pump, p384), "key-not-allowed")


def test_a_revoked_key_gets_no_certificate(running: Running):
    home = running.home
    old, credentials = home.device("pump-7"), home.device("pump-7")
    serial = serial_text(x509.load_der_x509_certificate(old.der))
    home.store(lambda store: store.life.revoke("keyCompromise", serial=serial))
    with joined(running, credentials) as pump:
        assert "ask the operator" in refused(certify(pump, csr(key_of(old))), "revoked")
        assert home.audit("enrolment-refused", error="revoked", operation="certify")


def test_a_revoked_certificate_renews_nothing(running: Running):
    """A link that is revoked ends, but a request may have come just before."""
    home = running.home
    credentials = home.device("pump-7")
    peer = ChannelPeer("127.0.0.1:1", credentials.der)
    home.store(lambda store: store.life.revoke("superseded", device="pump-7"))
    with pytest.raises(Refused) as caught:
        running.wait(running.manager._issuing.renew(peer, csr(key_of(credentials))))
    assert caught.value.name == "revoked"
    assert home.audit("enrolment-refused", error="revoked", operation="certify")


def test_too_many_certificates_and_too_many_failures(tmp_path: Path):
    home = Home(tmp_path / "home", enrolments_per_hour=3, failures_per_minute=4)
    with home.running() as running:
        credentials = home.device("pump-7")  # the first of the three
        with joined(running, credentials) as pump:
            for _ in range(2):
                leaf(certify(pump, csr(name="pump-7")))
            for _ in range(2):
                refused(certify(pump, csr()), "too-many")
            many = ("enrolment-refused", "3 certificates")
            until(lambda: len(home.audit(*many, error="too-many")) == 2)
            for _ in range(2):
                refused(certify(pump, b"rubbish"), "malformed")
            # Four failures: nothing is looked at any more, nor written down.
            assert "try again in" in refused(certify(pump, csr()), "too-many")
            assert len(home.audit("enrolment-refused")) <= 4
            # What has nothing to do with certificates goes on.
            assert pump.register()[sig.TYPE] == sig.REGISTERED


def test_the_hook_and_the_queue_are_for_first_certificates_on_both_ways(tmp_path: Path):
    """A renewal is asked of neither: the device was let in once. Revoking is how to say no."""
    home = Home(tmp_path / "home", admission="approve", hook=("/bin/false",))
    with home.running() as running:
        credentials = home.device("pump-7")
        est = EstClient(home, running.manager.est_port, credentials)
        assert est.enroll(csr(name="pump-7"), again=True).certificates
        with joined(running, credentials) as pump:
            leaf(certify(pump, csr(name="pump-7")))
        assert home.store(lambda store: store.approvals.all()) == []


def test_it_takes_a_registration_and_ones_own_name(running: Running):
    home = running.home
    credentials = home.device("pump-7")
    pump = PahoDevice(running, "pump-7", credentials)
    with pump:
        pump.connect()
        refused(certify(pump, csr()), "not-registered")
        pump.register()
        pump.send({sig.TYPE: sig.CERTIFY, sig.FROM: "pump-8", sig.REQUEST: csr()})
        pump.refusal("identity-mismatch")
        assert home.audit("identity-mismatch", type="certify")
        pump.send({sig.TYPE: sig.CERTIFY, sig.REQUEST: bytes(2049)})
        pump.refusal("malformed")


def test_an_authority_that_is_away_and_a_fault_are_said_and_written_down(
    running: Running, monkeypatch: pytest.MonkeyPatch
):
    home = running.home
    authority = running.manager._authority
    problems = [AuthorityUnavailable("the CA does not answer"), RuntimeError("secret inside")]

    async def certify_not(*_: object, **__: object) -> x509.Certificate:
        raise problems.pop(0)

    with joined(running, home.device("pump-7")) as pump:
        monkeypatch.setattr(authority, "certify", certify_not)
        assert "try again" in refused(certify(pump, csr()), "internal")
        assert home.audit("enrolment-failed", "does not answer", operation="certify")
        assert "secret" not in refused(certify(pump, csr()), "internal")
        assert home.audit("enrolment-refused", error="internal", operation="certify")
        monkeypatch.undo()
        leaf(certify(pump, csr()))


def test_the_relay_goes_on_while_a_certificate_is_made(
    running: Running, monkeypatch: pytest.MonkeyPatch
):
    """One request at a time for each device; others, and their messages, do not wait for it."""
    home = running.home
    home.allow("pump-7", "valve-2")
    until(lambda: running.look(lambda manager: manager.relay.rules.allows("pump-7", "valve-2")))
    authority = running.manager._authority
    certify_now, go_on = authority.certify, asyncio.Event()

    async def slowly(*arguments: object, **more: object) -> x509.Certificate:
        await go_on.wait()
        return await certify_now(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(authority, "certify", slowly)
    with joined(running, home.device("pump-7")) as pump, running.device("valve-2") as valve:
        asked = pump.send({sig.TYPE: sig.CERTIFY, sig.REQUEST: csr(name="pump-7")})
        until(lambda: running.look(lambda manager: len(manager._certifier)) == 1)
        second = pump.send({sig.TYPE: sig.CERTIFY, sig.REQUEST: csr(name="pump-7")})
        answer = pump.refusal("too-many")
        assert answer[sig.ID] == second[sig.ID]
        pump.send({sig.TYPE: sig.SEND, sig.TO: "valve-2", sig.ID: 900, sig.DATA: b"meanwhile"})
        assert valve.receive(sig.SEND)[sig.DATA] == b"meanwhile"
        # A manager that drains waits for what it has begun.
        assert running.look(lambda manager: manager._unsent()) >= 1
        running.loop.call_soon_threadsafe(go_on.set)
        answer = pump.receive(sig.CERTIFIED)
        assert answer[sig.ID] == asked[sig.ID]
        until(lambda: running.look(lambda manager: len(manager._certifier)) == 0)


def test_a_manager_that_stops_leaves_nothing_behind(home: Home, monkeypatch: pytest.MonkeyPatch):
    with home.running() as running:
        started = threading.Event()

        async def never(*_: object, **__: object) -> x509.Certificate:
            started.set()
            await asyncio.sleep(3600)
            raise AssertionError

        monkeypatch.setattr(running.manager._authority, "certify", never)
        pump = joined(running, home.device("pump-7"))
        pump.send({sig.TYPE: sig.CERTIFY, sig.REQUEST: csr(name="pump-7")})
        assert started.wait(20)
        began = time.monotonic()
    assert time.monotonic() - began < 20
    pump.close()


def test_bounds_of_the_certifier():
    """Requests in all are bounded; each that was begun gets its answer on its own link."""

    async def main() -> None:
        world = World()
        waiting: list[asyncio.Future[x509.Certificate]] = []

        async def renew(_peer: object, _der: bytes) -> x509.Certificate:
            waiting.append(asyncio.get_running_loop().create_future())
            return await waiting[-1]

        certifier = Certifier(world.relay, renew, list)
        world.relay.certify = certifier.begin
        names = [f"device-{number}" for number in range(65)]
        world.relay.set_rules(world.relay.rules, names)
        links = [world.join(name) for name in names]
        for link in links:
            world.send(link, {sig.TYPE: sig.CERTIFY, sig.REQUEST: b"request"})
        assert links[64].error() == "too-many"
        assert len(certifier) == 64
        await asyncio.sleep(0)
        assert all(link.raw == [] for link in links)
        waiting[0].set_exception(Refused("revoked", "for the log", "ask the operator"))
        waiting[1].set_exception(RemoteError("malformed"))
        while len(certifier) > 62:
            await asyncio.sleep(0)
        message = links[0].take()
        assert name_of(message[sig.ERROR_CODE]) == "revoked"
        assert message[sig.TEXT].endswith("(ask the operator)")
        assert message[sig.ID] == 7
        assert links[1].error() == "internal", "what nobody foresaw says nothing"
        world.send(links[64], {sig.TYPE: sig.CERTIFY, sig.REQUEST: b"request"})
        assert len(certifier) == 63
        await certifier.stop()
        assert len(certifier) == 0

    asyncio.run(main())


def test_a_manager_without_certificates_says_so():
    world = World()
    world.send(world.pump, {sig.TYPE: sig.CERTIFY, sig.REQUEST: b"request"})
    assert world.pump.error() == "unsupported"
    assert "unsupported" in world.events()


def test_the_key_of_a_new_certificate_is_the_one_asked_for(running: Running):
    credentials = running.home.device("pump-7")
    key = new_key()
    with joined(running, credentials) as pump:
        certificate = leaf(certify(pump, csr(key)))
    (row, _) = running.home.store(lambda store: store.certificates("pump-7"))
    assert row.key == certificate_key(certificate)
    assert row.der == certificate.public_bytes(Encoding.DER)
