"""The bench measures what it says, on a small scale; and the relay asks no database."""

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from bench import bench_manager, bench_sip
from keyferry_core import signalling as sig
from support.manager_kit import Home, until


@pytest.mark.needs("mosquitto")
def test_every_part_of_the_bench_gives_its_figures(monkeypatch):
    monkeypatch.setattr(bench_manager, "PAIRS", 1)
    monkeypatch.setattr(bench_manager, "TRIPS", 50)
    found = bench_manager.measure(0.2, 20, 1, list(bench_manager.PARTS))
    assert found["missing"] == ""
    rows = [f"{what}, QoS {qos}" for what in ("manager", "mosquitto", "mosquitto and worker")
            for qos in (0, 1)]  # fmt: skip
    assert set(found["relays"]) == {"bare relay", "bare relay, acked", *rows}
    for row in found["relays"].values():
        assert row["per_second"] > 0
        assert row["per_cpu_second"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert set(found["handshakes"]) == {"bare TLS server", "manager", "mosquitto"}
    assert found["enrolments"]["manager"]["per_cpu_second"] > 0
    for target in bench_manager.TARGETS:
        assert [ratio for ratio in found["ratios"] if ratio.startswith(target)], target
    bench_manager.show(found)


@pytest.mark.needs("kamailio")
def test_every_part_of_the_sip_bench_gives_its_figures(monkeypatch):
    monkeypatch.setattr(bench_sip, "PAIRS", 1)
    found = bench_sip.measure(0.3, 1, list(bench_sip.PARTS))
    assert found["missing"] == ""
    for part in bench_sip.PARTS:
        bare = {"bare TLS server"} if part == "handshakes" else set()
        assert set(found[part]) == {"manager", "kamailio"} | bare
        for rounds in found[part].values():
            assert [row for row in rounds if row["per_second"] > 0 and row["us"] > 0]
    assert bench_sip.TARGETS.keys() <= found["ratios"].keys()
    bench_sip.show(found)


def test_a_relay_asks_no_database(tmp_path):
    home = Home(tmp_path / "home")
    home.add("pump-7", "valve-2")
    home.allow("pump-7", "valve-2")
    statements = []

    def note(*arguments):
        statements.append(arguments[2])

    with (
        home.running() as running,
        running.device("pump-7", qos=0) as pump,
        running.device("valve-2", qos=0) as valve,
    ):
        until(lambda: running.look(lambda m: m.relay.rules.allows("pump-7", "valve-2")))
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        event.listen(Engine, "before_cursor_execute", note)
        try:
            for number in range(1500):
                pump.say("valve-2", session, b"record %d" % number)
                assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"record %d" % number
            # nor where a message is refused
            for _ in range(500):
                valve.offer("pump-7")
                valve.refusal("access-denied")
        finally:
            event.remove(Engine, "before_cursor_execute", note)
    # What there is comes from the background, by time: a look for changes, and the batches that
    # the audit trail and the counts of sessions are written in.
    assert len(statements) < 1000, len(statements)
    assert not [text for text in statements if "certificates" in text or "allow_rules" in text]
