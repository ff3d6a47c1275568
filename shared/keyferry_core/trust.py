"""Which peers a device believes: certificates under its realm's issuing CA.

There are two of these while the realm goes from one to the next.
"""

from keyferry_core import cbor, x509
from keyferry_core._compat import sha256
from keyferry_core.edhoc.credentials import Credential, by_x5t
from keyferry_core.errors import AuthenticationError

# Verified certificates and endorsed keys that are remembered, by hash, at about 100 bytes each.
MAX_REMEMBERED = 8


class Trust:
    """Certificates of one realm. A signature is verified once; dates are checked every time.

    ``judge``: who has to believe a peer's key besides the CA: ``owner.Owner``, ``pinned.Pinned``,
    or None.
    """

    def __init__(self, crypto, realm: str, *issuers: bytes) -> None:
        self._crypto = crypto
        self._realm = realm
        self._issuers = [x509.parse(issuer) for issuer in issuers]
        self._verified = []
        self.judge = None

    def check(self, certificate: bytes, now: int) -> tuple[str, bytes]:
        """``(name, 65-byte public key)`` of a device's DER certificate that holds at ``now``.

        ``now``: Unix seconds. Raises DecodeError or AuthenticationError.
        """
        parsed = x509.parse(certificate)
        issuer = self._issuer_of(parsed)
        x509.check_dates(issuer, now)
        name = x509.check_device(parsed, self._realm, now)
        digest = sha256(certificate)
        if digest not in self._verified:
            x509.verify(self._crypto, parsed, issuer)
            self._remember(digest)
        return name, parsed.public_key

    def credential(
        self, certificate: bytes, endorsed: bytes | None, now: int, vouch: bytes | None = None
    ) -> tuple[str, Credential, tuple | None]:
        """``(name, EDHOC credential, what the judge returned)``: of the certificate, or of the key
        that it endorsed.

        ``vouch``: what the manager delivered for the ``judge``.

        Raises DecodeError or AuthenticationError.
        """
        name, public = self.check(certificate, now)
        pin = None if self.judge is None else self.judge.judge(name, public, vouch, now)
        if endorsed is None:
            return name, by_x5t(certificate, public), pin
        # only the profile rpk needs this, and a board without it saves the memory
        from keyferry_core import rpk

        digest = sha256(public, endorsed)
        if digest in self._verified:
            named, found, _, _ = rpk.parse_endorsed(endorsed)
        else:
            named, found = rpk.open_endorsed(self._crypto, public, endorsed)
        if named != name:
            raise AuthenticationError("the endorsed key is for " + named + ", not for " + name)
        if digest not in self._verified:
            self._remember(digest)
        return name, found, pin

    def chained(
        self, id_cred: bytes, now: int, vouch: bytes | None = None
    ) -> tuple[str, Credential, tuple | None, bytes]:
        """What ``credential`` returns, and the certificate, of an ID_CRED_x that is an x5chain.

        Raises DecodeError or AuthenticationError. The issuing CA's certificate in it is compared
        with the one that this device has; nothing in a chain makes anything trusted.
        """
        # only peers whose certificate the manager does not have need this
        from keyferry_core.edhoc import x5chain

        chain = x5chain.certificates(id_cred)
        if len(chain) > 1 and chain[1] not in [issuer.raw for issuer in self._issuers]:
            raise AuthenticationError("x5chain: not of the realm's issuing CA")
        name, public = self.check(chain[0], now)
        pin = None if self.judge is None else self.judge.judge(name, public, vouch, now)
        return name, Credential(id_cred, cbor.encode(chain[0]), public), pin, chain[0]

    def _issuer_of(self, certificate: x509.Certificate) -> x509.Certificate:
        """The issuing CA that a certificate names; one of ours when it names none of them."""
        for issuer in self._issuers:
            if issuer.subject == certificate.issuer:
                return issuer
        return self._issuers[0]  # verify() will say that it is another

    def _remember(self, digest: bytes) -> None:
        if len(self._verified) == MAX_REMEMBERED:
            self._verified.pop(0)
        self._verified.append(digest)
