"""Who takes part: the devices of tests/vectors/identities.json, one key more for ``rpk``."""

from keyferry_core import suite
from keyferry_core.session import Identity
from keyferry_core.trust import Trust


def crypto(backend, random):
    """The core's own cryptography, or that of OpenSSL (``cryptography``, CPython only)."""
    if backend == "core":
        return suite.Crypto(random)
    from keyferry_core.suite_cryptography import CryptographyCrypto

    return CryptographyCrypto(random)


class Device:
    """One device, with an agreement key too when ``raw_keys``."""

    def __init__(self, backend, identities, name, raw_keys=True):
        found = identities["devices"][name]
        self.name = name
        self.certificate = bytes.fromhex(found["certificate"])
        private, public = bytes.fromhex(found["private"]), bytes.fromhex(found["public"])
        agreement = None
        if raw_keys:
            from keyferry_core import rpk

            agreement = backend.generate()
            self.endorsed = rpk.endorse(backend, private, name, agreement[1])
        self.identity = Identity(
            name, identities["realm"], private, public, self.certificate, agreement
        )


def trust(backend, identities):
    """What a device of the realm believes in, with nothing verified yet."""
    return Trust(backend, identities["realm"], bytes.fromhex(identities["issuer"]))
