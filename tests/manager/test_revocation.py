"""Revocation: what it ends, what it refuses, and that what is not revoked does not notice."""

import asyncio
import json
import ssl
import threading
import time
from pathlib import Path

import pytest
from click.testing import Result
from cryptography import x509
from typer.testing import CliRunner

from keyferry_core import mqtt_codec
from keyferry_core import signalling as sig
from keyferry_core.errors import code_of
from keyferry_manager.authority import certificate_key, fingerprint, record, serial_text
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.cli import app
from keyferry_manager.identity import Identifier, IdentityRefused, RevokedSet
from keyferry_manager.problems import StoreProblem
from keyferry_manager.store import FactoryIdentity, Revoked
from keyferry_manager.store.records import Certificate
from support.est_client import EstClient, csr, new_key
from support.manager_kit import Credentials, Home, PahoDevice, Running
from support.pem_keys import key_of

# What a reload asks the store, in its order.
READS = (
    "devices",
    "removed_names",
    "rules",
    "policies.get",
    "presences.endorsements",
    "life.open_revocations",
    "life.all_revoked",
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home", failures_per_minute=1000)
    home.allow("pump-7", "valve-2")
    return home


def keyferry(home: Home, *arguments: str, code: int = 0) -> Result:
    environment = {"KEYFERRY_HOME": str(home.folder), "COLUMNS": "200"}
    result = CliRunner().invoke(app, list(arguments), env=environment)
    assert result.exit_code == code, result.output
    return result


def est(running: Running, credentials: Credentials | None = None) -> EstClient:
    return EstClient(running.home, running.manager.est_port, credentials)


def established(pump: PahoDevice, valve: PahoDevice) -> bytes:
    session = pump.offer("valve-2")
    valve.accept(valve.receive(sig.CONNECT))
    pump.receive(sig.ACCEPT)
    return session


def serial_of(credentials: Credentials) -> str:
    return serial_text(x509.load_der_x509_certificate(credentials.der))


def test_revoking_a_device_ends_what_is_live_and_says_how_long_it_took(running: Running):
    home = running.home
    with running.device("third") as third:
        pump, valve = running.device("pump-7"), running.device("valve-2")
        with valve:
            session = established(pump, valve)
            result = keyferry(home, "device", "revoke", "pump-7", "--reason", "key-compromise")
            assert "pump-7: 1 certificate revoked (keyCompromise)." in result.stdout
            assert "Closed 1 link and 1 session, " in result.stdout
            # the device, its peer, and nobody else
            assert pump.receive(sig.ERROR)[sig.ERROR_CODE] == code_of("revoked")
            assert pump.lost.wait(5)
            pump.client.loop_stop()
            end = valve.receive(sig.END)
            assert (end[sig.SESSION], end[sig.ERROR_CODE]) == (session, code_of("revoked"))
            assert sorted(running.links()) == ["third", "valve-2"]
            assert third.nothing()
        assert home.session(session).end_reason == "revoked"
    (entry,) = home.audit("revocation-done")
    assert entry.fields["milliseconds"] > 0
    (order,) = home.audit("device-revoked")
    assert order.fields["reason"] == "keyCompromise"
    assert home.audit("link-down", "revoked")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_new_link_of_a_revoked_device_hears_so_from_tls(
    running: Running, version: ssl.TLSVersion
):
    credentials = running.home.device("pump-7")
    keyferry(running.home, "device", "revoke", "pump-7")
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REVOKED"):
        refused(running, credentials, version)
    (entry,) = running.home.audit("connection-refused", reason="certificate-revoked")
    assert (entry.name, entry.outcome) == ("pump-7", "refused")
    assert entry.fields["listener"] == "mqtt"
    # nobody else notices
    with running.device("valve-2", version=version):
        pass


def refused(running: Running, credentials: Credentials, version: ssl.TLSVersion) -> None:
    with running.raw(credentials, version=version) as link:
        link.socket.settimeout(5)
        link.socket.recv(1)  # in TLS 1.3 the client is done before the server has looked


def test_a_link_is_refused_also_before_the_listener_knows(running: Running, monkeypatch):
    """The database says so before the next look at it: then MQTT refuses, not TLS."""
    credentials = running.home.device("pump-7")

    async def nothing() -> int:
        return running.manager.changes.version

    monkeypatch.setattr(running.manager.store, "data_version", nothing)
    keyferry(running.home, "device", "revoke", "pump-7", "--wait", "0")
    with running.raw(credentials) as link:
        assert link.connect("pump-7") == mqtt_codec.NOT_AUTHORISED
        assert link.closed()
    (entry,) = running.home.audit("certificate-revoked")
    assert (entry.name, entry.outcome) == ("pump-7", "refused")
    assert "unspecified" in entry.detail


def test_a_revoked_certificate_renews_nothing(running: Running):
    credentials = running.home.device("pump-7")
    keyferry(running.home, "device", "revoke", "pump-7")
    given = est(running, credentials).enroll(csr(), again=True)
    assert (given.status, given.error) == (403, "revoked")
    assert b"ask the operator" in given.body
    (entry,) = running.home.audit("enrolment-refused", error="revoked")
    assert "unspecified" in entry.detail


def test_a_revoked_key_is_refused_however_it_comes_back(running: Running):
    home = running.home
    credentials = home.device("pump-7")
    key = key_of(credentials)
    keyferry(home, "device", "revoke", "--serial", serial_of(credentials))
    # in a request of the same device, with a fresh token
    token = json.loads(
        keyferry(home, "device", "add", "pump-7", "--token", "--again", "--json").stdout
    )["token"]
    given = est(running).enroll(csr(key), basic=("pump-7", token))
    assert (given.status, given.error) == (403, "revoked")
    # in another certificate, which was never revoked by its own serial
    other = home.authority.issue_device("pump-7", key.public_key())
    row = record(other, "token", time.time())
    assert not home.store(lambda store: store.record_certificate(row))
    # a new key is fine, with the same token
    assert est(running).enroll(csr(), basic=("pump-7", token)).certificates


def test_a_serial_takes_the_other_certificates_of_its_key_along_and_no_more(running: Running):
    home = running.home
    first = home.device("pump-7")
    renewed = est(running, first).enroll(csr(key_of(first)), again=True).certificates[0]
    moved = est(running, first).enroll(csr(new_key()), again=True).certificates[0]
    result = keyferry(
        home, "device", "revoke", "--serial", serial_of(first).upper(), "--reason", "superseded"
    )
    assert "2 certificates revoked (superseded)" in result.stdout
    revoked = {item.serial for item in home.store(lambda store: store.life.all_revoked())}
    assert revoked == {serial_of(first), serial_text(renewed)}
    assert serial_text(moved) not in revoked


def test_a_link_with_another_certificate_of_the_device_goes_on(running: Running):
    old = running.home.device("pump-7")
    with running.device("pump-7"):
        result = keyferry(running.home, "device", "revoke", "--serial", serial_of(old))
        assert "Closed 0 links and 0 sessions" in result.stdout
        assert "pump-7" in running.links()


def test_the_identifier_knows_a_key_whose_serial_was_never_revoked(home: Home):
    """A certificate for a revoked key that got into the store past every check."""
    credentials = home.device("pump-7")
    certificate = x509.load_der_x509_certificate(credentials.der)
    row = record(certificate, "token", time.time())

    class Everything:
        async def certificate_by_serial(self, serial: str) -> Certificate:
            return row

        @property
        def life(self) -> "Everything":
            return self

        async def revoked(self, *, serial: str = "", key: str = "") -> object:
            assert (serial, key) == (row.serial, certificate_key(certificate))
            return None

    identifier = Identifier(home.authority, Everything())  # type: ignore[arg-type]
    peer = ChannelPeer("192.0.2.1:5", credentials.der)
    assert asyncio.run(identifier.identify(peer)).name == "pump-7"
    by_key = Revoked("00" * 16, "pump-7", row.key, "keyCompromise", 0.0, 2**40)
    identifier.revoked = RevokedSet([by_key])
    with pytest.raises(IdentityRefused, match="certificate-revoked"):
        asyncio.run(identifier.identify(peer))


def test_revoking_ends_the_other_ways_to_a_certificate(running: Running):
    home = running.home
    factory = home.factory("pump-7")
    certificate = x509.load_der_x509_certificate(factory.der)
    identity = FactoryIdentity(
        fingerprint(certificate), serial_text(certificate), "pump-7", 2**40, 0
    )
    home.store(lambda store: store.add_device("pump-7", factory=identity))
    assert est(running, factory).enroll(csr()).certificates
    keyferry(home, "device", "revoke", "pump-7", "--reason", "privilegeWithdrawn")
    given = est(running, factory).enroll(csr())
    assert (given.status, given.error) == (403, "access-denied")
    shown = json.loads(keyferry(home, "device", "show", "pump-7", "--json").stdout)
    assert (shown["state"], shown["factory"]) == ("revoked", [])
    assert shown["certificates"][0]["reason"] == "privilegeWithdrawn"
    keyferry(home, "device", "add", "pump-7", "--token", "--again")


def test_a_removed_device_is_gone_with_its_rules_and_can_be_added_anew(running: Running):
    home = running.home
    pump, valve = running.device("pump-7"), running.device("valve-2")
    with valve:
        established(pump, valve)
        result = keyferry(home, "device", "remove", "pump-7")
        assert "pump-7 is removed: 1 certificate revoked (cessationOfOperation)." in result.stdout
        assert valve.receive(sig.END)[sig.ERROR_CODE] == code_of("revoked")
        assert pump.lost.wait(5)
        pump.client.loop_stop()
    assert "pump-7" not in keyferry(home, "device", "list").stdout
    assert home.store(lambda store: store.rules()) == []
    assert "no device is called" in keyferry(home, "device", "show", "pump-7", code=1).stderr
    assert "no device is called" in keyferry(home, "device", "remove", "pump-7", code=1).stderr
    keyferry(home, "device", "add", "pump-7", "--token")
    assert len(home.store(lambda store: store.life.all_revoked())) == 1


@pytest.mark.parametrize("look", READS)
def test_a_removal_amid_a_reload_is_taken_over_whole(running: Running, look: str):
    home, store = running.home, running.manager.store
    pump, valve = running.device("pump-7"), running.device("valve-2")
    part, _, name = look.rpartition(".")
    owner = getattr(store, part) if part else store
    read = getattr(owner, name)
    written = threading.Event()

    async def after_a_removal(*arguments: object) -> object:
        if not written.is_set():
            written.set()
            await store.life.revoke("cessationOfOperation", device="pump-7", remove=True)
        return await read(*arguments)

    with valve:
        established(pump, valve)
        running.look(lambda manager: setattr(owner, name, after_a_removal))
        home.store(lambda store: store.add_device("spare"))
        assert written.wait(10)
        assert valve.receive(sig.END)[sig.ERROR_CODE] == code_of("revoked")
        assert pump.lost.wait(5)
        pump.client.loop_stop()
        home.audit("revocation-done")
    assert home.store(lambda store: store.life.open_revocations()) == []


def test_sessions_of_a_device_that_is_away_end_too(running: Running):
    pump, valve = running.device("pump-7"), running.device("valve-2")
    with valve:
        session = established(pump, valve)
        pump.drop()
        running.home.audit("link-down")
        result = keyferry(running.home, "device", "revoke", "pump-7")
        assert "Closed 0 links and 1 session" in result.stdout
        end = valve.receive(sig.END)
        assert (end[sig.SESSION], end[sig.ERROR_CODE]) == (session, code_of("revoked"))


def test_without_a_manager_the_order_waits_for_one(home: Home):
    credentials = home.device("pump-7")
    result = keyferry(home, "device", "revoke", "pump-7", "--wait", "0")
    assert "no manager said" in result.stderr
    (order,) = home.store(lambda store: store.life.open_revocations())
    with home.running() as running:
        assert home.store(lambda store: store.life.open_revocations()) == []
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REVOKED"):
            refused(running, credentials, ssl.TLSVersion.TLSv1_3)
    done = home.store(lambda store: store.life.revocation(order.id))
    assert done is not None
    assert done.done_at is not None


def test_wrong_usage_of_revoke(home: Home):
    for arguments in (
        ("revoke",),
        ("revoke", "pump-7", "--serial", "00"),
        ("revoke", "pump-7", "--reason", "certificateHold"),
        ("revoke", "--serial", "no serial"),
    ):
        keyferry(home, "device", *arguments, code=2)
    assert "no device is called" in keyferry(home, "device", "revoke", "nobody", code=1).stderr
    given = keyferry(home, "device", "revoke", "--serial", "00", code=1)
    assert "no certificate has the serial" in given.stderr


def test_a_revocation_and_an_enrolment_at_once_leave_nothing_good(home: Home):
    """The check and the write are one transaction, so that no order of the two lets one by."""
    old = home.device("pump-7")
    certificate = home.authority.issue_device("pump-7", new_key().public_key())
    row = record(certificate, "renewal", time.time())
    home.store(lambda store: store.life.revoke("keyCompromise", device="pump-7"))
    assert not home.store(lambda store: store.record_certificate(row, presented=serial_of(old)))
    factory = record(certificate, "factory", time.time())
    assert not home.store(lambda store: store.record_certificate(factory, presented="0" * 64))
    home.store(lambda store: store.life.revoke("unspecified", device="pump-7", remove=True))
    token = record(certificate, "token", time.time())
    assert not home.store(lambda store: store.record_certificate(token))
    with pytest.raises(StoreProblem):
        home.store(lambda store: store.life.revoke("unspecified", device="pump-7"))
