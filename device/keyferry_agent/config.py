"""What a device is told when it is provisioned: ``config.json`` and the files beside it.

config.json    {"name": "pump-7", "realm": "plant.example", "host": "192.0.2.1"}
root.der       the realm's root certificate: the one thing that is trusted
factory.crt    factory certificate, DER, and
factory.key    its private key, SEC1 DER; or instead of both
token          the one-time enrolment token, text
owner.pub      the owner's public key, 65 bytes: with "trust": "owner"
factory-reset  empty: the next start erases all keys that the device made, and enrols anew
"""

import json
import os

from keyferry_core.errors import DecodeError, LocalError
from keyferry_core.names import FOR, check_name, check_realm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# key: (smallest, largest, default)
_NUMBERS = {
    "mqtt_port": (1, 65535, 8883),
    "sip_port": (1, 65535, 5061),
    "est_port": (1, 65535, 8443),
    "time_port": (0, 65535, 0),  # of the manager's signed time; 0: none is asked for
    "keep_alive": (5, 3600, 60),  # seconds
    "max_sessions": (1, 64, 4),
    "max_half_open": (1, 16, 2),
    "max_incoming": (1, 64, 4),
    "receive_queue": (1, 256, 16),  # records a session holds for its application
    # certificates sent inside EDHOC: 0 a hash, 1 the device's, 2 the issuing CA's as well
    "send_certificates": (0, 2, 0),
    "direct_port": (0, 65535, 0),  # TCP port for direct paths, 0 for none
    "max_pins": (1, 64, 32),  # peers whose keys are kept, with "trust": "pinned"
    "session_grace": (0, 3600, 30),  # seconds; the manager's setting of the same name
}
_NTP_PORT = 123
# Characters in a name of a host.
_MAX_HOST = 253
# What connect() asks for. All but cert-only also keep a key for rpk and answer either.
_PROFILES = ("cert", "rpk", "cert-only")
# How signalling travels.
_CARRIERS = ("mqtt", "sip")
# Who besides the CA must have said that a peer's key is the peer's: docs/keys.md.
_TRUST = ("ca", "owner", "pinned")
_KEYS = ("name", "realm", "host", "addresses", "profile", "carrier", "third_parties", "trust") + (
    ("ntp",) + tuple(_NUMBERS)
)
# Selectors in third_parties, and characters in one.
_MAX_PARTIES = 16
_MAX_SELECTOR = 2 * 63 + 5


class ConfigError(LocalError):
    """The device's configuration is wrong; ``detail`` names the file and the key."""

    def __init__(self, detail: str) -> None:
        super().__init__("bad-argument", detail)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_file(path: str, limit: int) -> bytes | None:
    """The bytes of a file, or None when there is none. ConfigError above ``limit`` bytes."""
    try:
        # read(n) takes n bytes of RAM beforehand, so not the limit but what is there
        size = os.stat(path)[6]
        if size > limit:
            raise ConfigError(path + ": more than " + str(limit) + " bytes")
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return None


class Config:
    """The settings as attributes, with the names they have in ``config.json``; ``folder``; and
    ``network``, what the agent uses in place of ``link``, or None.

    It has no methods, so that a device can forget this module and keep the settings.
    """

    folder: str
    network: "Any"
    name: str
    realm: str
    host: str
    addresses: list
    profile: str
    carrier: str
    third_parties: list
    trust: str
    ntp: tuple | None  # (host, port) to ask for the time
    mqtt_port: int
    sip_port: int
    est_port: int
    time_port: int
    keep_alive: int
    max_sessions: int
    max_half_open: int
    max_incoming: int
    receive_queue: int
    send_certificates: int
    max_pins: int
    session_grace: int
    direct_port: int


def parse(values: object, folder: str = "/") -> Config:
    """Check what ``config.json`` says. Raises ConfigError. ``folder`` ends with ``/``."""
    if not isinstance(values, dict):
        raise ConfigError("config.json: expected an object")
    for key in values:
        if key not in _KEYS:
            raise ConfigError("config.json: " + str(key) + ": unknown key")
    config = Config()
    config.folder = folder
    config.network = None
    try:
        config.name = check_name(values.get("name"))
        config.realm = check_realm(values.get("realm"))
    except DecodeError as error:
        raise ConfigError("config.json: " + error.detail) from None
    # Whatever the address, the server must prove to be the realm.
    config.host = values.get("host", config.realm)
    if not isinstance(config.host, str) or not 0 < len(config.host) <= _MAX_HOST:
        raise ConfigError("config.json: host: expected a host name or an IP address")
    config.addresses = values.get("addresses", [])
    if not isinstance(config.addresses, list) or len(config.addresses) > 4:
        raise ConfigError("config.json: addresses: at most 4 of HOST:PORT")
    for address in config.addresses:
        if not isinstance(address, str) or not 0 < len(address) <= 64:
            raise ConfigError("config.json: addresses: at most 4 of HOST:PORT")
    config.profile = values.get("profile", "cert")
    if config.profile not in _PROFILES:
        raise ConfigError("config.json: profile: expected cert, rpk or cert-only")
    config.carrier = values.get("carrier", "mqtt")
    if config.carrier not in _CARRIERS:
        raise ConfigError("config.json: carrier: expected mqtt or sip")
    config.trust = values.get("trust", "ca")
    if config.trust not in _TRUST:
        raise ConfigError("config.json: trust: expected ca, owner or pinned")
    config.ntp = _place(values["ntp"]) if "ntp" in values else None
    # Whose requests through a gateway are taken: "gw-1 for alice", "gw-1 for *". None by default.
    config.third_parties = values.get("third_parties", [])
    if not isinstance(config.third_parties, list) or len(config.third_parties) > _MAX_PARTIES:
        raise ConfigError("config.json: third_parties: at most 16 of GATEWAY for NAME")
    for selector in config.third_parties:
        if not isinstance(selector, str) or len(selector) > _MAX_SELECTOR or FOR not in selector:
            raise ConfigError("config.json: third_parties: at most 16 of GATEWAY for NAME")
    for key in _NUMBERS:
        low, high, default = _NUMBERS[key]
        value = values.get(key, default)
        if not _is_int(value) or not low <= value <= high:
            raise ConfigError("config.json: " + key + ": expected " + str(low) + " to " + str(high))
        setattr(config, key, value)
    return config


def _place(value: object) -> tuple[str, int]:
    """``HOST`` or ``HOST:PORT`` of an NTP server as (host, port)."""
    if isinstance(value, str):
        host, colon, digits = value.partition(":")
        if ":" in digits:  # an IPv6 address
            host, colon = value, ""
        if not colon:
            digits = str(_NTP_PORT)
        if 0 < len(host) <= _MAX_HOST and 0 < len(digits) <= 5:
            if not digits.strip("0123456789") and 0 < int(digits) < 65536:
                return host, int(digits)
    raise ConfigError("config.json: ntp: expected HOST or HOST:PORT")


def load(folder: str = "/") -> Config:
    """The configuration in ``folder``. Raises ConfigError."""
    if not folder.endswith("/"):
        folder += "/"
    data = read_file(folder + "config.json", 4096)
    if data is None:
        raise ConfigError("config.json: missing")
    try:
        values = json.loads(data.decode())
    except ValueError:  # UnicodeError is one
        raise ConfigError("config.json: not JSON") from None
    return parse(values, folder)


def root(config: Config) -> bytes:
    """The root certificate, DER. ConfigError when it is missing."""
    data = read_file(config.folder + "root.der", 2048)
    if not data:
        raise ConfigError("root.der: missing; without it no manager can be trusted")
    return data


def factory(config: Config) -> tuple[bytes, bytes] | None:
    """Factory certificate and private key, both DER, or None when there are none."""
    certificate = read_file(config.folder + "factory.crt", 2048)
    private = read_file(config.folder + "factory.key", 512)
    if not certificate and not private:
        return None
    if not certificate or not private:
        raise ConfigError("factory.crt, factory.key: one of the two is missing")
    return certificate, private


def token(config: Config) -> str | None:
    """The one-time enrolment token, or None when there is none."""
    data = read_file(config.folder + "token", 256)
    if data is None:
        return None
    try:
        text = data.decode().strip()
    except UnicodeError:
        text = ""
    if not text:
        raise ConfigError("token: expected one line of text")
    return text


def remove_token(config: Config) -> None:
    """Forget the token: it has done its work and is worth nothing any more."""
    _remove(config.folder + "token")


def wants_reset(config: Config) -> bool:
    """Whether somebody put a file ``factory-reset`` beside the configuration."""
    return read_file(config.folder + "factory-reset", 4096) is not None


def reset_done(config: Config) -> None:
    """The keys are gone: forget the wish. Cut off before this, the reset is done once more."""
    _remove(config.folder + "factory-reset")


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass  # there was none, or an earlier start removed it
