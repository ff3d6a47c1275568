"""Revocation lists and OCSP, asked for by curl and judged by OpenSSL."""

import base64
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from keyferry_manager.authority import LocalAuthority, serial_text
from keyferry_manager.authority.passes import Issuer
from keyferry_manager.authority.status import Responder, revocation_list
from keyferry_manager.carriers.status import Status
from keyferry_manager.config import FILE_NAME, Config, template
from keyferry_manager.problems import ConfigProblem
from keyferry_manager.store import Reason, Revoked
from support.est_client import new_key
from support.manager_kit import REALM, Credentials, Home, Running

pytestmark = pytest.mark.needs("openssl", "curl")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def openssl(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def curl(running: Running, path: str, *arguments: str) -> bytes:
    """curl that believes the realm, with no client certificate."""
    port = running.manager.est_port
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--path-as-is"),
            *("--cacert", str(running.home.folder / "ca" / "root.pem")),
            *("--connect-to", f"{REALM}:{port}:127.0.0.1:{port}"),
            *arguments,
            f"https://{REALM}:{port}{path}",
        ],
        capture_output=True,
        check=True,
    )
    return done.stdout


def revoke(home: Home, credentials: Credentials, reason: Reason = "keyCompromise") -> None:
    serial = serial_of(credentials)
    home.store(lambda store: store.life.revoke(reason, serial=serial))


def serial_of(credentials: Credentials) -> str:
    return serial_text(x509.load_der_x509_certificate(credentials.der))


def files(home: Home, folder: Path) -> Path:
    """What OpenSSL needs of the CA."""
    for which in ("root", "issuing"):
        (folder / f"{which}.pem").write_bytes((home.folder / "ca" / f"{which}.pem").read_bytes())
    both = (folder / "root.pem").read_bytes() + (folder / "issuing.pem").read_bytes()
    (folder / "chain.pem").write_bytes(both)
    return folder


# lists


def test_openssl_believes_the_list_and_refuses_who_is_on_it(running: Running, tmp_path: Path):
    good, bad = running.home.device("pump-7"), running.home.device("valve-2")
    revoke(running.home, bad)
    folder = files(running.home, tmp_path)
    (folder / "crl.der").write_bytes(curl(running, "/crl"))
    shown = openssl(
        folder, "crl", "-inform", "DER", "-in", "crl.der", "-CAfile", "chain.pem", "-noout",
        "-text",
    )  # fmt: skip
    assert "verify OK" in shown
    assert "Key Compromise" in shown
    assert serial_of(bad).upper() in shown.replace(":", "")
    assert serial_of(good).upper() not in shown.replace(":", "")
    openssl(folder, "crl", "-inform", "DER", "-in", "crl.der", "-out", "crl.pem")
    check = (
        *("verify", "-crl_check", "-CRLfile", "crl.pem"),
        *("-CAfile", "root.pem", "-untrusted", "issuing.pem"),
    )
    assert "OK" in openssl(folder, *check, str(good.certificate))
    assert "certificate revoked" in openssl(folder, *check, str(bad.certificate), code=2)


def test_a_list_is_kept_until_it_would_say_something_else(running: Running):
    home = running.home
    bad = home.device("pump-7")
    empty = curl(running, "/crl")
    assert curl(running, "/crl") == empty
    home.allow("pump-7", "valve-2")  # a change, but none of this
    assert curl(running, "/crl") == empty
    revoke(home, bad)
    lists = [x509.load_der_x509_crl(item) for item in (empty, curl(running, "/crl"))]
    assert [len(item) for item in lists] == [0, 1]
    numbers = [
        item.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for item in lists
    ]
    assert numbers == [1, 2]
    life = lists[1].next_update_utc - lists[1].last_update_utc  # type: ignore[operator]
    assert life.total_seconds() == 24 * 3600


def test_the_number_goes_on_after_a_restart(home: Home):
    numbers = []
    for _ in range(2):
        with home.running() as running:
            crl = x509.load_der_x509_crl(curl(running, "/crl"))
            extension = crl.extensions.get_extension_for_class(x509.CRLNumber)
            numbers.append(extension.value.crl_number)
    assert numbers == [1, 2]


def test_a_list_is_signed_anew_after_half_of_its_life_and_old_ones_leave_it(home: Home):
    bad = home.device("pump-7")
    revoke(home, bad)
    clock = [time.time()]

    async def lists(store) -> list[x509.CertificateRevocationList]:
        status = Status(home.config, store, home.authority, lambda: clock[0])
        found = []
        for hours in (0, 11, 2, 24 * 95):
            clock[0] += hours * 3600
            found.append(x509.load_der_x509_crl(bytes((await status.crl()).body)))
        return found

    first, same, second, late = home.store(lists)
    assert first == same
    assert second.last_update_utc > first.last_update_utc
    assert [len(item) for item in (first, second, late)] == [1, 1, 0]


def test_without_its_database_a_list_stands_for_its_life(home: Home, monkeypatch):
    clock = [time.time()]

    async def statuses(store) -> list[int]:
        async def away(_since: float) -> list[Revoked]:
            raise OSError("gone")

        status = Status(home.config, store, home.authority, lambda: clock[0])
        found = [(await status.crl()).status_code]
        monkeypatch.setattr(store.life, "all_revoked", away)
        for hours in (23, 2):
            clock[0] += hours * 3600
            found.append((await status.crl()).status_code)
        return found

    assert home.store(statuses) == [200, 200, 503]


def test_every_reason_is_said_as_the_standard_has_it(home: Home):
    issuer = home.authority._issuer
    assert isinstance(issuer, Issuer)
    reasons = get_args(Reason)
    items = [
        Revoked(f"{number:032x}", "pump-7", "", reason, 1e9, 2**31)
        for number, reason in enumerate(reasons, 1)
    ]
    crl = revocation_list(issuer, items, 7, 2e9, 2e9 + 60)
    said = {}
    for entry in crl:
        found = list(entry.extensions)
        value = found[0].value if found else None
        said[entry.serial_number] = (
            value.reason.value if isinstance(value, x509.CRLReason) else "unspecified"
        )
    assert said == {number: reason for number, reason in enumerate(reasons, 1)}


# OCSP


def asked(folder: Path, credentials: Credentials, *options: str) -> bytes:
    openssl(
        folder, "ocsp", "-issuer", "issuing.pem", "-cert", str(credentials.certificate),
        "-reqout", "request.der", *options,
    )  # fmt: skip
    return (folder / "request.der").read_bytes()


def judged(folder: Path, response: bytes, credentials: Credentials, digest: str = "-sha1") -> str:
    (folder / "response.der").write_bytes(response)
    # -no_nonce: it would add one of its own to the request that was sent.
    return openssl(
        folder, "ocsp", "-no_nonce", digest, "-respin", "response.der", "-reqin", "request.der",
        "-CAfile", "chain.pem", "-issuer", "issuing.pem", "-cert", str(credentials.certificate),
    )  # fmt: skip


@pytest.mark.parametrize("digest", ["-sha1", "-sha256"])
def test_openssl_believes_the_responder(running: Running, tmp_path: Path, digest: str):
    home = running.home
    good, bad = home.device("pump-7"), home.device("valve-2")
    never = home.device("pump-8", known=False)
    revoke(home, bad)
    folder = files(home, tmp_path)
    kind = ("--header", "Content-Type: application/ocsp-request")
    for credentials, expected in ((good, "good"), (bad, "revoked"), (never, "unknown")):
        for options in (("-no_nonce",), ()):
            openssl(
                folder, "ocsp", digest, "-issuer", "issuing.pem", "-cert",
                str(credentials.certificate), "-reqout", "request.der", *options,
            )  # fmt: skip
            request = (folder / "request.der").read_bytes()
            by_post = curl(running, "/ocsp", *kind, "--data-binary", f"@{folder / 'request.der'}")
            path = "/ocsp/" + urllib.parse.quote(base64.b64encode(request).decode(), safe="")
            for response in (by_post, curl(running, path)):
                shown = judged(folder, response, credentials, digest)
                assert "Response verify OK" in shown
                assert f"{credentials.certificate}: {expected}" in shown
                assert "WARNING" not in shown, "the nonce was not repeated"
                if expected == "revoked":
                    assert "Reason: keyCompromise" in shown


def test_a_request_whose_base64_has_slashes_in_a_row(running: Running, tmp_path: Path):
    """Not encoded, as some clients send it: '//' is in it until one without turns up."""
    home = running.home
    folder = files(home, tmp_path)
    responder_saw = 0
    credentials = home.device("pump-7")
    for _ in range(60):
        request = asked(folder, credentials)
        text = base64.b64encode(request).decode()
        if "/" not in text:
            continue
        shown = judged(folder, curl(running, "/ocsp/" + text), credentials)
        assert "Response verify OK" in shown
        responder_saw += 1
        if responder_saw == 3:
            break
    assert responder_saw == 3


def test_what_is_no_request_of_ours_gets_an_answer_that_says_so(running: Running, tmp_path: Path):
    home = running.home
    folder = files(home, tmp_path)
    kind = ("--header", "Content-Type: application/ocsp-request")

    def status(body: bytes) -> ocsp.OCSPResponseStatus:
        (folder / "body").write_bytes(body)
        given = curl(running, "/ocsp", *kind, "--data-binary", f"@{folder / 'body'}")
        return ocsp.load_der_ocsp_response(given).response_status

    malformed = ocsp.OCSPResponseStatus.MALFORMED_REQUEST
    request = asked(folder, home.device("pump-7"), "-no_nonce")
    assert status(request) == ocsp.OCSPResponseStatus.SUCCESSFUL
    for cut in range(0, len(request), 7):
        assert status(request[:cut]) == malformed
    assert status(request + b"x") == malformed
    two = ("-cert", str(home.device("pump-8").certificate))
    assert status(asked(folder, home.device("pump-9"), *two)) == malformed
    factory = home.authority.factory
    stranger = ocsp.OCSPRequestBuilder().add_certificate(factory, factory, hashes.SHA1()).build()
    assert status(stranger.public_bytes(Encoding.DER)) == ocsp.OCSPResponseStatus.UNAUTHORIZED
    mine, issuing = (
        home.authority.issue_device("pump-7", new_key().public_key()),
        home.authority.issuing,
    )
    for length, expected in (
        (0, malformed),
        (1, ocsp.OCSPResponseStatus.SUCCESSFUL),
        (128, ocsp.OCSPResponseStatus.SUCCESSFUL),
        (129, malformed),
    ):
        builder = ocsp.OCSPRequestBuilder().add_certificate(mine, issuing, hashes.SHA256())
        builder = builder.add_extension(x509.OCSPNonce(bytes(length)), critical=False)
        assert status(builder.build().public_bytes(Encoding.DER)) == expected
    assert ocsp.load_der_ocsp_response(curl(running, "/ocsp/%21")).response_status == malformed
    assert b"too-large" in curl(
        running, "/ocsp", *kind, "--header", "Expect:", "--data-binary", "x" * 5000
    )
    assert b"unsupported" in curl(running, "/ocsp", "--data-binary", "x")


def test_the_responder_was_delegated_for_this_alone(home: Home):
    key = new_key()
    certificate = home.authority.signers()[0].issue_responder(key.public_key())
    extensions = certificate.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.OCSP_SIGNING
    ]
    assert extensions.get_extension_for_class(x509.OCSPNoCheck)
    assert certificate.not_valid_after_utc.timestamp() - time.time() <= 7 * 86400
    assert Responder(home.authority.issuing, key, certificate).certificate == certificate


def test_the_responder_is_replaced_before_its_certificate_ends(home: Home):
    clock = [time.time()]

    async def serials(store) -> list[int]:
        status = Status(home.config, store, home.authority, lambda: clock[0])
        found = []
        for days in (0, 4, 1):
            clock[0] += days * 86400
            (signer,) = home.authority.signers()
            responder = await status._current_responder(signer, clock[0])
            found.append(responder.certificate.serial_number)
        return found

    first, same, second = home.store(serials)
    assert first == same != second


# what certificates say of it


def test_certificates_name_list_and_responder_only_where_there_is_a_public_url(tmp_path: Path):
    plain, public = tmp_path / "plain", tmp_path / "public"
    Home(plain)
    home = Home(public, public_url="https://kf.plant.example:8443")
    certificate = home.authority.issue_device("pump-7", new_key().public_key())
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    (name,) = points[0].full_name or []
    assert name.value == "https://kf.plant.example:8443/crl"
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [(item.access_method, item.access_location.value) for item in access] == [
        (AuthorityInformationAccessOID.OCSP, "https://kf.plant.example:8443/ocsp")
    ]
    without = LocalAuthority(Config.load(plain)).issue_device("pump-7", new_key().public_key())
    kinds = {type(item.value) for item in without.extensions}
    assert not kinds & {x509.CRLDistributionPoints, x509.AuthorityInformationAccess}


def test_a_certificate_that_names_them_opens_a_link(tmp_path: Path):
    home = Home(tmp_path / "home", public_url="https://kf.plant.example")
    with home.running() as running, running.raw(home.device("pump-7")) as link:
        assert link.connect("pump-7") == 0


@pytest.mark.parametrize(
    "url", ["kf.plant.example", "https://kf.plant.example/", "ftp://x", "https://KF.example"]
)
def test_a_public_url_must_be_one(tmp_path: Path, url: str):
    text = template(REALM, public_url=url)
    with pytest.raises(ConfigProblem, match="public_url"):
        Config.parse(text, tmp_path, FILE_NAME)
