"""The gateway's own certificate for HTTPS: from files, or made on the device.

The realm's certificate names a device and not a host, so no browser would take it. Put
``gateway.crt`` and ``gateway.key`` (DER, P-256) of an authority that the third parties trust beside
``gateway.json``; without them the device makes a key of its own, which never leaves it, and signs a
certificate for the ``hosts`` of ``gateway.json`` with it, which third parties then pin.
"""

import os

from keyferry_agent import clock
from keyferry_agent.config import ConfigError, read_file
from keyferry_agent.slots import create
from keyferry_core import csr, der, x509
from keyferry_core.errors import KeyferryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_core.suite import Crypto

# Days that a certificate of our own holds (phones take no more than 825), and how many are left
# when the next start makes a new one, for the same key.
DAYS = 800
RENEW_DAYS = 60
_DAY = 86400

_COMMON_NAME = b"\x06\x03\x55\x04\x03"
_ALTERNATIVE_NAME = b"\x06\x03\x55\x1d\x11"
# basicConstraints, critical, not a CA; keyUsage, critical, digitalSignature; extKeyUsage serverAuth
_FIXED = (
    b"\x30\x0c\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x02\x30\x00"
    b"\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80"
    b"\x30\x13\x06\x03\x55\x1d\x25\x04\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"
)


def obtain(
    folder: str, hosts: list, crypto: "Crypto", event: "Callable[..., None]"
) -> tuple[bytes, bytes]:
    """``(certificate, key)``, both DER. ConfigError when there is neither a good file nor a host
    to make one for.
    """
    certificate = read_file(folder + "gateway.crt", 2048)
    key = read_file(folder + "gateway.key", 512)
    if certificate and key:
        ours, last = _of_ours(certificate)
        if not ours or last - clock.now() > RENEW_DAYS * _DAY or not hosts:
            return certificate, key
    elif certificate:
        raise ConfigError("gateway.key: missing, and gateway.crt is there")
    if not hosts:
        raise ConfigError("gateway.json: hosts: names to make a certificate for, or gateway.crt")
    if key:
        try:
            private, public = csr.parse_private_key(key)
        except KeyferryError as error:
            raise ConfigError("gateway.key: " + error.detail) from None
    else:
        private, public = crypto.generate()
        key = csr.private_key_der(private, public)
        _write(folder + "gateway.key", key)
    certificate = self_signed(crypto, private, public, hosts, clock.now())
    _write(folder + "gateway.crt", certificate)
    event("gateway-certificate-made", hosts=hosts, days=DAYS)
    return certificate, key


def self_signed(crypto: "Crypto", private: bytes, public: bytes, hosts: list, now: int) -> bytes:
    """A certificate (RFC 5280) for ``hosts``, names or IPv4 addresses, signed by its own key."""
    wrap = der.wrap
    name = wrap(der.SEQUENCE, _COMMON_NAME, wrap(der.UTF8_STRING, hosts[0].encode()))
    subject = wrap(der.SEQUENCE, wrap(der.SET, name))
    names = b""
    for host in hosts:
        address = _ipv4(host)
        names += wrap(0x87, address) if address else wrap(0x82, host.encode())
    alternative = wrap(
        der.SEQUENCE, _ALTERNATIVE_NAME, wrap(der.OCTET_STRING, wrap(der.SEQUENCE, names))
    )
    tbs = wrap(
        der.SEQUENCE,
        b"\xa0\x03\x02\x01\x02",  # version 3
        # 15 random bytes after one that makes the number positive and not 0
        wrap(der.INTEGER, b"\x01" + crypto.random(15)),
        der.ECDSA_SHA256,
        subject,
        wrap(der.SEQUENCE, _time(now - _DAY), _time(now + DAYS * _DAY)),
        subject,
        der.public_key_info(public),
        wrap(0xA3, wrap(der.SEQUENCE, _FIXED, alternative)),
    )
    signature = der.encode_signature(crypto.sign(private, tbs))
    return wrap(der.SEQUENCE, tbs, der.ECDSA_SHA256, wrap(der.BIT_STRING, b"\x00", signature))


def _of_ours(certificate: bytes) -> tuple[bool, int]:
    """Whether it was made here, and until when it holds."""
    try:
        parsed = x509.parse(certificate)
    except KeyferryError:
        return False, 0  # of another kind of key: TLS will say whether it can use it
    return parsed.issuer == parsed.subject, parsed.not_after


def _ipv4(host: str) -> bytes:
    parts = host.split(".")
    if len(parts) != 4 or not all(part.isdigit() and int(part) < 256 for part in parts):
        return b""
    return bytes([int(part) for part in parts])


def _time(seconds: int) -> bytes:
    """UTCTime, or GeneralizedTime from 2050 on. The calendar is RFC 5280's, not the port's."""
    days, rest = seconds // _DAY, seconds % _DAY
    year = 1970 + days // 366
    while der.seconds(year + 1, 1, 1, 0, 0, 0) <= seconds:
        year += 1
    month = 12
    while der.seconds(year, month, 1, 0, 0, 0) > seconds:
        month -= 1
    day = 1 + days - der.seconds(year, month, 1, 0, 0, 0) // _DAY
    text = "%02d%02d%02d%02d%02dZ" % (month, day, rest // 3600, rest // 60 % 60, rest % 60)
    if year < 2050:
        return der.wrap(der.UTC_TIME, ("%02d" % (year % 100) + text).encode())
    return der.wrap(der.GENERALIZED_TIME, (str(year) + text).encode())


def _write(path: str, data: bytes) -> None:
    """Whole or not at all, and readable by its owner only where there are owners."""
    with create(path + ".new") as file:
        file.write(data)
    os.rename(path + ".new", path)
