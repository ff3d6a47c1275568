"""EST by hand, for tests: certificate requests of every kind, and HTTP that may break its rules."""

import base64
import http.client
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from support.manager_kit import PAUSE, REALM, Credentials, Home

PREFIX = "/.well-known/est/"
PKCS10 = "application/pkcs10"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key as a device makes it."""
    return ec.generate_private_key(ec.SECP256R1())


def csr(
    key: CertificateIssuerPrivateKeyTypes | None = None,
    name: str = "",
    names: Iterable[x509.GeneralName] = (),
    extensions: Iterable[x509.ExtensionType] = (),
    digest: hashes.HashAlgorithm | None = None,
) -> bytes:
    """A signed PKCS#10 request, DER."""
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    names = list(names)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for item in extensions:
        builder = builder.add_extension(item, critical=False)
    signing = digest or hashes.SHA256()
    return builder.sign(key or new_key(), signing).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def spoiled(der: bytes) -> bytes:
    """A request with one bit of its signature turned over."""
    return der[:-1] + bytes([der[-1] ^ 1])


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The error's name. The answer must be one line of plain text."""
        assert self.headers["content-type"] == "text/plain; charset=utf-8"
        assert self.body.count(b"\n") == 1
        return self.body.decode().partition(":")[0]

    @property
    def certificates(self) -> list[x509.Certificate]:
        """The certificates of a PKCS#7 answer, held to what RFC 7030 and old clients ask for."""
        assert self.status == 200, self.body
        assert self.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
        assert self.headers["content-transfer-encoding"] == "base64"
        assert not set(b"\r\n ") & set(self.body)
        return pkcs7.load_der_pkcs7_certificates(base64.b64decode(self.body, validate=True))


class EstClient:
    """HTTPS to a manager's EST port, a new connection for each request."""

    def __init__(self, home: Home, port: int, credentials: Credentials | None = None) -> None:
        self._context = home.client_context(credentials)
        self._port = port

    def connection(self, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
        """A connection that is open; it believes the realm, whatever the address."""
        connection = _RealmConnection("127.0.0.1", self._port, source, self._context)
        connection.connect()
        return connection

    def request(
        self,
        operation: str,
        body: bytes | None = None,
        *,
        method: str = "",
        headers: Mapping[str, str] | None = None,
        source: str = "127.0.0.1",
    ) -> Answer:
        """One request. ``body`` goes out as it is."""
        connection = self.connection(source)
        try:
            method = method or ("GET" if body is None else "POST")
            connection.request(method, PREFIX + operation, body, dict(headers or {}))
            return answer(connection)
        finally:
            connection.close()

    def enroll(
        self,
        der: bytes,
        *,
        basic: tuple[str, str] | None = None,
        again: bool = False,
        source: str = "127.0.0.1",
    ) -> Answer:
        """simpleenroll or simplereenroll with a request."""
        headers = {"Content-Type": PKCS10, "Content-Transfer-Encoding": "base64"}
        if basic is not None:
            headers["Authorization"] = (
                "Basic " + base64.b64encode(":".join(basic).encode()).decode()
            )
        operation = "simplereenroll" if again else "simpleenroll"
        return self.request(operation, base64.b64encode(der), headers=headers, source=source)


def answer(connection: http.client.HTTPConnection) -> Answer:
    """Read an answer to its end."""
    response = connection.getresponse()
    headers = {key.lower(): value for key, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


class _RealmConnection(http.client.HTTPSConnection):
    def __init__(self, host: str, port: int, source: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=PAUSE, source_address=(source, 0), context=context)
        self._own_context = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._own_context.wrap_socket(self.sock, server_hostname=REALM)
