"""The command line: what it makes, what it says, and what it refuses."""

import asyncio
import base64
import contextlib
import json
import os
import queue
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography import x509
from typer.testing import CliRunner

from keyferry_agent import config as agent_config
from keyferry_core.csr import parse_private_key
from keyferry_manager.authority import LocalAuthority, serial_text
from keyferry_manager.cli import app
from keyferry_manager.cli.base import printable
from keyferry_manager.config import Config
from keyferry_manager.problems import Problem
from keyferry_manager.store import SessionRow, Store
from keyferry_manager.tokens import token_hash

PROGRAM = [sys.executable, "-c", "from keyferry_manager.cli import main; main()"]
PORTS = ("--host", "127.0.0.1", "--mqtt-port", "0", "--est-port", "0")


def run(*arguments: object, code: int = 0, home: Path | None = None) -> Result:
    """Run a command in this process, and hold it to its exit code."""
    environment = {"KEYFERRY_HOME": str(home) if home else None, "COLUMNS": "200"}
    result = CliRunner().invoke(app, [str(item) for item in arguments], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def said(result: Result) -> str:
    """Standard error as one line, without the frame that rich draws around wrong usage."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", result.stderr)


def read(*arguments: object, home: Path) -> Any:
    return json.loads(run(*arguments, "--json", home=home).stdout)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    run("init", directory, "--realm", "plant.example")
    return directory


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# init


def test_init_makes_a_whole_home(home: Path):
    assert mode(home) == 0o700
    found = modes(home)
    assert found.pop("ca") == 0o700
    for name in ("ca/root.pem", "ca/issuing.pem", "ca/factory.pem"):
        assert found.pop(name) == 0o644
    private = {"ca/root.key", "ca/issuing.key", "ca/factory.key"}
    assert set(found) == private | {"server.pem", "keyferry.db", "keyferry.toml", "policy.toml"}
    assert set(found.values()) == {0o600}
    config = Config.load(home)
    assert config == Config(home=home, realm="plant.example", time_port=8480)
    LocalAuthority(config)
    (entry,) = read("audit", home=home)
    assert (entry["event"], entry["outcome"]) == ("home-made", "ok")


def test_init_says_what_it_made_and_what_comes_next(tmp_path: Path):
    result = run("init", tmp_path / "kf", "--realm", "plant.example", *PORTS)
    assert "A manager for plant.example" in result.stdout
    assert f"keyferry serve --home {tmp_path / 'kf'}" in result.stdout
    assert "device add" in result.stdout
    made = json.loads(run("init", tmp_path / "b", "--realm", "b.example", "--json").stdout)
    assert made["realm"] == "b.example"
    assert Path(made["root_certificate"]).exists()


def test_init_overwrites_nothing(home: Path, tmp_path: Path):
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert "is not overwritten" in said(run("init", home, "--realm", "plant.example", code=1))
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    file = tmp_path / "file"
    file.write_text("mine")
    run("init", file, "--realm", "plant.example", code=1)
    assert file.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    run("init", tmp_path / "empty", "--realm", "plant.example")


def test_init_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    result = run("init", tmp_path / "file" / "home", "--realm", "plant.example", code=1)
    assert "cannot be made" in said(result)
    for kind in (OSError(28, "No space left on device"), KeyboardInterrupt(), Problem("no")):

        def fail(_self: Store, kind: BaseException = kind) -> None:
            raise kind

        monkeypatch.setattr(Store, "migrate", fail)
        with contextlib.suppress(KeyboardInterrupt):
            result = CliRunner().invoke(app, ["init", f"{tmp_path}/home", "--realm", "a.example"])
            assert result.exit_code != 0
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_init_writes_what_it_is_told(tmp_path: Path):
    run("init", tmp_path / "kf", "--realm", "a.example", *PORTS, "--public-host", "192.0.2.1")
    config = Config.load(tmp_path / "kf")
    assert (config.listen_host, config.mqtt_port, config.est_port) == ("127.0.0.1", 0, 0)
    assert config.device_host == "192.0.2.1"
    certificate = x509.load_pem_x509_certificate((tmp_path / "kf/server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.1" in [str(item.value) for item in names]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--realm", "Plant"], "'Plant' is not a domain name"),
        (["--realm", "a.example", "--host", "a b"], "is neither an IP address nor"),
        (["--realm", "a.example", "--mqtt-port", "70000"], "'--mqtt-port'"),
        ([], "Missing option '--realm'"),
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, arguments: Sequence[str], expected: str):
    assert expected in said(run("init", tmp_path / "kf", *arguments, code=2))
    assert list(tmp_path.iterdir()) == []


# device


def test_a_factory_identity_is_what_the_agent_reads(home: Path, tmp_path: Path):
    out = tmp_path / "pump-7"
    added = read("device", "add", "pump-7", "--factory", "--out", out, home=home)
    assert modes(out) == {
        "config.json": 0o644,
        "root.der": 0o644,
        "factory.crt": 0o644,
        "factory.key": 0o600,
    }
    assert mode(out) == 0o700
    config = agent_config.load(str(out))
    assert (config.name, config.realm, config.host) == ("pump-7", "plant.example", "plant.example")
    assert (config.mqtt_port, config.est_port) == (8883, 8443)
    authority = LocalAuthority(Config.load(home))
    assert x509.load_der_x509_certificate((out / "root.der").read_bytes()) == authority.root
    key = (out / "factory.key").read_bytes()
    found = authority.identify((out / "factory.crt").read_bytes())
    assert (found.kind, found.name, found.serial) == ("factory", "pump-7", added["factory_serial"])
    private, public = parse_private_key(key)
    numbers = found.certificate.public_key().public_numbers()  # type: ignore[union-attr]
    assert public[1:33] == numbers.x.to_bytes(32, "big")  # type: ignore[union-attr]
    # and no file of the manager holds the private key, in any of the usual forms
    everything = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    for form in (private, private.hex().encode(), base64.b64encode(key)[:100]):
        assert form not in everything


@pytest.mark.needs("openssl")
def test_openssl_reads_a_factory_key(home: Path, tmp_path: Path):
    out = tmp_path / "d"
    run("device", "add", "pump-7", "--factory", "--out", out, home=home)
    command = ["openssl", "ec", "-inform", "DER", "-in", out / "factory.key", "-noout", "-text"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "prime256v1" in shown.stdout


def test_without_out_a_factory_identity_goes_to_the_devices_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    result = run("device", "add", "pump-7", "--factory", home=home)
    assert (tmp_path / "pump-7" / "factory.key").exists()
    assert f"Its files are in {tmp_path / 'pump-7'}" in result.stdout


def test_a_token_is_shown_once_and_stored_hashed(home: Path, tmp_path: Path):
    result = run("device", "add", "pump-7", "--token", home=home)
    match = re.search(r"kft_[a-z2-7]{32}", result.stdout)
    assert match is not None
    secret = match[0]
    everything = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert secret.encode() not in everything
    assert token_hash(secret).encode() in everything
    shown = run("device", "show", "pump-7", home=home).stdout
    assert "token        waiting" in shown
    assert secret not in shown
    assert secret not in run("audit", home=home).stdout


def test_a_token_in_a_file(home: Path, tmp_path: Path):
    out = tmp_path / "files"
    settings = ("--host", "192.0.2.9", "--mqtt-port", "1883", "--est-port", "9443")
    added = read(
        "device", "add", "pump-7", "--token", "--expires", "30m", "--out", out, *settings, home=home
    )
    assert modes(out) == {"config.json": 0o644, "root.der": 0o644, "token": 0o600}
    config = agent_config.load(str(out))
    assert (out / "token").read_text() == added["token"] + "\n"
    assert (config.host, config.mqtt_port, config.est_port) == ("192.0.2.9", 1883, 9443)
    (token,) = read("device", "show", "pump-7", home=home)["tokens"]
    assert token == {"state": "waiting", "expires": added["expires"], "used": None}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pump-7"], "give either --factory or --token"),
        (["pump-7", "--factory", "--token"], "give either --factory or --token"),
        (["Pump", "--token"], "'Pump' is not a device's name"),
        (["manager", "--token"], "'manager' is not a device's name"),
        (["pump-7", "--token", "--expires", "1y"], "such as 30m, 24h or 7d"),
        (["pump-7", "--token", "--expires", "99d"], "of 31 days at most"),
        (["pump-7", "--factory", "--expires", "1h"], "--expires goes with --token"),
        (["pump-7", "--token", "--est-port", "0"], "'--est-port'"),
    ],
)
def test_wrong_usage_of_device_add(home: Path, arguments: Sequence[str], expected: str):
    assert expected in said(run("device", "add", *arguments, code=2, home=home))
    assert read("device", "list", home=home) == []


def test_a_device_is_added_once_unless_again(home: Path, tmp_path: Path):
    run("device", "add", "pump-7", "--factory", "--out", tmp_path / "one", home=home)
    refused = run(
        "device", "add", "pump-7", "--factory", "--out", tmp_path / "two", home=home, code=1
    )
    assert "pump-7 exists already" in said(refused)
    assert "--again" in said(refused)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "one"]
    before = read("device", "show", "pump-7", home=home)["factory"]
    run("device", "add", "pump-7", "--factory", "--again", "--out", tmp_path / "two", home=home)
    (after,) = read("device", "show", "pump-7", home=home)["factory"]
    assert after not in before


def test_a_devices_files_overwrite_nothing(home: Path, tmp_path: Path):
    out = tmp_path / "one"
    out.mkdir()
    (out / "mine").write_text("")
    refused = run("device", "add", "pump-7", "--token", "--out", out, home=home, code=1)
    assert "is not overwritten" in said(refused)
    assert read("device", "list", home=home) == []
    refused = run("device", "add", "p-1", "--token", "--out", out / "mine/x", home=home, code=1)
    assert "cannot be written" in said(refused)
    assert read("device", "list", home=home) == []


def test_ports_that_are_not_known_must_be_given(tmp_path: Path):
    home = tmp_path / "kf"
    run("init", home, "--realm", "plant.example", *PORTS)
    refused = run("device", "add", "pump-7", "--factory", home=home, code=1)
    assert "--mqtt-port and --est-port" in said(refused)
    run("device", "add", "pump-7", "--token", home=home)  # without files it needs none


def test_list_and_show(home: Path, tmp_path: Path):
    assert "No device yet" in run("device", "list", home=home).stdout
    run("device", "add", "pump-7", "--token", home=home)
    run("device", "add", "hmi-1", "--factory", "--out", tmp_path / "d", home=home)
    run("allow", "hmi-1", "pump-7", home=home)
    listed = read("device", "list", home=home)
    assert [(item["name"], item["state"]) for item in listed] == [
        ("hmi-1", "waiting"),
        ("pump-7", "waiting"),
    ]
    shown = read("device", "show", "hmi-1", home=home)
    assert shown["identity"] == "sip:hmi-1@plant.example"
    assert (shown["may_ask"], shown["asked_by"]) == (["pump-7"], [])
    assert len(shown["factory"]) == 1
    text = run("device", "show", "pump-7", home=home).stdout
    assert "asked by     hmi-1" in text
    refused = run("device", "show", "pump-8", home=home, code=1)
    assert "no device is called pump-8" in said(refused)


# rules, sessions, audit


def test_allow_and_remove(home: Path):
    assert "Nobody may ask for anybody" in run("allow", home=home).stdout
    run("device", "add", "pump-7", "--token", home=home)
    result = run("allow", "hmi-1", "pump-7", home=home)
    assert "hmi-1 may ask for pump-7." in result.stdout
    assert "no device is called hmi-1 yet" in said(result)
    assert "already" in run("allow", "hmi-1", "pump-7", home=home).stdout
    (rule,) = read("allow", home=home)
    assert (rule["from"], rule["to"]) == ("hmi-1", "pump-7")
    assert run("allow", home=home).stdout.split() == ["FROM", "TO", "hmi-1", "pump-7"]
    removed = read("allow", "hmi-1", "pump-7", "--remove", home=home)
    assert removed["allowed"] is False
    refused = run("allow", "hmi-1", "pump-7", "--remove", home=home, code=1)
    assert "there is no rule from hmi-1 to pump-7" in said(refused)
    events = [entry["event"] for entry in read("audit", home=home)]
    assert events[-2:] == ["rule-added", "rule-removed"]
    for wrong in (("a",), ("a", "a"), ("A", "b"), ("--remove",)):
        run("allow", *wrong, home=home, code=2)


def with_store(home: Path, work: Any) -> None:
    async def main() -> None:
        async with Store.open(Config.load(home).database_url) as store:
            await work(store)

    asyncio.run(main())


def test_sessions(home: Path):
    assert "No session yet" in run("sessions", home=home).stdout
    rows = [
        SessionRow("a" * 32, "hmi-1", "pump-7", "ended", 1.8e9, 1.8e9 + 9, "peer-gone", 7, 900),
        SessionRow("b" * 32, "hmi-1", "pump-8", "established", 1.8e9 + 1),
    ]
    with_store(home, lambda store: store.write(sessions=rows))
    newest, oldest = read("sessions", home=home)
    assert (newest["to"], newest["state"], newest["ended"]) == ("pump-8", "established", None)
    assert (oldest["reason"], oldest["bytes"]) == ("peer-gone", 900)
    assert oldest["ended"] == "2027-01-15T08:00:09Z"
    assert read("sessions", "--open", home=home) == [newest]
    assert read("sessions", "--device", "pump-7", home=home) == [oldest]
    assert read("sessions", "-n", "1", home=home) == [newest]
    lines = run("sessions", home=home).stdout.splitlines()
    assert len(lines) == 3
    assert "ended: peer-gone" in lines[2]


def test_audit(home: Path):
    hostile = "\x1b[2Jgone [red]x[/red]\n\u202e"

    async def work(store: Store) -> None:
        await store.audit("enrolled", "pump-7", "192.0.2.1:5", serial="7f")
        await store.audit("enrolment-refused", "", "192.0.2.1:5", "refused", hostile)

    with_store(home, work)
    _, enrolled, refused = read("audit", home=home)
    assert enrolled["fields"] == {"serial": "7f"}
    assert refused["detail"] == hostile
    assert read("audit", "--event", "enrolled", home=home) == [enrolled]
    assert read("audit", "--device", "pump-7", home=home) == [enrolled]
    text = run("audit", home=home).stdout
    assert len(text.splitlines()) == 4  # in a pipe, one line each
    assert 'serial="7f"' in text
    assert "\x1b" not in text
    assert "\\x1b[2Jgone [red]x[/red]\\n\\u202e" in text


def test_printable():
    assert printable("pump-7 é") == "pump-7 é"
    assert printable("a\tb\x9b") == "a\\tb\\x9b"


# the home


def test_a_home_that_is_not_there(tmp_path: Path):
    for command in (
        ("serve",),
        ("device", "list"),
        ("device", "add", "pump-7", "--token"),
        ("allow", "a", "b"),
        ("sessions",),
        ("audit",),
    ):
        refused = run(*command, "--home", tmp_path / "none", code=1)
        assert "make a manager with 'keyferry init" in said(refused)
        assert "Traceback" not in refused.output
    assert list(tmp_path.iterdir()) == []


def test_problems_of_a_home_are_one_sentence(home: Path):
    (home / "ca/issuing.key").chmod(0o644)
    assert "chmod 600" in said(run("device", "add", "p-1", "--token", home=home, code=1))
    (home / "keyferry.db").write_bytes(b"rubbish" * 1000)
    assert "the database cannot be opened" in said(run("device", "list", home=home, code=1))
    (home / "keyferry.toml").write_text("realm = 1")
    assert "realm is not a domain name" in said(run("audit", home=home, code=1))


def test_help_is_there_for_everything():
    assert "init" in run("--help").stdout
    for command in (
        ("init",),
        ("serve",),
        ("device",),
        ("device", "add"),
        ("device", "list"),
        ("device", "show"),
        ("allow",),
        ("sessions",),
        ("audit",),
    ):
        assert len(run(*command, "--help").stdout.splitlines()) > 8
    assert "serve" in run(code=2).output


# serve, as a process


class Serving:
    """``keyferry serve`` in a process of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", "--home", str(home), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._log: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_out), threading.Thread(target=self._read_log)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self._log.extend(self.process.stderr)

    def line(self) -> str:
        """The next line of standard output."""
        try:
            return self._lines.get(timeout=20)
        except queue.Empty:
            raise AssertionError("".join(self._log)) from None

    def end(self, number: int | None = None) -> tuple[int, list[str]]:
        """Send a signal, wait, and return exit code and log."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        for thread in self._threads:
            thread.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code, self._log


@contextlib.contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Serving]:
    process = Serving(home, *arguments)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.end()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A home that may listen on any free port of this machine."""
    home = tmp_path / "local"
    run("init", home, "--realm", "localhost", *PORTS)
    return home


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_until_a_signal(local: Path, number: int):
    with serving(local, "--json") as process:
        ready = json.loads(process.line())
        assert ready["event"] == "ready"
        assert ready["realm"] == "localhost"
        assert ready["pid"] == process.process.pid
        context = ssl.create_default_context(cafile=local / "ca/root.pem")
        url = f"https://localhost:{ready['est_port']}/.well-known/est/cacerts"
        with urllib.request.urlopen(url, context=context) as response:
            assert response.status == 200
        code, log = process.end(number)
        assert code == 0
        events = [json.loads(line)["event"] for line in log]
        assert events[-1] == "manager-stopped"
        assert not any("Traceback" in line for line in log)


def test_serve_for_people(local: Path, tmp_path: Path):
    trace = tmp_path / "trace.jsonl"
    with serving(local, "--trace", str(trace)) as process:
        match = re.fullmatch(
            r"ready: localhost on 127\.0\.0\.1, MQTT port (\d+), EST port (\d+), "
            r"time port \d+, metrics on 127\.0\.0\.1 port \d+\n",
            process.line(),
        )
        assert match is not None
        # what the command line changes reaches the running manager
        run("allow", "hmi-1", "pump-7", home=local)
        run("device", "add", "pump-7", "--token", home=local)
        with socket.create_connection(("127.0.0.1", int(match[1])), 5):
            pass
        code, log = process.end(signal.SIGTERM)
        assert code == 0
        assert any("manager-started" in line for line in log)
    assert trace.exists()


def test_a_port_in_use_is_said(local: Path):
    with serving(local, "--json") as first:
        port = json.loads(first.line())["est_port"]
        config = (local / "keyferry.toml").read_text()
        (local / "keyferry.toml").write_text(config.replace("est_port = 0", f"est_port = {port}"))
        with serving(local) as second:
            code, log = second.end()
            assert code == 1
            said = " ".join(log)
            assert f"cannot listen on 127.0.0.1 port {port}" in said
            assert "Traceback" not in said
        assert first.end(signal.SIGTERM)[0] == 0


def test_serve_renews_its_certificate_when_it_starts(local: Path):
    before = x509.load_pem_x509_certificate((local / "server.pem").read_bytes())
    config = (local / "keyferry.toml").read_text()
    changed = config.replace("server_names = []", 'server_names = ["kf.plant.example"]')
    (local / "keyferry.toml").write_text(changed)
    with serving(local) as process:
        process.line()
        assert process.end(signal.SIGTERM)[0] == 0
    after = x509.load_pem_x509_certificate((local / "server.pem").read_bytes())
    assert serial_text(after) != serial_text(before)


def test_the_program_makes_a_home(tmp_path: Path):
    command = [*PROGRAM, "init", "home", "--realm", "plant.example"]
    environment = {key: value for key, value in os.environ.items() if key != "KEYFERRY_HOME"}
    for code in (0, 1):
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )
        assert done.returncode == code, done.stderr
    assert "is not overwritten" in done.stderr
    Config.load(tmp_path / "home")


def test_the_program_says_problems_without_a_traceback(tmp_path: Path):
    environment = {**os.environ, "KEYFERRY_HOME": str(tmp_path / "none")}
    done = subprocess.run(
        [*PROGRAM, "serve"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("keyferry: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
