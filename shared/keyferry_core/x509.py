"""X.509 certificates (RFC 5280) of one kind: version 3, ECDSA with SHA-256 on P-256.

``parse`` holds a certificate to DER and to that kind; ``verify`` and ``check_device`` then decide
whether to believe it. A name comes from the subject alternative name alone. The common name is for
people to read and decides nothing.
"""

from keyferry_core import _compat, der, names, utf8
from keyferry_core.errors import AuthenticationError, DecodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from keyferry_core.suite import Crypto

# Bytes of a whole certificate: what signalling carries at most.
MAX_CERTIFICATE = 2048
MAX_EXTENSIONS = 16
MAX_NAMES = 8

# Named bits of keyUsage (section 4.2.1.3), as Certificate.key_usage has them.
DIGITAL_SIGNATURE = 1 << 0
KEY_CERT_SIGN = 1 << 5
# Content of the object identifier of id-kp-clientAuth, 1.3.6.1.5.5.7.3.2 (section 4.2.1.12).
CLIENT_AUTH = b"\x2b\x06\x01\x05\x05\x07\x03\x02"

# id-at-commonName, 2.5.4.3, and the certificate extensions, 2.5.29.N, as contents of their OIDs.
_COMMON_NAME = b"\x55\x04\x03"
_KEY_USAGE = b"\x55\x1d\x0f"
_ALTERNATIVE_NAME = b"\x55\x1d\x11"
_BASIC_CONSTRAINTS = b"\x55\x1d\x13"
_EXT_KEY_USAGE = b"\x55\x1d\x25"

# GeneralName (section 4.2.1.6): the context tags [0] to [8], constructed where the type is.
_GENERAL_NAMES = b"\xa0\x81\x82\xa3\xa4\xa5\x86\x87\x88"
_URI = 0x86
_DNS_NAME = 0x82
# What printable ASCII has and PrintableString (X.680, 41.4) has not.
_NOT_PRINTABLE = b'!"#$%&*;<>@[\\]^_`{|}~'


class Certificate:
    """What ``parse`` found. Nothing in it is to be believed before ``verify``.

    raw, tbs               bytes: the whole certificate, and its signed part
    serial                 int, 1 to 20 bytes
    issuer, subject        bytes: the names, DER
    common_name            str, None unless the subject has exactly one
    not_before, not_after  int, Unix seconds, both inclusive
    public_key             65 bytes, 04 || x || y; not yet known to be a point of the curve
    uris, hosts            tuples of str: URIs and DNS names of the subject alternative name
    is_ca                  bool
    path_length            int, None for no limit: how many CAs may stand below this one
    key_usage              int with the bits above, None when the extension is absent
    ext_key_usage          tuple of bytes: contents of the OIDs, empty when the extension is absent
    unknown_critical       bool: there is a critical extension that this code does not apply
    signature              64 bytes, r || s
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.serial = 0
        self.issuer = b""
        self.subject = b""
        self.common_name: str | None = None
        self.not_before = 0
        self.not_after = 0
        self.public_key = b""
        self.uris: tuple[str, ...] = ()
        self.hosts: tuple[str, ...] = ()
        self.is_ca = False
        self.path_length: int | None = None
        self.key_usage: int | None = None
        self.ext_key_usage: tuple[bytes, ...] = ()
        self.unknown_critical = False
        self.signature = b""

    @property
    def tbs(self) -> bytes:
        # made when it is asked for: several parsed certificates are held at once on small boards
        return der.Reader(self.raw).enter(der.SEQUENCE).raw(der.SEQUENCE)


def fingerprint_64(encoded: bytes) -> bytes:
    """The first 8 bytes of SHA-256 over a certificate: COSE x5t with SHA-256/64 (RFC 9360, -15)."""
    return _compat.sha256(encoded)[:8]


def parse(encoded: bytes) -> Certificate:
    """Read one certificate in DER, at most MAX_CERTIFICATE bytes. DecodeError for all others.

    ``key-not-allowed`` is the error's name when key or signature are of another kind.
    """
    if len(encoded) > MAX_CERTIFICATE:
        raise DecodeError("x509: a certificate of more than 2048 bytes", "too-large")
    outer = der.Reader(encoded)
    whole = outer.enter(der.SEQUENCE)
    outer.finish()
    certificate = Certificate(bytes(encoded))
    tbs = whole.enter(der.SEQUENCE)
    _algorithm(whole)
    signature = whole.octets_of_bits()
    whole.finish()
    _parse_tbs(certificate, tbs)
    # Last: of a key of another kind it is better said that the key is not allowed.
    certificate.signature = der.raw_signature(signature)
    return certificate


def _algorithm(reader: der.Reader) -> None:
    if not reader.match(der.ECDSA_SHA256):
        raise DecodeError("x509: not signed by ECDSA with SHA-256", "key-not-allowed")


def _parse_tbs(certificate: Certificate, tbs: der.Reader) -> None:
    if not tbs.match(b"\xa0\x03\x02\x01\x02"):
        raise DecodeError("x509: not a version 3 certificate")
    certificate.serial = tbs.integer(20)
    if not certificate.serial:
        raise DecodeError("x509: serial number 0")
    _algorithm(tbs)
    certificate.issuer, _ = _name(tbs)
    validity = tbs.enter(der.SEQUENCE)
    certificate.not_before = validity.time()
    certificate.not_after = validity.time()
    validity.finish()
    if certificate.not_after < certificate.not_before:
        raise DecodeError("x509: ends before it starts")
    certificate.subject, certificate.common_name = _name(tbs)
    certificate.public_key = der.read_public_key(tbs)
    # [1] and [2], the unique identifiers, are not to be generated (section 4.1.2.8).
    if tbs.more():
        extensions = tbs.enter(0xA3)
        _parse_extensions(certificate, extensions.enter(der.SEQUENCE))
        extensions.finish()
    tbs.finish()


def _name(reader: der.Reader) -> tuple[bytes, str | None]:
    """A Name (section 4.1.2.4): its bytes, and its common name if it has just one."""
    found = []
    raw = reader.raw(der.SEQUENCE)
    sequence = der.Reader(raw).enter(der.SEQUENCE)
    while sequence.more():
        attributes = sequence.enter(der.SET)
        last = b""
        while attributes.more():
            encoded = attributes.raw(der.SEQUENCE)
            if encoded <= last:  # X.690, 11.6; no element can be the start of another
                raise DecodeError("x509: a name's set out of order")
            last = encoded
            attribute = der.Reader(encoded).enter(der.SEQUENCE)
            kind = attribute.oid()
            text = _text(attribute)
            if kind == _COMMON_NAME:
                found.append(text)
            attribute.finish()
        if not last:
            raise DecodeError("x509: an empty set in a name")
    return raw, (found[0] if len(found) == 1 else None)


def _text(reader: der.Reader) -> str:
    """A value in a name: UTF8String, PrintableString, or IA5String for mail and DNS names.

    RFC 5280 asks new certificates for these (section 4.1.2.4); the older kinds are refused.
    """
    tag = reader.peek()
    content = reader.take(tag)
    if tag == der.UTF8_STRING:
        return utf8.decode(content)
    if tag == der.PRINTABLE_STRING:
        for byte in content:
            if byte in _NOT_PRINTABLE:
                raise DecodeError("x509: a character that PrintableString lacks")
    elif tag != der.IA5_STRING:
        raise DecodeError("x509: a name that is not text of today's kinds")
    return _ascii(content)


def _ascii(content: bytes) -> str:
    for byte in content:
        if not 0x20 <= byte < 0x7F:
            raise DecodeError("x509: a character that is not printable ASCII")
    return str(content, "utf-8")


def _parse_extensions(certificate: Certificate, extensions: der.Reader) -> None:
    seen = []
    while extensions.more():
        extension = extensions.enter(der.SEQUENCE)
        kind = extension.oid()
        critical = extension.true()
        value = der.Reader(extension.take(der.OCTET_STRING))
        extension.finish()
        if kind in seen:
            raise DecodeError("x509: an extension twice")
        seen.append(kind)
        if len(seen) > MAX_EXTENSIONS:
            raise DecodeError("x509: too many extensions")
        if kind == _BASIC_CONSTRAINTS:
            _basic_constraints(certificate, value.enter(der.SEQUENCE))
        elif kind == _KEY_USAGE:
            certificate.key_usage = value.flags()
        elif kind == _EXT_KEY_USAGE:
            certificate.ext_key_usage = _key_purposes(value.enter(der.SEQUENCE))
        elif kind == _ALTERNATIVE_NAME:
            _alternative_names(certificate, value.enter(der.SEQUENCE))
        else:
            certificate.unknown_critical = certificate.unknown_critical or critical
            continue
        value.finish()
    if not seen:
        raise DecodeError("x509: an empty list of extensions")


def _basic_constraints(certificate: Certificate, value: der.Reader) -> None:
    certificate.is_ca = value.true()
    if certificate.is_ca and value.more():
        certificate.path_length = value.integer(1)
    value.finish()


def _key_purposes(value: der.Reader) -> tuple[bytes, ...]:
    purposes = []
    while value.more() or not purposes:
        if len(purposes) == MAX_NAMES:
            raise DecodeError("x509: too many key purposes")
        purposes.append(value.oid())
    return tuple(purposes)


def _alternative_names(certificate: Certificate, value: der.Reader) -> None:
    count = 0
    while value.more() or not count:
        tag = value.peek()
        if count == MAX_NAMES or tag < 0 or tag not in _GENERAL_NAMES:
            raise DecodeError("x509: no, too many or unknown alternative names")
        count += 1
        content = value.take(tag)
        if tag == _URI:
            certificate.uris += (_ascii(content),)
        elif tag == _DNS_NAME:
            certificate.hosts += (_ascii(content),)


def check_dates(certificate: Certificate, now: int) -> None:
    """AuthenticationError unless ``now`` (Unix seconds) lies within the certificate's validity."""
    if now < certificate.not_before:
        raise AuthenticationError("certificate: not valid yet")
    if now > certificate.not_after:
        raise AuthenticationError("certificate: expired")


def verify(crypto: "Crypto", certificate: Certificate, issuer: Certificate) -> None:
    """AuthenticationError unless ``issuer`` is a CA that issued ``certificate`` directly.

    Compared are the names, byte for byte, and the signature; the issuer must be allowed to sign
    certificates of this kind. Not asked here: whether the issuer itself is to be trusted, dates,
    and what the certificate is good for. A root verifies as its own issuer.
    """
    if not issuer.is_ca or not (issuer.key_usage or 0) & KEY_CERT_SIGN:
        raise AuthenticationError("certificate: the issuer may not sign certificates")
    if issuer.unknown_critical:
        raise AuthenticationError("certificate: an unknown critical extension of the issuer")
    if certificate.is_ca and issuer.path_length == 0 and certificate.raw != issuer.raw:
        raise AuthenticationError("certificate: the issuer may not make further CAs")
    if certificate.issuer != issuer.subject:
        raise AuthenticationError("certificate: another issuer")
    if not crypto.verify(issuer.public_key, certificate.tbs, certificate.signature):
        raise AuthenticationError("certificate: the issuer's signature does not verify")


def check_device(certificate: Certificate, realm: str, now: int) -> str:
    """The name of the device of ``realm`` that this certificate is for, at Unix time ``now``.

    AuthenticationError unless it is in its dates and a client's signing certificate, with exactly
    one URI, ``sip:NAME@REALM``. Its signature is ``verify``'s to check.
    """
    check_dates(certificate, now)
    if certificate.unknown_critical:
        raise AuthenticationError("certificate: an unknown critical extension")
    if certificate.is_ca:
        raise AuthenticationError("certificate: a CA is not a device")
    if not (certificate.key_usage or 0) & DIGITAL_SIGNATURE:
        raise AuthenticationError("certificate: its key is not for signatures")
    if CLIENT_AUTH not in certificate.ext_key_usage:
        raise AuthenticationError("certificate: not for clients")
    if len(certificate.uris) != 1:
        raise AuthenticationError("certificate: expected one URI")
    try:
        name, found = names.parse_identity(certificate.uris[0])
    except DecodeError as error:
        raise AuthenticationError("certificate: " + error.detail) from None
    if found != realm:
        raise AuthenticationError("certificate: of another realm")
    return name
