"""The issuing CA's key in a PKCS#11 token: SoftHSM, in a process of its own for each manager."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from support.est_client import EstClient, csr, new_key
from support.manager_kit import Home
from support.soft_token import LABEL, SoftToken

pytestmark = pytest.mark.needs("softhsm2-util", "openssl")
PROGRAM = [sys.executable, "-c", "from keyferry_manager.cli import main; main()"]
PORTS = ("--host", "127.0.0.1", "--mqtt-port", "0", "--est-port", "0")


def run(token: SoftToken, *arguments: object, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env={**token.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else " ".join(done.stderr.split())


@pytest.fixture
def token(tmp_path: Path) -> SoftToken:
    return SoftToken(tmp_path / "hsm")


def make(token: SoftToken, home: Path, *options: str) -> None:
    run(token, "init", home, "--realm", "plant.example", *PORTS, *token.options, *options)


class Served:
    """``keyferry serve`` as a process."""

    def __init__(self, token: SoftToken, home: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", "--json", "--home", str(home)],
            env={**token.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(60)
            assert self.process.stderr is not None
            raise AssertionError(self.process.stderr.read())
        self.ready: dict[str, Any] = json.loads(line)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)


def device_add(token: SoftToken, home: Path, name: str) -> str:
    return json.loads(run(token, "device", "add", name, "--token", "--json", "--home", home))[
        "token"
    ]


def public_home(home: Path) -> Home:
    """What the test's client needs of a home, without its authority's key."""
    found = Home.__new__(Home)
    found.folder = home
    return found


def test_a_device_enrols_and_is_revoked_with_the_key_in_the_token(
    token: SoftToken, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    make(token, home)
    assert not (home / "ca" / "issuing.key").exists()
    issuing = x509.load_pem_x509_certificate((home / "ca" / "issuing.pem").read_bytes())
    # no key file in the home is the issuing CA's
    for path in home.rglob("*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            key = load_pem_private_key(path.read_bytes(), None)
            assert key.public_key() != issuing.public_key(), path
    secret = device_add(token, home, "pump-7")
    with Served(token, home) as served:
        client = EstClient(public_home(home), served.ready["est_port"])
        answer = client.enroll(csr(new_key(), "pump-7"), basic=("pump-7", secret))
        (leaf,) = answer.certificates
        leaf.verify_directly_issued_by(issuing)
        command = ("device", "revoke", "pump-7", "--reason", "keyCompromise", "--json")
        done = json.loads(run(token, *command, "--home", home))
        assert done["certificates"] == 1
        connection = client.connection()
        connection.request("GET", "/crl")
        crl = x509.load_der_x509_crl(connection.getresponse().read())
        connection.close()
        assert crl.is_signature_valid(issuing.public_key())  # type: ignore[arg-type]
        assert crl.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None
    (home / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    ca = ("-CAfile", home / "ca" / "root.pem", "-untrusted", home / "ca" / "issuing.pem")
    done = subprocess.run(
        ["openssl", "verify", *map(str, ca), str(home / "leaf.pem")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_pin_comes_from_the_environment_too(token: SoftToken, tmp_path: Path) -> None:
    home = tmp_path / "home"
    options = [item for item in token.options if item != str(token.pin_file)]
    options.remove("--pkcs11-pin-file")
    arguments = ("init", home, "--realm", "plant.example", *PORTS, *options)
    said = run(token, *arguments, code=1)
    assert "KEYFERRY_PKCS11_PIN" in said
    assert not home.exists()
    run(token, *arguments, KEYFERRY_PKCS11_PIN=token.pin)
    with Served(token, home, KEYFERRY_PKCS11_PIN=token.pin) as served:
        command = Path(f"/proc/{served.process.pid}/cmdline").read_bytes()
        assert token.pin.encode() not in command
    for path in home.rglob("*"):
        assert not path.is_file() or token.pin.encode() not in path.read_bytes(), path


def test_a_key_that_is_there_is_used(token: SoftToken, tmp_path: Path) -> None:
    make(token, tmp_path / "first")
    make(token, tmp_path / "second")
    make(token, tmp_path / "third", "--pkcs11-key", "another")
    keys = [
        x509.load_pem_x509_certificate((tmp_path / name / "ca/issuing.pem").read_bytes())
        for name in ("first", "second", "third")
    ]
    assert keys[0].public_key() == keys[1].public_key() != keys[2].public_key()


def test_what_is_wrong_is_said(token: SoftToken, tmp_path: Path) -> None:
    home = tmp_path / "home"
    make(token, home)
    settings = home / "keyferry.toml"
    good = settings.read_text()

    def change(old: str, new: str) -> str:
        assert old in good
        settings.write_text(good.replace(old, new))
        arguments = ("device", "add", "pump-7", "--token", "--home", home)
        try:
            return run(token, *arguments, code=1)
        finally:
            settings.write_text(good)

    assert "has no token called 'other'" in change(f'= "{LABEL}"', '= "other"')
    assert "has no key pair called 'x'" in change('"keyferry issuing CA"', '"x"')
    assert "cannot be loaded as a PKCS#11 module" in change(token.module, "/no/such/library.so")
    assert "cannot be read" in change(str(token.pin_file), "/no/such/pin")
    wrong = tmp_path / "wrong"
    wrong.write_text("000000\n")
    wrong.chmod(0o600)
    said = change(str(token.pin_file), str(wrong))
    assert f"the PIN of the token '{LABEL}' is wrong" in said
    assert "000000" not in said
    os.chmod(wrong, 0o640)
    assert "can be read by others (mode 640)" in change(str(token.pin_file), str(wrong))
    # the key of another home
    issuing = (home / "ca/issuing.pem").read_bytes()
    make(token, tmp_path / "other", "--pkcs11-key", "another")
    assert issuing != (tmp_path / "other/ca/issuing.pem").read_bytes()
    assert "is not the key of issuing.pem" in change('"keyferry issuing CA"', '"another"')


def test_a_token_that_does_not_answer_is_no_fault_of_the_device(
    token: SoftToken, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    make(token, home)
    secret = device_add(token, home, "pump-7")
    with Served(token, home) as served:
        client = EstClient(public_home(home), served.ready["est_port"])
        tokens = token.folder / "tokens"
        (one,) = tokens.iterdir()
        away = shutil.move(one, token.folder / "away")
        request = csr(new_key(), "pump-7")
        refused = client.enroll(request, basic=("pump-7", secret))
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.error == "internal"
        assert b"certificate authority does not answer" in refused.body
        # put back, the same token still buys the certificate
        shutil.move(away, one)
        assert client.enroll(request, basic=("pump-7", secret)).status == 200
