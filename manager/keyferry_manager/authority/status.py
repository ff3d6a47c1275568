"""What the CA says about certificates that it issued: revocation lists, and OCSP responses."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from keyferry_manager.authority.passes import Issuer
from keyferry_manager.problems import AuthorityProblem
from keyferry_manager.store.records import Revoked

# RFC 9654, section 2.1.
_LONGEST_NONCE = 128


def revocation_list(
    issuer: Issuer,
    revoked: Iterable[Revoked],
    number: int,
    this_update: float,
    next_update: float,
) -> x509.CertificateRevocationList:
    """A CRL. A serial comes once; ``unspecified`` is said by saying nothing (section 5.3.1)."""
    certificate = issuer.certificate
    assert certificate is not None
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(_moment(this_update))
        .next_update(_moment(next_update))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    for item in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(int(item.serial, 16))
            .revocation_date(_moment(item.revoked_at))
        )
        if item.reason != "unspecified":
            reason = x509.CRLReason(x509.ReasonFlags(item.reason))
            entry = entry.add_extension(reason, critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    signed = builder.sign(issuer.key, hashes.SHA256())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    if not signed.is_signature_valid(key):
        raise AuthorityProblem("the signed revocation list does not verify.")
    return signed


@dataclass(frozen=True, slots=True)
class Question:
    """An OCSP request for one of our serials (32 hexadecimal digits)."""

    serial: str
    request: ocsp.OCSPRequest
    nonce: x509.OCSPNonce | None


class Responder:
    """Signs OCSP responses (RFC 6960) for ``issuing`` with a key that it was delegated."""

    def __init__(
        self,
        issuing: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
    ) -> None:
        self._key = key
        self.certificate = certificate
        name = issuing.subject.public_bytes()
        point = issuing.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        # Identifiers of certificates, not signatures: SHA-1 is what every client sends by default.
        self._issuers = {
            (method(name).digest(), method(point).digest())
            for method in (hashlib.sha1, hashlib.sha256)
        }

    def read(self, der: bytes) -> Question | ocsp.OCSPResponseStatus:
        """What is asked, or the status that says why there is no answer."""
        try:
            request = ocsp.load_der_ocsp_request(der)
            issuer = (request.issuer_name_hash, request.issuer_key_hash)
            _ = request.hash_algorithm  # as it will be repeated
            serial = request.serial_number
            nonce = _nonce(request)
        except (ValueError, NotImplementedError, UnsupportedAlgorithm, x509.DuplicateExtension):
            return ocsp.OCSPResponseStatus.MALFORMED_REQUEST
        if issuer not in self._issuers:
            return ocsp.OCSPResponseStatus.UNAUTHORIZED
        if nonce is not None and not 0 < len(nonce.nonce) <= _LONGEST_NONCE:
            return ocsp.OCSPResponseStatus.MALFORMED_REQUEST
        return Question(f"{max(serial, 0):032x}", request, nonce)

    def answer(
        self,
        question: Question,
        known: bool,
        revoked: Revoked | None,
        this_update: float,
        next_update: float,
    ) -> bytes:
        """The response, DER. A serial that we never issued is unknown, not good."""
        status = ocsp.OCSPCertStatus.GOOD if known else ocsp.OCSPCertStatus.UNKNOWN
        revoked_at, reason = None, None
        if revoked is not None:
            status = ocsp.OCSPCertStatus.REVOKED
            revoked_at = _moment(revoked.revoked_at)
            if revoked.reason != "unspecified":
                reason = x509.ReasonFlags(revoked.reason)
        request = question.request
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                issuer_name_hash=request.issuer_name_hash,
                issuer_key_hash=request.issuer_key_hash,
                serial_number=request.serial_number,
                algorithm=request.hash_algorithm,
                cert_status=status,
                this_update=_moment(this_update),
                next_update=_moment(next_update),
                revocation_time=revoked_at,
                revocation_reason=reason,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, self.certificate)
            .certificates([self.certificate])
        )
        if question.nonce is not None:
            builder = builder.add_extension(question.nonce, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)


def refusal(status: ocsp.OCSPResponseStatus) -> bytes:
    """An OCSP response that is none, and is not signed (section 2.3)."""
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


def _nonce(request: ocsp.OCSPRequest) -> x509.OCSPNonce | None:
    try:
        return request.extensions.get_extension_for_class(x509.OCSPNonce).value
    except x509.ExtensionNotFound:
        return None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
