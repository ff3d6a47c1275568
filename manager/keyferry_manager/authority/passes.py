"""How a certificate comes about: modify, validate, enforce.

``modify`` writes a draft from the manager's own decisions: a request gives nothing but a public
key. ``validate`` refuses a draft before anything is signed. ``enforce`` reads the signed bytes
again and refuses what is not exactly the draft: a fault between the two never leaves the CA.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from keyferry_core.errors import KeyferryError
from keyferry_core.names import MANAGER, check_name, identity
from keyferry_manager.authority.files import is_p256
from keyferry_manager.problems import AuthorityProblem

_MINUTE = 60
_DAY = 86400
# What every signature of ours is over.
HASH = hashes.SHA256()
# A device's clock may be behind the manager's by this much, in seconds.
_LEAF_BACKDATED = 10 * _MINUTE
_CA_BACKDATED = _DAY
# No certificate is issued with less life than this: it would be of no use.
_SHORTEST = 10 * _MINUTE
# RFC 5280, appendix A: a subject's texts. A CA's only label it; identities are in the SAN.
MAX_LABEL = 64


@dataclass(frozen=True, slots=True)
class Profile:
    """What all certificates of one kind have in common. ``days`` is the usual life."""

    kind: str
    days: int
    path_length: int | None = None  # of a CA; None: not a CA
    usage: tuple[x509.ObjectIdentifier, ...] = ()  # extended key usages of a leaf

    @property
    def is_ca(self) -> bool:
        return self.path_length is not None


# All end before 2050, where X.509 changes the way it writes dates.
# A root has room for one more CA below it than it needs: the next root, certified by this one.
ROOT_DEPTH = 2
ROOT = Profile("root", 20 * 365, path_length=ROOT_DEPTH)
ISSUING = Profile("issuing", 10 * 365, path_length=0)
# One root certified by another, while a CA rolls over (RFC 4210, section 4.4).
CROSS = Profile("cross", 20 * 365, path_length=1)
FACTORY_CA = Profile("factory-ca", 20 * 365, path_length=0)
SERVER = Profile("server", 365, usage=(ExtendedKeyUsageOID.SERVER_AUTH,))
DEVICE = Profile("device", 90, usage=(ExtendedKeyUsageOID.CLIENT_AUTH,))
FACTORY = Profile("factory", 10 * 365, usage=(ExtendedKeyUsageOID.CLIENT_AUTH,))
# Short, because nobody asks whether a responder itself was revoked (RFC 6960, section 4.2.2.2.1).
OCSP = Profile("ocsp", 7, usage=(ExtendedKeyUsageOID.OCSP_SIGNING,))
# A manager whose CA stands apart: a server to its devices, and to the CA a client that may speak
# for them (id-kp-cmcRA: RFC 6402, section 2.10; RFC 7030, section 3.7).
REGISTRATION = Profile(
    "registration",
    365,
    usage=(
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28"),
    ),
)
_EXTRAS: dict[str, tuple[type[x509.ExtensionType], ...]] = {
    "device": (x509.CRLDistributionPoints, x509.AuthorityInformationAccess),
    "ocsp": (x509.OCSPNoCheck,),
}


@dataclass(frozen=True, slots=True)
class Draft:
    """A certificate to be, entirely of the manager's making but for the public key."""

    profile: Profile
    subject: x509.Name
    alternative_names: tuple[x509.GeneralName, ...]
    public_key: ec.EllipticCurvePublicKey
    serial: int
    not_before: datetime
    not_after: datetime
    # Besides those of the profile, not critical.
    extras: tuple[x509.ExtensionType, ...] = ()


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA's key and certificate. For a root's own certificate, ``certificate`` is None."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate | None


def modify(
    profile: Profile,
    subject: x509.Name,
    alternative_names: tuple[x509.GeneralName, ...],
    public_key: ec.EllipticCurvePublicKey,
    issuer: Issuer,
    now: float,
    days: int = 0,
    extras: tuple[x509.ExtensionType, ...] = (),
) -> Draft:
    """The draft: a random 128-bit serial, and dates that fit within the issuer's."""
    start = int(now) - (_CA_BACKDATED if profile.is_ca else _LEAF_BACKDATED)
    not_before = datetime.fromtimestamp(start, UTC)
    not_after = datetime.fromtimestamp(int(now), UTC) + timedelta(days=days or profile.days)
    if issuer.certificate is not None:
        not_before = max(not_before, issuer.certificate.not_valid_before_utc)
        not_after = min(not_after, issuer.certificate.not_valid_after_utc)
    return Draft(
        profile,
        subject,
        alternative_names,
        public_key,
        _serial(),
        not_before,
        not_after,
        extras,
    )


def validate(draft: Draft, issuer: Issuer, realm: str, now: float) -> None:
    """AuthorityProblem or KeyferryError unless the draft may be signed by this issuer."""
    if not is_p256(draft.public_key):
        raise KeyferryError("key-not-allowed", "not an ECDSA key on P-256")
    if draft.not_after.timestamp() - now < _SHORTEST:
        raise AuthorityProblem(
            "the CA has reached the end of its life: nothing useful can be issued any more."
        )
    certificate = issuer.certificate
    if certificate is None:
        if draft.profile.path_length is None:
            raise AuthorityProblem("a certificate that is not a CA's must have an issuer.")
    else:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca or (draft.profile.is_ca and not constraints.path_length):
            raise AuthorityProblem("this CA may not sign such a certificate.")
        if _spki(issuer.key.public_key()) != _spki(certificate.public_key()):
            raise AuthorityProblem("the CA's key and certificate do not belong together.")
    if draft.profile in (DEVICE, FACTORY):
        name = check_name(common_name(draft.subject))
        expected = [] if draft.profile == FACTORY else [_uri(identity(name, realm))]
        if list(draft.alternative_names) != expected:
            raise AuthorityProblem("a device's certificate carries its own identity only.")
    elif (
        draft.profile in (SERVER, REGISTRATION)
        and x509.DNSName(realm) not in draft.alternative_names
    ):
        raise AuthorityProblem("the server's certificate must carry the realm.")
    allowed = _EXTRAS.get(draft.profile.kind, ())
    if not all(isinstance(extra, allowed) for extra in draft.extras):
        raise AuthorityProblem("this certificate may not carry such an extension.")


def sign(draft: Draft, issuer: Issuer) -> x509.Certificate:
    """Sign the draft, with nothing added but what its profile says."""
    profile = draft.profile
    parent = issuer.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(draft.subject)
        .issuer_name(draft.subject if parent is None else parent.subject)
        .public_key(draft.public_key)
        .serial_number(draft.serial)
        .not_valid_before(draft.not_before)
        .not_valid_after(draft.not_after)
        .add_extension(x509.BasicConstraints(profile.is_ca, profile.path_length), critical=True)
        .add_extension(_key_usage(profile), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(draft.public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    if profile.usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(profile.usage), critical=False)
    if draft.alternative_names:
        names = x509.SubjectAlternativeName(draft.alternative_names)
        builder = builder.add_extension(names, critical=False)
    for extra in draft.extras:
        builder = builder.add_extension(extra, critical=False)
    return builder.sign(issuer.key, HASH)


def enforce(certificate: x509.Certificate, draft: Draft, issuer: Issuer) -> x509.Certificate:
    """The certificate, read back from its bytes and found to be exactly the draft."""
    read = x509.load_der_x509_certificate(certificate.public_bytes(serialization.Encoding.DER))
    profile = draft.profile
    expected: list[tuple[str, object, object]] = [
        ("serial", read.serial_number, draft.serial),
        ("subject", read.subject, draft.subject),
        ("start", read.not_valid_before_utc, draft.not_before),
        ("end", read.not_valid_after_utc, draft.not_after),
        ("key", _spki(read.public_key()), _spki(draft.public_key)),
    ]
    wanted: dict[type[x509.ExtensionType], object] = {
        x509.BasicConstraints: x509.BasicConstraints(profile.is_ca, profile.path_length),
        x509.KeyUsage: _key_usage(profile),
        x509.SubjectKeyIdentifier: x509.SubjectKeyIdentifier.from_public_key(draft.public_key),
        x509.AuthorityKeyIdentifier: x509.AuthorityKeyIdentifier.from_issuer_public_key(
            issuer.key.public_key()
        ),
    }
    if profile.usage:
        wanted[x509.ExtendedKeyUsage] = x509.ExtendedKeyUsage(profile.usage)
    if draft.alternative_names:
        wanted[x509.SubjectAlternativeName] = x509.SubjectAlternativeName(draft.alternative_names)
    wanted.update({type(extra): extra for extra in draft.extras})
    found = {type(item.value): item.value for item in read.extensions}
    expected.append(("extensions", found, wanted))
    for what, is_, should in expected:
        if is_ != should:
            raise AuthorityProblem(f"the signed certificate's {what} is not what was decided.")
    try:
        read.verify_directly_issued_by(issuer.certificate or read)
    except (ValueError, TypeError, InvalidSignature):
        raise AuthorityProblem("the signed certificate does not verify.") from None
    return read


def issue(draft: Draft, issuer: Issuer, realm: str, now: float) -> x509.Certificate:
    """Validate, sign, enforce."""
    validate(draft, issuer, realm, now)
    return enforce(sign(draft, issuer), draft, issuer)


def common_name(subject: x509.Name) -> str:
    """The one common name of a subject, empty when there is none or there are several."""
    found = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def device_names(name: str, realm: str) -> tuple[x509.GeneralName, ...]:
    """The subject alternative names of a device's certificate."""
    return (_uri(identity(name, realm)),)


def authority_subject(title: str, realm: str, key: ec.EllipticCurvePublicKey) -> x509.Name:
    """A CA's subject. Part of the key's identifier keeps two CAs of one realm apart."""
    digest = x509.SubjectKeyIdentifier.from_public_key(key).digest.hex()[:8]
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, realm[:MAX_LABEL]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Keyferry {title} {digest}"),
        ]
    )


def status_places(public_url: str, generation: str = "") -> tuple[x509.ExtensionType, ...]:
    """Where the status of a certificate can be asked for: nowhere without a public URL. Each
    generation of the CA has a revocation list of its own."""
    if not public_url:
        return ()
    path = f"/crl/{generation}" if generation else "/crl"
    point = x509.DistributionPoint([_uri(public_url + path)], None, None, None)
    access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, _uri(public_url + "/ocsp"))
    return (x509.CRLDistributionPoints([point]), x509.AuthorityInformationAccess([access]))


def responder_subject() -> x509.Name:
    """The subject of an OCSP responder's certificate."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Keyferry {MANAGER} OCSP")])


def server_subject() -> x509.Name:
    """The subject of the manager's own certificate: what counts is in its alternative names."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Keyferry {MANAGER}")])


def registration_subject(name: str) -> x509.Name:
    """The subject of a manager's certificate from a CA that stands apart."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "registration authority"),
            x509.NameAttribute(NameOID.COMMON_NAME, check_name(name)),
        ]
    )


def _uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def _serial() -> int:
    # Never 0; at most 17 octets in DER, of the 20 that RFC 5280 allows.
    return secrets.randbits(128) or 1


def _spki(key: object) -> bytes:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _key_usage(profile: Profile) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not profile.is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=profile.is_ca,
        crl_sign=profile.is_ca,
        encipher_only=False,
        decipher_only=False,
    )
