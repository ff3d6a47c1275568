"""A backup made while the manager serves, and the manager that goes on from it."""

import io
import json
import os
import shutil
import stat
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from keyferry_core import signalling as sig
from keyferry_manager.config import FILE_NAME, Config
from keyferry_manager.tokens import new_token, token_hash
from support.command import answer, command
from support.est_client import EstClient, csr, new_key
from support.manager_kit import Credentials, Home, PahoDevice, Running
from support.stores import execute_each

LATER = 4_000_000_000


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    settings = {}
    if request.param == "postgres":
        url = request.getfixturevalue("server")
        execute_each(url, "DROP DATABASE IF EXISTS one", "DROP DATABASE IF EXISTS two")
        execute_each(url, "CREATE DATABASE one", "CREATE DATABASE two")
        settings = {"database": url.replace("/postgres?", "/one?")}
    return Home(tmp_path / "home", **settings)


def other_database(home: Home) -> list[str]:
    """What must be said so that a restored manager does not meet the first one's database."""
    if not home.config.database:
        return []
    return ["--database", home.config.database.replace("/one?", "/two?")]


def enrol(home: Home, running: Running, name: str, token: str, folder: Path) -> Credentials:
    """A first certificate, for a one-time token."""
    key = new_key()
    client = EstClient(home, running.manager.est_port)
    (certificate,) = client.enroll(csr(key, name), basic=(name, token)).certificates
    folder.mkdir()
    made = Credentials(folder / "certificate.pem", folder / "key.pem")
    pem = serialization.Encoding.PEM
    made.certificate.write_bytes(certificate.public_bytes(pem))
    plain = serialization.NoEncryption()
    made.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return made


def test_a_restored_manager_goes_on(home: Home, tmp_path: Path):
    archive, restored = tmp_path / "kf.backup", tmp_path / "restored"
    token = new_token()
    home.store(
        lambda store: store.add_device(
            "valve-1", token_hash=token_hash(token), token_expires_at=LATER
        )
    )
    old = home.device("pump-1")
    home.allow("pump-1", "valve-1")
    stopping = threading.Event()

    def write() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            home.store(lambda store, number=number: store.audit("busy", detail=str(number)))

    with home.running() as running:
        with PahoDevice(running, "pump-1", old) as pump:
            pump.connect()
            pump.register()
            writer = threading.Thread(target=write)
            writer.start()
            try:
                home.audit("busy", detail="5")
                made = answer(home.folder, "backup", archive)
            finally:
                stopping.set()
                writer.join()
        assert made["bytes"] == archive.stat().st_size
        assert stat.S_IMODE(archive.stat().st_mode) == 0o600
        # Since the backup: this is what a restored manager does not know.
        home.add("late-1")
    assert home.audit("backup-made")

    found = answer(home.folder.parent, "restore", archive, restored, *other_database(home))
    assert found["realm"] == "plant.example"
    assert found["audit_entries"] >= 5
    assert stat.S_IMODE(restored.stat().st_mode) == 0o700
    assert {path.name for path in restored.parent.iterdir()} >= {"home", "restored"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    for name in ("server.pem", "ca/root.key", "ca/issuing.key"):
        path = restored / name
        if path.exists():
            mode = stat.S_IMODE((home.folder / name).stat().st_mode)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    shutil.rmtree(home.folder / "ca")  # the restored one stands alone

    again = Home.existing(restored)
    assert again.store(lambda store: store.device("late-1")) is None
    with again.running() as running:
        new = enrol(again, running, "valve-1", token, tmp_path / "valve")
        with (
            PahoDevice(running, "pump-1", old) as pump,
            PahoDevice(running, "valve-1", new) as valve,
        ):
            for device in (pump, valve):
                device.connect()
                device.register()
            session = pump.offer("valve-1")
            valve.accept(valve.receive(sig.CONNECT))
            pump.receive(sig.ACCEPT)
            pump.say("valve-1", session, b"as before")
            assert valve.receive(sig.MESSAGE)[sig.RECORD] == b"as before"
    whole = answer(restored, "audit", "verify")
    assert whole["heads_checked"] == 1
    assert whole["entries"] > found["audit_entries"]
    assert again.audit("restored")


def test_lists_of_revoked_certificates_go_on_with_higher_numbers(home: Home, tmp_path: Path):
    archive, restored = tmp_path / "kf.backup", tmp_path / "restored"
    assert home.store(lambda store: store.life.next_crl_number()) == 1
    command(home.folder, "backup", archive)
    since = [home.store(lambda store: store.life.next_crl_number()) for _ in range(3)]
    command(home.folder, "restore", archive, restored, *other_database(home))
    again = Home.existing(restored)
    assert again.store(lambda store: store.life.next_crl_number()) > max(since)


def test_nothing_that_exists_is_overwritten(home: Home, tmp_path: Path):
    archive, restored = tmp_path / "kf.backup", tmp_path / "restored"
    command(home.folder, "backup", archive)
    before = archive.read_bytes()
    assert "not overwritten" in command(home.folder, "backup", archive, code=1).stderr
    assert archive.read_bytes() == before
    restored.mkdir()
    (restored / "mine").write_text("x")
    option = other_database(home)
    said = command(home.folder, "restore", archive, restored, *option, code=1).stderr
    assert "not overwritten" in said
    assert [path.name for path in restored.iterdir()] == ["mine"]
    if option:  # the database that is still in use
        said = command(home.folder, "restore", archive, tmp_path / "new", code=1).stderr
        assert "has tables already" in said
        assert not (tmp_path / "new").exists()


def rewritten(archive: Path, change: Any) -> Path:
    """The archive with its members changed: ``change`` gets and returns (name, bytes) pairs."""
    with tarfile.open(archive) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]
    target = archive.with_name("changed")
    with tarfile.open(target, "w") as tar:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    home = Home(tmp_path / "home")
    command(home.folder, "backup", tmp_path / "kf.backup")
    return tmp_path / "kf.backup"


def with_manifest(change: Any) -> Any:
    def apply(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        manifest = json.loads(members[0][1])
        change(manifest)
        return [("manifest.json", json.dumps(manifest).encode()), *members[1:]]

    return apply


def renamed(old: str, new: str) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        manifest["members"][new] = manifest["members"].pop(old)

    def apply(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        members = with_manifest(change)(members)
        return [(new if name == old else name, data) for name, data in members]

    return apply


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda members: members[:-1], "cut off"),
        (lambda members: members[1:], "no backup"),
        (lambda members: [], "no backup"),
        (lambda members: [*members, members[1]], "is not what it says"),
        (lambda members: [*members, ("home/evil", b"x")], "is not what it says"),
        (
            lambda members: [*members[:-1], ("database", members[-1][1][:-1] + b"\1")],
            "was changed",
        ),
        (with_manifest(lambda manifest: manifest.update(format=2)), "no backup that this version"),
        (with_manifest(lambda manifest: manifest.update(members=[])), "no backup that this"),
        (with_manifest(lambda manifest: manifest.pop("realm")), "no backup that this version"),
        (renamed("home/keyferry.toml", "home/../../evil"), "no backup that this version"),
        (renamed("home/keyferry.toml", "/tmp/evil"), "no backup that this version"),
        (renamed("home/keyferry.toml", "home/other.toml"), "keyferry.toml is missing"),
    ],
)
def test_what_is_no_backup_leaves_nothing(archive: Path, tmp_path: Path, change, expected: str):
    changed = rewritten(archive, change)
    before = sorted(tmp_path.rglob("*"))
    said = command(tmp_path, "restore", changed, tmp_path / "new", code=1).stderr
    assert expected in " ".join(said.split())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_anything_else_is_no_backup(archive: Path, tmp_path: Path):
    for number, data in enumerate((b"", b"x" * 2000, archive.read_bytes()[:5000])):
        other = tmp_path / f"other-{number}"
        other.write_bytes(data)
        said = command(tmp_path, "restore", other, tmp_path / "new", code=1).stderr
        assert "no backup" in said or "cut off" in said
        assert not (tmp_path / "new").exists()


def test_links_out_of_the_home_and_what_is_too_large_stay_out(tmp_path: Path):
    home = Home(tmp_path / "home")
    secret = tmp_path / "secret"
    secret.write_text("not of this home")
    os.symlink(secret, home.folder / "link")
    command(home.folder, "backup", tmp_path / "kf.backup")
    with tarfile.open(tmp_path / "kf.backup") as tar:
        names = tar.getnames()
    assert "home/link" not in names
    assert {"home/ca/root.pem", "home/server.pem", "database", "manifest.json"} <= set(names)
    assert not [name for name in names if "keyferry.db" in name]
    with (home.folder / "huge").open("wb") as file:
        file.truncate(1 << 30)
    said = command(home.folder, "backup", tmp_path / "two", code=1).stderr
    assert "move it elsewhere" in said
    assert not (tmp_path / "two").exists()


@pytest.mark.needs("postgres")
def test_a_backup_of_one_database_does_not_become_another(archive: Path, tmp_path: Path, server):
    execute_each(server, "DROP DATABASE IF EXISTS empty", "CREATE DATABASE empty")
    url = server.replace("/postgres?", "/empty?")
    new = tmp_path / "new"
    said = command(tmp_path, "restore", archive, new, "--database", url, code=1).stderr
    assert "cannot become PostgreSQL" in said
    assert not new.exists()


def test_the_password_of_a_database_is_in_no_argument_list(monkeypatch: pytest.MonkeyPatch):
    from keyferry_manager.store import copying

    seen = []

    def run(command, **options):
        seen.append((command, options["env"]))
        return type("Done", (), {"returncode": 1, "stderr": b"no", "stdout": b""})

    monkeypatch.setattr(copying.subprocess, "run", run)
    with pytest.raises(Exception, match="failed: no"):
        copying.check_empty("postgresql://me:s3cret%2F@db.example:5433/kf?sslmode=require")
    ((arguments, environment),) = seen
    assert not [part for part in arguments if "s3cret" in str(part)]
    wanted = {
        "PGHOST": "db.example",
        "PGPORT": "5433",
        "PGUSER": "me",
        "PGPASSWORD": "s3cret/",
        "PGSSLMODE": "require",
    }
    assert wanted.items() <= environment.items()


def test_settings_without_a_database_section_get_one(tmp_path: Path):
    from keyferry_manager.backup import _change_database

    path = tmp_path / FILE_NAME
    for body in ("", "[log]\nlevel = 'info'\n", "[database]\n\n[log]\nlevel = 'info'\n"):
        path.write_text(f'realm = "plant.example"\n{body}')
        os.chmod(path, 0o600)
        _change_database(path, 'postgresql://me@h/\\"kf')
        assert Config.load(tmp_path).database == 'postgresql://me@h/\\"kf'
