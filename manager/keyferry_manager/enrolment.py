"""Who may have a certificate, and for which name: decisions only, no network and no database.

Every function returns its decision or raises Refused. A refusal's ``text`` and ``hint`` may go to
whoever asked; its ``detail`` is for the log and the audit trail.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyferry_core.errors import DecodeError, KeyferryError, RemoteError
from keyferry_core.names import check_name, identity
from keyferry_manager.authority import Identified, key_digest
from keyferry_manager.authority.files import UNREADABLE
from keyferry_manager.store import Approval, Certificate, FactoryIdentity, Revoked, Token
from keyferry_manager.tokens import token_hash

_MAX_AUTHORIZATION = 512
_STRONG = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class Refused(RemoteError):
    """An enrolment that is refused. ``hint`` says what to do instead, and is safe to send."""

    def __init__(self, name: str, detail: str = "", hint: str = "") -> None:
        super().__init__(name, detail)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Request:
    """A PKCS#10 request whose signature holds: its key, and the names that it states."""

    public_key: ec.EllipticCurvePublicKey
    key: str
    common_names: tuple[str, ...]
    alternative_names: tuple[x509.GeneralName, ...]


# one-time tokens


def parse_basic(authorization: str) -> tuple[str, str]:
    """User and password of an ``Authorization: Basic`` header (RFC 7617)."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic" or len(authorization) > _MAX_AUTHORIZATION:
        raise Refused("bad-credentials", "not Basic, or too long")
    try:
        user, colon, password = (
            base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        raise Refused("bad-credentials", "the Basic credentials do not decode") from None
    if not colon:
        raise Refused("bad-credentials", "the Basic credentials have no colon")
    try:
        return check_name(user), password
    except DecodeError as error:
        raise Refused("bad-credentials", error.detail) from None


def check_token(user: str, secret: str, tokens: Sequence[Token], now: float) -> Token:
    """The token that ``secret`` is, of those made for the device ``user``.

    The other side hears the same for a wrong name, a wrong token, a used and an expired one.
    """
    digest = token_hash(secret)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.hash, digest):
            found = token
    if found is None or found.device != user:
        why = "not one of its tokens" if tokens else "there is no token for this name"
        raise Refused("bad-credentials", f"{user}: {why}")
    if found.used_at is not None:
        raise Refused("bad-credentials", f"{user}: token {found.id} was used at {found.used_at}")
    if found.expires_at <= now:
        raise Refused("bad-credentials", f"{user}: token {found.id} expired at {found.expires_at}")
    return found


# certificates


def check_factory(identified: Identified, record: FactoryIdentity | None) -> str:
    """The name that a factory certificate entitles to, by the device's record."""
    if identified.kind != "factory":
        raise Refused(
            "access-denied",
            f"simpleenroll with the device certificate of {identified.name}",
            "renew this certificate with simplereenroll",
        )
    if record is None or record.serial != identified.serial:
        raise Refused(
            "access-denied",
            f"factory certificate {identified.serial} of {identified.name} is not on record",
            "this factory identity has been withdrawn or was never recorded",
        )
    if record.device != identified.name:
        raise Refused("name-not-allowed", f"on record for {record.device}")
    return record.device


def check_dates(
    identified: Identified, issuers: Sequence[x509.Certificate], now: float, grace: float = 0.0
) -> bool:
    """Hold a certificate and the CAs over it to their dates: the TLS listener has not.

    ``grace`` is in seconds, for the leaf alone. True when the leaf lives from that only.
    """
    leaf = identified.certificate
    for certificate in (leaf, *issuers):
        start = certificate.not_valid_before_utc.timestamp()
        end = certificate.not_valid_after_utc.timestamp()
        if now < start:
            raise Refused(
                "authentication-failed",
                f"certificate {identified.serial} of {identified.name}: not valid yet",
                "the certificate is not valid yet",
            )
        if now > end + (grace if certificate is leaf else 0.0):
            raise Refused(
                "authentication-failed",
                f"certificate {identified.serial} of {identified.name}: it, or a CA over it, has "
                f"expired; the grace is {grace / 86400:g} days",
                "the certificate has expired: a new way to enrol is needed",
            )
    return now > leaf.not_valid_after_utc.timestamp()


def check_renewal(identified: Identified, record: Certificate | None) -> str:
    """The name of a device that comes with a certificate that this manager issued."""
    if identified.kind != "device":
        raise Refused(
            "access-denied",
            f"simplereenroll with the factory certificate of {identified.name}",
            "enrol with simpleenroll first",
        )
    if record is None or record.fingerprint != identified.fingerprint:
        raise Refused("authentication-failed", f"certificate {identified.serial} is not on record")
    if record.device != identified.name:
        raise Refused("name-not-allowed", f"on record for {record.device}")
    return record.device


class Pending(Exception):
    """A request that waits for a person. ``retry_after`` is in seconds."""

    def __init__(self, name: str, retry_after: int) -> None:
        super().__init__(f"{name} waits for approval")
        self.retry_after = retry_after


def check_approval(approval: Approval | None, name: str, retry_after: int) -> bool:
    """True when a person approved, False when nobody was asked yet. Raises Pending or Refused."""
    if approval is None:
        return False
    if approval.state == "denied":
        raise Refused("access-denied", f"request {approval.id} was denied", "the operator denied")
    if approval.state == "waiting":
        raise Pending(name, retry_after)
    return True


def check_revoked(revoked: Revoked | None) -> None:
    """Nothing is issued to a revoked certificate, nor for a revoked key."""
    if revoked is not None:
        raise Refused(
            "revoked",
            f"certificate {revoked.serial} of {revoked.device}, {revoked.reason}",
            "a new key and a new way to enrol are needed: ask the operator",
        )


# the request


def parse_request(der: bytes) -> Request:
    """Read a PKCS#10 request and check that its key is ours to certify and signed it."""
    try:
        request = x509.load_der_x509_csr(der)
    except UNREADABLE as error:
        raise Refused("malformed", f"PKCS#10: {error}") from None
    try:
        public_key = request.public_key()
    except UNREADABLE as error:
        raise Refused("key-not-allowed", f"the key cannot be read: {error}") from None
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise Refused("key-not-allowed", f"a key of type {type(public_key).__name__}")
    if not isinstance(public_key.curve, ec.SECP256R1):
        raise Refused("key-not-allowed", f"a key on {public_key.curve.name}")
    try:
        strong = isinstance(request.signature_hash_algorithm, _STRONG)
        signed = strong and request.is_signature_valid
    except UNREADABLE as error:
        raise Refused("bad-signature", f"an unknown algorithm: {error}") from None
    if not signed:
        raise Refused("bad-signature", "" if strong else "the hash must be SHA-2")
    try:
        common_names = tuple(
            str(item.value) for item in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        )
        alternative_names = _alternative_names(request)
    except UNREADABLE as error:
        raise Refused("malformed", f"PKCS#10: {error}") from None
    return Request(public_key, key_digest(public_key), common_names, alternative_names)


def check_names(request: Request, name: str, realm: str) -> None:
    """A request may leave its name out. One that states another than the decided is refused.

    So a device that was given the wrong credential fails at once, and not with a certificate
    that it takes for another.
    """
    allowed = (x509.UniformResourceIdentifier(identity(name, realm)), x509.DNSName(name))
    for stated in request.common_names:
        if stated != name:
            raise Refused("name-not-allowed", f"{name} asked for CN {stated!r}")
    for other in request.alternative_names:
        if other not in allowed:
            raise Refused("name-not-allowed", f"{name} asked for {other!r}")


def check_key(
    request: Request,
    name: str,
    owner: str | None,
    channel_key: str | None,
    same_key: str | None = None,
) -> None:
    """A key belongs to one device, and was made by it.

    ``owner`` is the device that has a certificate for this key already, ``channel_key`` the key
    of the factory certificate in use: others have seen that one being made. ``same_key`` is the
    only one allowed in the grace after a certificate's end.
    """
    if owner is not None and owner != name:
        raise Refused("key-not-allowed", f"the key of {owner}", "make a new key on the device")
    if same_key is not None and request.key != same_key:
        raise Refused(
            "key-not-allowed",
            "another key with an expired certificate",
            "an expired certificate is renewed for the key that it has",
        )
    if channel_key is not None and request.key == channel_key:
        raise Refused("key-not-allowed", "the factory key", "make a new key on the device")


def _alternative_names(request: x509.CertificateSigningRequest) -> tuple[x509.GeneralName, ...]:
    try:
        extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(extension.value)


def refusal(error: KeyferryError) -> Refused:
    """Any error of the core as a refusal."""
    return error if isinstance(error, Refused) else Refused(error.name, error.detail)
