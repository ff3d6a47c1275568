"""Who may come in through the gateway, and to which destinations: ``gateway.json``.

    {"listen": "0.0.0.0:8444", "hosts": ["gw-1.local", "192.0.2.8"],
     "third_parties": {
       "alice": {"token": "<SHA-256 of the token, hex>", "to": ["pump-7", "valve-2"]},
       "phone": {"certificate": "phone.crt", "to": ["pump-7"], "ports": ["pump-7:443"]}}}

A token is kept as its hash: 32 random bytes need no slow one. A certificate is compared as a whole,
so it may be self-signed; TLS has proved that the other side has its key.
"""

import binascii
import json

from keyferry_agent import clock
from keyferry_agent.config import ConfigError, read_file
from keyferry_core import x509
from keyferry_core._compat import equal, sha256
from keyferry_core.errors import DecodeError, KeyferryError
from keyferry_core.names import check_name

MAX_FILE = 8192
MAX_PARTIES = 32
MAX_TO = 32
MAX_TOKEN = 128  # characters
# Failed attempts from one address, and in how many seconds, until it has to wait.
FAILURES = 5
FAILURE_SECONDS = 60
# Addresses whose failures are remembered.
_ADDRESSES = 32
_NUMBERS = {"connections": (2, 32, 6), "idle": (5, 86400, 60), "link_idle": (0, 86400, 0)}
_KEYS = ("listen", "hosts", "third_parties") + tuple(_NUMBERS)


class Party:
    """A third party: ``name``, the destinations ``to`` and the ``ports`` as (destination, port)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.token = b""  # SHA-256
        self.certificate: x509.Certificate | None = None
        self.to: list[str] = []
        self.ports: list[tuple[str, int]] = []


class Table:
    """``gateway.json`` as attributes: ``host``, ``port``, ``hosts``, ``parties``, ``connections``
    (at once), ``idle`` (seconds until an unused session is closed), ``link_idle`` (seconds until
    a link that was made on demand is closed; 0 keeps it).
    """

    host: str
    port: int
    hosts: list
    parties: list
    connections: int
    idle: int
    link_idle: int

    def certificates(self) -> list[bytes]:
        """All client certificates, DER."""
        return [one.certificate.raw for one in self.parties if one.certificate is not None]

    def by_certificate(self, certificate: bytes, now: int) -> Party | None:
        """Whose certificate this is, when it holds at ``now``."""
        found = None
        for party in self.parties:
            known = party.certificate
            if known is not None and equal(sha256(known.raw), sha256(certificate)):
                found = party
        if found is not None:
            try:
                x509.check_dates(found.certificate, now)
            except KeyferryError:
                return None
        return found

    def by_token(self, token: str, name: str = "") -> Party | None:
        """Whose token this is; of ``name``, if that was given. Looks at all, in the same time."""
        found = None
        digest = sha256(token.encode())
        for party in self.parties:
            # an empty hash is shorter, and so never equal
            if equal(party.token, digest) and (not name or name == party.name):
                found = party
        return found

    def by_header(self, value: str) -> Party | None:
        """Whom ``Authorization`` or ``Proxy-Authorization`` names: Bearer, or Basic with the
        token as password."""
        kind, _, rest = value.partition(" ")
        kind, rest = kind.lower(), rest.strip()
        if kind == "bearer" and 0 < len(rest) <= MAX_TOKEN:
            return self.by_token(rest)
        if kind == "basic" and 0 < len(rest) <= 2 * MAX_TOKEN:
            try:
                name, _, token = binascii.a2b_base64(rest).decode().partition(":")
            except ValueError:
                return None
            if name and 0 < len(token) <= MAX_TOKEN:
                return self.by_token(token, name)
        return None


class Failures:
    """Failed attempts by address; those that fail too often wait."""

    def __init__(self) -> None:
        self._known: list[list] = []  # [address, count, since], oldest first

    def wait(self, address: str) -> int:
        """Seconds until ``address`` may try again, 0 for now."""
        for entry in self._known:
            if entry[0] == address and entry[1] >= FAILURES:
                return max(0, entry[2] + FAILURE_SECONDS - clock.uptime())
        return 0

    def add(self, address: str) -> None:
        """One more from ``address``."""
        now = clock.uptime()
        self._known = [entry for entry in self._known if entry[2] + FAILURE_SECONDS > now]
        for entry in self._known:
            if entry[0] == address:
                entry[1] += 1
                return
        if len(self._known) >= _ADDRESSES:
            self._known.pop(0)
        self._known.append([address, 1, now])


def load(folder: str) -> Table:
    """The table in ``folder``, which ends with ``/``. ConfigError names what is wrong."""
    data = read_file(folder + "gateway.json", MAX_FILE)
    if data is None:
        raise ConfigError("gateway.json: missing")
    try:
        values = json.loads(data.decode())
    except ValueError:
        raise ConfigError("gateway.json: not JSON") from None
    return parse(values, folder)


def parse(values: object, folder: str) -> Table:
    """Check what ``gateway.json`` says. ConfigError."""
    _expect(isinstance(values, dict), "an object")
    assert isinstance(values, dict)
    for key in values:
        _expect(key in _KEYS, str(key) + " is not known")
    table = Table()
    table.host, table.port = _address(values.get("listen", "0.0.0.0:8444"), "listen", 0)
    table.hosts = values.get("hosts", [])
    _expect(isinstance(table.hosts, list) and len(table.hosts) <= 8, "hosts: at most 8 names")
    for host in table.hosts:
        _expect(isinstance(host, str) and 0 < len(host) <= 64, "hosts: names or IPv4 addresses")
    for key in _NUMBERS:
        low, high, default = _NUMBERS[key]
        value = values.get(key, default)
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        _expect(good, key + ": " + str(low) + " to " + str(high))
        setattr(table, key, value)
    listed = values.get("third_parties", {})
    good = isinstance(listed, dict) and len(listed) <= MAX_PARTIES
    _expect(good, "third_parties: an object of at most 32")
    table.parties = [_party(name, listed[name], folder) for name in sorted(listed)]
    return table


def _party(name: str, values: object, folder: str) -> Party:
    _expect(isinstance(values, dict), name + ": an object")
    assert isinstance(values, dict)
    for key in values:
        _expect(key in ("token", "certificate", "to", "ports"), name + ": " + key + " is not known")
    try:
        party = Party(check_name(name))
        party.to = values.get("to", [])
        _expect(isinstance(party.to, list) and len(party.to) <= MAX_TO, name + ": to: at most 32")
        for destination in party.to:
            check_name(destination)
    except DecodeError as error:
        raise ConfigError("gateway.json: " + name + ": " + error.detail) from None
    ports = values.get("ports", [])
    _expect(isinstance(ports, list) and len(ports) <= MAX_TO, name + ": ports: at most 32")
    for port in ports:
        found = _address(port, name + ": ports", 1)
        _expect(found[0] in party.to, name + ": ports: of devices in to")
        party.ports.append(found)
    token = values.get("token")
    if token is not None:
        try:
            party.token = binascii.unhexlify(token)
        except (ValueError, TypeError):
            pass
        _expect(len(party.token) == 32, name + ": token: the SHA-256 of it, 64 hex digits")
    path = values.get("certificate")
    if path is not None:
        good = isinstance(path, str) and "/" not in path and 0 < len(path) <= 80
        _expect(good, name + ": certificate: the name of a file beside this one, DER")
        data = read_file(folder + path, 2048)
        _expect(data is not None, name + ": certificate: " + str(path) + " is missing")
        try:
            party.certificate = x509.parse(data or b"")
        except DecodeError as error:
            raise ConfigError("gateway.json: " + name + ": " + path + ": " + error.detail) from None
    _expect(token is not None or path is not None, name + ": a token or a certificate")
    return party


def _address(value: object, what: str, smallest: int) -> tuple[str, int]:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    good = 0 < len(host) <= 64 and port.isdigit() and len(port) <= 5
    _expect(good and smallest <= int(port) <= 65535, what + ": NAME:PORT")
    return host, int(port)


def _expect(good: bool, detail: str) -> None:
    if not good:
        raise ConfigError("gateway.json: " + detail)
