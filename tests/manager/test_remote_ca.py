"""A manager whose CA is another process: what it may ask for, and what it never holds."""

import base64
import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from keyferry_manager.authority.passes import registration_subject
from support.est_client import EstClient, csr, new_key
from support.manager_kit import Credentials, Home, until
from support.processes import LOCAL, Served, answer, keep_ports, keyferry

REALM = "plant.example"


def public_home(home: Path) -> Home:
    """What a test's client needs of a home, without its authority."""
    found = Home.__new__(Home)
    found.folder = home
    return found


def make_ca(folder: Path) -> Path:
    home = folder / "ca-home"
    keyferry("init", home, "--realm", REALM, "--role", "ca", *LOCAL)
    return home


def make_manager(folder: Path, ca: Served, name: str = "manager-1", *options: str) -> Path:
    token, home = folder / f"{name}.token", folder / name
    keyferry("ca", "add", name, "--out", token, "--home", ca.home, *options)
    keyferry(
        *("init", home, "--realm", REALM, *LOCAL, "--authority", "est"),
        *("--ca-url", f"https://127.0.0.1:{ca.ready['port']}"),
        *("--ca-root", ca.home / "ca" / "root.pem", "--ca-token-file", token),
    )
    return home


@contextlib.contextmanager
def a_ca(folder: Path) -> Iterator[Served]:
    home = make_ca(folder)
    with Served(home, "ca", "serve") as served:
        keep_ports(home, est_port=served.ready["port"])
        yield served


# For the tests that leave both as they are; each has devices of its own.


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with a_ca(tmp_path_factory.mktemp("ca")) as served:
        yield served


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, ca: Served) -> Iterator[Served]:
    with Served(make_manager(tmp_path_factory.mktemp("manager"), ca), "serve") as served:
        yield served


@pytest.fixture
def own_ca(tmp_path: Path) -> Iterator[Served]:
    with a_ca(tmp_path) as served:
        yield served


@pytest.fixture
def own_manager(tmp_path: Path, own_ca: Served) -> Iterator[Served]:
    with Served(make_manager(tmp_path, own_ca), "serve") as served:
        yield served


def est(served: Served, credentials: Credentials | None = None) -> EstClient:
    port = served.ready.get("est_port") or served.ready["port"]
    return EstClient(public_home(served.home), port, credentials)


def enrol(
    manager: Served, name: str, key: ec.EllipticCurvePrivateKey | None = None, again: bool = False
) -> Any:
    options = ("--again",) if again else ()
    token = answer("device", "add", name, "--token", "--home", manager.home, *options)["token"]
    return est(manager).enroll(csr(key or new_key(), name), basic=(name, token))


def credentials(folder: Path, certificate: x509.Certificate, key: Any) -> Credentials:
    from keyferry_manager.authority.files import key_pem

    folder.mkdir()
    found = Credentials(folder / "certificate.pem", folder / "key.pem")
    found.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    found.key.write_bytes(key_pem(key))
    return found


def get(served: Served, path: str) -> tuple[int, bytes]:
    connection = est(served).connection()
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def audit(home: Path, event: str) -> list[dict[str, Any]]:
    return answer("audit", "--event", event, "--limit", 1000, "--home", home)


def ca_certificates(home: Path) -> dict[str, x509.Certificate]:
    return {
        name: x509.load_pem_x509_certificate((home / "ca" / f"{name}.pem").read_bytes())
        for name in ("root", "issuing", "factory")
    }


def test_the_manager_holds_no_key_of_a_ca(ca: Served, manager: Served) -> None:
    (leaf,) = enrol(manager, "pump-1").certificates
    certificates = ca_certificates(manager.home)
    assert certificates == ca_certificates(ca.home)
    leaf.verify_directly_issued_by(certificates["issuing"])
    publics = [item.public_key() for item in certificates.values()]
    # not one private key in its home is a CA's, and none has a CA's file name
    keys = []
    for path in manager.home.rglob("*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            keys.append(path.name)
            assert load_pem_private_key(path.read_bytes(), None).public_key() not in publics
    assert keys == ["server.pem"]
    # the CA's home has all three, so that the look above would have found one
    held = [
        load_pem_private_key(path.read_bytes(), None).public_key()
        for path in (ca.home / "ca").glob("*.key")
    ]
    assert len(held) == 3
    assert all(key in publics for key in held)
    # nothing of the CA's home is open in the manager, and nothing of ca/ is
    for path in manager.open_files():
        assert not path.startswith(str(ca.home)), path
        assert not path.endswith(".key"), path
    assert ca.pid != manager.pid


def test_a_device_enrols_renews_and_both_sides_write_it_down(
    ca: Served, manager: Served, tmp_path: Path
) -> None:
    key = new_key()
    (leaf,) = enrol(manager, "pump-2", key).certificates
    device = credentials(tmp_path / "device", leaf, key)
    (renewed,) = est(manager, device).enroll(csr(key, "pump-2"), again=True).certificates
    assert renewed.serial_number != leaf.serial_number
    (other,) = est(manager, device).enroll(csr(new_key(), "pump-2"), again=True).certificates
    assert other.public_key() != leaf.public_key()

    def of_the_device(home: Path, event: str) -> list[dict[str, Any]]:
        return [entry for entry in audit(home, event) if entry["name"] == "pump-2"]

    serials = {f"{item.serial_number:032x}" for item in (leaf, renewed, other)}
    for home, event in ((manager.home, "enrolled"), (ca.home, "certified")):
        until(lambda home=home, event=event: len(of_the_device(home, event)) == 3)
        assert {entry["fields"]["serial"] for entry in of_the_device(home, event)} == serials
    assert {entry["fields"]["manager"] for entry in audit(ca.home, "certified")} == {"manager-1"}
    # a request without the name leaves the CA nothing to go by
    refused = est(manager, device).enroll(csr(key), again=True)
    assert (refused.status, refused.error) == (403, "name-not-allowed")


def test_a_factory_identity_comes_from_the_ca(ca: Served, manager: Served, tmp_path: Path) -> None:
    files = tmp_path / "device"
    ports = ("--mqtt-port", 1, "--est-port", 1)
    keyferry(
        *("device", "add", "pump-3", "--factory", "--out", files, "--home", manager.home, *ports)
    )
    certificate = x509.load_der_x509_certificate((files / "factory.crt").read_bytes())
    certificate.verify_directly_issued_by(ca_certificates(ca.home)["factory"])
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    key = load_der_private_key((files / "factory.key").read_bytes(), None)
    factory = credentials(tmp_path / "factory", certificate, key)
    (leaf,) = est(manager, factory).enroll(csr(new_key(), "pump-3")).certificates
    assert leaf.subject.rfc4514_string() == "CN=pump-3"


def revoked(der: bytes) -> set[int]:
    return {entry.serial_number for entry in x509.load_der_x509_crl(der)}


def test_a_revocation_here_is_on_the_list_of_the_ca(ca: Served, manager: Served) -> None:
    (leaf,) = enrol(manager, "pump-4").certificates
    (kept,) = enrol(manager, "valve-4").certificates
    assert get(manager, "/crl")[0] == 200
    done = answer(
        *("device", "revoke", "pump-4", "--reason", "keyCompromise", "--home", manager.home)
    )
    assert done["certificates"] == 1
    for served in (ca, manager):
        until(lambda served=served: leaf.serial_number in revoked(get(served, "/crl")[1]))
        crl = x509.load_der_x509_crl(get(served, "/crl")[1])
        issuing = ca_certificates(ca.home)["issuing"].public_key()
        assert crl.is_signature_valid(issuing)  # type: ignore[arg-type]
        assert crl.get_revoked_certificate_by_serial_number(kept.serial_number) is None


@pytest.mark.needs("openssl")
def test_openssl_asks_the_manager_and_the_ca_answers(
    ca: Served, manager: Served, tmp_path: Path
) -> None:
    (leaf,) = enrol(manager, "pump-5").certificates
    (tmp_path / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(
        b"".join((manager.home / "ca" / f"{name}.pem").read_bytes() for name in ("issuing", "root"))
    )

    def ask() -> str:
        port = manager.ready["est_port"]
        done = subprocess.run(
            [
                *("openssl", "ocsp", "-url", f"https://127.0.0.1:{port}/ocsp"),
                *("-CAfile", str(chain), "-issuer", str(manager.home / "ca" / "issuing.pem")),
                *("-cert", str(tmp_path / "leaf.pem")),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr

    said = ask()
    assert "Response verify OK" in said
    assert "leaf.pem: good" in said
    keyferry("device", "revoke", "pump-5", "--reason", "superseded", "--home", manager.home)
    until(lambda: "leaf.pem: revoked" in ask())
    assert "Reason: superseded" in ask()


def test_a_revocation_at_the_ca_ends_the_device_here(
    ca: Served, manager: Served, tmp_path: Path
) -> None:
    key = new_key()
    (leaf,) = enrol(manager, "pump-6", key).certificates
    keyferry(
        *("device", "revoke", "--serial", f"{leaf.serial_number:032x}"),
        *("--reason", "privilegeWithdrawn", "--home", ca.home),
    )

    def shown() -> Any:
        (item,) = answer("device", "show", "pump-6", "--home", manager.home)["certificates"]
        return item

    until(lambda: shown()["revoked"] is not None, 40)
    assert shown()["reason"] == "privilegeWithdrawn"
    device = credentials(tmp_path / "device", leaf, key)
    refused = est(manager, device).enroll(csr(key, "pump-6"), again=True)
    assert refused.error == "revoked"
    until(lambda: bool(audit(manager.home, "revoked-by-ca")))


def test_without_the_ca_a_device_is_told_to_come_again(
    own_ca: Served, own_manager: Served, tmp_path: Path
) -> None:
    ca, manager = own_ca, own_manager
    token = answer("device", "add", "pump-7", "--token", "--home", manager.home)["token"]
    key = new_key()
    ca.stop()
    refused = est(manager).enroll(csr(key, "pump-7"), basic=("pump-7", token))
    assert (refused.status, refused.error) == (503, "internal")
    assert 0 < int(refused.headers["retry-after"]) <= 3600
    assert b"certificate authority does not answer" in refused.body
    until(lambda: bool(audit(manager.home, "enrolment-failed")), 40)
    (entry,) = audit(manager.home, "enrolment-failed")
    assert (entry["outcome"], entry["name"]) == ("failed", "pump-7")
    # a revocation while the CA is away is told to it when it is back
    with Served(ca.home, "ca", "serve") as back:
        assert back.ready["port"] == ca.ready["port"]
        enrolled = est(manager).enroll(csr(key, "pump-7"), basic=("pump-7", token))
        (leaf,) = enrolled.certificates
    keyferry("device", "revoke", "pump-7", "--wait", "0", "--home", manager.home)
    with Served(ca.home, "ca", "serve") as back:
        until(lambda: leaf.serial_number in revoked(get(back, "/crl")[1]), 40)


def server_credentials(home: Path) -> Credentials:
    """The manager's own certificate and key, as a file of each."""
    return Credentials(home / "server.pem", home / "server.pem")


def test_the_ca_serves_its_registered_managers_only(
    own_ca: Served, own_manager: Served, tmp_path: Path
) -> None:
    ca, manager = own_ca, own_manager
    key = new_key()
    (leaf,) = enrol(manager, "pump-7", key).certificates
    device = credentials(tmp_path / "device", leaf, key)
    request = csr(new_key(), "valve-2")
    assert est(ca).enroll(request).error == "certificate-required"
    # a device's certificate of the same CA speaks for nobody
    assert est(ca, device).enroll(request).error == "authentication-failed"
    # the right kind, rightly signed, that the CA did not write down
    from keyferry_manager.authority import LocalAuthority
    from keyferry_manager.config import Config

    authority = LocalAuthority(Config.load(ca.home))
    forged_key = new_key()
    forged = authority.issue_registration(
        "manager-1", authority.server_names(), forged_key.public_key()
    )
    stranger = credentials(tmp_path / "forged", forged, forged_key)
    assert est(ca, stranger).enroll(request).error == "authentication-failed"
    own = server_credentials(manager.home)
    (other,) = est(ca, own).enroll(request).certificates
    assert other.subject.rfc4514_string() == "CN=valve-2"
    # removed: at once, on a new connection with the same certificate
    keyferry("ca", "remove", "manager-1", "--home", ca.home)
    assert est(ca, own).enroll(csr(new_key(), "hmi-1")).error == "access-denied"
    assert enrol(manager, "hmi-1").status == 503
    refusals = audit(ca.home, "certification-refused")
    assert {entry["fields"]["error"] for entry in refusals} >= {
        "certificate-required",
        "authentication-failed",
        "access-denied",
    }


def test_one_manager_has_no_say_over_the_devices_of_another(
    ca: Served, manager: Served, tmp_path: Path
) -> None:
    (leaf,) = enrol(manager, "pump-9").certificates
    second = server_credentials(make_manager(tmp_path, ca, "manager-2"))
    refused = est(ca, second).enroll(csr(new_key(), "pump-9"))
    assert refused.error == "name-not-allowed"
    assert est(ca, second).enroll(csr(new_key(), "pump-9"), again=True).error == "name-not-allowed"
    assert est(ca, second).enroll(csr(new_key(), "manager-1")).error == "name-not-allowed"
    assert est(ca, second).enroll(csr(new_key(), "hmi-9"), again=True).error == "name-not-allowed"
    assert post_revocations(ca, second, leaf, "keyCompromise")[0] == 403
    assert leaf.serial_number not in revoked(get(ca, "/crl")[1])


def post_revocations(
    ca: Served, who: Credentials | None, leaf: x509.Certificate, reason: str
) -> tuple[int, bytes]:
    return post(ca, who, json.dumps({f"{leaf.serial_number:032x}": reason}).encode())


def post(ca: Served, who: Credentials | None, body: bytes) -> tuple[int, bytes]:
    connection = est(ca, who).connection()
    with contextlib.closing(connection):
        connection.request("POST", "/revocations", body)
        response = connection.getresponse()
        return response.status, response.read()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b"[" * 10_000, 400),
        (b'{"00": "keyCompromise"}', 400),
        (b'{"%s": "keyCompromise"}' % (b"x" * 32), 400),
        (b'{"%s": "because"}' % (b"0" * 32), 400),
        (b'{"%s": ["keyCompromise"]}' % (b"0" * 32), 400),
        (b'{"%s": "keyCompromise"}' % (b"0" * 32), 404),
        (b" " * 20_000, 413),
        (json.dumps({f"{number:032x}": "superseded" for number in range(101)}).encode(), 400),
    ],
)
def test_hostile_revocations(ca: Served, manager: Served, body: bytes, status: int) -> None:
    assert post(ca, server_credentials(manager.home), body)[0] == status


def test_a_token_of_a_manager_is_good_once_and_for_its_hosts(ca: Served, tmp_path: Path) -> None:
    keyferry("ca", "add", "manager-8", "--out", tmp_path / "t", "--home", ca.home)
    name, _, token = (tmp_path / "t").read_text().strip().partition(":")
    assert (name, (tmp_path / "t").stat().st_mode & 0o777) == ("manager-8", 0o600)

    def register(*hosts: str, user: str = name, secret: str = token) -> Any:
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(registration_subject("manager-8"))
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False
            )
        )
        from cryptography.hazmat.primitives.hashes import SHA256

        der = request.sign(new_key(), SHA256()).public_bytes(Encoding.DER)
        basic = base64.b64encode(f"{user}:{secret}".encode()).decode()
        headers = {"Content-Type": "application/pkcs10", "Authorization": "Basic " + basic}
        return est(ca).request("manager/simpleenroll", base64.b64encode(der), headers=headers)

    assert register(REALM, secret="kft_wrong").error == "bad-credentials"
    assert register(REALM, "evil.example").error == "name-not-allowed"
    assert register("localhost").error == "name-not-allowed"
    (certificate,) = register(REALM).certificates
    assert certificate.subject == registration_subject("manager-8")
    assert register(REALM).error == "bad-credentials"


def test_init_says_what_is_wrong(ca: Served, tmp_path: Path) -> None:
    port = ca.ready["port"]
    keyferry("ca", "add", "manager-9", "--out", tmp_path / "t", "--home", ca.home)
    other = make_ca_beside(tmp_path)
    root = ca.home / "ca" / "root.pem"

    def init(port: int, root: Path, token: Path) -> str:
        home = tmp_path / "home"
        said = keyferry(
            *("init", home, "--realm", REALM, *LOCAL, "--authority", "est", "--ca-token-file"),
            *(token, "--ca-url", f"https://127.0.0.1:{port}", "--ca-root", root),
            code=1,
        )
        assert not home.exists()
        return said

    assert "does not answer" in init(1, root, tmp_path / "t")
    assert "does not answer" in init(port, other / "ca" / "root.pem", tmp_path / "t")
    (tmp_path / "wrong").write_text("manager-9:kft_wrong\n")
    said = init(port, root, tmp_path / "wrong")
    assert "did not register this manager" in said
    assert "kft_wrong" not in said
    assert "is the home of a CA" in keyferry("serve", "--home", ca.home, code=1)
    assert "is the home of a manager" in keyferry("ca", "serve", "--home", plain(tmp_path), code=1)
    assert "is the home of a manager" in keyferry("ca", "list", "--home", plain(tmp_path), code=1)


def make_ca_beside(folder: Path) -> Path:
    (folder / "other").mkdir()
    return make_ca(folder / "other")


def plain(folder: Path) -> Path:
    home = folder / "plain"
    if not home.exists():
        keyferry("init", home, "--realm", REALM, *LOCAL)
    return home
