"""The CA whose keys are files in the manager's home.

``ca/root`` signs ``ca/issuing``, which signs devices and the manager's own certificate;
``ca/factory`` stands alone and signs factory identities. A running manager needs only the key of
``issuing``: the keys of the other two can be kept elsewhere until they are wanted.
"""

import hashlib
import ipaddress
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.names import check_name, parse_identity
from keyferry_manager.authority import files, passes
from keyferry_manager.authority.status import revocation_list
from keyferry_manager.config import Config
from keyferry_manager.problems import AuthorityProblem
from keyferry_manager.store import Admission, Certificate, Revoked

CA_FOLDER = "ca"
SERVER_FILE = "server.pem"


@dataclass(frozen=True, slots=True)
class Identified:
    """A leaf certificate that one of our CAs signed: which one, and for whom."""

    kind: Literal["device", "factory"]
    name: str
    serial: str
    fingerprint: str
    certificate: x509.Certificate


class LocalAuthority:
    """Issues and recognises certificates. Times are Unix seconds, the clock's when left out."""

    def __init__(self, config: Config) -> None:
        """Load the certificates and the issuing key; AuthorityProblem says what is amiss."""
        self._config = config
        self._folder = config.home / CA_FOLDER
        self.server_file = config.home / SERVER_FILE
        self.root = self._certificate("root")
        self.issuing = self._certificate("issuing")
        self.factory = self._certificate("factory")
        try:
            self.issuing.verify_directly_issued_by(self.root)
        except (ValueError, TypeError, InvalidSignature):
            raise AuthorityProblem(
                f"{self._folder}/issuing.pem is not signed by root.pem: restore both from one "
                "backup."
            ) from None
        made_for = self.issuing.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        if [str(item.value) for item in made_for] != [config.realm[: passes.MAX_LABEL]]:
            raise AuthorityProblem(
                f"the CA in {self._folder} is not of realm {config.realm}: put the old realm back "
                "into keyferry.toml, or make a new home with 'keyferry init'."
            )
        self._issuer = self._load("issuing", self.issuing)

    @classmethod
    def create(cls, config: Config, now: float | None = None) -> Self:
        """Make the three CAs and the server's certificate in a home that has none."""
        now = time.time() if now is None else now
        folder = config.home / CA_FOLDER
        folder.mkdir(mode=0o700)
        root = _make_ca(folder, "root", passes.ROOT, config.realm, None, now)
        _make_ca(folder, "issuing", passes.ISSUING, config.realm, root, now)
        _make_ca(folder, "factory", passes.FACTORY_CA, config.realm, None, now)
        files.sync_directory(folder)
        authority = cls(config)
        authority.renew_server(now)
        return authority

    def cacerts(self) -> list[x509.Certificate]:
        """What a device trusts and sends along: issuing CA, root."""
        return [self.issuing, self.root]

    def over(self, identified: Identified) -> list[x509.Certificate]:
        """The CA certificates over a leaf that ``identify`` knew, up to the root."""
        return [self.factory] if identified.kind == "factory" else self.cacerts()

    def trusted_by_links(self) -> list[bytes]:
        """DER of the CAs for the MQTT listener. The factory CA is no part of it."""
        return [_der(self.root), _der(self.issuing)]

    def trusted_by_enrolment(self) -> list[bytes]:
        """DER of the CAs for the EST listener: a device comes with either certificate."""
        return [*self.trusted_by_links(), _der(self.factory)]

    def issue_device(
        self, name: str, public_key: ec.EllipticCurvePublicKey, now: float | None = None
    ) -> x509.Certificate:
        """A certificate for the device ``name``: KeyferryError for a bad key or name."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_name(name))])
        names = passes.device_names(name, self._config.realm)
        days = self._config.device_days
        extras = passes.status_places(self._config.public_url)
        return self._issue(
            passes.DEVICE, subject, names, public_key, self._issuer, now, days, extras
        )

    def issue_factory(
        self, name: str, public_key: ec.EllipticCurvePublicKey, now: float | None = None
    ) -> x509.Certificate:
        """A factory certificate: good for the first enrolment, for ten years."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "factory"),
                x509.NameAttribute(NameOID.COMMON_NAME, check_name(name)),
            ]
        )
        issuer = self._load("factory", self.factory)
        return self._issue(passes.FACTORY, subject, (), public_key, issuer, now)

    def issue_responder(
        self, public_key: ec.EllipticCurvePublicKey, now: float | None = None
    ) -> x509.Certificate:
        """A certificate for a key that answers OCSP for the issuing CA, for a week."""
        subject = passes.responder_subject()
        extras = (x509.OCSPNoCheck(),)
        return self._issue(passes.OCSP, subject, (), public_key, self._issuer, now, extras=extras)

    def sign_revocations(
        self, revoked: Iterable[Revoked], number: int, this_update: float, next_update: float
    ) -> x509.CertificateRevocationList:
        """A CRL (RFC 5280, section 5) of the issuing CA."""
        return revocation_list(self._issuer, revoked, number, this_update, next_update)

    def renew_server(self, now: float | None = None) -> x509.Certificate:
        """A new key and certificate for the manager itself, in ``server_file``.

        Key, certificate and issuing CA stand in one file, so that they change together.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(
            passes.SERVER,
            passes.server_subject(),
            self._server_names(),
            key.public_key(),
            self._issuer,
            now,
            self._config.server_days,
        )
        data = files.key_pem(key) + files.certificate_pem(certificate, self.issuing)
        files.replace(self.server_file, data, files.PRIVATE)
        return certificate

    def server_renewal_reason(self, now: float | None = None) -> str:
        """Why the server's certificate must be renewed; empty while it need not.

        The reasons: less than a third of its life is left, its names are not those of the
        configuration, another CA issued it, or it is absent.
        """
        now = time.time() if now is None else now
        if not self.server_file.exists():
            return "absent"
        files.load_key(self.server_file)  # its mode, and that it is a key
        certificate = files.load_certificates(self.server_file)[0]
        start = certificate.not_valid_before_utc.timestamp()
        end = certificate.not_valid_after_utc.timestamp()
        if end - now < (end - start) / 3:
            return "due"
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if list(names) != list(self._server_names()):
            return "names-changed"
        return "" if _signed_by(certificate, self.issuing) else "issuer-changed"

    def ensure_server(self, now: float | None = None) -> str:
        """Renew the server's certificate when ``server_renewal_reason`` has one; return it."""
        reason = self.server_renewal_reason(now)
        if reason:
            self.renew_server(now)
        return reason

    def identify(self, certificate_der: bytes) -> Identified:
        """Which of our CAs signed this leaf, and for which name.

        Dates are the TLS layer's to check. AuthenticationError when it is none of ours, or not
        of the shape that we issue.
        """
        try:
            certificate = x509.load_der_x509_certificate(certificate_der)
            common = check_name(passes.common_name(certificate.subject))
            if _signed_by(certificate, self.factory):
                return _identified("factory", common, certificate)
            if not _signed_by(certificate, self.issuing):
                raise AuthenticationError("not signed by a CA of this manager")
            extensions = certificate.extensions
            usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            if list(usage) != [passes.DEVICE.usage] or len(uris) != 1 or len(list(names)) != 1:
                raise AuthenticationError("not a device's certificate")
            if parse_identity(uris[0]) != (common, self._config.realm):
                raise AuthenticationError("the certificate is not for this name and realm")
        except (*files.UNREADABLE, x509.ExtensionNotFound, DecodeError) as error:
            raise AuthenticationError(f"not a device's certificate: {error}") from None
        return _identified("device", common, certificate)

    # inside

    def _issue(
        self,
        profile: passes.Profile,
        subject: x509.Name,
        names: tuple[x509.GeneralName, ...],
        public_key: ec.EllipticCurvePublicKey,
        issuer: passes.Issuer,
        now: float | None,
        days: int = 0,
        extras: tuple[x509.ExtensionType, ...] = (),
    ) -> x509.Certificate:
        now = time.time() if now is None else now
        draft = passes.modify(profile, subject, names, public_key, issuer, now, days, extras)
        return passes.issue(draft, issuer, self._config.realm, now)

    def _certificate(self, which: str) -> x509.Certificate:
        return files.load_certificates(self._folder / f"{which}.pem")[0]

    def _load(self, which: str, certificate: x509.Certificate) -> passes.Issuer:
        path = self._folder / f"{which}.key"
        key = files.load_key(path)
        if key.public_key() != certificate.public_key():
            raise AuthorityProblem(
                f"{path} is not the key of {which}.pem: restore both from one backup."
            )
        return passes.Issuer(key, certificate)

    def _server_names(self) -> tuple[x509.GeneralName, ...]:
        config = self._config
        wanted = [config.realm, "localhost", "127.0.0.1", *config.server_names]
        if config.public_host:
            wanted.append(config.public_host)
        return tuple(_general_name(text) for text in dict.fromkeys(wanted))


def serial_text(certificate: x509.Certificate) -> str:
    """The serial as the store writes it: 32 hexadecimal digits."""
    return f"{certificate.serial_number:032x}"


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER certificate, 64 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the SubjectPublicKeyInfo, 64 hexadecimal digits."""
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def certificate_key(certificate: x509.Certificate) -> str:
    """``key_digest`` of a certificate's key, which must be on a curve."""
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key_digest(key)


def record(certificate: x509.Certificate, admission: Admission, now: float) -> Certificate:
    """What the store keeps of a device's certificate that was issued now."""
    return Certificate(
        serial=serial_text(certificate),
        device=passes.common_name(certificate.subject),
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        fingerprint=fingerprint(certificate),
        key=certificate_key(certificate),
        der=_der(certificate),
        admission=admission,
        issued_at=now,
    )


def _make_ca(
    folder: Path,
    which: str,
    profile: passes.Profile,
    realm: str,
    parent: passes.Issuer | None,
    now: float,
) -> passes.Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = parent or passes.Issuer(key, None)
    subject = passes.authority_subject(f"{which} CA", realm, key.public_key())
    draft = passes.modify(profile, subject, (), key.public_key(), issuer, now)
    certificate = passes.issue(draft, issuer, realm, now)
    files.write_new(folder / f"{which}.key", files.key_pem(key), files.PRIVATE)
    files.write_new(folder / f"{which}.pem", files.certificate_pem(certificate))
    return passes.Issuer(key, certificate)


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*files.UNREADABLE, TypeError, InvalidSignature):
        return False
    return True


def _identified(
    kind: Literal["device", "factory"], name: str, certificate: x509.Certificate
) -> Identified:
    return Identified(kind, name, serial_text(certificate), fingerprint(certificate), certificate)
