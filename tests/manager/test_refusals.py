"""Who is refused, and that both sides can see why: the client in its error, the operator in the
log and in the audit trail. One manager; the clients are paho-mqtt's and bare sockets."""

import gc
import os
import ssl
import time

import pytest

from keyferry_core import mqtt_codec as mqtt
from keyferry_core import signalling as sig
from keyferry_core.errors import name_of
from support.manager_kit import REALM, Home, PahoDevice, until


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("refusals") / "home")
    home.allow("pump-7", "valve-2")
    return home


@pytest.fixture(scope="module")
def running(home):
    with home.running() as running:
        yield running


def in_log(caplog, event, **fields):
    return any(
        record.getMessage() == event and fields.items() <= record.fields.items()
        for record in caplog.records
        if hasattr(record, "fields")
    )


@pytest.fixture(autouse=True)
def _listening(caplog):
    caplog.set_level("INFO", "keyferry")


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("who", "reason", "alerts"),
    [
        ("nobody", "no-certificate", ("HANDSHAKE_FAILURE", "CERTIFICATE_REQUIRED")),
        ("stranger", "unknown-ca", ("UNKNOWN_CA",)),
        ("forged", "bad-signature", ("DECRYPT_ERROR",)),
        ("expired", "certificate-expired", ("CERTIFICATE_EXPIRED",)),
        ("factory", "unknown-ca", ("UNKNOWN_CA",)),
    ],
)
def test_refused_in_the_handshake(home, running, caplog, version, who, reason, alerts):
    credentials = None if who == "nobody" else getattr(home, who)("pump-7")
    with pytest.raises(ssl.SSLError) as caught:
        _connect(running, credentials, version)
    assert any(word in caught.value.reason for word in alerts), caught.value
    until(lambda: in_log(caplog, "connection-refused", reason=reason, listener="mqtt"))
    entry = home.audit("connection-refused", reason=reason, listener="mqtt")[-1]
    assert entry.address.startswith("127.0.0.1:")


def _connect(running, credentials, version):
    """Connect and say hello: in TLS 1.3 a client hears of a refusal when it reads."""
    with running.raw(credentials, version=version) as client:
        client.socket.settimeout(5)
        client.socket.sendall(mqtt.connect("pump-7", 60))
        assert client.socket.recv(100), "the connection just ended, without a reason"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_paho_sees_the_alert_too(home, running):
    client = PahoDevice(running, "pump-7", None, version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError, match="handshake failure"):
        client.connect()
    del client
    gc.collect()  # paho leaves the socket open when its handshake fails


def test_our_ca_but_not_in_the_store(home, running, caplog):
    client = PahoDevice(running, "pump-7", home.device("pump-7", known=False))
    reason = client.connect()
    assert reason.getName() == "Not authorized"
    assert in_log(caplog, "unknown-certificate", name="pump-7")
    assert home.audit("unknown-certificate")[-1].outcome == "refused"


def test_another_devices_client_identifier(home, running, caplog):
    client = PahoDevice(running, "third", home.device("third"), client_id="pump-7")
    reason = client.connect()
    assert reason.getName() == "Client identifier not valid"
    assert in_log(caplog, "client-id-mismatch", name="third")
    assert home.audit("client-id-mismatch", "'pump-7'")


def test_another_devices_name_in_from(home, running, caplog):
    with (
        running.device("pump-7") as pump,
        running.device("valve-2") as valve,
        running.device("third") as third,
    ):
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        forged = {sig.FROM: "pump-7", sig.TO: "valve-2", sig.SESSION: session}
        third.send({sig.TYPE: sig.MESSAGE, sig.RECORD: b"forged", **forged})
        answer = third.refusal("identity-mismatch")
        assert answer[sig.SESSION] == session
        assert "authenticated" in answer[sig.TEXT]
        third.send({sig.TYPE: sig.END, **forged})
        third.refusal("identity-mismatch")
        third.send(
            {
                sig.TYPE: sig.CONNECT,
                sig.PROFILE: 0,
                sig.MESSAGE_1: b"x",
                **forged,
                sig.SESSION: os.urandom(16),
            }
        )
        third.refusal("identity-mismatch")
        third.send({sig.TYPE: sig.REGISTER, sig.FROM: "pump-7", sig.INSTANCE: bytes(8),
                    sig.ADDRESSES: ["203.0.113.1:1"]})  # fmt: skip
        third.refusal("identity-mismatch")
        pump.say("valve-2", session, b"honest")
        assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"honest", "nothing came before it"
        assert pump.nothing()
    assert in_log(caplog, "identity-mismatch", name="third", detail="from says pump-7")
    entry = home.audit("identity-mismatch")[-1]
    assert (entry.name, entry.outcome) == ("third", "refused")
    assert entry.address.startswith("127.0.0.1:")


def test_what_no_rule_allows(home, running, caplog):
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        valve.offer("pump-7")
        answer = valve.refusal("access-denied")
        assert sig.SESSION in answer
        assert pump.nothing()
    assert in_log(caplog, "access-denied", name="valve-2", detail="only pump-7 may ask for valve-2")
    assert home.audit("access-denied", to="pump-7")[-1].name == "valve-2"


def test_a_device_that_is_offline_and_one_that_does_not_exist(home, running):
    home.allow("pump-7", "nobody")
    with running.device("pump-7") as pump:
        until(lambda: running.look(lambda m: m.relay.rules.allows("pump-7", "nobody")))
        pump.offer("nobody")
        pump.refusal("unknown-name")
        pump.offer("valve-2")
        pump.refusal("peer-offline")
        pump.send({sig.TYPE: sig.RESOLVE, sig.NAME: "valve-2"})
        assert pump.receive(sig.RESOLVED)[sig.ONLINE] is False


def test_what_is_not_signalling(home, running, caplog):
    with running.device("pump-7") as pump:
        for payload in (b"", b"hello", b"\xff" * 100, b"\xa1\x01\x05", os.urandom(200)):
            pump.publish(payload)
            answer = pump.receive(sig.ERROR)
            assert name_of(answer[sig.ERROR_CODE]) in ("malformed", "unsupported")
        pump.publish(b"x" * (sig.MAX_MESSAGE + 1))
        pump.refusal("too-large")
        assert pump.register()[sig.TYPE] == sig.REGISTERED, "the link is none the worse"
    assert in_log(caplog, "malformed", name="pump-7")


def test_another_topic(home, running, caplog):
    with running.device("pump-7") as pump:
        assert pump.subscribe("kf/d/valve-2").value == 0x80
        pump.publish(b"x", "kf/u/valve-2")
        assert pump.lost.wait(5)
    assert in_log(caplog, "topic-refused", name="pump-7", detail="publish to 'kf/u/valve-2'")
    assert home.audit("topic-refused", "subscribe to 'kf/d/valve-2'")


def test_a_rule_written_while_the_manager_runs_counts_within_a_second(home, running):
    with running.device("third") as third, running.device("valve-2") as valve:
        third.offer("valve-2")
        third.refusal("access-denied")
        home.allow("third", "valve-2")
        time.sleep(1)
        third.offer("valve-2")
        assert valve.receive(sig.CONNECT)[sig.FROM] == "third"


def test_refusals_do_not_fill_the_store(home, running):
    with running.device("noisy") as noisy:
        for _ in range(300):
            noisy.offer("pump-7")
        for _ in range(300):
            noisy.refusal("access-denied")
    entries = [entry for entry in home.audit("access-denied") if entry.name == "noisy"]
    assert len(entries) <= 10
    assert running.look(lambda manager: manager.relay.counters["access-denied"]) >= 300


def test_what_was_held_back_is_counted_when_the_manager_stops(tmp_path):
    home = Home(tmp_path / "home")
    with home.running() as running, running.device("noisy") as noisy:
        for _ in range(50):
            noisy.offer("pump-7")
        for _ in range(50):
            noisy.refusal("access-denied")
    assert home.audit("access-denied", suppressed=40)


def test_the_realm_is_part_of_the_identity(home, running, tmp_path):
    """A certificate of another realm is of another CA; the name in it says nothing here."""
    other = Home(tmp_path / "other")
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        _connect(running, other.device("pump-7"), ssl.TLSVersion.TLSv1_2)
    assert home.config.realm == REALM
