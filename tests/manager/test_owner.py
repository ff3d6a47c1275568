"""An owner's signature, from the key kept offline to the peers that want it, through a manager."""

import base64
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from keyferry_core import owner
from keyferry_core import signalling as sig
from keyferry_core.suite_cryptography import CryptographyCrypto
from keyferry_manager import owner as offline
from keyferry_manager.cli import app
from keyferry_manager.problems import Problem
from support.manager_kit import REALM, Home, PahoDevice, Running

CRYPTO = CryptographyCrypto(os.urandom)


def run(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else " ".join(result.stderr.split())


@pytest.fixture
def key(tmp_path: Path) -> Path:
    made = run("owner", "new", tmp_path / "owner.key", "--json")
    assert made["public"] == str(tmp_path / "owner.key.pub")
    return tmp_path / "owner.key"


def register(device: PahoDevice, trust: int = 0) -> None:
    message: dict[int, Any] = {
        sig.TYPE: sig.REGISTER,
        sig.INSTANCE: device.instance,
        sig.ADDRESSES: [],
    }
    if trust:
        message[sig.TRUST] = trust
    device.send(message)
    device.receive(sig.REGISTERED)


def signed(home: Home, name: str, key: Path, folder: Path, *more: object) -> Path:
    """What the owner signed for the newest certificate of a device."""
    pem, out = folder / f"{name}.pem", folder / f"{name}.cose"
    run("certificate", "export", name, "--out", pem, "--home", home.folder, "--json")
    run("owner", "endorse", pem, "--key", key, "--out", out, *more, "--json")
    return out


def test_a_key_is_made_once_and_only_its_owner_reads_it(key: Path):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = offline.public_key(key.with_name("owner.key.pub"))
    assert len(public) == 65
    assert "not overwritten" in run("owner", "new", key, code=1)
    key.chmod(0o644)
    with pytest.raises(Problem, match="chmod 600"):
        offline.endorse(key, key, 0)
    for place in (key, key.parent, key.with_name("none")):
        with pytest.raises(Problem):
            offline.public_key(place)


def test_what_is_signed(home: Home, key: Path, tmp_path: Path):
    credentials = home.device("pump-7")
    out = signed(home, "pump-7", key, tmp_path, "--for", "30d")
    realm, name, public, until, _, _ = owner.parse(out.read_bytes())
    assert (realm, name) == (REALM, "pump-7")
    assert abs(until - time.time() - 30 * 86400) < 60
    judge = owner.Owner(CRYPTO, REALM, offline.public_key(key.with_name("owner.key.pub")))
    judge.judge("pump-7", public, out.read_bytes(), int(time.time()))
    # PEM or DER, and nothing but a device's certificate
    der = tmp_path / "pump-7.der"
    der.write_bytes(credentials.der)
    assert offline.endorse(der, key, until)[0] == out.read_bytes()
    (tmp_path / "root.pem").write_bytes((home.folder / "ca" / "root.pem").read_bytes())
    for name in ("root.pem", "owner.key", "owner.key.pub"):
        with pytest.raises(Problem, match="no certificate of a device"):
            offline.endorse(tmp_path / name, key, 0)
    again = run("owner", "endorse", der, "--key", key, "--out", out, code=1)
    assert "cannot be written" in again


def test_who_wants_it_gets_it_with_the_certificate_and_nobody_else(
    home: Home, running: Running, key: Path, tmp_path: Path
):
    with running.device("pump-7") as pump, running.device("valve-2") as valve:
        endorsements = {}
        for name in ("pump-7", "valve-2"):
            out = signed(home, name, key, tmp_path)
            found = run("device", "endorse", name, out, "--home", home.folder, "--json")
            endorsements[name] = out.read_bytes()
            assert found["expires"] is None
            assert home.audit("device-endorsed")[-1].name == name
        deadline = time.monotonic() + 10
        while running.look(lambda manager: manager.relay.endorsements) != endorsements:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for wanted in (sig.TRUST_OWNER, 0):
            register(pump, wanted)
            register(valve, wanted)
            pump.offer("valve-2")
            offered = valve.receive(sig.CONNECT)
            valve.accept(offered)
            accepted = pump.receive(sig.ACCEPT)
            expected = (endorsements["pump-7"], endorsements["valve-2"]) if wanted else (None, None)
            assert (offered.get(sig.VOUCH), accepted.get(sig.VOUCH)) == expected


def test_what_the_manager_does_not_take_over(home: Home, key: Path, tmp_path: Path):
    home.device("pump-7")
    home.device("valve-2")
    good = signed(home, "pump-7", key, tmp_path)
    place = ("--home", home.folder)
    other = CRYPTO.generate()[1]
    private = b"\x01" * 32
    for data, why in (
        (b"", "no owner's endorsement"),
        (b"\xff" * 200, "no owner's endorsement"),
        (bytes(1000), "too long"),
        (owner.endorse(CRYPTO, private, "x.example", "pump-7", other), "pump-7@x.example"),
        (owner.endorse(CRYPTO, private, REALM, "pump-7", other), "no certificate of pump-7"),
    ):
        bad = tmp_path / "bad.cose"
        bad.write_bytes(data)
        assert why in run("device", "endorse", "pump-7", bad, *place, code=1)
    assert "is for pump-7" in run("device", "endorse", "valve-2", good, *place, code=1)
    assert "cannot be read" in run("device", "endorse", "pump-7", tmp_path / "x", *place, code=1)
    assert "no certificate" in run(
        "certificate", "export", "nobody", "--out", tmp_path / "n.pem", *place, code=1
    )
    # of a key that was revoked
    run("device", "revoke", "pump-7", "--reason", "keyCompromise", *place, "--json")
    assert "no certificate of pump-7" in run("device", "endorse", "pump-7", good, *place, code=1)


def test_it_goes_with_the_device(home: Home, key: Path, tmp_path: Path):
    home.device("pump-7")
    out = signed(home, "pump-7", key, tmp_path)
    run("device", "endorse", "pump-7", out, "--home", home.folder, "--json")

    def kept() -> dict[str, bytes]:
        return home.store(lambda store: store.presences.endorsements())

    assert kept() == {"pump-7": out.read_bytes()}
    run("device", "remove", "pump-7", "--home", home.folder, "--json")
    assert kept() == {}


def test_over_the_api(home: Home, running: Running, key: Path, tmp_path: Path):
    with running.device("pump-7"):
        out = signed(home, "pump-7", key, tmp_path)
        text = base64.b64encode(out.read_bytes()).decode()
        assert len(text) < 512
        run("device", "endorse", "pump-7", out, "--home", home.folder, "--json")
        assert "base64" not in run(
            "device", "endorse", "pump-7", key, "--home", home.folder, code=1
        )
