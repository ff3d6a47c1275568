"""The CA: what it issues holds for OpenSSL too, and what it must not issue it does not."""

import dataclasses
import os
import stat
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyferry_core.errors import AuthenticationError, DecodeError, KeyferryError
from keyferry_manager.authority import (
    LocalAuthority,
    fingerprint,
    key_digest,
    passes,
    record,
    serial_text,
)
from keyferry_manager.authority.files import load_key, replace, write_new
from keyferry_manager.config import Config
from keyferry_manager.problems import AuthorityProblem

REALM = "plant.example"
DAY = 86400


def config(home: Path, **changes: object) -> Config:
    return Config(home=home, realm=REALM, **changes)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    LocalAuthority.create(config(home))
    return home


@pytest.fixture
def authority(home: Path) -> LocalAuthority:
    return LocalAuthority(config(home))


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pem(folder: Path, certificate: x509.Certificate) -> Path:
    path = folder / f"{certificate.serial_number:x}.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path


def extension(certificate: x509.Certificate, kind: type) -> object:
    return certificate.extensions.get_extension_for_class(kind).value


# what it issues


@pytest.mark.needs("openssl")
def test_openssl_accepts_every_chain(home: Path, authority: LocalAuthority, tmp_path: Path):
    device = pem(tmp_path, authority.issue_device("pump-7", new_key().public_key()))
    factory = pem(tmp_path, authority.issue_factory("pump-7", new_key().public_key()))
    ca = home / "ca"
    root = ["-CAfile", ca / "root.pem", "-untrusted", ca / "issuing.pem"]
    strict = ["verify", "-x509_strict", "-no-CApath", "-no-CAstore"]
    openssl(*strict, "-purpose", "sslclient", *root, device)
    openssl(*strict, "-purpose", "sslserver", *root, home / "server.pem")
    openssl(*strict, "-purpose", "sslclient", "-CAfile", ca / "factory.pem", factory)
    for purpose, chain, leaf in (
        ("sslserver", root, device),
        ("sslclient", root, home / "server.pem"),
        ("sslclient", root, factory),
        ("sslclient", ["-CAfile", ca / "factory.pem"], device),
    ):
        done = subprocess.run(
            ["openssl", *map(str, [*strict, "-purpose", purpose, *chain, leaf])],
            capture_output=True,
            check=False,
        )
        assert done.returncode != 0, (purpose, leaf)


@pytest.mark.needs("openssl")
def test_a_device_certificate_says_what_it_should(authority: LocalAuthority, tmp_path: Path):
    now = time.time()
    key = new_key().public_key()
    certificate = authority.issue_device("pump-7", key, now)
    shown = openssl(
        "x509", "-noout", "-subject", "-ext", "subjectAltName,extendedKeyUsage,keyUsage,"
        "basicConstraints", "-in", pem(tmp_path, certificate),
    )  # fmt: skip
    assert "subject=CN = pump-7" in shown
    assert "URI:sip:pump-7@plant.example" in shown
    assert "TLS Web Client Authentication" in shown
    assert "Digital Signature\n" in shown
    assert "CA:FALSE" in shown
    assert certificate.public_key() == key
    assert certificate.not_valid_after_utc == datetime.fromtimestamp(int(now) + 90 * DAY, UTC)
    assert 0 < now - certificate.not_valid_before_utc.timestamp() < 3600
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)


def test_serials_are_128_random_bits(authority: LocalAuthority):
    key = new_key().public_key()
    serials = [authority.issue_device("pump-7", key).serial_number for _ in range(64)]
    assert len(set(serials)) == 64
    assert max(serials).bit_length() in (126, 127, 128)
    assert all(0 < serial < 2**128 for serial in serials)


def test_a_factory_certificate_is_long_lived_and_ours_to_recognise(authority: LocalAuthority):
    now = time.time()
    certificate = authority.issue_factory("pump-7", new_key().public_key(), now)
    assert certificate.not_valid_after_utc.timestamp() == int(now) + 3650 * DAY
    found = authority.identify(der(certificate))
    assert (found.kind, found.name) == ("factory", "pump-7")


def test_the_server_certificate_carries_realm_and_addresses(tmp_path: Path):
    changed = config(
        tmp_path, server_names=("kf.plant.example", "192.0.2.7"), public_host="localhost"
    )
    LocalAuthority.create(changed)
    certificate, issuing = x509.load_pem_x509_certificates((tmp_path / "server.pem").read_bytes())
    names = extension(certificate, x509.SubjectAlternativeName)
    assert isinstance(names, x509.SubjectAlternativeName)
    dns = names.get_values_for_type(x509.DNSName)
    assert dns == [REALM, "localhost", "kf.plant.example"]
    addresses = names.get_values_for_type(x509.IPAddress)
    assert [str(address) for address in addresses] == ["127.0.0.1", "192.0.2.7"]
    assert extension(certificate, x509.ExtendedKeyUsage) == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH]
    )
    certificate.verify_directly_issued_by(issuing)
    assert load_key(tmp_path / "server.pem").public_key() == certificate.public_key()


def test_a_realm_longer_than_a_subject_may_be(tmp_path: Path):
    realm = ".".join(["a" * 60, "b" * 50, "example"])
    long = Config(home=tmp_path, realm=realm)
    authority = LocalAuthority.create(long)
    certificate = authority.issue_device("pump-7", new_key().public_key())
    assert authority.identify(der(certificate)).name == "pump-7"
    assert LocalAuthority(long).server_renewal_reason() == ""


def test_the_record_of_a_certificate(authority: LocalAuthority):
    key = new_key().public_key()
    certificate = authority.issue_device("pump-7", key)
    written = record(certificate, "factory", 1234.5)
    assert written.device == "pump-7"
    assert int(written.serial, 16) == certificate.serial_number
    assert len(written.serial) == 32
    assert written.fingerprint == fingerprint(certificate)
    assert written.key == key_digest(key)
    assert written.der == der(certificate)
    assert written.not_after - written.not_before == 90 * DAY + 600


# what it does not issue


def test_only_p256_and_only_names(authority: LocalAuthority):
    wrong = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(KeyferryError) as caught:
        authority.issue_device("pump-7", wrong)
    assert caught.value.name == "key-not-allowed"
    for name in ("manager", "Pump", "", "a" * 64, "pump 7", "pump-7@other"):
        with pytest.raises(DecodeError):
            authority.issue_device(name, new_key().public_key())


def test_nothing_outlives_its_issuer(authority: LocalAuthority):
    end = authority.issuing.not_valid_after_utc
    late = end.timestamp() - 5 * DAY
    certificate = authority.issue_device("pump-7", new_key().public_key(), late)
    assert certificate.not_valid_after_utc == end
    with pytest.raises(AuthorityProblem, match="end of its life"):
        authority.issue_device("pump-7", new_key().public_key(), end.timestamp() - 60)


def draft_and_issuer(home: Path) -> tuple[passes.Draft, passes.Issuer]:
    certificate = x509.load_pem_x509_certificate((home / "ca/issuing.pem").read_bytes())
    issuer = passes.Issuer(load_key(home / "ca/issuing.key"), certificate)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pump-7")])
    names = passes.device_names("pump-7", REALM)
    key = new_key().public_key()
    return passes.modify(passes.DEVICE, subject, names, key, issuer, time.time()), issuer


def test_validate_refuses_before_anything_is_signed(home: Path):
    draft, issuer = draft_and_issuer(home)
    passes.validate(draft, issuer, REALM, time.time())
    for wrong in (
        {"alternative_names": ()},
        {"alternative_names": passes.device_names("pump-8", REALM)},
        {"alternative_names": (*draft.alternative_names, x509.DNSName("plant.example"))},
        {"profile": passes.ISSUING},  # a CA below a CA that may have none
        {"profile": passes.SERVER},  # without the realm
    ):
        with pytest.raises(AuthorityProblem):
            passes.validate(dataclasses.replace(draft, **wrong), issuer, REALM, time.time())
    with pytest.raises(AuthorityProblem, match="its own identity"):
        passes.validate(draft, issuer, "other.example", time.time())
    other = passes.Issuer(new_key(), issuer.certificate)
    with pytest.raises(AuthorityProblem, match="do not belong together"):
        passes.validate(draft, other, REALM, time.time())
    with pytest.raises(AuthorityProblem, match="must have an issuer"):
        passes.validate(draft, passes.Issuer(issuer.key, None), REALM, time.time())


def test_enforce_refuses_what_is_not_the_draft(home: Path):
    draft, issuer = draft_and_issuer(home)
    signed = passes.sign(draft, issuer)
    passes.enforce(signed, draft, issuer)
    for what, other in (
        ("serial", {"serial": draft.serial ^ 1}),
        ("subject", {"subject": x509.Name([])}),
        ("end", {"not_after": draft.not_before}),
        ("key", {"public_key": new_key().public_key()}),
        ("extensions", {"alternative_names": passes.device_names("pump-8", REALM)}),
        ("extensions", {"profile": passes.FACTORY_CA}),
        ("extensions", {"profile": passes.SERVER}),
    ):
        with pytest.raises(AuthorityProblem, match=what):
            passes.enforce(signed, dataclasses.replace(draft, **other), issuer)
    with pytest.raises(AuthorityProblem):
        passes.enforce(signed, draft, passes.Issuer(new_key(), issuer.certificate))


# what it recognises


def test_it_recognises_its_own(authority: LocalAuthority):
    certificate = authority.issue_device("pump-7", new_key().public_key())
    found = authority.identify(der(certificate))
    assert (found.kind, found.name) == ("device", "pump-7")
    assert found.serial == serial_text(certificate)


def sign_by(
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    name: str,
    *extensions: x509.ExtensionType,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(new_key().public_key())
        .serial_number(7)
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
    )
    for item in extensions:
        builder = builder.add_extension(item, critical=False)
    return der(builder.sign(key, hashes.SHA256()))


def test_it_recognises_nothing_else(home: Path, authority: LocalAuthority, tmp_path: Path):
    issuing_key = load_key(home / "ca/issuing.key")
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    names = x509.SubjectAlternativeName(passes.device_names("pump-7", REALM))
    good = sign_by(issuing_key, authority.issuing, "pump-7", client, names)
    assert authority.identify(good).name == "pump-7"

    def san(*uris: str) -> x509.SubjectAlternativeName:
        return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])

    own = "sip:pump-7@plant.example"
    issuing = authority.issuing
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    other = LocalAuthority.create(config(tmp_path))
    (server_leaf,) = x509.load_pem_x509_certificates((home / "server.pem").read_bytes())[:1]
    cases = {
        "the issuer's name with another key": sign_by(new_key(), issuing, "pump-7", client, names),
        "another manager": der(other.issue_device("pump-7", new_key().public_key())),
        "another manager's factory": der(other.issue_factory("pump-7", new_key().public_key())),
        "no alternative name": sign_by(issuing_key, issuing, "pump-7", client),
        "no usage": sign_by(issuing_key, issuing, "pump-7", names),
        "server usage": sign_by(issuing_key, issuing, "pump-7", server, names),
        "another name": sign_by(issuing_key, issuing, "pump-8", client, names),
        "two names": sign_by(issuing_key, issuing, "pump-7", client, san(own, own)),
        "another realm": sign_by(issuing_key, issuing, "pump-7", client, san("sip:pump-7@a.b")),
        "no name": sign_by(issuing_key, issuing, "pump-7", client, san("https://pump-7")),
        "the server": der(server_leaf),
        "the issuing CA": der(issuing),
        "the root": der(authority.root),
        "nothing": b"",
        "rubbish": good[:-1],
        "a byte too many": good + b"\0",
    }
    for what, wrong in cases.items():
        try:
            authority.identify(wrong)
        except AuthenticationError:
            continue
        pytest.fail(f"accepted: {what}")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_flipped_bit_is_recognised_as_another(authority: LocalAuthority):
    good = der(authority.issue_device("pump-7", new_key().public_key()))
    for position in range(0, len(good), 3):
        changed = bytearray(good)
        changed[position] ^= 1 << position % 8
        with pytest.raises(AuthenticationError):
            authority.identify(bytes(changed))


# renewal of the server's certificate


def test_the_server_certificate_is_renewed_in_its_last_third(tmp_path: Path):
    now = time.time()
    authority = LocalAuthority.create(config(tmp_path, server_days=90), now)
    before = (tmp_path / "server.pem").read_bytes()
    assert authority.ensure_server(now + 59 * DAY) == ""
    assert (tmp_path / "server.pem").read_bytes() == before
    assert authority.ensure_server(now + 61 * DAY) == "due"
    after = (tmp_path / "server.pem").read_bytes()
    assert after != before
    assert authority.ensure_server(now + 61 * DAY) == ""
    assert stat.S_IMODE((tmp_path / "server.pem").stat().st_mode) == 0o600
    assert sorted(item.name for item in tmp_path.iterdir()) == ["ca", "server.pem"]


def test_the_server_certificate_follows_the_configuration(tmp_path: Path):
    LocalAuthority.create(config(tmp_path))
    changed = LocalAuthority(config(tmp_path, server_names=("kf.plant.example",)))
    assert changed.ensure_server() == "names-changed"
    assert changed.ensure_server() == ""
    (tmp_path / "server.pem").unlink()
    assert changed.ensure_server() == "absent"


def test_a_new_issuing_ca_means_a_new_server_certificate(tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    LocalAuthority.create(config(tmp_path / "one"))
    other = LocalAuthority.create(config(tmp_path / "two"))
    replace(tmp_path / "two/server.pem", (tmp_path / "one/server.pem").read_bytes(), 0o600)
    assert other.ensure_server() == "issuer-changed"


# files


def test_keys_are_private_from_their_first_moment(tmp_path: Path):
    before = os.umask(0)
    try:
        LocalAuthority.create(config(tmp_path))
    finally:
        os.umask(before)
    private = ["ca/root.key", "ca/issuing.key", "ca/factory.key", "server.pem"]
    for name in private:
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


def test_a_running_manager_needs_neither_root_nor_factory_key(tmp_path: Path):
    LocalAuthority.create(config(tmp_path))
    (tmp_path / "ca/root.key").unlink()
    (tmp_path / "ca/factory.key").unlink()
    authority = LocalAuthority(config(tmp_path))
    authority.issue_device("pump-7", new_key().public_key())
    authority.renew_server()
    with pytest.raises(AuthorityProblem, match=r"factory\.key cannot be read"):
        authority.issue_factory("pump-7", new_key().public_key())


def test_what_is_amiss_is_said(tmp_path: Path):
    LocalAuthority.create(config(tmp_path))
    ca = tmp_path / "ca"

    def problem() -> str:
        with pytest.raises(AuthorityProblem) as caught:
            LocalAuthority(config(tmp_path))
        return str(caught.value)

    key, root = (ca / "issuing.key").read_bytes(), (ca / "root.pem").read_bytes()
    (ca / "issuing.key").chmod(0o640)
    assert f"run 'chmod 600 {ca / 'issuing.key'}'" in problem()
    (ca / "issuing.key").chmod(0o600)
    (ca / "issuing.key").write_bytes((ca / "root.key").read_bytes())
    assert "is not the key of issuing.pem" in problem()
    (ca / "issuing.key").write_bytes(b"nothing")
    assert "holds no unencrypted private key" in problem()
    (ca / "issuing.key").write_bytes(key)
    (ca / "root.pem").write_bytes((ca / "factory.pem").read_bytes())
    assert "is not signed by root.pem" in problem()
    (ca / "root.pem").write_bytes(b"nothing")
    assert "holds no certificate" in problem()
    (ca / "root.pem").unlink()
    assert "cannot be read" in problem()
    (ca / "root.pem").write_bytes(root)
    with pytest.raises(AuthorityProblem, match=r"is not of realm other\.example"):
        LocalAuthority(dataclasses.replace(config(tmp_path), realm="other.example"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "file"
    write_new(path, b"old", 0o600)
    with pytest.raises(FileExistsError):
        write_new(path, b"new", 0o600)
    with pytest.raises(TypeError):
        replace(path, "no bytes", 0o600)  # type: ignore[arg-type]
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
    replace(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
