"""The owner's signature under a device's key: what a manager that runs the CA cannot make.

An endorsement is a COSE_Sign1 (ES256) by the owner's key, which is kept offline, over realm, name
and the key of the device's certificate. What that key signs is covered with it: the profile
``rpk``'s own key, which it endorses itself. It says nothing of a serial, so that a renewal for the
same key needs no new one.
"""

from keyferry_core import cbor
from keyferry_core._compat import equal, sha256
from keyferry_core.cose_message import parse_sign1, sign1
from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.names import check_name, check_realm

# Bytes of an endorsement at most: realm, name, key, time and the signature.
MAX_ENDORSEMENT = 384
PUBLIC_LENGTH = 65
# external_aad of the signature, so that it can serve for nothing else.
_CONTEXT = b"keyferry owner 1"
# No time after the year 2099.
_LATEST = 4102444800
# Verified endorsements that are remembered, by hash.
_MAX_REMEMBERED = 8


def endorse(crypto, private, realm: str, name: str, public: bytes, until: int = 0) -> bytes:
    """The owner's word that ``public``, 65 bytes, is the key of the device ``name``.

    ``until``: Unix seconds after which it counts no more, 0 for never.
    """
    payload = cbor.encode([check_realm(realm), check_name(name), public, until])
    return sign1(crypto, private, payload, _CONTEXT)


def parse(endorsement: bytes) -> tuple[str, str, bytes, int, bytes, bytes]:
    """``(realm, name, public key, until, what is signed, signature)``, none of it verified.

    DecodeError for anything but what ``endorse`` makes.
    """
    if len(endorsement) > MAX_ENDORSEMENT:
        raise DecodeError("owner: too long", "too-large")
    payload, _, signed, signature = parse_sign1(endorsement, _CONTEXT)
    value = cbor.decode(payload)
    if not isinstance(value, list) or len(value) != 4:
        raise DecodeError("owner: expected realm, name, key and time")
    realm, name, public, until = value
    if not isinstance(public, bytes) or len(public) != PUBLIC_LENGTH:
        raise DecodeError("owner: a key is 65 bytes")
    if isinstance(until, bool) or not isinstance(until, int) or not 0 <= until < _LATEST:
        raise DecodeError("owner: not a time")
    return check_realm(realm), check_name(name), public, until, signed, signature


class Owner:
    """Believes the peers under whose keys the owner signed. ``public``: the owner's, 65 bytes."""

    def __init__(self, crypto, realm: str, public: bytes) -> None:
        self._crypto = crypto
        self._realm = realm
        self._public = public
        self._verified = []

    def judge(self, name: str, public: bytes, vouch: bytes | None, now: int) -> None:
        """Return when ``vouch`` is the owner's endorsement of the key ``public`` for ``name``.

        Else AuthenticationError "not-endorsed"; DecodeError for what is no endorsement.
        """
        if not vouch:
            raise AuthenticationError("owner: no signature for " + name, "not-endorsed")
        realm, named, key, until, signed, signature = parse(vouch)
        if realm != self._realm or named != name:
            raise AuthenticationError("owner: it is for " + named + "@" + realm, "not-endorsed")
        if not equal(key, public):
            raise AuthenticationError("owner: it is for another key", "not-endorsed")
        if until and now > until:
            raise AuthenticationError("owner: it has run out", "not-endorsed")
        digest = sha256(vouch)
        if digest in self._verified:
            return
        if not self._crypto.verify(self._public, signed, signature):
            raise AuthenticationError("owner: somebody else signed it", "not-endorsed")
        if len(self._verified) == _MAX_REMEMBERED:
            self._verified.pop(0)
        self._verified.append(digest)
