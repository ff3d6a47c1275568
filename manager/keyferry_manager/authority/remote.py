"""The CA behind another EST server (RFC 7030): this process holds no CA key.

A device's request goes on as it came, with the manager's own certificate on the TLS connection: a
registration authority's (section 3.7). What comes back is believed only when the issuing CA that
this home knows signed it, for the name that was decided and the key that was asked for. Revocations
go both ways, by the CA's list: ``list_now`` fetches it, ``revoke`` tells of ours.
"""

import asyncio
import base64
import contextlib
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from keyferry_core.errors import AuthenticationError, RemoteError
from keyferry_manager.authority import files, passes
from keyferry_manager.authority.chain import CA_FOLDER, Chain, signed_by
from keyferry_manager.config import Config
from keyferry_manager.problems import AuthorityProblem, AuthorityUnavailable

_EST = "/.well-known/est/"
# Bytes of an answer with certificates, and of a revocation list.
_MAX_ANSWER = 65536
_MAX_LIST = 8 * 1024 * 1024
# Times that a request is sent, and the seconds between; authority.seconds bounds them together.
_ATTEMPTS = 3
_PAUSE = 0.2
# Seconds until a device is to come again, when the CA did not say.
_RETRY_AFTER = 10
_LONGEST_RETRY = 3600
# What the CA finds wrong with a device's request is the device's to hear. All else is ours.
_OF_THE_DEVICE = ("bad-signature", "key-not-allowed", "name-not-allowed", "revoked")
REVOCATIONS_AT_ONCE = 100


class Connection:
    """HTTPS to the CA, with bounds. ``server_file`` has our key and certificate, once there is."""

    def __init__(self, url: str, trusted: bytes, server_file: Path | None, seconds: float) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=trusted)
        if server_file is not None:
            context.load_cert_chain(server_file)
        self._url = url
        self._seconds = seconds
        self._client = httpx.AsyncClient(
            verify=context,
            timeout=httpx.Timeout(seconds),
            follow_redirects=False,
            trust_env=False,  # no proxy, and nothing of .netrc
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=4),
        )

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        most: int = _MAX_ANSWER,
    ) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body, of ``most`` bytes. AuthorityUnavailable when none came."""
        why = ""
        try:
            async with asyncio.timeout(self._seconds):
                for attempt in range(_ATTEMPTS):
                    if attempt:
                        await asyncio.sleep(_PAUSE * attempt)
                    try:
                        return await self._once(method, path, body, headers or {}, most)
                    except httpx.TransportError as error:
                        why = str(error) or type(error).__name__
        except TimeoutError:
            why = why or f"no answer within {self._seconds:g} s"
        raise AuthorityUnavailable(f"the CA at {self._url} does not answer: {why}", _RETRY_AFTER)

    async def _once(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], most: int
    ) -> tuple[int, httpx.Headers, bytes]:
        url = self._url + path
        async with self._client.stream(method, url, content=body, headers=headers) as response:
            found = bytearray()
            # Raw: an answer that unpacks to a gigabyte is not for us.
            async for part in response.aiter_raw():
                found += part
                if len(found) > most:
                    raise AuthorityUnavailable(f"the CA's answer is larger than {most} bytes")
            return response.status_code, response.headers, bytes(found)

    async def certificates(
        self, operation: str, request: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> list[x509.Certificate]:
        """The certificates that an operation of EST answers with.

        RemoteError when the CA refuses the device's request, else AuthorityUnavailable.
        """
        sent = {"Content-Type": "application/pkcs10", "Content-Transfer-Encoding": "base64"}
        status, said, body = await self.ask(
            "POST" if request else "GET",
            _EST + operation,
            base64.b64encode(request),
            {**(sent if request else {}), **(headers or {})},
        )
        if status != 200:
            raise _refusal(status, said, body)
        try:
            found = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body))
        except files.UNREADABLE as error:
            raise AuthorityUnavailable(f"the CA's answer cannot be read: {error}") from None
        return found


class RemoteAuthority(Chain):
    """Recognises certificates, and asks the CA for new ones."""

    def __init__(self, config: Config) -> None:
        """Load the certificates; AuthorityProblem says what is amiss."""
        super().__init__(config)
        self._connection: Connection | None = None
        self._list = b""
        self._list_ends = 0.0

    @classmethod
    async def create(cls, config: Config, root: bytes, token: str) -> None:
        """Register with the CA, in a home that has no certificates: fetch them under ``root``
        (PEM, of the CA), make our key, and get a certificate for it with the one-time token."""
        folder = config.home / CA_FOLDER
        folder.mkdir(mode=0o700)
        files.write_new(folder / "root.pem", root)
        (trusted,) = files.load_certificates(folder / "root.pem")[:1]
        connection = Connection(
            config.est_url, trusted.public_bytes(Encoding.DER), None, config.authority_seconds
        )
        try:
            found = await connection.certificates("cacerts")
            under = [item for item in found if item != trusted and signed_by(item, trusted)]
            if not under:
                raise AuthorityProblem(
                    f"the CA at {config.est_url} does not stand under the root that you gave."
                )
            files.write_new(folder / "issuing.pem", files.certificate_pem(under[0]))
            factory = await connection.certificates("factory/cacerts")
            files.write_new(folder / "factory.pem", files.certificate_pem(factory[0]))
            authority = cls(config)
            basic = base64.b64encode(f"{config.registered_as}:{token}".encode()).decode()
            headers = {"Authorization": "Basic " + basic}
            try:
                await authority.new_server(connection, "manager/simpleenroll", headers)
            except (RemoteError, AuthorityUnavailable) as error:
                raise AuthorityProblem(f"the CA did not register this manager: {error}.") from None
        finally:
            await connection.close()
        files.sync_directory(folder)

    async def certify(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        request: bytes,
        now: float | None = None,
        *,
        again: bool = False,
    ) -> x509.Certificate:
        """The CA's certificate for ``request``, which must state the name.

        RemoteError for what the device must hear, AuthorityUnavailable when the CA is away or does
        not want this manager.
        """
        if passes.common_name(x509.load_der_x509_csr(request).subject) != name:
            # The CA knows the device by nothing else.
            raise RemoteError("name-not-allowed", "the request does not state the name")
        operation = "simplereenroll" if again else "simpleenroll"
        for certificate in await self._connect().certificates(operation, request):
            if certificate.public_key() != public_key:
                continue
            try:
                found = self.identify(certificate.public_bytes(Encoding.DER))
            except AuthenticationError as error:
                raise AuthorityUnavailable(
                    f"the CA's certificate for {name} is not of our realm's: {error.detail}"
                ) from None
            end = certificate.not_valid_after_utc.timestamp()
            if (found.kind, found.name) != ("device", name) or end <= (now or time.time()):
                raise AuthorityUnavailable(f"the CA's certificate is not one for {name}")
            return certificate
        raise AuthorityUnavailable(f"the CA gave no certificate for the key of {name}")

    async def issue_factory(self, name: str, request: bytes) -> x509.Certificate:
        """The CA's factory certificate for ``request``. RemoteError, AuthorityUnavailable."""
        (certificate, *_) = await self._connect().certificates("factory/simpleenroll", request)
        if not signed_by(certificate, self.factory):
            raise AuthorityUnavailable("the factory CA of this home did not sign the answer")
        if passes.common_name(certificate.subject) != name:
            raise AuthorityUnavailable(f"the CA's certificate is not one for {name}")
        return certificate

    async def new_server(
        self, connection: Connection, operation: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """A new key and certificate for the manager itself, in ``server_file``."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(passes.registration_subject(self._config.registered_as))
            .add_extension(x509.SubjectAlternativeName(self.server_names()), critical=False)
            .sign(key, passes.HASH)
        )
        der = request.public_bytes(Encoding.DER)
        for certificate in await connection.certificates(operation, der, headers):
            if certificate.public_key() == key.public_key():
                self.identify_registration(certificate.public_bytes(Encoding.DER))
                data = files.key_pem(key) + files.certificate_pem(certificate, self.issuing)
                files.replace(self.server_file, data, files.PRIVATE)
                return
        raise AuthorityUnavailable("the CA gave no certificate for the key of this manager")

    async def keep_server(self) -> str:
        """Renew our certificate when it is due. While the CA is away, one that holds goes on."""
        reason = self.server_renewal_reason()
        if not reason:
            return ""
        if reason == "absent":
            raise AuthorityProblem(
                f"{self.server_file} is gone: register this manager anew, in a new home."
            )
        try:
            await self.new_server(self._connect(), "manager/simplereenroll")
        except (RemoteError, AuthorityUnavailable) as error:
            ends = files.load_certificates(self.server_file)[0].not_valid_after_utc.timestamp()
            if ends <= time.time():
                raise AuthorityProblem(
                    f"this manager's certificate has ended and was not renewed: {error}."
                ) from None
            return ""
        await self.close()  # the next connection shows the new one
        return reason

    async def close(self) -> None:
        """Close the connection to the CA, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(httpx.HTTPError, OSError):
                await connection.close()

    # revocation

    @property
    def revocation_list(self) -> bytes:
        """The last list of the CA, DER; empty when there is none that still holds."""
        return self._list if time.time() < self._list_ends else b""

    async def list_now(self) -> x509.CertificateRevocationList:
        """Fetch the CA's list and verify it. AuthorityUnavailable; the one before stays then."""
        status, _, body = await self._connect().ask("GET", "/crl", most=_MAX_LIST)
        if status != 200:
            raise AuthorityUnavailable(f"the CA has no revocation list: HTTP {status}")
        try:
            crl = await asyncio.to_thread(_read_list, body, self.issuing)
        except files.UNREADABLE as error:
            raise AuthorityUnavailable(f"the CA's list cannot be read: {error}") from None
        ends = crl.next_update_utc
        if ends is None or ends.timestamp() <= time.time():
            raise AuthorityUnavailable("the CA's list has ended")
        self._list, self._list_ends = body, ends.timestamp()
        return crl

    async def revoke(self, serials: Mapping[str, str]) -> None:
        """Tell the CA of revocations: serials (32 hexadecimal digits) with reasons."""
        items = list(serials.items())
        for start in range(0, len(items), REVOCATIONS_AT_ONCE):
            body = json.dumps(dict(items[start : start + REVOCATIONS_AT_ONCE])).encode()
            headers = {"Content-Type": "application/json"}
            status, _, said = await self._connect().ask("POST", "/revocations", body, headers)
            if status != 204:
                raise AuthorityUnavailable(f"the CA did not revoke: HTTP {status}, {_line(said)}")

    async def ocsp(self, request: bytes) -> bytes:
        """The CA's answer to an OCSP request, which whoever asked verifies."""
        headers = {"Content-Type": "application/ocsp-request"}
        status, _, body = await self._connect().ask("POST", "/ocsp", request, headers)
        if status != 200:
            raise AuthorityUnavailable(f"the CA does not answer OCSP: HTTP {status}")
        return body

    def _connect(self) -> Connection:
        if self._connection is None:
            config = self._config
            trusted = self.root.public_bytes(Encoding.DER)
            self._connection = Connection(
                config.est_url, trusted, self.server_file, config.authority_seconds
            )
        return self._connection


def _read_list(body: bytes, issuing: x509.Certificate) -> x509.CertificateRevocationList:
    crl = x509.load_der_x509_crl(body)
    key = issuing.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    if crl.issuer != issuing.subject or not crl.is_signature_valid(key):
        raise ValueError("it is not of our issuing CA")
    return crl


def _refusal(
    status: int, headers: httpx.Headers, body: bytes
) -> RemoteError | AuthorityUnavailable:
    line = _line(body)
    name = line.partition(":")[0]
    if 400 <= status < 500 and name in _OF_THE_DEVICE:
        return RemoteError(name, f"the CA: {line}")
    after = headers.get("retry-after", "")
    seconds = int(after) if after.isdecimal() and len(after) < 6 else _RETRY_AFTER
    return AuthorityUnavailable(
        f"the CA refused this manager: HTTP {status}, {line}", min(seconds, _LONGEST_RETRY)
    )


def _line(body: bytes) -> str:
    """The first line of what the CA said, without what could upset a log."""
    text = body[:200].decode(errors="replace").partition("\n")[0]
    return "".join(char for char in text if char.isprintable())
