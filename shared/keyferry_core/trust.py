"""Which peers a device believes: certificates under its realm's issuing CA."""

from keyferry_core import cbor, x509
from keyferry_core._compat import sha256
from keyferry_core.edhoc.credentials import Credential, by_x5t
from keyferry_core.errors import AuthenticationError

# Verified certificates and endorsed keys that are remembered, by hash, at about 100 bytes each.
MAX_REMEMBERED = 8


class Trust:
    """Certificates of one realm. A signature is verified once; dates are checked every time."""

    def __init__(self, crypto, realm: str, issuer: bytes) -> None:
        self._crypto = crypto
        self._realm = realm
        self._issuer = x509.parse(issuer)
        self._issuer_digest = sha256(issuer)
        self._verified = []

    def check(self, certificate: bytes, now: int) -> tuple[str, bytes]:
        """``(name, 65-byte public key)`` of a device's DER certificate that holds at ``now``.

        ``now``: Unix seconds. Raises DecodeError or AuthenticationError.
        """
        x509.check_dates(self._issuer, now)
        parsed = x509.parse(certificate)
        name = x509.check_device(parsed, self._realm, now)
        digest = sha256(certificate)
        if digest not in self._verified:
            x509.verify(self._crypto, parsed, self._issuer)
            self._remember(digest)
        return name, parsed.public_key

    def credential(
        self, certificate: bytes, endorsed: bytes | None, now: int
    ) -> tuple[str, Credential]:
        """``(name, EDHOC credential)``: of the certificate, or of the key that it endorsed.

        Raises DecodeError or AuthenticationError.
        """
        name, public = self.check(certificate, now)
        if endorsed is None:
            return name, by_x5t(certificate, public)
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
        return name, found

    def chained(self, id_cred: bytes, now: int) -> tuple[str, Credential, bytes]:
        """``(name, EDHOC credential, certificate)`` of an ID_CRED_x that is an x5chain.

        Raises DecodeError or AuthenticationError. The issuing CA's certificate in it is compared
        with the one that this device has; nothing in a chain makes anything trusted.
        """
        # only peers whose certificate the manager does not have need this
        from keyferry_core.edhoc import x5chain

        chain = x5chain.certificates(id_cred)
        if len(chain) > 1 and sha256(chain[1]) != self._issuer_digest:
            raise AuthenticationError("x5chain: not of the realm's issuing CA")
        name, public = self.check(chain[0], now)
        return name, Credential(id_cred, cbor.encode(chain[0]), public), chain[0]

    def _remember(self, digest: bytes) -> None:
        if len(self._verified) == MAX_REMEMBERED:
            self._verified.pop(0)
        self._verified.append(digest)
