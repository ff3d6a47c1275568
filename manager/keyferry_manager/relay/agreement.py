"""The directory of agreement keys, for the profile rpk: checked when they are registered.

A device endorses its key with its certificate's, and the manager hands on only what the
certificate of the link that it came on, or of the device's present link, has endorsed: a peer
that checks would refuse anything else.
"""

import os
from collections.abc import Callable, Collection, Iterable

from keyferry_core import p256, rpk, x509
from keyferry_core.errors import RemoteError
from keyferry_core.suite_cryptography import CryptographyCrypto
from keyferry_manager.registry import Link
from keyferry_manager.store.records import AgreementKey


class AgreementKeys:
    """The last key of each device, in memory. ``changed`` is told of each new one."""

    def __init__(self, changed: Callable[[AgreementKey], None]) -> None:
        self._changed = changed
        self._crypto = CryptographyCrypto(os.urandom)
        self._keys: dict[str, AgreementKey] = {}

    def load(self, keys: Iterable[AgreementKey]) -> None:
        """Take over what was registered before a restart."""
        for key in keys:
            self._keys.setdefault(key.device, key)

    def keep(self, names: Collection[str]) -> None:
        """Forget the keys of devices that are not among ``names`` any more."""
        for name in [name for name in self._keys if name not in names]:
            del self._keys[name]

    def check(self, link: Link, endorsed: bytes, now: float) -> AgreementKey:
        """The key that a device registers on ``link``; nothing is kept yet.

        RemoteError("identity-mismatch") for the key of another name, "unsupported" for the
        certificate's own key, DecodeError or AuthenticationError for anything else but an
        endorsement by the link's certificate.
        """
        signer = x509.parse(link.certificate_der).public_key
        known = self._keys.get(link.name)
        if known is not None and known.endorsed == endorsed and known.signer == signer:
            return known
        name, credential = rpk.open_endorsed(self._crypto, signer, endorsed)
        if name != link.name:
            raise RemoteError("identity-mismatch", f"the endorsed key is for {name}")
        p256.check_public(credential.public)
        if credential.public == signer:
            # One key must not both sign and agree (RFC 9528, section 9.2).
            raise RemoteError("unsupported", "the agreement key is the certificate's own")
        return AgreementKey(name, rpk.key_id(credential.public).hex(), endorsed, signer, now)

    def register(self, key: AgreementKey) -> bool:
        """Keep a checked key. False when it is the one that was there."""
        if self._keys.get(key.device) is key:
            return False
        self._keys[key.device] = key
        self._changed(key)
        return True

    def of(self, link: Link) -> bytes | None:
        """The endorsed key of the device at the end of ``link``, if the link's certificate, or an
        earlier one for the same key, endorsed it."""
        known = self._keys.get(link.name)
        if known is None or x509.parse(link.certificate_der).public_key != known.signer:
            return None
        return known.endorsed
