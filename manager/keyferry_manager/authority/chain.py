"""The public half of an authority: its certificates, and whom they recognise. No private key.

Every kind of authority has it, also one whose keys are in another process or another building.
While a CA rolls over, two generations of it stand side by side: the current one signs.
"""

import hashlib
import ipaddress
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyferry_core import anchors
from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.names import check_name, parse_identity
from keyferry_manager.authority import files, passes
from keyferry_manager.authority.generations import Generation, State
from keyferry_manager.config import Config
from keyferry_manager.problems import AuthorityProblem
from keyferry_manager.store import Admission, Certificate

CA_FOLDER = "ca"
SERVER_FILE = "server.pem"


@dataclass(frozen=True, slots=True)
class Identified:
    """A leaf certificate that one of our CAs signed: which one, and for whom."""

    kind: Literal["device", "factory", "registration"]
    name: str
    serial: str
    fingerprint: str
    certificate: x509.Certificate


class Chain:
    """The CA certificates in a home: ``root``, ``issuing`` under it, and ``factory`` beside it."""

    def __init__(self, config: Config) -> None:
        """Load the certificates; AuthorityProblem says what is amiss."""
        self._config = config
        self._folder = config.home / CA_FOLDER
        self.server_file = config.home / SERVER_FILE
        self.factory = files.load_certificates(self._folder / "factory.pem")[0]
        self._read_generations()

    def _read_generations(self) -> None:
        state = State.load(self._folder)
        current = Generation.load(self._folder, state.current)
        other = None if state.other is None else Generation.load(self._folder, state.other)
        self.state, self.current, self.other = state, current, other
        self.root, self.issuing = current.root, current.issuing
        # Between an old root and a new one: the new one certified by the old, and the reverse.
        self.new_with_old, self.old_with_new = self._crossed()
        config = self._config
        made_for = self.issuing.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        if [str(item.value) for item in made_for] != [config.realm[: passes.MAX_LABEL]]:
            raise AuthorityProblem(
                f"the CA in {self._folder} is not of realm {config.realm}: put the old realm back "
                "into keyferry.toml, or make a new home with 'keyferry init'."
            )

    def reread(self) -> bool:
        """Take over another phase of a roll-over, in place. False when it is the one there was."""
        if State.load(self._folder) == self.state:
            return False
        self._read_generations()
        return True

    def adopt(self, config: Config) -> None:
        """Other lives and places in certificates, from now on; all else takes a new start."""
        self._config = config

    def cacerts(self) -> list[x509.Certificate]:
        """What a device trusts and sends along: issuing CA and root, and while the CA rolls over
        the other pair, and both roots certified by each other (RFC 7030, section 4.1.3)."""
        found = [self.issuing, self.root]
        if self.other is not None:
            found += [self.other.issuing, self.other.root]
        cross = (self.new_with_old, self.old_with_new if self.other is not None else None)
        return found + [item for item in cross if item is not None]

    def cacerts_digest(self) -> bytes:
        """What a device states that holds all of these, and has its certificate from the CA that
        signs now."""
        return certificates_digest(self.issuing, self.cacerts())

    def over(self, identified: Identified) -> list[x509.Certificate]:
        """The CA certificates over a leaf that ``identify`` knew, up to the root."""
        if identified.kind == "factory":
            return [self.factory]
        for generation in self._generations():
            if identified.certificate.issuer == generation.issuing.subject:
                return [generation.issuing, generation.root]
        return [self.issuing, self.root]

    def generation_of(self, certificate: x509.Certificate) -> Generation | None:
        """Whose issuing CA signed a certificate; None when it is none that is believed now."""
        for generation in self._generations():
            if signed_by(certificate, generation.issuing):
                return generation
        return None

    def carries_over(self) -> bool:
        """Whether TLS can go from the old root over to the new one, so that a device with the old
        root alone believes a server under the new. A root of an early Keyferry allows one CA below
        it, and this would be the second."""
        newer = self._newer()
        if newer is None or self.new_with_old is None:
            return False
        old = files.load_certificates(newer.folder / "old-root.pem")[0]
        constraints = old.extensions.get_extension_for_class(x509.BasicConstraints).value
        return constraints.path_length is None or constraints.path_length >= passes.ROOT_DEPTH

    def server_chain(self) -> list[x509.Certificate]:
        """What the server sends below its own certificate: from the switch on with the new root
        as the old one certified it, where that helps."""
        cross = self.new_with_old
        if cross is None or cross.subject != self.root.subject or not self.carries_over():
            return [self.issuing]
        return [self.issuing, cross]

    def trusted_by_links(self) -> list[bytes]:
        """DER of the CAs for the MQTT listener. The factory CA is no part of it."""
        return [
            certificate_der(item)
            for generation in self._generations()
            for item in (generation.root, generation.issuing)
        ]

    def trusted_by_enrolment(self) -> list[bytes]:
        """DER of the CAs for the EST listener: a device comes with either certificate."""
        return [*self.trusted_by_links(), certificate_der(self.factory)]

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
        if list(names) != list(self.server_names()):
            return "names-changed"
        return "" if signed_by(certificate, self.issuing) else "issuer-changed"

    def _generations(self) -> list[Generation]:
        """Those that are believed: the one that signs, and during a roll-over the other."""
        return [self.current] if self.other is None else [self.current, self.other]

    def _newer(self) -> Generation | None:
        return self.other if self.state.phase == "started" else self.current

    def _crossed(self) -> tuple[x509.Certificate | None, x509.Certificate | None]:
        newer = self._newer()
        if newer is None or not (newer.folder / "new-with-old.pem").exists():
            return None, None
        found = [
            files.load_certificates(newer.folder / f"{which}.pem")[0]
            for which in ("new-with-old", "old-with-new")
        ]
        if found[0].not_valid_after_utc.timestamp() < time.time():
            return None, None  # the old root's life is over, and this with it
        return found[0], found[1]

    def server_names(self) -> tuple[x509.GeneralName, ...]:
        """The names and addresses that the server's certificate is for."""
        config = self._config
        wanted = [config.realm, "localhost", "127.0.0.1", *config.server_names]
        if config.public_host:
            wanted.append(config.public_host)
        return tuple(general_name(text) for text in dict.fromkeys(wanted))

    def identify(self, certificate_der: bytes) -> Identified:
        """Which of our CAs signed this leaf, and for which name.

        Dates are the TLS layer's to check. AuthenticationError when it is none of ours, or not
        of the shape that we issue.
        """
        try:
            certificate = x509.load_der_x509_certificate(certificate_der)
            common = check_name(passes.common_name(certificate.subject))
            if signed_by(certificate, self.factory):
                return _identified("factory", common, certificate)
            if self.generation_of(certificate) is None:
                raise AuthenticationError("not signed by a CA of this manager")
            extensions = certificate.extensions
            usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
            if tuple(usage) != passes.DEVICE.usage or len(uris) != 1 or len(list(names)) != 1:
                raise AuthenticationError("not a device's certificate")
            if parse_identity(uris[0]) != (common, self._config.realm):
                raise AuthenticationError("the certificate is not for this name and realm")
        except (*files.UNREADABLE, x509.ExtensionNotFound, DecodeError) as error:
            raise AuthenticationError(f"not a device's certificate: {error}") from None
        return _identified("device", common, certificate)

    def identify_registration(self, certificate_der: bytes) -> Identified:
        """For which manager our issuing CA signed this leaf. AuthenticationError: for none."""
        try:
            certificate = x509.load_der_x509_certificate(certificate_der)
            common = check_name(passes.common_name(certificate.subject))
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (*files.UNREADABLE, x509.ExtensionNotFound, DecodeError) as error:
            raise AuthenticationError(f"not a manager's certificate: {error}") from None
        if tuple(usage) != passes.REGISTRATION.usage:
            raise AuthenticationError("not a manager's certificate")
        if self.generation_of(certificate) is None:
            raise AuthenticationError("not signed by this CA")
        if certificate.subject != passes.registration_subject(common):
            raise AuthenticationError("not a manager's certificate")
        return _identified("registration", common, certificate)


def certificates_digest(
    issuing: x509.Certificate, certificates: Iterable[x509.Certificate]
) -> bytes:
    """8 bytes that stand for CA certificates, and for the one of them that signed whoever states
    this (keyferry_core.anchors)."""
    group = anchors.group([certificate_der(item) for item in certificates])
    return anchors.statement(certificate_der(issuing), group)


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
        der=certificate_der(certificate),
        admission=admission,
        issued_at=now,
    )


def general_name(text: str) -> x509.GeneralName:
    """A host as a certificate writes it: an IP address, or a DNS name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def certificate_der(certificate: x509.Certificate) -> bytes:
    """The certificate in DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether ``issuer`` stands directly over ``certificate``, and its signature verifies."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*files.UNREADABLE, TypeError, InvalidSignature):
        return False
    return True


def _identified(
    kind: Literal["device", "factory", "registration"], name: str, certificate: x509.Certificate
) -> Identified:
    return Identified(kind, name, serial_text(certificate), fingerprint(certificate), certificate)
