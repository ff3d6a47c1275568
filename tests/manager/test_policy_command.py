"""The policy of a running manager: tried, applied, followed at once, kept and undone."""

import asyncio
import getpass
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import event

from keyferry_core import signalling as sig
from keyferry_core.errors import name_of
from keyferry_manager.app import Manager
from keyferry_manager.policy import PolicyProblem
from keyferry_manager.store import LinkRow
from support.command import answer, command
from support.manager_kit import Home, Running, until

OPEN = """
[tags]
pumps = ["pump-*"]

[[allow]]
from = "tag:pumps"
to = "valve-2"
note = "pumps open the valve"

[[assert]]
from = "tag:pumps"
to = "valve-2"
allow = ["session"]

[[assert]]
from = "valve-2"
to = "*"
deny = ["session"]
"""
QUIET = OPEN.replace('note = "pumps', 'what = ["session"]\nnote = "pumps')
EMPTY = "# nobody\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.add("pump-7", "pump-8", "valve-2")
    return home


def write(home: Home, text: str) -> Path:
    path = home.folder / "policy.toml"
    path.write_text(text)
    return path


def test_a_file_is_checked_and_a_bad_one_is_not_applied(home: Home):
    said = command(home.folder, "policy", "check", code=1).stderr
    assert "there is no file" in said
    write(home, OPEN)
    assert "1 rules, 2 tests kept" in command(home.folder, "policy", "check").stdout
    assert answer(home.folder, "policy", "check") == {
        "rules": 1,
        "tests": 2,
        "sha256": hashlib.sha256(OPEN.encode()).hexdigest(),
        "unknown": [],
    }
    bad = write(home, OPEN + '[[allow]]\nfrom = "valve-2"\nto = "pump-8"\n')
    for verb in ("check", "diff", "apply"):
        said = command(home.folder, "policy", verb, code=1).stderr
        assert "does not keep 1 of its 2 tests, and is not applied." in said
        assert "valve-2 -> pump-8 is allowed session" in said
    bad.write_bytes(b"\xff")
    assert "is not UTF-8" in command(home.folder, "policy", "check", code=1).stderr
    assert answer(home.folder, "policy", "history") == []
    assert "No policy yet" in command(home.folder, "policy", "history").stdout
    assert "no policy was applied" in command(home.folder, "policy", "show", code=1).stderr
    assert "nothing to go back from" in command(home.folder, "policy", "rollback", code=1).stderr


def test_names_that_are_not_known_are_told(home: Home):
    write(
        home,
        '[[allow]]\nfrom = "pump-7"\nto = ["b1", "b2"]\n'
        + "".join(f'[[allow]]\nfrom = "c{number}"\nto = "pump-7"\n' for number in range(12)),
    )
    said = command(home.folder, "policy", "apply").stderr
    assert "no device is called b1 yet." in said
    assert "and 4 more names are not known." in said


def test_diff_names_pairs_and_the_sessions_that_would_end(home: Home):
    write(home, OPEN)
    found = answer(home.folder, "policy", "diff")
    everything = ["session", "message", "resolve"]
    assert found == {
        "pairs": [
            {"from": name, "to": "valve-2", "gains": everything, "loses": []}
            for name in ("pump-7", "pump-8")
        ],
        "more_pairs": False,
        "sessions_ending": [],
    }
    command(home.folder, "policy", "apply")
    assert "No pair gains or loses access." in command(home.folder, "policy", "diff").stdout
    with (
        home.running() as manager,
        manager.device("pump-7") as pump,
        manager.device("valve-2") as valve,
    ):
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        until(lambda: answer(home.folder, "sessions", "--open"))
        write(home, EMPTY)
        found = answer(home.folder, "policy", "diff")
        assert found["sessions_ending"] == [
            {"session": session.hex(), "from": "pump-7", "to": "valve-2"}
        ]
        assert found["pairs"][0]["loses"] == everything
        shown = command(home.folder, "policy", "diff").stdout
        assert f"session {session.hex()[:12]}, pump-7 -> valve-2: would end" in shown
        assert pump.nothing(), "a diff changes nothing"


def follows(manager: Running, number: int) -> None:
    """Wait until policy ``number`` is what the manager decides by."""
    until(lambda: manager.look(lambda inside: inside.relay.rules.label) == f"policy {number}")


def test_a_running_manager_follows_within_half_a_second(home: Home):
    took = []
    with home.running() as manager:
        pump, valve = manager.device("pump-7"), manager.device("valve-2")
        pump.offer("valve-2")
        pump.refusal("access-denied")
        for number in (1, 3, 5):
            write(home, OPEN)
            command(home.folder, "policy", "apply", "--by", "ann")
            follows(manager, number)
            session = pump.offer("valve-2")
            valve.accept(valve.receive(sig.CONNECT))
            pump.receive(sig.ACCEPT)
            other = pump.offer("valve-2")
            valve.receive(sig.CONNECT)
            write(home, EMPTY)
            command(home.folder, "policy", "apply", "--by", "bob")
            ended = [device.receive(sig.END) for device in (pump, pump, valve, valve)]
            assert {message[sig.SESSION] for message in ended} == {session, other}
            assert {name_of(message[sig.ERROR_CODE]) for message in ended} == {"access-denied"}
            assert {message[sig.FROM] for message in ended} == {"manager"}
            applied = home.store(lambda store: store.policies.get())
            entries = home.audit("access-withdrawn", session=session.hex())
            assert (entries[0].name, entries[0].fields["to"]) == ("pump-7", "valve-2")
            assert home.audit("access-withdrawn", session=other.hex())
            assert home.session(session).end_reason == "access-denied"
            took.append(entries[0].at - applied.applied_at)
        pump.offer("valve-2")
        pump.refusal("access-denied")
        refused = home.audit("access-denied", "no rule pump-7 -> valve-2")[-1]
        assert refused.fields["to"] == "valve-2"
        pump.close()
        valve.close()
    assert min(took) > 0.0, took
    applied = home.audit("policy-applied")
    assert [entry.fields["by"] for entry in applied] == ["ann", "bob"] * 3
    assert applied[0].fields["sha256"] == hashlib.sha256(OPEN.encode()).hexdigest()


def test_each_permission_alone(home: Home):
    def policy(what: str) -> None:
        write(home, f'[[allow]]\nfrom = "pump-7"\nto = "valve-2"\nwhat = [{what}]\n')
        command(home.folder, "policy", "apply")

    policy('"session"')
    with (
        home.running() as manager,
        manager.device("pump-7") as pump,
        manager.device("valve-2") as valve,
    ):
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        head = {sig.TYPE: sig.MESSAGE, sig.SESSION: session}
        pump.send({**head, sig.TO: "valve-2", sig.MESSAGE_3: b"message_3"})
        assert valve.receive(sig.MESSAGE)[sig.MESSAGE_3] == b"message_3"
        pump.say("valve-2", session, b"record")
        assert pump.refusal("access-denied")[sig.SESSION] == session
        valve.say("pump-7", session, b"record")
        valve.refusal("access-denied")
        pump.send({sig.TYPE: sig.RESOLVE, sig.NAME: "valve-2"})
        pump.refusal("access-denied")
        denied = "pump-7 -> valve-2 is allowed session, not "
        assert {entry.detail for entry in home.audit("access-denied", denied)} == {
            denied + "message",
            denied + "resolve",
        }

        policy('"session", "message"')
        follows(manager, 2)
        pump.say("valve-2", session, b"record")
        assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"record"
        valve.say("pump-7", session, b"back")
        assert pump.receive(sig.MESSAGE)[sig.RECORD] == b"back"

        policy('"resolve"')
        assert name_of(pump.receive(sig.END)[sig.ERROR_CODE]) == "access-denied"
        pump.send({sig.TYPE: sig.RESOLVE, sig.NAME: "valve-2"})
        assert pump.receive(sig.RESOLVED)[sig.ONLINE]


def test_no_message_asks_the_database(home: Home):
    write(home, OPEN)
    command(home.folder, "policy", "apply")
    statements: list[str] = []
    with (
        home.running() as manager,
        manager.device("pump-7") as pump,
        manager.device("valve-2") as valve,
    ):
        session = pump.offer("valve-2")
        valve.accept(valve.receive(sig.CONNECT))
        pump.receive(sig.ACCEPT)
        engine = manager.manager.store._reading.sync_engine
        event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        for number in range(200):
            pump.say("valve-2", session, b"%d" % number)
            valve.receive(sig.MESSAGE)
            pump.send({sig.TYPE: sig.RESOLVE, sig.NAME: "valve-2"})
            pump.receive(sig.RESOLVED)
            pump.send({sig.TYPE: sig.RESOLVE, sig.NAME: f"stranger-{number}"})
            pump.refusal("access-denied")
        asked = [text for text in statements if text.startswith("SELECT")]
        # Whether something changed; and, once for a batch, the end of the audit trail's chain.
        asked = [text for text in asked if "FROM revision" not in text]
        assert all("FROM audit ORDER BY audit.id DESC" in " ".join(text.split()) for text in asked)
        assert len(asked) < 200
        assert len(statements) < 200


def test_history_and_the_way_back(home: Home):
    write(home, OPEN)
    first = answer(home.folder, "policy", "apply")
    assert (first["id"], first["changed"], first["by"]) == (1, True, getpass.getuser())
    assert "is this file already" in command(home.folder, "policy", "apply").stdout
    assert answer(home.folder, "policy", "apply")["changed"] is False
    write(home, QUIET)
    said = command(home.folder, "policy", "apply", "--by", "ann").stdout
    assert "pump-7" in said
    assert "message, resolve" in said
    assert "Policy 2 is in force." in said

    said = command(home.folder, "policy", "rollback", "--by", "bob").stdout
    assert "Policy 3 is in force: policy 1 again." in said
    assert command(home.folder, "policy", "show").stdout == OPEN
    assert command(home.folder, "policy", "show", "2").stdout == QUIET
    assert (home.folder / "policy.toml").read_text() == QUIET, "the file stays the operator's"
    said = command(home.folder, "policy", "rollback").stdout
    assert "Policy 4 is in force: no policy at all." in said
    assert "before the first policy" in command(home.folder, "policy", "rollback", code=1).stderr
    assert answer(home.folder, "policy", "rollback", 3)["restores"] == 1
    assert "there is no policy 9" in command(home.folder, "policy", "rollback", 9, code=1).stderr
    assert "there is no policy 9" in command(home.folder, "policy", "show", 9, code=1).stderr

    found = answer(home.folder, "policy", "history")
    assert [(item["id"], item["restores"]) for item in found] == [
        (5, 1),
        (4, 0),
        (3, 1),
        (2, None),
        (1, None),
    ]
    assert [item["by"] for item in found[2:4]] == ["bob", "ann"]
    assert found[0]["sha256"] == hashlib.sha256(OPEN.encode()).hexdigest() == found[4]["sha256"]
    shown = command(home.folder, "policy", "history", "-n", 2).stdout.splitlines()
    assert shown[1].startswith("5")
    assert "in force, back to 1" in shown[1]
    assert "back to none" in shown[2]
    assert [entry.fields["restores"] for entry in home.audit("policy-rolled-back")] == [1, 0, 1]


def test_going_back_is_not_held_up_by_tests_of_then(home: Home):
    write(home, OPEN)
    command(home.folder, "policy", "apply")
    write(home, EMPTY)
    command(home.folder, "policy", "apply")
    command(home.folder, "allow", "valve-2", "pump-7")
    result = command(home.folder, "policy", "rollback")
    assert "valve-2 -> pump-7 is allowed session" in result.stderr
    assert "policy 1 again" in result.stdout


def test_explain_says_which_rule(home: Home):
    write(home, QUIET)
    command(home.folder, "policy", "apply")
    shown = command(home.folder, "policy", "explain", "pump-7", "valve-2").stdout
    rule = "policy 1, rule 1: tag:pumps -> valve-2 (pumps open the valve)"
    assert rule in shown
    found = answer(home.folder, "policy", "explain", "pump-7", "valve-2")
    assert found["decisions"]["session"] == {"allowed": True, "reason": rule}
    assert found["decisions"]["resolve"]["allowed"] is False
    assert found["rules"] == ["rule 1: tag:pumps -> valve-2 (pumps open the valve)"]
    command(home.folder, "allow", "pump-7", "valve-2")
    found = answer(home.folder, "policy", "explain", "pump-7", "valve-2")
    assert found["decisions"]["session"]["reason"] == rule
    assert found["decisions"]["resolve"]["reason"] == "rule pump-7 -> valve-2"
    other = write(home, OPEN)
    found = answer(home.folder, "policy", "explain", "pump-8", "valve-2", "--file", other)
    assert found["decisions"]["resolve"]["allowed"]
    result = command(home.folder, "policy", "explain", "pump-8", "nobody")
    assert "no device is called nobody yet" in result.stderr
    assert "no rule pump-8 -> nobody" in result.stdout


def test_a_device_shows_whom_it_may_ask_by_policy_and_by_hand(home: Home):
    write(home, OPEN)
    command(home.folder, "policy", "apply")
    assert "the policy in force has rules" in command(home.folder, "allow").stdout
    command(home.folder, "allow", "pump-8", "pump-7")
    shown = answer(home.folder, "device", "show", "pump-8")
    assert (shown["may_ask"], shown["asked_by"]) == (["pump-7", "valve-2"], [])
    shown = answer(home.folder, "device", "show", "valve-2")
    assert (shown["may_ask"], shown["asked_by"]) == ([], ["pump-7", "pump-8"])
    assert shown["agreement_key"] is None


def test_links_are_watched(home: Home):
    # Ctrl-C is ignored in what a shell without job control starts in the background
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from keyferry_manager.cli import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "links", "--watch", "--json", "--home", str(home.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        try:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline()) == []
            with home.running() as manager, manager.device("pump-7"):
                (link,) = json.loads(watching.stdout.readline())
                assert link["name"] == "pump-7"
            while json.loads(watching.stdout.readline()):
                pass
            watching.send_signal(signal.SIGINT)
            out, problems = watching.communicate(timeout=30)
            assert (out, problems, watching.returncode) == ("", "", 0)
        finally:
            watching.kill()


def test_allow_adds_to_the_policy_and_cannot_break_its_tests(home: Home):
    write(home, OPEN)
    command(home.folder, "policy", "apply")
    said = command(home.folder, "allow", "valve-2", "pump-7", code=1).stderr
    assert "policy 1 denies this (assert 2: valve-2 -> *)" in said
    assert answer(home.folder, "allow") == []
    command(home.folder, "allow", "pump-7", "pump-8")
    write(home, '[[assert]]\nfrom = "pump-7"\nto = "pump-8"\nallow = "resolve"\n')
    command(home.folder, "policy", "apply")
    result = command(home.folder, "allow", "pump-7", "pump-8", "--remove")
    assert "does not keep its own test any more" in result.stderr
    assert answer(home.folder, "allow") == [], "taking away is never held up"


def test_a_change_between_looking_and_applying_is_noticed(home: Home):
    version = home.store(lambda store: store.data_version())
    home.add("late")
    with pytest.raises(Exception, match="changed at the same moment: try again"):
        home.store(lambda store: store.policies.apply("", "0" * 64, "ann", expected=version))
    with pytest.raises(Exception, match="changed at the same moment: try again"):
        home.store(lambda store: store.allow("pump-7", "valve-2", expected=version))
    assert home.store(lambda store: store.policies.get()) is None
    assert home.store(lambda store: store.rules()) == []


def test_a_long_difference_is_cut_and_json_has_it_all(home: Home):
    home.add(*(f"d{number}" for number in range(8)))
    write(home, '[[allow]]\nfrom = "*"\nto = "*"\n')
    shown = command(home.folder, "policy", "diff").stdout
    assert "and 70 more pairs (--all, --json)." in shown
    assert len(command(home.folder, "policy", "diff", "--all").stdout.splitlines()) == 111
    assert len(answer(home.folder, "policy", "diff")["pairs"]) == 110


def test_a_policy_that_cannot_be_read_leaves_what_was_in_force(home: Home):
    write(home, OPEN)
    command(home.folder, "policy", "apply")
    with (
        home.running() as manager,
        manager.device("pump-7") as pump,
        manager.device("valve-2") as valve,
    ):
        home.store(lambda store: store.policies.apply("[[future]]", "0" * 64, "ann"))
        time.sleep(0.5)
        pump.offer("valve-2")
        valve.receive(sig.CONNECT)
        home.store(lambda store: store.policies.apply(EMPTY, "0" * 64, "ann"))
        pump.receive(sig.END, 4.0)


def test_a_manager_does_not_start_with_a_policy_that_it_cannot_read(home: Home):
    home.store(lambda store: store.policies.apply("[[future]]", "0" * 64, "ann"))
    with pytest.raises(PolicyProblem, match="policy 1: future: 'future' is not known here"):
        asyncio.run(Manager(home.folder).start())


def test_a_link_without_a_registration_says_so(home: Home):
    now = time.time()
    rows = [
        LinkRow("a" * 16, "pump-7", "192.0.2.1:1", 1, "0" * 32, now),
        LinkRow("b" * 16, "pump-8", "192.0.2.2:1", 2, "1" * 32, now, (), now - 5),
    ]
    home.store(lambda store: store.write(links={row.link: row for row in rows}))
    shown = command(home.folder, "links").stdout.splitlines()
    assert "not registered" in shown[1]
    assert "lapsed" in shown[2]
    found = answer(home.folder, "links")
    assert [item["transport"] for item in found] == ["mqtt", "sip"]
    assert found[0]["registered_until"] is None
    with home.running():
        assert answer(home.folder, "links") == [], "left by a manager that was killed"


def test_links_are_listed_while_they_are_there(home: Home):
    assert "No device is connected." in command(home.folder, "links").stdout
    with home.running() as manager:
        with manager.device("pump-7") as pump:
            pump.send(
                {
                    sig.TYPE: sig.REGISTER,
                    sig.INSTANCE: pump.instance,
                    sig.ADDRESSES: ["10.0.0.9:5684"],
                    sig.EXPIRES: 600,
                }
            )
            pump.receive(sig.REGISTERED)
            until(lambda: answer(home.folder, "links"))
            until(lambda: answer(home.folder, "links")[0]["addresses"])
            (link,) = answer(home.folder, "links")
            (certificate,) = home.store(lambda store: store.certificates("pump-7"))
            assert link["name"] == "pump-7"
            assert link["serial"] == certificate.serial
            assert link["address"] == manager.links()["pump-7"]
            assert link["transport"] == "mqtt"
            assert link["addresses"] == ["10.0.0.9:5684"]
            assert link["registered_until"] > link["since"]
            (up,) = home.audit("link-up")
            assert up.fields["link"] == link["link"]
            shown = command(home.folder, "links").stdout
            assert link["link"] in shown
            assert link["serial"] in shown
        until(lambda: not answer(home.folder, "links"))
        pump = manager.device("valve-2")
    assert answer(home.folder, "links") == [], "a manager that stops leaves no links"
    pump.close()
    assert json.loads(command(home.folder, "links", "--json").stdout) == []
