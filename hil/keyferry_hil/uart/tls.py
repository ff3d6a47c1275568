"""TLS 1.3 to a manager with a client certificate whose key is on a board.

tlslite-ng does the protocol, since neither OpenSSL's Python binding nor any other lets a program
sign for itself. What is signed goes to the board as the hash of the handshake (``serial_link``).
"""

import contextlib
import datetime
import socket
from collections.abc import Callable, Generator
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509 import verification
from tlslite import errors as tls_errors
from tlslite.api import X509, HandshakeSettings, TLSConnection, X509CertChain
from tlslite.utils.cryptomath import secureHash
from tlslite.utils.ecdsakey import ECDSAKey

from keyferry_core import serial_link as sl
from keyferry_hil.problems import BenchProblem

_SECONDS = 15.0
_PIECE = 4096
Sign = Callable[[bytes], bytes]


class TlsProblem(Exception):
    """``name`` is a row of the core's table of errors."""

    def __init__(self, name: str, detail: str) -> None:
        self.name = name
        self.detail = detail
        super().__init__(f"{name}: {detail}")


class _BoardKey(ECDSAKey):
    """The private key of a board. ``sign(hash)`` asks it for 64 bytes."""

    def __init__(self, public: ec.EllipticCurvePublicKey, sign: Sign) -> None:
        self._public = public
        self._ask = sign
        self.connection: TLSConnection | None = None
        self.curve_name = "NIST256p"
        self.key_type = "ecdsa"

    def __len__(self) -> int:
        return 256

    def hasPrivateKey(self) -> bool:
        return True

    def _sign(self, data: Any, hash_alg: Any) -> bytearray:
        assert self.connection is not None
        transcript = bytes(self.connection._handshake_hash.digest("sha256"))
        # The library hands over the hash of what is to be signed; the board makes that itself.
        if bytes(secureHash(bytearray(sl.certificate_verify(transcript)), "sha256")) != data:
            raise TlsProblem("internal", "the handshake is not one of TLS 1.3 with SHA-256")
        signature = self._ask(transcript)
        if len(signature) != sl.SIGNATURE_LENGTH:
            raise TlsProblem("malformed", "a signature has 64 bytes")
        r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
        return bytearray(utils.encode_dss_signature(r, s))

    def _verify(self, signature: Any, hash_bytes: Any) -> bool:
        scheme = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        try:
            self._public.verify(bytes(signature), bytes(hash_bytes), scheme)
        except InvalidSignature:
            raise TlsProblem("authentication-failed", "the board's signature is wrong") from None
        return True


class Link:
    """A verified connection; all methods are called in one thread.

    TlsProblem: "peer-gone" when nobody is there, "authentication-failed" when the manager does not
    prove to be ``realm`` under one of ``roots`` (DER). A manager that refuses the board's
    certificate says so when the first bytes are read, as TLS 1.3 has it.
    """

    def __init__(
        self, to: tuple[str, int], realm: str, roots: list[bytes], certificate: bytes, sign: Sign
    ) -> None:
        settings: Any = HandshakeSettings()
        settings.minVersion = settings.maxVersion = (3, 4)
        settings.cipherNames = ["aes128gcm"]  # with SHA-256: so has the handshake
        settings.keyShares = ["secp256r1"]
        settings.eccCurves = ["secp256r1"]
        settings.dhGroups = []
        settings.ecdsaSigHashes = ["sha256"]
        # RFC 8879: the manager does not speak it, and the library would take that for granted.
        settings.certificate_compression_send = []
        settings.certificate_compression_receive = []
        try:
            self.socket = socket.create_connection(to, _SECONDS)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise TlsProblem("peer-gone", f"no connection: {error}") from None
        self._tls = TLSConnection(self.socket)
        self._reading: Generator[Any, None, None] | None = None
        try:
            chain = key = None
            if certificate:
                chain, key = _credential(certificate, sign)
                key.connection = self._tls
            self._tls.handshakeClientCert(chain, key, settings=settings, serverName=realm)
            _verify(self._tls, realm, roots)
            self.socket.settimeout(0)
        except BaseException as error:
            self.close()
            if isinstance(error, (TlsProblem, BenchProblem)) or not isinstance(error, Exception):
                raise
            raise _named(error) from None

    def read(self) -> bytes | None:
        """What has come, None for nothing yet, b"" at the end. TlsProblem."""
        self.socket.settimeout(0)
        reading = self._reading or self._tls.readAsync(_PIECE, 1)
        self._reading = reading
        try:
            for data in reading:
                if data in (0, 1):
                    return None
                self._reading = None
                return bytes(data)
        except Exception as error:
            self._reading = None
            raise _named(error) from None
        self._reading = None
        return b""

    def write(self, data: bytes) -> None:
        """TlsProblem."""
        try:
            self.socket.settimeout(_SECONDS)
            self._tls.write(data)
        except Exception as error:
            raise _named(error) from None

    def close(self) -> None:
        """Never raises."""
        with contextlib.suppress(Exception):
            self.socket.close()


def _credential(certificate: bytes, sign: Sign) -> tuple[X509CertChain, _BoardKey]:
    try:
        public = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError as error:
        raise TlsProblem("malformed", f"the board's certificate: {error}") from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
        raise TlsProblem("unsupported", "the board's certificate is not for P-256")
    leaf = X509()
    leaf.parseBinary(bytearray(certificate))
    return X509CertChain([leaf]), _BoardKey(public, sign)


def _verify(connection: TLSConnection, realm: str, roots: list[bytes]) -> None:
    """Whether who answered is ``realm``, by what the board trusts and by nothing else."""
    assert connection.session is not None
    sent: Any = connection.session.serverCertChain
    try:
        leaf, *others = [x509.load_der_x509_certificate(bytes(one.bytes)) for one in sent.x509List]
        trusted = [x509.load_der_x509_certificate(root) for root in roots]
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(trusted))
            .time(datetime.datetime.now(datetime.UTC))
            .build_server_verifier(x509.DNSName(realm))
        )
        verifier.verify(leaf, others)
    except (ValueError, verification.VerificationError) as error:
        raise TlsProblem("authentication-failed", f"server certificate: {error}") from None


def _named(error: Exception) -> TlsProblem:
    if isinstance(error, TlsProblem):
        return error
    if isinstance(error, (tls_errors.TLSRemoteAlert, tls_errors.TLSAuthenticationError)):
        return TlsProblem("authentication-failed", f"TLS: {error}")
    if isinstance(error, (tls_errors.TLSAbruptCloseError, OSError)):
        return TlsProblem("peer-gone", f"TLS: {error or type(error).__name__}")
    name = "malformed" if isinstance(error, tls_errors.BaseTLSException) else "internal"
    return TlsProblem(name, f"TLS: {type(error).__name__}: {error}")
