"""The CA that signs in this process: its issuing key is a file, or in a PKCS#11 token.

``ca/root`` signs ``ca/issuing``, which signs devices and the manager's own certificate;
``ca/factory`` stands alone and signs factory identities. A running manager needs only the key of
``issuing``: the keys of the other two can be kept elsewhere until they are wanted.
"""

import asyncio
import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyferry_core.names import check_name
from keyferry_manager.authority import files, passes
from keyferry_manager.authority.chain import CA_FOLDER, Chain
from keyferry_manager.authority.generations import Generation
from keyferry_manager.authority.status import revocation_list
from keyferry_manager.authority.token import token_key
from keyferry_manager.config import Config
from keyferry_manager.problems import AuthorityProblem
from keyferry_manager.store import Revoked


class LocalAuthority(Chain):
    """Issues and recognises certificates. Times are Unix seconds, the clock's when left out."""

    def __init__(self, config: Config) -> None:
        """Load the certificates and the issuing key; AuthorityProblem says what is amiss."""
        super().__init__(config)
        self._read_keys()

    def _read_keys(self) -> None:
        self._issuer = self._load_issuing(self.current)
        # What the old CA issued stays on a revocation list that the old CA signs.
        older = self.other if self.state.phase == "switched" else None
        self._older = None if older is None else self._load_issuing(older)

    def reread(self) -> bool:
        """Take over another phase of a roll-over, in place. False when it is the one there was."""
        before = dict(self.__dict__)
        try:
            if not super().reread():
                return False
            self._read_keys()
        except BaseException:  # a key that is not there yet, say: the next look tries it again
            self.__dict__.update(before)
            raise
        return True

    def signers(self) -> "list[GenerationSigner]":
        """Who signs revocation lists: the issuing CA, and during a roll-over the old one too."""
        found = [GenerationSigner(self, self.current, self._issuer)]
        if self._older is not None and self.other is not None:
            found.append(GenerationSigner(self, self.other, self._older))
        return found

    @classmethod
    def create(cls, config: Config, now: float | None = None) -> Self:
        """Make the three CAs and the server's certificate in a home that has none.

        With a token, the issuing CA's key is made there, or used if it is there already.
        """
        now = time.time() if now is None else now
        folder = config.home / CA_FOLDER
        folder.mkdir(mode=0o700)
        root = make_ca(folder, "root", passes.ROOT, config.realm, None, now)
        key = token_key(config, make=True) if config.authority == "pkcs11" else None
        make_ca(folder, "issuing", passes.ISSUING, config.realm, root, now, key)
        make_ca(folder, "factory", passes.FACTORY_CA, config.realm, None, now)
        files.sync_directory(folder)
        authority = cls(config)
        authority.renew_server(now)
        return authority

    async def certify(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        request: bytes,
        now: float | None = None,
        *,
        again: bool = False,
    ) -> x509.Certificate:
        """``issue_device``, for the event loop: a token's signature must not hold it up."""
        if self._config.authority == "pkcs11":
            return await asyncio.to_thread(self.issue_device, name, public_key, now)
        return self.issue_device(name, public_key, now)

    async def keep_server(self) -> str:
        """``ensure_server``, for the event loop."""
        return await asyncio.to_thread(self.ensure_server)

    async def close(self) -> None:
        """Nothing is held open."""

    def issue_device(
        self, name: str, public_key: ec.EllipticCurvePublicKey, now: float | None = None
    ) -> x509.Certificate:
        """A certificate for the device ``name``: KeyferryError for a bad key or name."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_name(name))])
        names = passes.device_names(name, self._config.realm)
        days = self._config.device_days
        extras = passes.status_places(self._config.public_url, self.current.name)
        return self.issue(
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
        return self.issue(passes.FACTORY, subject, (), public_key, issuer, now)

    def issue_registration(
        self,
        name: str,
        names: tuple[x509.GeneralName, ...],
        public_key: ec.EllipticCurvePublicKey,
        now: float | None = None,
    ) -> x509.Certificate:
        """A certificate for the manager ``name``, which speaks to us for its devices."""
        subject = passes.registration_subject(name)
        days = self._config.server_days
        return self.issue(passes.REGISTRATION, subject, names, public_key, self._issuer, now, days)

    def renew_server(self, now: float | None = None) -> x509.Certificate:
        """A new key and certificate for the manager itself, in ``server_file``.

        Key, certificate and issuing CA stand in one file, so that they change together.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.issue(
            passes.SERVER,
            passes.server_subject(),
            self.server_names(),
            key.public_key(),
            self._issuer,
            now,
            self._config.server_days,
        )
        data = files.key_pem(key) + files.certificate_pem(certificate, *self.server_chain())
        files.replace(self.server_file, data, files.PRIVATE)
        return certificate

    def ensure_server(self, now: float | None = None) -> str:
        """Renew the server's certificate when ``server_renewal_reason`` has one; return it."""
        reason = self.server_renewal_reason(now)
        if reason:
            self.renew_server(now)
        return reason

    # inside

    def issue(
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
        """Modify, validate, sign, enforce: passes.py."""
        now = time.time() if now is None else now
        draft = passes.modify(profile, subject, names, public_key, issuer, now, days, extras)
        return passes.issue(draft, issuer, self._config.realm, now)

    def _load(self, which: str, certificate: x509.Certificate) -> passes.Issuer:
        path = self._folder / f"{which}.key"
        return _matching(files.load_key(path), str(path), certificate, which)

    def _load_issuing(self, generation: Generation) -> passes.Issuer:
        if self._config.authority == "pkcs11":
            config = in_token(self._config, generation.name)
            where = f"the key {config.pkcs11_key!r} in the token"
            return _matching(token_key(config), where, generation.issuing)
        path = generation.folder / "issuing.key"
        return _matching(files.load_key(path), str(path), generation.issuing)


class GenerationSigner:
    """What one generation's issuing CA says of what it issued: revocation lists, and who answers
    OCSP for it. ``name`` is the generation's."""

    def __init__(
        self, authority: LocalAuthority, generation: Generation, issuer: passes.Issuer
    ) -> None:
        self._authority = authority
        self._issuer = issuer
        self.name = generation.name
        self.issuing = generation.issuing

    def issue_responder(
        self, public_key: ec.EllipticCurvePublicKey, now: float | None = None
    ) -> x509.Certificate:
        """A certificate for a key that answers OCSP for the issuing CA, for a week."""
        return self._authority.issue(
            passes.OCSP,
            passes.responder_subject(),
            (),
            public_key,
            self._issuer,
            now,
            extras=(x509.OCSPNoCheck(),),
        )

    def sign_revocations(
        self, revoked: Iterable[Revoked], number: int, this_update: float, next_update: float
    ) -> x509.CertificateRevocationList:
        """A CRL (RFC 5280, section 5) of the issuing CA."""
        return revocation_list(self._issuer, revoked, number, this_update, next_update)


def in_token(config: Config, generation: str) -> Config:
    """The settings with the label that a generation's key has in the token."""
    if not generation:
        return config
    return dataclasses.replace(config, pkcs11_key=f"{config.pkcs11_key} {generation}")


def _matching(
    key: ec.EllipticCurvePrivateKey,
    where: str,
    certificate: x509.Certificate,
    which: str = "issuing",
) -> passes.Issuer:
    if key.public_key() != certificate.public_key():
        raise AuthorityProblem(
            f"{where} is not the key of {which}.pem: restore both from one backup."
        )
    return passes.Issuer(key, certificate)


def make_ca(
    folder: Path,
    which: str,
    profile: passes.Profile,
    realm: str,
    parent: passes.Issuer | None,
    now: float,
    elsewhere: ec.EllipticCurvePrivateKey | None = None,
) -> passes.Issuer:
    """A new CA, in files; with ``elsewhere`` its key is not, and never was."""
    key = elsewhere or ec.generate_private_key(ec.SECP256R1())
    issuer = parent or passes.Issuer(key, None)
    subject = passes.authority_subject(f"{which} CA", realm, key.public_key())
    draft = passes.modify(profile, subject, (), key.public_key(), issuer, now)
    certificate = passes.issue(draft, issuer, realm, now)
    if elsewhere is None:
        files.write_new(folder / f"{which}.key", files.key_pem(key), files.PRIVATE)
    files.write_new(folder / f"{which}.pem", files.certificate_pem(certificate))
    return passes.Issuer(key, certificate)
