"""What monitoring sees: numbers, whether the manager is ready, and one name for a key exchange."""

import http.client
import json
import os
import re
import socket
import sqlite3
import stat
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keyferry_core import signalling as sig
from keyferry_manager.config import Config, template
from keyferry_manager.observe.collector import _bounded
from keyferry_manager.observe.measures import Histogram, Measures, by_expiry
from support.manager_kit import REALM, Home, until


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("observe") / "home")


def ask(running, path, method="GET"):
    port = running.manager.observe_port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def metrics(running):
    """Each sample's value by name and labels."""
    status, body = ask(running, "/metrics")
    assert status == 200
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_it_says_that_it_lives_and_is_ready(running):
    assert ask(running, "/healthz") == (200, b'{"alive": true}\n')
    assert ask(running, "/readyz") == (200, b'{"ready": true, "reasons": []}\n')
    assert ask(running, "/healthz", "HEAD") == (200, b"")
    assert ask(running, "/metrics", "POST")[0] == 405
    for path in ("/", "/metrics/", "/metrics?x", "//metrics", "/../keyferry.toml", "/%00"):
        assert ask(running, path)[0] in (200, 404)
        assert b"realm" not in ask(running, path)[1]


def test_a_manager_that_drains_or_has_no_database_is_alive_but_not_ready(running):
    def reasons():
        status, body = ask(running, "/readyz")
        assert ask(running, "/healthz")[0] == 200
        return status, json.loads(body)["reasons"]

    running.look(lambda manager: setattr(manager.observation, "draining", True))
    assert reasons() == (503, ["draining"])
    running.look(lambda manager: setattr(manager.observation, "draining", False))
    database = running.home.folder / "keyferry.db"
    connection = sqlite3.connect(database)
    connection.execute("ALTER TABLE revision RENAME TO away")
    connection.commit()
    try:
        until(lambda: reasons() == (503, ["database-unavailable"]))
        found = metrics(running)
        assert found["keyferry_database_errors_total", ("error", "OperationalError")] >= 1
    finally:
        connection.execute("ALTER TABLE away RENAME TO revision")
        connection.commit()
        connection.close()
    until(lambda: reasons() == (200, []))


def test_a_key_exchange_is_counted_and_has_one_name_all_the_way(home, running):
    home.allow("pump-1", "valve-1")
    home.add("other-1")
    with running.device("pump-1") as pump, running.device("valve-1") as valve:
        until(lambda: running.look(lambda m: m.relay.rules.decide("pump-1", "valve-1").allowed))
        session = pump.offer("valve-1")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        message = {sig.TYPE: sig.MESSAGE, sig.TO: "valve-1", sig.SESSION: session}
        pump.send({**message, sig.MESSAGE_3: b"3"})
        valve.receive()
        for _ in range(3):
            pump.say("valve-1", session, b"record")
            valve.receive()
        # A refused message of the session has its name too; an attempt of its own has another.
        pump.send({**message, sig.RECORD: b"x", sig.FROM: "valve-1"})
        pump.refusal("identity-mismatch")
        pump.offer("other-1")
        pump.refusal("access-denied")
        found = metrics(running)
        pump.send({sig.TYPE: sig.END, sig.TO: "valve-1", sig.SESSION: session})
        valve.receive(sig.END)
    steps = [
        home.audit(event, session=session.hex())[-1].fields
        for event in (
            "exchange-asked",
            "exchange-accepted",
            "exchange-message-3",
            "identity-mismatch",
            "session-ended",
        )
    ]
    assert len({step["request"] for step in steps}) == 1
    assert re.fullmatch("[0-9a-f]{16}", steps[0]["request"])
    assert home.audit("access-denied")[-1].fields["request"] != steps[0]["request"]
    assert found["keyferry_links",] == found["keyferry_registered",] == 2
    assert found["keyferry_sessions",] == 1
    assert found["keyferry_messages_total", ("outcome", "relayed")] == 6
    assert found["keyferry_messages_total", ("outcome", "answered")] == 2
    assert found["keyferry_messages_total", ("outcome", "identity-mismatch")] == 1
    assert found["keyferry_refusals_total", ("event", "identity-mismatch")] == 1
    assert found["keyferry_relay_seconds_count",] == 10
    assert 0 < found["keyferry_relay_seconds_sum",] < 60
    assert found["keyferry_exchange_seconds_count",] == 1
    assert found["keyferry_handshake_seconds_count", ("listener", "mqtt")] == 2
    assert found["keyferry_connections", ("listener", "mqtt")] == 2
    assert found["process_resident_memory_bytes",] > 0


def test_failed_handshakes_and_enrolments_are_counted_by_words_of_ours(home, running):
    with running.raw(home.stranger("pump-9")) as stranger:
        assert stranger.closed()
    context = home.client_context(None)
    est = http.client.HTTPSConnection("localhost", running.manager.est_port, context=context)
    for path in ("/.well-known/est/cacerts", "/crl", "/" + "x" * 300, "/pump-9/secret"):
        est.request("GET", path)
        est.getresponse().read()
    est.request("POST", "/.well-known/est/simpleenroll", body=b"")
    est.getresponse().read()
    est.close()
    found = metrics(running)
    refused = ("keyferry_connections_refused_total", ("listener", "mqtt"))
    until(lambda: metrics(running).get((*refused, ("reason", "unknown-ca"))) == 1)
    counted = {
        key[1:]: value for key, value in found.items() if key[0].startswith("keyferry_est_r")
    }
    labels = {operation for (_, operation), _ in counted}
    assert labels == {"cacerts", "crl", "other", "simpleenroll"}
    assert counted[("operation", "cacerts"), ("status", "200")] == 1
    assert counted[("operation", "other"), ("status", "404")] == 2
    assert found["keyferry_est_seconds_count",] == 1
    _, body = ask(running, "/metrics")
    assert b"pump-9" not in body


def test_certificates_are_counted_by_what_they_still_last(home):
    home.device("soon-1", now=time.time() - 88 * 86400)
    home.device("fresh-1")
    with home.running() as running:
        found = metrics(running)
    assert found["keyferry_device_certificates", ("lasts", "within-7d")] == 1
    assert found["keyferry_device_certificates", ("lasts", "later")] >= 1
    root = found["keyferry_certificate_expiry_timestamp_seconds", ("certificate", "root")]
    assert root == home.authority.root.not_valid_after_utc.timestamp()
    day = 86400
    ends = [-1, 0, 1, day, day + 1, 7 * day, 7 * day + 1, 30 * day, 30 * day + 1]
    assert by_expiry(ends, 0.0) == {
        "expired": 2,
        "within-1d": 2,
        "within-7d": 2,
        "within-30d": 2,
        "later": 1,
    }


def test_the_time_of_a_revocation_is_counted(home, running):
    home.device("gone-1")
    home.store(lambda store: store.life.revoke("superseded", device="gone-1"))
    until(lambda: metrics(running)["keyferry_revocation_seconds_count",] == 1)


def test_labels_are_bounded():
    counts = {f"event-{number}": 1 for number in range(500)}
    items = _bounded(counts)
    assert (len(items), items[-1]) == (201, ("other", 300))
    measures = Measures()
    for number in range(1000):
        measures.count_est(f"/{number}/" * 50, number, 0.1)
    assert {operation for operation, _ in measures.enrolments} == {"other"}
    assert len(measures.enrolments) <= 401


def test_a_histogram_counts_each_value_once():
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 2.0):
        histogram.observe(value)
    assert histogram.buckets() == [("0.1", 2.0), ("1.0", 4.0), ("+Inf", 5.0)]
    assert histogram.total == pytest.approx(3.65)


def test_more_connections_than_there_is_room_for_are_closed(running):
    port = running.manager.observe_port
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
    try:
        for connection in held:  # so that each was accepted
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(1000)
        with pytest.raises(OSError):  # noqa: PT011  # a reset, or nothing
            ask(running, "/healthz")
    finally:
        for connection in held:
            connection.close()

    def answers():
        try:
            return ask(running, "/healthz")[0] == 200
        except OSError:
            return False

    until(answers)


def test_it_can_be_left_out(tmp_path: Path):
    home = Home(tmp_path / "home", observe_host="")
    with home.running() as running:
        assert running.manager.observe_port == 0
    assert Config.parse(template(REALM), tmp_path).observe_host == "127.0.0.1"
    assert stat.S_IMODE(os.stat(home.folder / "keyferry.db").st_mode) == 0o600
