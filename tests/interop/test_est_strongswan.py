"""EST with a client that is not ours: strongSwan's ``pki``, with its own TLS, HTTP and PKCS#7."""

import re
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509

from keyferry_manager.authority import rollover
from keyferry_manager.authority.chain import Chain, signed_by
from keyferry_manager.tokens import new_token, token_hash
from support.manager_kit import Home, Running

pytestmark = pytest.mark.needs("pki")


def pki(folder: Path, *arguments: str) -> bytes:
    done = subprocess.run(["pki", *arguments], cwd=folder, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace")
    # It names each plugin that is not installed, whatever it is asked.
    said = "\n".join(line for line in said.splitlines() if not line.startswith("plugin "))
    assert done.returncode == 0, said
    return done.stdout


def request(folder: Path, name: str, file: str) -> None:
    (folder / f"{file}.key").write_bytes(pki(folder, "--gen", "--type", "ecdsa", "--size", "256"))
    made = pki(folder, "--req", "--type", "ecdsa", "--in", f"{file}.key", "--dn", f"CN={name}")
    (folder / f"{file}.req").write_bytes(made)


def enroll(running: Running, folder: Path, file: str, *credential: str) -> x509.Certificate:
    authority = running.home.folder / "ca"
    made = pki(
        folder,
        *("--est", "--url", f"https://localhost:{running.manager.est_port}"),
        *("--in", f"{file}.req", "--outform", "pem"),
        *("--cacert", str(authority / "root.pem"), "--cacert", str(authority / "issuing.pem")),
        *credential,
    )
    (folder / f"{file}.pem").write_bytes(made)
    return x509.load_pem_x509_certificate(made)


def test_strongswan_trusts_enrols_and_renews(tmp_path: Path):
    home = Home(tmp_path / "home")
    secret = new_token()
    end = int(time.time()) + 60
    home.store(
        lambda store: store.add_device(
            "pump-7", token_hash=token_hash(secret), token_expires_at=end
        )
    )
    with home.running() as running:
        url = f"https://localhost:{running.manager.est_port}"
        root = str(home.folder / "ca" / "root.pem")
        pki(
            tmp_path, "--estca", "--url", url, "--cacert", root, "--caout", "ca", "--outform", "pem"
        )
        written = [
            x509.load_pem_x509_certificate((tmp_path / name).read_bytes())
            for name in ("ca.pem", "ca-1.pem")
        ]
        assert written == [home.authority.root, home.authority.issuing]

        request(tmp_path, "pump-7", "first")
        first = enroll(running, tmp_path, "first", "--userpass", f"pump-7:{secret}")
        request(tmp_path, "pump-7", "second")
        second = enroll(running, tmp_path, "second", "--cert", "first.pem", "--key", "first.key")
        assert first.serial_number != second.serial_number
        with pytest.raises(AssertionError, match=re.escape("HTTP 401")):
            enroll(running, tmp_path, "second", "--userpass", f"pump-7:{secret}")
    rows = home.store(lambda store: store.certificates("pump-7"))
    assert [row.admission for row in rows] == ["renewal", "token"]


def test_strongswan_takes_old_and_new_ca_while_the_one_follows_the_other(tmp_path: Path):
    home = Home(tmp_path / "home")
    secret = new_token()
    end = int(time.time()) + 60
    home.store(
        lambda store: store.add_device(
            "pump-7", token_hash=token_hash(secret), token_expires_at=end
        )
    )
    for step in (rollover.start, rollover.switch):
        step(home.config, time.time())
    with home.running() as running:
        # It knows the old root alone, and the server has a certificate of the new CA.
        url = f"https://localhost:{running.manager.est_port}"
        root = str(home.folder / "ca" / "root.pem")
        pki(
            tmp_path, "--estca", "--url", url, "--cacert", root, "--caout", "ca", "--outform", "pem"
        )
        written = [
            x509.load_pem_x509_certificate(file.read_bytes()) for file in tmp_path.glob("ca*.pem")
        ]
        assert set(written) == set(Chain(home.config).cacerts())
        assert len(written) == 6

        request(tmp_path, "pump-7", "first")
        first = enroll(running, tmp_path, "first", "--userpass", f"pump-7:{secret}")
        assert signed_by(first, Chain(home.config).issuing)
