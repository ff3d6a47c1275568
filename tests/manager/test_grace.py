"""Renewal after a certificate's end: how long, for whom, and that it is good for nothing else."""

import ssl
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from keyferry_manager import enrolment
from keyferry_manager.authority import LocalAuthority, serial_text
from keyferry_manager.carriers.tls import server_context
from keyferry_manager.enrolment import Refused
from support.est_client import Answer, EstClient, csr
from support.manager_kit import Credentials, Home, Running
from support.pem_keys import key_of

DAY = 86400


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", grace_days=30, failures_per_minute=1000)


def ended(home: Home, days: float, name: str = "pump-7") -> Credentials:
    """A device whose certificate ended so many days ago."""
    issued = time.time() - (home.config.device_days + days) * DAY
    return home.device(name, now=issued)


def linked(running: Running, credentials: Credentials) -> None:
    with running.raw(credentials) as link:
        link.socket.settimeout(5)
        link.socket.recv(1)


def renewed(running: Running, credentials: Credentials, der: bytes = b"") -> Answer:
    client = EstClient(running.home, running.manager.est_port, credentials)
    return client.enroll(der or csr(key_of(credentials)), again=True)


@pytest.fixture(autouse=True)
def _an_old_ca(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CA was made before the certificates that have ended."""
    create = LocalAuthority.create.__func__  # type: ignore[attr-defined]
    long_ago = time.time() - 500 * DAY
    monkeypatch.setattr(
        LocalAuthority,
        "create",
        classmethod(lambda cls, config, now=None: create(cls, config, long_ago)),
    )


def test_a_device_that_was_away_renews_with_its_key_and_gets_its_link_back(home: Home):
    with home.running() as running:
        credentials = ended(home, 29)
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_EXPIRED"):
            linked(running, credentials)
        (certificate,) = renewed(running, credentials).certificates
        (entry,) = home.audit("enrolled", late=True)
        assert (entry.name, entry.fields["admission"]) == ("pump-7", "renewal")
        assert entry.fields["serial"] == serial_text(certificate)
        pem = certificate.public_bytes(Encoding.PEM)
        credentials.certificate.write_bytes(pem)
        with running.raw(credentials) as link:
            assert link.connect("pump-7") == 0


def test_after_the_grace_there_is_none(home: Home):
    with home.running() as running:
        given = renewed(running, ended(home, 31))
        assert (given.status, given.error) == (403, "authentication-failed")
        assert b"has expired" in given.body
        (entry,) = home.audit("enrolment-refused", "has expired; the grace is 30 days")
        assert entry.fields["operation"] == "simplereenroll"


def test_without_a_grace_an_expired_certificate_renews_nothing(tmp_path: Path):
    home = Home(tmp_path / "home")
    with home.running() as running:
        given = renewed(running, ended(home, 0.01))
        assert (given.status, given.error) == (403, "authentication-failed")


def test_the_grace_is_for_the_same_key(home: Home):
    with home.running() as running:
        given = renewed(running, ended(home, 1), csr())
        assert (given.status, given.error) == (400, "key-not-allowed")
        assert b"for the key that it has" in given.body
        # in time, a new key is fine
        assert renewed(running, home.device("valve-2"), csr()).certificates


def test_a_revoked_certificate_has_no_grace(home: Home):
    credentials = ended(home, 1)
    home.store(lambda store: store.life.revoke("keyCompromise", device="pump-7"))
    with home.running() as running:
        given = renewed(running, credentials)
        assert (given.status, given.error) == (403, "revoked")


def test_nothing_else_is_open_to_an_expired_certificate(home: Home):
    credentials = ended(home, 1)
    with home.running() as running:
        client = EstClient(home, running.manager.est_port, credentials)
        given = client.enroll(csr())
        assert (given.status, given.error) == (403, "authentication-failed")
        # beside a token as well
        given = client.enroll(csr(), basic=("pump-7", "kft_none"))
        assert (given.status, given.error) == (403, "authentication-failed")
        # what anybody may ask, it may
        assert client.request("cacerts").certificates


def test_the_ca_has_no_grace(home: Home):
    credentials = home.device("pump-7")
    identified = home.authority.identify(credentials.der)
    issuers = home.authority.over(identified)
    end = home.authority.issuing.not_valid_after_utc.timestamp()
    assert not enrolment.check_dates(identified, issuers, time.time(), 1e9)
    with pytest.raises(Refused, match="a CA over it"):
        enrolment.check_dates(identified, issuers, end + 1, 1e9)
    with pytest.raises(Refused, match="not valid yet"):
        enrolment.check_dates(identified, issuers, time.time() - 3600, 1e9)


def test_a_factory_certificate_has_no_grace(home: Home):
    identified = home.authority.identify(home.factory("pump-7").der)
    issuers = home.authority.over(identified)
    assert issuers == [home.authority.factory]
    end = identified.certificate.not_valid_after_utc.timestamp()
    with pytest.raises(Refused, match="has expired"):
        enrolment.check_dates(identified, issuers, end + 1)


def test_only_the_est_listener_leaves_dates_alone(home: Home):
    with home.running() as running:
        mqtt = running.look(lambda manager: manager._mqtt_context().verify_flags)
        est = running.look(lambda manager: manager._est_context().verify_flags)
    assert not mqtt & 0x200000
    assert est & 0x200000
    trusted = home.authority.trusted_by_links()
    plain = server_context(home.authority.server_file, trusted, certificate_required=True)
    assert not plain.verify_flags & 0x200000
