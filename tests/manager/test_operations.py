"""A running manager in an operator's hands: settings that change, stopping, and starting again."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from keyferry_core import signalling as sig
from keyferry_core.errors import name_of
from keyferry_manager.config import FILE_NAME, Config, template
from keyferry_manager.reload import _LIVE, compare
from support.command import answer
from support.manager_kit import REALM, Credentials, Home, PahoDevice, Running, until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def pair(home: Home) -> dict[str, Credentials]:
    home.allow("pump-1", "valve-1")
    return {name: home.device(name) for name in ("pump-1", "valve-1")}


def join(running: Running, made: dict[str, Credentials], **arguments: object) -> list[PahoDevice]:
    devices = [
        PahoDevice(running, name, item, instance=name.encode().ljust(8)[:8], **arguments)
        for name, item in made.items()
    ]
    for device in devices:
        device.connect()
    return devices


def open_session(pump: PahoDevice, valve: PahoDevice) -> bytes:
    session = pump.offer("valve-1")
    valve.accept(valve.receive(sig.CONNECT))
    pump.receive(sig.ACCEPT)
    return session


# a stop, and a start after it


def test_a_session_lives_on_over_a_restart(home: Home):
    made = pair(home)
    with home.running() as running:
        pump, valve = join(running, made)
        run = pump.register()[sig.INSTANCE]
        valve.register()
        session = open_session(pump, valve)
    for device in (pump, valve):
        until(device.lost.is_set)
        assert device.inbox.empty(), "nobody is told that a session ended which did not"
        device.close()
    with home.running() as running:
        pump, valve = join(running, made)
        assert pump.register()[sig.INSTANCE] == run
        valve.register()
        pump.say("valve-1", session, b"still here")
        assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"still here"
        until(
            lambda: (
                [(row.state, row.ended_at) for row in home.store(lambda s: s.sessions(10))]
                == [("established", None)]
            )
        )
        pump.send({sig.TYPE: sig.END, sig.TO: "valve-1", sig.SESSION: session})
        valve.receive(sig.END)
        pump.close()
        valve.close()
    assert home.audit("sessions-resumed")[0].fields == {"sessions": 1}
    assert home.session(session).end_reason == "session-closed"
    # What was left is taken once.
    with home.running() as running:
        pump, valve = join(running, made)
        assert pump.register()[sig.INSTANCE] != run
        pump.close()
        valve.close()


def test_a_restart_that_comes_too_late_ends_the_session(home: Home):
    made = pair(home)
    with home.running() as running:
        pump, valve = join(running, made)
        for device in (pump, valve):
            device.register()
        session = open_session(pump, valve)
    for device in (pump, valve):
        device.close()
    taken = home.store(lambda store: store.presences.take_parked())
    assert taken is not None
    for at in (taken[0] - 31, taken[0] + 3600):  # long ago, or after a clock that was set back
        home.store(lambda store, at=at: store.presences.park(taken[1], at))
        with home.running() as running:
            assert running.look(lambda manager: len(manager.relay.sessions)) == 0
    assert home.session(session).end_reason == "manager-restarted"


def test_a_restart_does_not_keep_what_the_rules_no_longer_allow(home: Home):
    made = pair(home)
    with home.running() as running:
        pump, valve = join(running, made)
        for device in (pump, valve):
            device.register()
        session = open_session(pump, valve)
    for device in (pump, valve):
        device.close()
    home.store(lambda store: store.disallow("pump-1", "valve-1"))
    with home.running() as running:
        assert running.look(lambda manager: len(manager.relay.sessions)) == 0
        pump, valve = join(running, made)
        for device in (pump, valve):
            device.register()
            ended = device.receive(sig.END)
            assert ended[sig.SESSION] == session
            assert name_of(ended[sig.ERROR_CODE]) == "access-denied"
            device.close()


def test_without_grace_both_hear_that_it_is_over(tmp_path: Path):
    home = Home(tmp_path / "home", session_grace=0)
    made = pair(home)
    with home.running() as running:
        pump, valve = join(running, made)
        for device in (pump, valve):
            device.register()
        open_session(pump, valve)
    for device in (pump, valve):
        assert name_of(device.receive(sig.END)[sig.ERROR_CODE]) == "peer-gone"
        device.close()


# draining


def test_what_is_on_its_way_arrives_before_the_end(home: Home):
    made = pair(home)
    with home.running() as running:
        pump, valve = join(running, made)
        for device in (pump, valve):
            device.register()
        session = open_session(pump, valve)
        gate = threading.Event()  # it reads nothing for now

        def held(*arguments) -> None:
            gate.wait(60)
            valve._on_message(*arguments)

        valve.client.on_message = held
        for number in range(100):
            pump.say("valve-1", session, b"%d" % number)
        until(lambda: running.look(lambda manager: manager.relay.counters["relayed"]) >= 102)
        assert running.look(lambda manager: manager._unsent()) >= 100
        gate.set()
        port = running.port
        running.wait(running.manager.drain())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    records = [valve.receive(sig.MESSAGE)[sig.RECORD] for _ in range(100)]
    assert records == [b"%d" % number for number in range(100)]
    pump.close()
    valve.close()


def test_who_never_reads_does_not_hold_up_the_end(tmp_path: Path):
    home = Home(tmp_path / "home", drain_seconds=1)
    made = pair(home)
    with home.running() as running:
        pump, valve = join(running, made)
        for device in (pump, valve):
            device.register()
        session = open_session(pump, valve)
        valve.client.loop_stop()
        pump.say("valve-1", session, b"never read")
        until(lambda: running.look(lambda manager: manager._unsent()) == 1)
        running.wait(running.manager.drain())
        assert running.look(lambda manager: manager._unsent()) == 1
    pump.close()
    valve.drop()


# settings


def rewrite(home: Home, **settings: object) -> None:
    ports = {"mqtt_port": 0, "est_port": 0, "time_port": 0, "observe_port": 0}
    (home.folder / FILE_NAME).write_text(
        template(REALM, **{"listen_host": "127.0.0.1", **ports, **settings})
    )


def reconfigure(running: Running) -> None:
    running.look(lambda manager: manager.reconfigure())


def test_what_can_change_changes_and_what_cannot_is_named(home: Home):
    with home.running() as running:
        made = pair(home)
        pump, valve = join(running, made)
        rewrite(
            home,
            route_mode="strict",
            queue_messages=7,
            max_links=3,
            device_days=30,
            failures_per_minute=3,
            listen_host="127.0.0.2",
            database="sqlite:////nowhere/else.db",
        )
        reconfigure(running)
        (entry,) = home.audit("config-reloaded")
        assert set(entry.fields["changed"]) == {
            "relay.route_check",
            "limits.queue_messages",
            "limits.links",
            "certificates.device_days",
            "enrolment.failures_per_minute",
        }
        assert set(entry.fields["at_restart"]) == {"listen.host", "database.url"}
        assert "listen.host" in entry.detail

        def look(manager):
            link = manager.relay.registry.get("pump-1").link
            return (
                manager.relay.settings.route_mode,
                manager.relay.registry.max_links,
                manager._mqtt_listener.limits.connections,
                link._settings.queue_messages,
                manager._issuing._limit._most,
                manager.config.listen_host,
            )

        assert running.look(look) == ("strict", 3, 3 + 256, 7, 3, "127.0.0.1")
        # A false route is refused now, on a link from before.
        again = {sig.TYPE: sig.REGISTER, sig.INSTANCE: b"instance", sig.ADDRESSES: []}
        pump.send({**again, sig.ROUTE: [["192.0.2.1:8883", 1, True]]})
        pump.refusal("bad-route")
        pump.close()
        valve.close()


@pytest.mark.parametrize(
    "text",
    [
        "realm = ",
        'realm = "plant.example"\n[relay]\nroute_check = "sometimes"\n',
        'realm = "plant.example"\n[relay]\nroute_chekc = "off"\n',
        None,
    ],
)
def test_a_bad_file_leaves_the_old_settings_in_force(home: Home, text: str | None):
    path = home.folder / FILE_NAME
    with home.running() as running:
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        before = running.look(lambda manager: manager.config)
        reconfigure(running)
        assert running.look(lambda manager: manager.config) is before
        assert running.look(lambda manager: manager.relay.settings.route_mode) == "report"
        rewrite(home)
        assert home.audit("config-not-reloaded")[0].outcome == "refused"


def test_each_live_setting_is_one(tmp_path: Path):
    config = Config(home=tmp_path, realm=REALM)
    names = {item for item in Config.__dataclass_fields__ if item not in ("home", "realm")}
    assert names >= _LIVE
    change = compare(config, Config(home=tmp_path, realm="other.example", log_level="debug"))
    assert (change.changed, change.at_restart) == (("log.level",), ("realm",))
    assert change.config == Config(home=tmp_path, realm=REALM, log_level="debug")


def test_the_signals_of_an_operator(home: Home):
    program = [sys.executable, "-m", "keyferry_manager", "serve", "--json"]
    process = subprocess.Popen(
        [*program, "--home", str(home.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = json.loads(process.stdout.readline())
        assert ready["observe_port"] > 0
        (home.folder / FILE_NAME).write_text("realm = 7")
        process.send_signal(signal.SIGHUP)
        events = []
        while "config-not-reloaded" not in events:
            events.append(json.loads(process.stderr.readline())["event"])
        rewrite(home, log_level="debug")
        process.send_signal(signal.SIGHUP)
        while "config-reloaded" not in events:
            events.append(json.loads(process.stderr.readline())["event"])
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=60)
        events += [json.loads(line)["event"] for line in rest.splitlines()]
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
    assert events.index("draining") < events.index("manager-stopped")
    assert answer(home.folder, "audit", "verify")["heads_checked"] == 1
    assert os.path.exists(home.folder / "audit-head.json")
