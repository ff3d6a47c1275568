"""A CA rolls over: old and new side by side, who is believed when, and who would be left behind."""

import json
import shutil
import ssl
import stat
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from typer.testing import CliRunner

from keyferry_core import mqtt_codec
from keyferry_core import signalling as sig
from keyferry_core.errors import AuthenticationError
from keyferry_manager.authority import LocalAuthority, passes, rollover
from keyferry_manager.authority.chain import Chain, certificates_digest, signed_by
from keyferry_manager.authority.generations import State
from keyferry_manager.cli import load
from keyferry_manager.problems import AuthorityProblem, Conflict
from keyferry_manager.rollover import rehearse
from support.est_client import EstClient, csr, new_key
from support.manager_kit import Credentials, Home, PahoDevice, Running, until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", grace_days=0)


def step(running: Running, *which: str) -> None:
    """Carry steps out on the files, and wait until the manager has taken each over."""
    for name in which:
        getattr(rollover, name)(running.home.config, time.time())
        state = State.load(running.home.folder / "ca")
        until(lambda state=state: running.look(lambda m: m._authority.state) == state)
        digest = Chain(running.home.config).cacerts_digest()
        until(lambda digest=digest: running.look(lambda m: m.relay.anchors.current) == digest)


def linked(running: Running, name: str, credentials: Credentials) -> PahoDevice:
    """A device with this certificate, connected and registered."""
    device = PahoDevice(running, name, credentials)
    device.connect()
    device.register()
    return device


def refused(running: Running, credentials: Credentials) -> bool:
    """Whether a certificate opens no link: OpenSSL says so during the handshake, or behind it."""
    try:
        raw = running.raw(credentials)
    except (ssl.SSLError, ConnectionError):
        return True
    try:
        raw.send(mqtt_codec.connect("pump-7", 60))
        return raw.packet() is None
    finally:
        raw.socket.close()


def states(device: PahoDevice, digest: bytes) -> bytes | None:
    """Register with ``digest``; what the manager wants instead."""
    device.send(
        {
            sig.TYPE: sig.REGISTER,
            sig.INSTANCE: device.instance,
            sig.ADDRESSES: [],
            sig.ANCHORS: digest,
        }
    )
    return device.receive(sig.REGISTERED).get(sig.ANCHORS)


def cacerts(running: Running) -> list[x509.Certificate]:
    return EstClient(running.home, running.manager.est_port).request("cacerts").certificates


def keyferry(home: Home, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(load(), [*arguments, "--home", str(home.folder)])
    assert done.exit_code == code, done.output
    return done.output


def stranded(home: Home) -> dict[str, list[str]]:
    chain = Chain(home.config)
    found = home.store(lambda store: rehearse(home.config, store, chain, time.time()))
    return {item.step: [one.name for one in item.stranded] for item in found}


# the files


def test_each_phase_is_whole_and_goes_on_from_the_one_before(home: Home):
    ca = home.folder / "ca"
    for wrong in (rollover.switch, rollover.finish):
        with pytest.raises(Conflict, match="no roll-over has begun"):
            wrong(home.config, time.time())
    before = home.authority.root
    rollover.start(home.config, time.time())
    with pytest.raises(Conflict, match="has started"):
        rollover.start(home.config, time.time())
    chain = LocalAuthority(home.config)
    assert chain.root == before
    assert chain.other is not None
    assert chain.new_with_old is not None
    assert chain.old_with_new is not None
    assert signed_by(chain.new_with_old, before)
    assert signed_by(chain.old_with_new, chain.other.root)
    assert chain.new_with_old.public_key() == chain.other.root.public_key()
    assert chain.old_with_new.public_key() == before.public_key()
    assert stat.S_IMODE((ca / "2").stat().st_mode) == 0o700
    for key in ("root.key", "issuing.key"):
        assert stat.S_IMODE((ca / "2" / key).stat().st_mode) == 0o600
    rollover.switch(home.config, time.time())
    switched = LocalAuthority(home.config)
    assert (switched.root, switched.other) == (chain.other.root, chain.current)
    rollover.finish(home.config, time.time())
    finished = LocalAuthority(home.config)
    assert (finished.root, finished.other) == (chain.other.root, None)
    assert finished.new_with_old == chain.new_with_old
    assert not (ca / "root.key").exists()
    assert not (ca / "issuing.key").exists()
    # and once more, from there
    rollover.start(home.config, time.time())
    rollover.switch(home.config, time.time())
    third = LocalAuthority(home.config)
    assert third.current.name == "3"
    assert third.new_with_old is not None
    assert signed_by(third.new_with_old, finished.root)


def test_what_a_crash_leaves_counts_for_nothing(home: Home, monkeypatch: pytest.MonkeyPatch):
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    for where in ("files.sync_directory", "os.rename", "State.save", "_cross", "make_ca"):
        with monkeypatch.context() as patch:
            patch.setattr(f"keyferry_manager.authority.rollover.{where}", cut)
            with pytest.raises(KeyboardInterrupt):
                rollover.start(home.config, time.time())
        assert LocalAuthority(home.config).state == State()
    rollover.start(home.config, time.time())
    for change in (rollover.switch, rollover.finish):
        before = State.load(home.folder / "ca")
        with monkeypatch.context() as patch:
            patch.setattr("keyferry_manager.authority.rollover.State.save", cut)
            with pytest.raises(KeyboardInterrupt):
                change(home.config, time.time())
        assert LocalAuthority(home.config).state == before
        change(home.config, time.time())
    LocalAuthority(home.config)


def test_abort_takes_back_a_start_and_nothing_else(home: Home):
    rollover.start(home.config, time.time())
    rollover.abort(home.config)
    assert sorted(path.name for path in (home.folder / "ca").iterdir()) == [
        *("factory.key", "factory.pem", "issuing.key", "issuing.pem", "root.key", "root.pem")
    ]
    for name in ("start", "switch"):
        getattr(rollover, name)(home.config, time.time())
    with pytest.raises(Conflict, match="signs already"):
        rollover.abort(home.config)


def test_only_one_command_at_a_time(home: Home):
    with rollover.exclusive(home.config):
        out = keyferry(home, "ca", "rollover", "start", code=1)
        assert "another command is changing this CA" in out
    keyferry(home, "ca", "rollover", "start")


def test_start_needs_the_old_roots_key_and_says_so(home: Home):
    key = home.folder / "ca" / "root.key"
    key.rename(home.folder / "elsewhere")
    with pytest.raises(AuthorityProblem, match="put the root's key back"):
        rollover.start(home.config, time.time())
    shutil.copyfile(home.folder / "ca" / "issuing.key", key)
    key.chmod(0o600)
    with pytest.raises(AuthorityProblem, match="is not the key of"):
        rollover.start(home.config, time.time())
    assert LocalAuthority(home.config).state == State()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"current": "../x", "other": null, "phase": "finished", "since": 1}',
        '{"current": "2", "other": null, "phase": "started", "since": 1}',
        '{"current": "2", "other": "", "phase": "finished", "since": 1}',
        '{"current": "2", "other": null, "phase": "over", "since": 1}',
        '{"current": 2, "other": null, "phase": "finished", "since": 1}',
        '{"current": "2", "other": null, "phase": "finished", "since": "now"}',
    ],
)
def test_a_state_that_is_none_stops_the_manager_with_a_sentence(home: Home, text: str):
    (home.folder / "ca" / "rollover.json").write_text(text)
    with pytest.raises(AuthorityProblem, match=r"rollover\.json is not what this Keyferry wrote"):
        LocalAuthority(home.config)


# a manager that serves


def test_both_generations_have_links_and_a_client_with_the_old_root_believes(running: Running):
    home = running.home
    old = home.device("pump-7")
    with linked(running, "pump-7", old) as pump:
        step(running, "start", "switch")
        # The server has a certificate of the new CA now; this client knows the old root alone.
        home.authority.reread()
        new = home.device("gauge-2")
        with linked(running, "gauge-2", new) as gauge:
            assert gauge.register()
            assert pump.register()  # the link of before is still there
            assert set(running.links()) == {"pump-7", "gauge-2"}
    issuer = x509.load_pem_x509_certificate(new.certificate.read_bytes()).issuer
    assert issuer == home.authority.issuing.subject
    # and the old certificate opens a new link
    with linked(running, "pump-7", old) as pump:
        assert pump.register()
    assert home.audit("ca-rollover-taken-over", "switched")


def test_finish_ends_the_old_and_says_why(running: Running):
    home = running.home
    old = home.device("pump-7")
    step(running, "start", "switch")
    home.authority.reread()
    new = home.device("gauge-2")
    with (
        linked(running, "pump-7", old) as pump,
        linked(running, "gauge-2", new) as gauge,
    ):
        pump.register()
        gauge.register()
        step(running, "finish")
        pump.refusal("authentication-failed")
        until(pump.lost.is_set)
        assert gauge.register()
    assert refused(running, old)
    assert home.audit("connection-refused", "certificate")
    answer = EstClient(home, running.manager.est_port, None).request("cacerts")
    assert Chain(home.config).issuing in answer.certificates


def test_devices_say_what_they_hold_and_hear_when_there_is_more(running: Running):
    home = running.home
    issuing = home.authority.issuing
    first = certificates_digest(issuing, cacerts(running))
    with linked(running, "pump-7", home.device("pump-7")) as pump:
        assert states(pump, first) is None
        assert states(pump, bytes(8)) == first
        assert sig.ANCHORS not in pump.register()  # it does not know of them
        step(running, "start")
        second = certificates_digest(issuing, cacerts(running))
        assert states(pump, first) == second != first
        assert stranded(home) == {"switch": ["pump-7"], "finish": ["pump-7"]}
        assert states(pump, second) is None
        until(lambda: stranded(home)["switch"] == [])
        step(running, "switch")
        # The same certificates, and another one signs: it shall renew.
        wanted = states(pump, second)
        assert wanted == certificates_digest(Chain(home.config).issuing, cacerts(running))
        assert wanted != second


def test_cacerts_in_each_phase(running: Running):
    home = running.home

    def given() -> set[x509.Certificate]:
        found = cacerts(running)
        assert len(found) == len(set(found))
        return set(found)

    old = {home.authority.issuing, home.authority.root}
    assert given() == old
    step(running, "start")
    chain = Chain(home.config)
    assert chain.other is not None
    new = {chain.other.issuing, chain.other.root}
    cross = {chain.new_with_old, chain.old_with_new}
    assert given() == old | new | cross
    step(running, "switch")
    assert given() == old | new | cross
    step(running, "finish")
    assert given() == {*new, chain.new_with_old}


def test_a_device_renews_under_the_new_ca_with_a_certificate_of_the_old(running: Running):
    home = running.home
    old = home.device("pump-7")
    step(running, "start", "switch")
    client = EstClient(home, running.manager.est_port, old)
    (renewed,) = client.enroll(csr(new_key(), "pump-7"), again=True).certificates
    assert signed_by(renewed, Chain(home.config).issuing)
    # It was issued; whether it arrived, only the device can say.
    assert stranded(home) == {"finish": ["pump-7"]}
    with linked(running, "pump-7", old) as pump:
        assert states(pump, Chain(home.config).cacerts_digest()) is None
        until(lambda: stranded(home) == {"finish": []})


def test_a_roll_over_that_happened_while_nothing_served(home: Home):
    old = home.device("pump-7")
    for name in ("start", "switch"):
        getattr(rollover, name)(home.config, time.time())
    with home.running() as running:
        with linked(running, "pump-7", old) as pump:
            assert pump.register()
        rollover.finish(home.config, time.time())
    with home.running() as running:
        assert refused(running, old)


# revocation


@pytest.mark.needs("openssl", "curl")
def test_each_generation_has_its_own_list_and_responder(tmp_path: Path):
    home = Home(tmp_path / "home", public_url="https://kf.plant.example")
    with home.running() as running:
        old = home.device("pump-7")
        step(running, "start", "switch")
        home.authority.reread()
        new = home.device("gauge-2")
        for name in ("pump-7", "gauge-2"):
            home.store(lambda store, name=name: store.life.revoke("keyCompromise", device=name))
        for credentials, generation in ((old, ""), (new, "2")):
            leaf = x509.load_pem_x509_certificate(credentials.certificate.read_bytes())
            points = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
            (place,) = points[0].full_name or []
            path = place.value.removeprefix("https://kf.plant.example")
            assert path == (f"/crl/{generation}" if generation else "/crl")
            folder = home.folder / "ca" / generation
            crl = tmp_path / f"list{generation}"
            crl.write_bytes(get(running, path))
            verdict = openssl(
                *("crl", "-inform", "DER", "-in", str(crl), "-noout", "-text"),
                *("-CAfile", str(folder / "issuing.pem")),
            )
            assert "verify OK" in verdict
            assert f"{leaf.serial_number:032X}" in verdict
            answer = openssl(
                *("ocsp", "-issuer", str(folder / "issuing.pem")),
                *("-cert", str(credentials.certificate), "-reqout", str(tmp_path / "question")),
                *("-no_nonce",),
            )
            assert answer == ""
            said = ocsp.load_der_ocsp_response(post(running, "/ocsp", tmp_path / "question"))
            assert said.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert b"not-offered" in get(running, "/crl/9")
        step(running, "finish")
        assert b"not-offered" in get(running, "/crl")


def test_a_revoked_device_of_either_generation_is_told_in_the_handshake(running: Running):
    home = running.home
    old, other = home.device("pump-7"), home.device("valve-1")
    step(running, "start", "switch")
    home.authority.reread()
    new = home.device("gauge-2")
    for name in ("pump-7", "gauge-2"):
        home.store(lambda store, name=name: store.life.revoke("keyCompromise", device=name))
    until(lambda: len(running.look(lambda m: m.changes._serials)) == 2)
    for credentials in (old, new):
        assert refused(running, credentials)
    # nobody else pays for it
    with linked(running, "valve-1", other) as valve:
        assert valve.register()


def openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True)
    return done.stderr + done.stdout


def get(running: Running, path: str, *more: str) -> bytes:
    port = running.manager.est_port
    command = [
        *("curl", "--silent", "--show-error", "--cacert"),
        *(str(running.home.folder / "ca" / "root.pem"),),
        *("--connect-to", f"plant.example:{port}:127.0.0.1:{port}", *more),
        f"https://plant.example:{port}{path}",
    ]
    return subprocess.run(command, capture_output=True, check=True).stdout


def post(running: Running, path: str, file: Path) -> bytes:
    return get(
        running,
        path,
        *("--header", "Content-Type: application/ocsp-request", "--data-binary", f"@{file}"),
    )


# roots of before


def test_a_root_that_allows_one_ca_below_it_cannot_carry_tls_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old_profile = passes.Profile("root", 20 * 365, path_length=1)
    with monkeypatch.context() as patch:
        patch.setattr(passes, "ROOT", old_profile)
        home = Home(tmp_path / "home")
    assert Chain(home.config).carries_over() is False
    home.device("pump-7")
    rollover.start(home.config, time.time())
    assert Chain(home.config).carries_over() is False
    out = keyferry(home, "ca", "rollover", "--dry-run")
    assert "would believe the server no more" in out
    rollover.switch(home.config, time.time())
    authority = LocalAuthority(home.config)
    assert authority.server_chain() == [authority.issuing]


# what an operator sees


def test_the_rehearsal_names_who_would_be_left_behind(running: Running):
    home = running.home
    ready, behind = home.device("pump-7"), home.device("gauge-2")
    home.add("never-enrolled")
    gone = home.device("revoked-1")
    home.store(lambda store: store.life.revoke("superseded", device="revoked-1"))
    assert gone.der
    out = keyferry(home, "ca", "rollover", "start")
    assert "Who is not ready yet" in out
    step_digest = Chain(home.config).cacerts_digest()
    until(lambda: running.look(lambda m: m.relay.anchors.current) == step_digest)
    with linked(running, "pump-7", ready) as pump:
        assert states(pump, step_digest) is None
        until(lambda: stranded(home)["switch"] == ["gauge-2"])
    said = json.loads(keyferry(home, "ca", "rollover", "--dry-run", "--json"))
    assert said["phase"] == "started"
    switch, finish = said["steps"]
    assert (switch["step"], switch["devices"], switch["ready"]) == ("switch", 2, 1)
    assert [item["name"] for item in switch["stranded"]] == ["gauge-2"]
    assert [item["name"] for item in finish["stranded"]] == ["gauge-2", "pump-7"]
    out = keyferry(home, "ca", "rollover", "switch", code=1)
    assert "switch would leave 1 device behind: gauge-2" in out
    assert "--strand NAME" in out
    keyferry(home, "ca", "rollover", "switch", "--strand", "gauge-2")
    client = EstClient(home, running.manager.est_port, ready)
    until(lambda: running.look(lambda m: m._authority.state.phase) == "switched")
    client.enroll(csr(new_key(), "pump-7"), again=True)
    out = keyferry(home, "ca", "rollover", "--dry-run")
    assert "has not come with the new certificate that was issued to it" in out
    with linked(running, "pump-7", ready) as pump:
        states(pump, Chain(home.config).cacerts_digest())
    until(lambda: stranded(home)["finish"] == ["gauge-2"])
    out = keyferry(home, "ca", "rollover", "--dry-run")
    assert "finish: 1 of 2 devices are ready" in out
    assert "keyferry device add gauge-2 --again --token" in out
    assert "pump-7" not in out
    assert behind.der
    assert "gauge-2" in keyferry(home, "ca", "rollover", "finish", code=1)
    keyferry(home, "ca", "rollover", "finish", "--strand-all")
    events = [
        entry.event
        for entry in home.store(lambda store: store.audit_entries(1000))
        if entry.event.startswith("ca-rollover-") and "taken" not in entry.event
    ]
    assert events == ["ca-rollover-started", "ca-rollover-switched", "ca-rollover-finished"]
    (entry,) = home.audit("ca-rollover-finished")
    assert entry.fields["stranded"] == ["gauge-2"]


def test_heads_of_every_generation_are_believed(home: Home, tmp_path: Path):
    with home.running():
        pass
    kept = tmp_path / "head.json"
    kept.write_text(keyferry(home, "audit", "head", "--json"))
    for _ in range(2):
        for name in ("start", "switch", "finish"):
            getattr(rollover, name)(home.config, time.time())
        with home.running():
            pass
    out = keyferry(home, "audit", "verify", "--kept", str(kept), "--json")
    assert json.loads(out)["heads_checked"] >= 1  # the kept one, and what the last run signed
    assert json.loads(out)["signatures_checked"] is True
    done = CliRunner().invoke(
        load(), ["backup", str(tmp_path / "k.tar"), "--home", str(home.folder)]
    )
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(load(), ["restore", str(tmp_path / "k.tar"), str(tmp_path / "again")])
    assert done.exit_code == 0, done.output


def test_a_ca_that_stands_apart_says_that_it_cannot(tmp_path: Path):
    done = CliRunner().invoke(
        load(), ["init", str(tmp_path / "ca"), "--realm", "plant.example", "--role", "ca"]
    )
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(load(), ["ca", "rollover", "start", "--home", str(tmp_path / "ca")])
    assert done.exit_code == 1
    assert "its managers would not follow" in done.output
    assert not (tmp_path / "ca" / "ca" / "2").exists()


def test_certificates_by_their_end(home: Home):
    now = time.time()
    home.device("pump-7", now=now - 89 * 86400)
    home.device("pump-7", now=now - 60)  # renewed
    home.device("gauge-2", now=now - 85 * 86400)
    home.device("valve-1", now=now - 91 * 86400)
    home.device("gone-1", now=now - 88 * 86400)
    home.store(lambda store: store.life.revoke("superseded", device="gone-1"))
    every = json.loads(keyferry(home, "certificate", "list", "--json"))
    assert len(every) == 5
    assert every[0]["name"] == "pump-7"
    due = json.loads(keyferry(home, "certificate", "list", "--expiring", "7d", "--json"))
    assert [item["name"] for item in due] == ["valve-1", "gauge-2"]
    out = keyferry(home, "certificate", "list", "--expiring", "7d")
    assert "ended" in out
    assert "holds" in out
    assert "pump-7" not in out
    out = keyferry(home, "certificate", "list", "--device", "gone-1")
    assert "revoked" in out


def test_a_backup_in_the_middle_goes_on(home: Home, tmp_path: Path):
    old = home.device("pump-7")
    for name in ("start", "switch"):
        getattr(rollover, name)(home.config, time.time())
    CliRunner().invoke(load(), ["backup", str(tmp_path / "kept.tar"), "--home", str(home.folder)])
    done = CliRunner().invoke(
        load(), ["restore", str(tmp_path / "kept.tar"), str(tmp_path / "restored")]
    )
    assert done.exit_code == 0, done.output
    restored = Home.existing(tmp_path / "restored")
    assert restored.authority.state == State.load(home.folder / "ca")
    assert restored.authority.identify(old.der).name == "pump-7"
    with restored.running() as running, linked(running, "pump-7", old) as pump:
        assert pump.register()
    rollover.finish(restored.config, time.time())
    restored.authority.reread()
    with pytest.raises(AuthenticationError):
        restored.authority.identify(old.der)


def test_a_finish_whose_power_went_is_made_good(home: Home, monkeypatch: pytest.MonkeyPatch):
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    ca = home.folder / "ca"
    for again in (rollover.finish, rollover.start):
        for name in ("start", "switch"):
            getattr(rollover, name)(home.config, time.time())
        old = ca / (State.load(ca).other or "")
        with monkeypatch.context() as patch:
            patch.setattr("keyferry_manager.authority.rollover.Path.unlink", cut)
            with pytest.raises(KeyboardInterrupt):
                rollover.finish(home.config, time.time())
        assert State.load(ca).phase == "finished"
        assert (old / "root.key").exists()
        if again is rollover.finish:
            with pytest.raises(Conflict, match="is finished"):
                again(home.config, time.time())
        else:
            again(home.config, time.time())
        assert not (old / "root.key").exists()
        assert not (old / "issuing.key").exists()
        assert (ca / "factory.key").exists()
        LocalAuthority(home.config)


def test_a_phase_whose_key_cannot_be_read_is_tried_again(running: Running):
    home = running.home
    step(running, "start")
    key = home.folder / "ca" / "2" / "issuing.key"
    rollover.switch(home.config, time.time())
    key.chmod(0o644)
    with pytest.raises(AuthorityProblem, match="can be read by others"):
        home.authority.reread()
    assert home.authority.state.phase is None
    assert home.authority.issuing == home.authority.cacerts()[0]
    key.chmod(0o600)
    assert home.authority.reread()
    until(lambda: running.look(lambda m: m._authority.state.phase) == "switched")
    assert home.audit("ca-rollover-taken-over", "switched")
