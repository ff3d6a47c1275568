"""EST through real TLS, against a whole running manager."""

import base64
import http.client
import json
import logging
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyferry_manager import limits
from keyferry_manager.authority import fingerprint, serial_text
from keyferry_manager.carriers import est_wire
from keyferry_manager.carriers import http as http_carrier
from keyferry_manager.carriers.est_wire import CSR_ATTRIBUTES
from keyferry_manager.limits import RateLimit
from keyferry_manager.store import FactoryIdentity
from keyferry_manager.tokens import new_token, token_hash
from support.est_client import PKCS10, PREFIX, Answer, EstClient, answer, csr, new_key, spoiled
from support.manager_kit import REALM, Credentials, Home, Running

HOUR = 3600


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", failures_per_minute=1000)


def client(running: Running, credentials: Credentials | None = None) -> EstClient:
    return EstClient(running.home, running.manager.est_port, credentials)


def factory(home: Home, name: str, again: bool = False) -> Credentials:
    """A factory identity that is on record."""
    credentials = home.factory(name)
    certificate = x509.load_der_x509_certificate(credentials.der)
    identity = FactoryIdentity(
        fingerprint(certificate), serial_text(certificate), name, 2**40, int(time.time())
    )
    home.store(lambda store: store.add_device(name, factory=identity, again=again))
    return credentials


def token(home: Home, name: str, lives: int = HOUR) -> str:
    secret = new_token()
    home.store(
        lambda store: store.add_device(
            name, token_hash=token_hash(secret), token_expires_at=int(time.time()) + lives
        )
    )
    return secret


def enrolled(running: Running, name: str) -> Credentials:
    """A device that went through simpleenroll, with its new key and certificate in files."""
    secret = token(running.home, name)
    key = new_key()
    (certificate,) = client(running).enroll(csr(key, name), basic=(name, secret)).certificates
    return saved(running.home, key, certificate)


def saved(
    home: Home, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> Credentials:
    folder = home.folder / serial_text(certificate)
    folder.mkdir()
    credentials = Credentials(folder / "certificate.pem", folder / "key.pem")
    credentials.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    credentials.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return credentials


def own_key(credentials: Credentials) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(credentials.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def refused(given: Answer, status: int, error: str) -> None:
    assert (given.status, given.error) == (status, error), given


# what anybody may ask


def test_cacerts(running: Running):
    given = client(running).request("cacerts")
    authority = running.home.authority
    assert set(given.certificates) == {authority.issuing, authority.root}  # PKCS#7 has a set
    assert "date" in given.headers
    assert "server" not in given.headers


@pytest.mark.needs("openssl")
def test_csrattrs(running: Running):
    given = client(running).request("csrattrs")
    assert given.status == 200
    assert given.headers["content-type"] == "application/csrattrs"
    der = base64.b64decode(given.body, validate=True)
    assert der == CSR_ATTRIBUTES
    command = ["openssl", "asn1parse", "-inform", "DER"]
    shown = subprocess.run(command, input=der, capture_output=True, check=True).stdout.decode()
    objects = [line.split(":")[-1] for line in shown.splitlines() if "OBJECT" in line]
    assert objects == ["id-ecPublicKey", "prime256v1", "ecdsa-with-SHA256"]


@pytest.mark.parametrize("operation", ["serverkeygen", "fullcmc"])
def test_keys_are_never_made_here(running: Running, operation: str):
    credentials = factory(running.home, "pump-7")
    for method, body in (("POST", b""), ("GET", None)):
        given = client(running, credentials).request(operation, body, method=method)
        refused(given, 501, "not-offered")
    (entry, _) = running.home.audit("enrolment-refused")
    assert entry.fields == {"operation": operation, "error": "not-offered"}


def test_other_paths_and_methods(running: Running):
    est_client = client(running)
    refused(est_client.request("nothing"), 404, "unsupported")
    refused(est_client.request("../../etc/passwd"), 404, "unsupported")
    given = est_client.request("simpleenroll")
    refused(given, 405, "unsupported")
    assert given.headers["allow"] == "POST"
    refused(est_client.request("cacerts", b"x"), 405, "unsupported")
    for path in ("docs", "openapi.json", "../../docs", "../../openapi.json"):
        assert est_client.request(path).status == 404


# a first certificate


def test_a_factory_certificate_admits(running: Running):
    credentials = factory(running.home, "pump-7")
    key = new_key()
    (certificate,) = client(running, credentials).enroll(csr(key, "pump-7")).certificates
    assert certificate.public_key() == key.public_key()
    found = running.home.authority.identify(certificate.public_bytes(Encoding.DER))
    assert (found.kind, found.name) == ("device", "pump-7")
    (row,) = running.home.store(lambda store: store.certificates("pump-7"))
    assert row.serial == serial_text(certificate)
    assert row.admission == "factory"
    (entry,) = running.home.audit("enrolled")
    assert (entry.name, entry.outcome, entry.fields["serial"]) == ("pump-7", "ok", row.serial)
    assert entry.address.startswith("127.0.0.1:")


def test_the_certificate_opens_a_link_at_once(running: Running):
    credentials = enrolled(running, "pump-7")
    with running.raw(credentials) as link:
        assert link.connect("pump-7") == 0


def test_the_manager_decides_everything_but_the_key(running: Running):
    credentials = factory(running.home, "pump-7")
    wanted = [
        x509.BasicConstraints(ca=True, path_length=3),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CODE_SIGNING]),
    ]
    (certificate,) = client(running, credentials).enroll(csr(extensions=wanted)).certificates
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(item.value) for item in names] == [f"sip:pump-7@{REALM}"]


def test_the_same_device_enrolling_twice_gets_a_second_certificate(running: Running):
    est_client = client(running, factory(running.home, "pump-7"))
    key = new_key()
    (first,) = est_client.enroll(csr(key, "pump-7")).certificates
    (second,) = est_client.enroll(csr(key, "pump-7")).certificates
    (third,) = est_client.enroll(csr(name="pump-7")).certificates
    rows = running.home.store(lambda store: store.certificates("pump-7"))
    assert [row.serial for row in rows] == [serial_text(item) for item in (third, second, first)]


def test_a_device_cannot_enrol_without_end(tmp_path: Path):
    home = Home(tmp_path / "home", enrolments_per_hour=3)
    credentials = factory(home, "pump-7")
    other = factory(home, "pump-8")
    with home.running() as running:
        for _ in range(3):
            assert client(running, credentials).enroll(csr()).certificates
        refused(client(running, credentials).enroll(csr()), 429, "too-many")
        assert client(running, other).enroll(csr()).certificates


def test_a_factory_identity_must_be_on_record(running: Running):
    unknown = running.home.factory("pump-7")
    refused(client(running, unknown).enroll(csr()), 403, "access-denied")
    old = factory(running.home, "pump-7")
    new = factory(running.home, "pump-7", again=True)
    refused(client(running, old).enroll(csr()), 403, "access-denied")
    assert client(running, new).enroll(csr()).certificates


def test_nobody_in_particular_gets_nothing(running: Running):
    given = client(running).enroll(csr(name="pump-7"))
    refused(given, 401, "certificate-required")
    assert given.headers["www-authenticate"] == f'Basic realm="{REALM}", charset="UTF-8"'


def test_headers_say_nothing_about_who_asks(running: Running):
    factory(running.home, "pump-7")
    body = base64.b64encode(csr(name="pump-7"))
    headers = {
        "Content-Type": PKCS10,
        "X-Forwarded-For": "192.0.2.1",
        "Forwarded": "for=192.0.2.1",
        "X-Client-Cert": "pump-7",
        "X-SSL-Client-CN": "pump-7",
        "X-Forwarded-Client-Cert": 'Subject="CN=pump-7"',
    }
    given = client(running).request("simpleenroll", body, headers=headers)
    refused(given, 401, "certificate-required")
    (entry,) = running.home.audit("enrolment-refused")
    assert entry.address.startswith("127.0.0.1:")
    assert entry.name == ""


# one-time tokens


def test_a_token_admits_once(running: Running):
    secret = token(running.home, "pump-7")
    est_client = client(running)
    request = csr(name="pump-7")
    assert est_client.enroll(request, basic=("pump-7", secret)).certificates
    reused = est_client.enroll(request, basic=("pump-7", secret))
    refused(reused, 401, "bad-credentials")
    assert "www-authenticate" in reused.headers
    assert len(running.home.store(lambda store: store.certificates("pump-7"))) == 1


def test_every_wrong_token_gets_the_same_answer(running: Running):
    good = token(running.home, "pump-7")
    expired = token(running.home, "pump-8", lives=-1)
    used = token(running.home, "pump-9")
    est_client = client(running)
    assert est_client.enroll(csr(), basic=("pump-9", used)).certificates
    answers = [
        est_client.enroll(csr(), basic=basic)
        for basic in (
            ("pump-7", new_token()),
            ("pump-7", ""),
            ("pump-8", expired),
            ("pump-9", used),
            ("pump-8", good),  # of another device
            ("nobody", good),
            ("manager", good),
            ("' OR 1=1 --", good),
            ("pump-7\0", good),
        )
    ]
    assert {(given.status, given.body) for given in answers} == {(401, answers[0].body)}
    refused(answers[0], 401, "bad-credentials")
    details = [entry.detail for entry in running.home.audit("enrolment-refused")]
    assert any("expired at" in detail for detail in details)
    assert any("was used at" in detail for detail in details)
    assert not any(good in detail for detail in details)
    # none of it cost the good token
    assert est_client.enroll(csr(), basic=("pump-7", good)).certificates


def test_a_refused_request_does_not_cost_the_token(running: Running):
    secret = token(running.home, "pump-7")
    est_client = client(running)
    for wrong in (csr(name="pump-8"), spoiled(csr()), b"rubbish"):
        assert est_client.enroll(wrong, basic=("pump-7", secret)).status in (400, 403)
    assert est_client.enroll(csr(), basic=("pump-7", secret)).certificates


def test_of_many_with_one_token_one_wins(running: Running):
    secret = token(running.home, "pump-7")
    est_client = client(running)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: est_client.enroll(csr(), basic=("pump-7", secret)), range(8))
        )
    assert sorted(given.status for given in answers) == [200] + [401] * 7
    assert len(running.home.store(lambda store: store.certificates("pump-7"))) == 1


def test_a_token_for_another_name(running: Running):
    secret = token(running.home, "pump-7")
    given = client(running).enroll(csr(name="pump-8"), basic=("pump-7", secret))
    refused(given, 403, "name-not-allowed")
    (entry,) = running.home.audit("enrolment-refused")
    assert entry.name == "pump-7"
    assert "asked for CN 'pump-8'" in entry.detail


def test_a_token_and_a_certificate_of_different_devices(running: Running):
    credentials = factory(running.home, "pump-7")
    secret = token(running.home, "pump-8")
    given = client(running, credentials).enroll(csr(), basic=("pump-8", secret))
    refused(given, 403, "name-not-allowed")
    # a token of its own beside the certificate is fine
    own = running.home.factory("pump-8")
    assert client(running, own).enroll(csr(), basic=("pump-8", secret)).certificates


# requests that are refused


def test_bad_signatures_and_other_keys(running: Running):
    credentials = factory(running.home, "pump-7")
    est_client = client(running, credentials)
    refused(est_client.enroll(spoiled(csr(name="pump-7"))), 400, "bad-signature")
    for key in (
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        own_key(credentials),  # the factory key: it was made elsewhere
    ):
        refused(est_client.enroll(csr(key, "pump-7")), 400, "key-not-allowed")
    assert running.home.store(lambda store: store.certificates("pump-7")) == []


def test_a_key_of_another_device(running: Running):
    other = enrolled(running, "pump-8")
    credentials = factory(running.home, "pump-7")
    refused(client(running, credentials).enroll(csr(own_key(other))), 400, "key-not-allowed")


def test_names_that_were_not_decided(running: Running):
    est_client = client(running, factory(running.home, "pump-7"))
    for der in (
        csr(name="pump-8"),
        csr(names=[x509.UniformResourceIdentifier(f"sip:pump-8@{REALM}")]),
        csr(names=[x509.DNSName(REALM)]),
    ):
        refused(est_client.enroll(der), 403, "name-not-allowed")


def test_bodies_that_are_no_request(running: Running):
    est_client = client(running, factory(running.home, "pump-7"))
    der = csr(name="pump-7")
    request = x509.load_der_x509_csr(der)
    headers = {"Content-Type": PKCS10}
    for body in (b"", b"!!!", der, request.public_bytes(Encoding.PEM), base64.b64encode(b"0")):
        given = est_client.request("simpleenroll", body, headers=headers)
        refused(given, 400, "malformed")
    # line breaks in the base64, on the other hand, are usual
    body = base64.encodebytes(der).replace(b"\n", b"\r\n")
    headers = {"Content-Type": "Application/PKCS10; charset=us-ascii"}
    assert est_client.request("simpleenroll", body, headers=headers).certificates


def test_the_content_type(running: Running):
    est_client = client(running, factory(running.home, "pump-7"))
    body = base64.b64encode(csr())
    for kind in ("application/json", "application/pkcs10x", ""):
        given = est_client.request("simpleenroll", body, headers={"Content-Type": kind})
        refused(given, 415, "unsupported")


# sizes and times


def test_ten_megabytes_are_refused_before_they_arrive(running: Running):
    est_client = client(running, factory(running.home, "pump-7"))
    connection = est_client.connection()
    connection.putrequest("POST", PREFIX + "simpleenroll")
    connection.putheader("Content-Type", PKCS10)
    connection.putheader("Content-Length", str(10_000_000))
    connection.endheaders()
    refused(answer(connection), 413, "too-large")  # not one byte of the body was sent
    connection.close()


def test_ten_megabytes_without_a_length_are_refused_on_the_way(running: Running):
    est_client = client(running, factory(running.home, "pump-7"))
    connection = est_client.connection()
    connection.putrequest("POST", PREFIX + "simpleenroll")
    connection.putheader("Content-Type", PKCS10)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    chunk = b"1000\r\n" + b"A" * 4096 + b"\r\n"
    for _ in range(6):  # 24 KiB, and the end is not in sight
        connection.send(chunk)
    refused(answer(connection), 413, "too-large")
    connection.close()


def test_a_client_that_sends_ten_megabytes_anyway_still_reads_the_answer(running: Running):
    est_client = client(running, factory(running.home, "pump-7"))
    body = b"A" * 10_000_000
    given = est_client.request("simpleenroll", body, headers={"Content-Type": PKCS10})
    refused(given, 413, "too-large")


def test_a_body_at_the_limit(running: Running):
    est_client = client(running, factory(running.home, "pump-7"))
    body = base64.b64encode(csr())
    headers = {"Content-Type": PKCS10}
    padded = body + b"\n" * (est_wire.MAX_BODY - len(body))
    assert est_client.request("simpleenroll", padded, headers=headers).certificates
    given = est_client.request("simpleenroll", padded + b"\n", headers=headers)
    refused(given, 413, "too-large")


def test_lengths_that_are_none(running: Running):
    est_client = client(running, factory(running.home, "pump-7"))
    for length in ("-1", "1e3", "9" * 5000, "0x10"):
        connection = est_client.connection()
        connection.putrequest("POST", PREFIX + "simpleenroll")
        connection.putheader("Content-Type", PKCS10)
        connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status in (400, 413)
        connection.close()


def test_a_slow_body_is_not_waited_for(running: Running, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(est_wire, "_BODY_TIMEOUT", 0.2)
    connection = client(running, factory(running.home, "pump-7")).connection()
    connection.putrequest("POST", PREFIX + "simpleenroll")
    connection.putheader("Content-Type", PKCS10)
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b"A")
    refused(answer(connection), 408, "timeout")
    connection.close()


def test_a_slow_head_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_carrier, "_HEAD_TIMEOUT", 0.3)
    with Home(tmp_path / "home").running() as running:
        connection = client(running).connection()
        for _ in range(20):  # a byte now and then does not help
            try:
                connection.send(b"G")
            except OSError:
                break
            time.sleep(0.05)
        assert connection.sock.recv(100) == b""
        connection.close()


def test_a_head_too_large_is_refused(running: Running):
    connection = client(running).connection()
    connection.putrequest("GET", PREFIX + "cacerts")
    connection.putheader("X-Long", "x" * 40_000)
    try:
        connection.endheaders()
        assert connection.getresponse().status == 400
    except (ConnectionError, http.client.HTTPException):
        pass  # closed before all of it was sent
    connection.close()
    assert client(running).request("cacerts").certificates


def test_several_requests_on_one_connection(running: Running):
    connection = client(running, factory(running.home, "pump-7")).connection()
    for _ in range(3):
        connection.request("GET", PREFIX + "cacerts")
        assert len(answer(connection).certificates) == 2
    headers = {"Content-Type": PKCS10}
    connection.request("POST", PREFIX + "simpleenroll", base64.b64encode(csr()), headers)
    assert answer(connection).certificates
    connection.close()


# renewal


def test_a_device_renews_with_its_certificate(running: Running):
    credentials = enrolled(running, "pump-7")
    key = new_key()
    given = client(running, credentials).enroll(csr(key, "pump-7"), again=True)
    (certificate,) = given.certificates
    assert certificate.public_key() == key.public_key()
    newest, oldest = running.home.store(lambda store: store.certificates("pump-7"))
    assert (newest.admission, oldest.admission) == ("renewal", "token")
    # and with the new one again, keeping the key
    renewed = saved(running.home, key, certificate)
    assert client(running, renewed).enroll(csr(key), again=True).certificates


def test_renewal_is_for_the_certificates_own_name(running: Running):
    credentials = enrolled(running, "pump-7")
    token(running.home, "pump-8")
    given = client(running, credentials).enroll(csr(name="pump-8"), again=True)
    refused(given, 403, "name-not-allowed")


def test_renewal_needs_a_certificate_that_was_issued_here(running: Running):
    refused(client(running).enroll(csr(), again=True), 401, "certificate-required")
    made = factory(running.home, "pump-7")
    refused(client(running, made).enroll(csr(), again=True), 403, "access-denied")
    # signed by our CA, but in no record: a restored or stolen CA key, say
    unrecorded = running.home.device("pump-8", known=False)
    refused(client(running, unrecorded).enroll(csr(), again=True), 403, "authentication-failed")
    # a token is no help here
    secret = token(running.home, "pump-9")
    given = client(running).enroll(csr(), basic=("pump-9", secret), again=True)
    refused(given, 401, "certificate-required")


def test_enrolment_is_not_for_a_device_that_has_its_certificate(running: Running):
    credentials = enrolled(running, "pump-7")
    given = client(running, credentials).enroll(csr())
    refused(given, 403, "access-denied")
    assert b"simplereenroll" in given.body


# failures


def test_whoever_fails_too_often_must_wait(tmp_path: Path):
    home = Home(tmp_path / "home", failures_per_minute=5)
    secret = token(home, "pump-7")
    with home.running() as running:
        est_client = client(running)
        for _ in range(5):
            wrong = est_client.enroll(csr(), basic=("pump-7", new_token()))
            refused(wrong, 401, "bad-credentials")
        given = est_client.enroll(csr(), basic=("pump-7", secret))
        refused(given, 429, "too-many")
        assert 0 < int(given.headers["retry-after"]) <= 61
        assert est_client.request("cacerts").status == 200
        # another address is not held up
        other = est_client.enroll(csr(), basic=("pump-7", secret), source="127.0.0.2")
        assert other.certificates
    assert len(home.audit("enrolment-refused")) == 5


def test_a_fault_of_ours_is_told_to_the_operator_only(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: object) -> None:
        raise RuntimeError("the secret is 12345")

    monkeypatch.setattr(running.manager._authority, "issue_device", broken)
    with caplog.at_level(logging.ERROR):
        given = client(running, factory(running.home, "pump-7")).enroll(csr())
    refused(given, 500, "internal")
    assert b"12345" not in given.body
    assert "12345" in caplog.text


def test_the_log_of_a_refusal(running: Running, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        client(running).enroll(csr(), basic=("pump-7", new_token()))
    (record,) = [item for item in caplog.records if item.message == "enrolment-refused"]
    fields = record.fields  # type: ignore[attr-defined]
    assert fields["error"] == "bad-credentials"
    assert fields["operation"] == "simpleenroll"
    assert "kft_" not in json.dumps(fields)


def test_the_failure_limit_forgets():
    now = 0.0
    limit = RateLimit(3, lambda: now)
    for _ in range(3):
        assert limit.wait("192.0.2.1") == 0
        limit.count("192.0.2.1")
    assert limit.wait("192.0.2.1") == 61
    assert limit.wait("192.0.2.2") == 0
    now = 59.0
    assert limit.wait("192.0.2.1") == 2
    now = 60.0
    assert limit.wait("192.0.2.1") == 0


def test_the_failure_limit_is_bounded_and_knows_networks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "_MAX_ADDRESSES", 2)
    limit = RateLimit(1, lambda: 0.0)
    for host in ("2001:db8::1", "192.0.2.1", "192.0.2.2"):
        limit.count(host)
    assert limit.wait("2001:db8::1") == 0  # forgotten: two were quiet for less long
    assert limit.wait("192.0.2.2") > 0
    limit.count("2001:db8::1")
    assert limit.wait("2001:db8::ffff:1") > 0  # the same /64
    assert limit.wait("2001:db8:0:1::1") == 0
    limit.count("::ffff:192.0.2.9")
    assert limit.wait("192.0.2.9") > 0
