"""Which CAs a device holds while its realm goes from one root to the next, and how it says so.

A new root is believed when a root that is held already certified its key (RFC 4210, section 4.4:
NewWithOld); whatever else an answer holds makes nothing trusted. What is held is stated to the
manager in ANCHORS_LENGTH bytes, which are the same on both sides only if the CA certificates are,
and the CA that signs now is the one over the device's own certificate.
"""

from keyferry_core import x509
from keyferry_core._compat import sha256
from keyferry_core.errors import AuthenticationError, RemoteError
from keyferry_core.signalling import ANCHORS_LENGTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from keyferry_core.suite import Crypto


def group(certificates: list[bytes]) -> bytes:
    """32 bytes for a set of DER certificates, in whatever order they came: EST's is none."""
    return sha256(*sorted([sha256(encoded) for encoded in certificates]))


def statement(issuer: bytes, of_group: bytes) -> bytes:
    """What stands for ``issuer`` (DER), as the CA that signs, among the certificates of a group."""
    return sha256(sha256(issuer), of_group)[:ANCHORS_LENGTH]


def accept(
    crypto: "Crypto", held: list[bytes], found: list[bytes], now: int, own: bytes = b""
) -> tuple[list, list]:
    """(roots, issuing CAs) among ``found`` that someone who trusts the roots ``held`` may trust.

    All DER, the result parsed; roots from the oldest to the newest, as ``held`` must be. A held
    root that an answer with any good root in it lacks is not in the result: it was withdrawn.
    ``own``: the CA over our own certificate, if there is one; the root over it is withdrawn by a
    newer one only. AuthenticationError when that is not so, or there is no issuing CA; DecodeError
    when ``held`` or ``own`` cannot be read. What else is in ``found`` is passed over.
    """
    why = "the answer has no issuing CA"
    old = []
    for encoded in held:
        root = x509.parse(encoded)
        try:
            x509.check_dates(root, now)
            old.append(root)
        except AuthenticationError as error:
            why = error.detail
    known = {root.raw: root for root in old}
    candidates = []
    for encoded in found:
        try:
            candidate = known.get(encoded) or x509.parse(encoded)
            x509.check_dates(candidate, now)
            if not candidate.is_ca:
                raise AuthenticationError("not a CA")
            candidates.append(candidate)
        except RemoteError as error:
            why = error.detail
    # Not sorted by ``held`` but found by it: MicroPython's sort is not stable.
    roots = [candidate for root in held for candidate in candidates if candidate.raw == root]
    for candidate in candidates:
        if candidate.raw not in held and _introduced(crypto, candidate, candidates, old):
            roots.append(candidate)
    if not roots:
        roots = old
    if own:
        _check_forward(held, [root.raw for root in roots], x509.parse(own).issuer)
    # One root certified by another is no issuing CA, whoever signed it.
    names = [root.subject for root in old + candidates if root.subject == root.issuer]
    candidates = [other for other in candidates if other.subject not in names]
    issuers = []
    del old, known  # a small heap needs for a signature what these take
    for candidate in candidates:
        for root in roots:
            try:
                x509.verify(crypto, candidate, root)
                issuers.append(candidate)
                break
            except AuthenticationError as error:
                why = error.detail
    if not issuers:
        raise AuthenticationError("cacerts: no issuing CA under our root: " + why)
    return roots, issuers


def _check_forward(held: list[bytes], roots: list[bytes], name: bytes) -> None:
    """AuthenticationError when only roots older than the one called ``name`` are left: whoever has
    the key of a root that was replaced must not bring it back."""
    for index, root in enumerate(held):
        if x509.parse(root).subject == name:
            if all([left in held[:index] for left in roots]):
                raise AuthenticationError("cacerts: the root over our certificate is missing")
            return


def _introduced(
    crypto: "Crypto", root: x509.Certificate, candidates: list[x509.Certificate], old: list
) -> bool:
    """Whether a root that is held certified this one's name and key."""
    if root.issuer != root.subject:
        return False
    for cross in candidates:
        if cross.subject != root.subject or cross.public_key != root.public_key:
            continue
        if cross.raw == root.raw:
            continue
        for holder in old:
            try:
                x509.verify(crypto, cross, holder)
                x509.verify(crypto, root, root)
                return True
            except AuthenticationError:
                pass
    return False
