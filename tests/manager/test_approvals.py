"""Approval by a person, the operator's hook, and limits on asking."""

import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from keyferry_manager.authority import key_digest
from keyferry_manager.cli import app
from keyferry_manager.config import FILE_NAME, Config, template
from keyferry_manager.problems import ConfigProblem
from keyferry_manager.tokens import new_token, token_hash
from support.est_client import Answer, EstClient, csr, new_key
from support.manager_kit import REALM, Home, Running
from support.pem_keys import key_of


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", admission="approve", approval_seconds=7)


def keyferry(home: Home, *arguments: str, code: int = 0) -> Result:
    environment = {"KEYFERRY_HOME": str(home.folder), "COLUMNS": "300"}
    result = CliRunner().invoke(app, list(arguments), env=environment)
    assert result.exit_code == code, result.output
    return result


def listed(home: Home) -> list[dict[str, object]]:
    return json.loads(keyferry(home, "approvals", "list", "--json").stdout)


def token(home: Home, name: str, again: bool = False) -> str:
    secret = new_token()
    home.store(
        lambda store: store.add_device(
            name,
            token_hash=token_hash(secret),
            token_expires_at=int(time.time()) + 3600,
            again=again,
        )
    )
    return secret


def ask(running: Running, name: str, secret: str, der: bytes, source: str = "127.0.0.1") -> Answer:
    client = EstClient(running.home, running.manager.est_port)
    return client.enroll(der, basic=(name, secret), source=source)


def waits(given: Answer, seconds: int = 7) -> None:
    assert (given.status, given.headers["retry-after"]) == (202, str(seconds)), given
    assert given.error == "approval-pending"


# approval


def test_a_request_waits_and_the_same_one_then_gets_its_certificate(running: Running):
    home = running.home
    secret, key = token(home, "pump-7"), new_key()
    request = csr(key)
    waits(ask(running, "pump-7", secret, request))
    waits(ask(running, "pump-7", secret, request))
    (waiting,) = listed(home)
    assert (waiting["name"], waiting["state"], waiting["admission"]) == (
        "pump-7",
        "waiting",
        "token",
    )
    assert waiting["key"] == key_digest(key.public_key())
    assert "pump-7  waiting" in " ".join(keyferry(home, "approvals", "list").stdout.split(" "))
    keyferry(home, "approvals", "approve", "pump-7")
    assert listed(home)[0]["state"] == "approved"
    # another key of the same device is another request
    waits(ask(running, "pump-7", secret, csr()))
    assert ask(running, "pump-7", secret, csr(key)).certificates
    assert [item["state"] for item in listed(home)] == ["waiting"]
    for event in ("approval-asked", "approval-approved", "enrolled"):
        assert home.audit(event)[0].name == "pump-7"


def test_a_denied_request_is_refused_and_the_token_is_not_spent(running: Running):
    home = running.home
    secret, request = token(home, "pump-7"), csr()
    waits(ask(running, "pump-7", secret, request))
    number = str(listed(home)[0]["which"])
    assert "refused with this key" in keyferry(home, "approvals", "deny", number).stdout
    given = ask(running, "pump-7", secret, request)
    assert (given.status, given.error) == (403, "access-denied")
    assert b"the operator denied" in given.body
    assert home.audit("enrolment-refused", "was denied")
    keyferry(home, "approvals", "approve", number)  # a changed mind
    assert ask(running, "pump-7", secret, request).certificates


def test_a_renewal_waits_for_nobody(running: Running):
    credentials = running.home.device("pump-7")
    client = EstClient(running.home, running.manager.est_port, credentials)
    assert client.enroll(csr(key_of(credentials)), again=True).certificates


def test_no_credential_no_queue(running: Running):
    client = EstClient(running.home, running.manager.est_port)
    assert client.enroll(csr(name="pump-7")).error == "certificate-required"
    token(running.home, "pump-7")
    assert ask(running, "pump-7", new_token(), csr()).error == "bad-credentials"
    assert listed(running.home) == []


def test_a_device_pushes_out_its_own_oldest_request_and_no_others(running: Running):
    home = running.home
    other, mine = token(home, "valve-2"), token(home, "pump-7")
    waits(ask(running, "valve-2", other, csr()))
    for _ in range(7):
        waits(ask(running, "pump-7", mine, csr()))
    assert [item["name"] for item in listed(home)] == ["valve-2"] + 4 * ["pump-7"]
    given = keyferry(home, "approvals", "approve", "pump-7", code=1)
    assert "several keys: say which request" in given.stderr


def test_a_key_of_another_devices_request(running: Running):
    home = running.home
    first, second, key = token(home, "pump-7"), token(home, "valve-2"), new_key()
    waits(ask(running, "pump-7", first, csr(key)))
    given = ask(running, "valve-2", second, csr(key))
    assert (given.status, given.error) == (429, "too-many")
    assert [item["name"] for item in listed(home)] == ["pump-7"]


def test_what_ends_a_way_to_enrol_ends_its_requests(running: Running):
    home = running.home
    secret, request = token(home, "pump-7"), csr()
    waits(ask(running, "pump-7", secret, request))
    keyferry(home, "approvals", "approve", "pump-7")
    token(home, "pump-7", again=True)
    assert listed(home) == []
    secret = token(home, "pump-7", again=True)
    waits(ask(running, "pump-7", secret, request))
    keyferry(home, "device", "revoke", "pump-7")
    assert listed(home) == []
    given = keyferry(home, "approvals", "approve", "pump-7", code=1)
    assert "nothing of pump-7 waits" in given.stderr


# the hook


def hook(folder: Path, body: str) -> list[str]:
    """A command in Python; ``facts`` is what it was told."""
    program = folder / "hook.py"
    program.write_text(f"import json, sys, time\nfacts = json.loads(sys.stdin.read())\n{body}\n")
    return [sys.executable, str(program)]


def with_hook(tmp_path: Path, argv: list[str], **settings: object) -> Home:
    return Home(tmp_path / "home", hook=tuple(argv), **settings)


def test_a_hook_is_told_who_asks_and_can_allow(tmp_path: Path):
    note = tmp_path / "told.json"
    argv = hook(tmp_path, f"json.dump(facts, open({str(note)!r}, 'w'))")
    home = with_hook(tmp_path, argv)
    with home.running() as running:
        key = new_key()
        assert ask(running, "pump-7", token(home, "pump-7"), csr(key)).certificates
    told = json.loads(note.read_text())
    assert told.pop("csr")
    assert told.pop("address").startswith("127.0.0.1:")
    assert told == {
        "name": "pump-7",
        "realm": REALM,
        "admission": "token",
        "key": key_digest(key.public_key()),
    }


def test_a_hook_can_refuse_and_its_reason_is_for_the_operator(tmp_path: Path):
    home = with_hook(tmp_path, hook(tmp_path, "print('not in the inventory'); sys.exit(1)"))
    with home.running() as running:
        given = ask(running, "pump-7", token(home, "pump-7"), csr())
        assert (given.status, given.error) == (403, "access-denied")
        assert b"inventory" not in given.body
        assert home.audit("enrolment-refused", "refused by the hook: not in the inventory")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("sys.exit(2)", "exit status 2"),
        ("raise RuntimeError", "exit status 1"),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9"),
        ("time.sleep(60)", "no answer within 1 s"),
        ("print('x' * 10_000_000, flush=True); time.sleep(60)", "no answer within 1 s"),
    ],
)
def test_a_hook_that_fails_allows_nothing(tmp_path: Path, body: str, detail: str):
    home = with_hook(tmp_path, hook(tmp_path, body), hook_seconds=1)
    secret = token(home, "pump-7")
    with home.running() as running:
        started = time.monotonic()
        given = ask(running, "pump-7", secret, csr())
        assert time.monotonic() - started < 30  # the hooks that are late take 60
        if "RuntimeError" in body:  # Python's own status for it is the veto's
            assert (given.status, given.error) == (403, "access-denied")
        else:
            assert (given.status, given.error) == (500, "internal")
            assert home.audit("enrolment-refused", detail)
    assert home.store(lambda store: store.certificates("pump-7")) == []


def test_a_hook_that_is_late_is_gone_with_what_it_started(tmp_path: Path):
    note = tmp_path / "child"
    body = (
        "import subprocess\n"
        f"child = subprocess.Popen(['sleep', '60'])\nopen({str(note)!r}, 'w').write(str(child.pid))"
        "\ntime.sleep(60)"
    )
    home = with_hook(tmp_path, hook(tmp_path, body), hook_seconds=1)
    with home.running() as running:
        assert ask(running, "pump-7", token(home, "pump-7"), csr()).status == 500
    end = time.monotonic() + 30
    while _alive(int(note.read_text())):
        assert time.monotonic() < end
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_hook_that_is_not_there_allows_nothing(tmp_path: Path):
    home = with_hook(tmp_path, [str(tmp_path / "absent")])
    with home.running() as running:
        assert ask(running, "pump-7", token(home, "pump-7"), csr()).status == 500
        assert home.audit("enrolment-refused", "it could not be started: No such file")


def test_a_hook_may_answer_without_reading(tmp_path: Path):
    program = tmp_path / "yes"
    program.write_text("#!/bin/sh\nexec true\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    home = with_hook(tmp_path, [str(program)])
    with home.running() as running:
        assert ask(running, "pump-7", token(home, "pump-7"), csr()).certificates


def test_the_hook_comes_before_the_person_and_again_before_the_certificate(tmp_path: Path):
    count = tmp_path / "count"
    home = with_hook(
        tmp_path, hook(tmp_path, f"open({str(count)!r}, 'a').write('x')"), admission="approve"
    )
    secret, request = token(home, "pump-7"), csr()
    with home.running() as running:
        for _ in range(3):
            waits(ask(running, "pump-7", secret, request), 60)
        assert count.read_text() == "x"
        keyferry(home, "approvals", "approve", "pump-7")
        assert ask(running, "pump-7", secret, request).certificates
        assert count.read_text() == "xx"


def test_a_hook_must_be_a_whole_path(tmp_path: Path):
    for value in (("check",), (1,)):
        text = template(REALM, hook=value)
        with pytest.raises(ConfigProblem, match=r"enrolment\.hook"):
            Config.parse(text, tmp_path, FILE_NAME)
    assert os.path.isabs(Config.parse(template(REALM, hook=("/x y",)), tmp_path).hook[0])


# limits


def test_one_credential_is_bounded_whatever_addresses_it_comes_from(tmp_path: Path):
    home = Home(tmp_path / "home", failures_per_minute=3)
    secret, other = token(home, "pump-7"), token(home, "valve-2")
    with home.running() as running:
        for number in range(3):
            given = ask(running, "pump-7", secret, b"rubbish", f"127.0.0.{number + 2}")
            assert given.status == 400
        given = ask(running, "pump-7", secret, csr(), "127.0.0.9")
        assert (given.status, given.error) == (429, "too-many")
        assert 0 < int(given.headers["retry-after"]) <= 61
        assert ask(running, "valve-2", other, csr(), "127.0.0.9").certificates


def test_asking_too_often_for_an_approval_is_bounded(tmp_path: Path):
    home = Home(tmp_path / "home", failures_per_minute=3, admission="approve")
    secret, request = token(home, "pump-7"), csr()
    with home.running() as running:
        for _ in range(3):
            waits(ask(running, "pump-7", secret, request), 60)
        assert ask(running, "pump-7", secret, request).status == 429


def test_an_address_gets_only_so_many_certificates(tmp_path: Path):
    home = Home(tmp_path / "home", address_enrolments_per_hour=2)
    secrets = [token(home, f"pump-{number}") for number in range(3)]
    with home.running() as running:
        for number in range(2):
            assert ask(running, f"pump-{number}", secrets[number], csr()).certificates
        given = ask(running, "pump-2", secrets[2], csr())
        assert (given.status, given.error) == (429, "too-many")
        assert int(given.headers["retry-after"]) > 3000
        assert ask(running, "pump-2", secrets[2], csr(), "127.0.0.2").certificates
