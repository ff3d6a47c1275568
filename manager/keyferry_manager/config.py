"""``keyferry.toml``: one table of settings that reads the file, checks it and writes the template.

Each field of Config below carries its key, its comment and its bounds, so that what the file
may say, what the code reads and what ``keyferry init`` writes cannot drift apart. A new setting
is one new field.
"""

import difflib
import ipaddress
import json
import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from keyferry_core.errors import DecodeError
from keyferry_core.names import check_realm
from keyferry_manager.problems import ConfigProblem

FILE_NAME = "keyferry.toml"
DATABASE_NAME = "keyferry.db"

# Host, perhaps a port, perhaps a path: no user, no query, nothing but printable ASCII.
_HOOK_URL = re.compile(r"https://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?(/[!-~]*)?")

_HEADER = """\
# Keyferry manager. Every setting stands here with its default value; change what you need and
# start the manager again. A key that Keyferry does not know is an error, so typing mistakes show.
"""
_SECTIONS = {
    "listen": "Where devices reach this manager.",
    "certificates": "What the manager issues.",
    "enrolment": "Who may ask for a certificate, and how often.",
    "authority": "Who signs: where the key of the issuing CA is.",
    "relay": "What is checked on the way between two devices.",
    "limits": "Bounds that keep one device, or one stranger, from using the manager up.",
    "observe": "What monitoring asks: /metrics, /healthz and /readyz, over HTTP without TLS.",
    "api": "How operators and programs reach this manager, besides the socket in this folder.",
    "database": "Where the registry, the rules and the audit trail are kept.",
    "directory": "Where certificates and public keys of devices are looked up.",
    "log": "What is written to standard error.",
}


def _setting(
    default: object,
    key: str,
    comment: str,
    low: int = 0,
    high: int = 0,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {"key": key, "comment": comment, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one manager. Durations are in the unit that the key names."""

    home: Path
    realm: str = field(metadata={"key": "realm"})

    listen_host: str = _setting(
        "0.0.0.0", "listen.host", "Address to listen on; 127.0.0.1 for this machine only."
    )
    mqtt_port: int = _setting(
        8883, "listen.mqtt_port", "MQTT over mutual TLS; 0 takes any free port.", 0, 65535
    )
    est_port: int = _setting(
        8443, "listen.est_port", "EST, enrolment over HTTPS; 0 takes any free port.", 0, 65535
    )
    sip_port: int = _setting(
        -1,
        "listen.sip_port",
        "SIP over mutual TLS, 5061 by custom; -1: none, 0 takes any free port.",
        -1,
        65535,
    )
    time_port: int = _setting(
        -1,
        "listen.time_port",
        "Signed time over plain HTTP, for devices whose clock was never set, 8480 by custom; -1:\n"
        "none, 0 takes any free port.",
        -1,
        65535,
    )
    public_host: str = _setting(
        "",
        "listen.public_host",
        "Name or address that is written into the files of new devices;\n"
        "empty: listen.host, or the realm where that is 0.0.0.0 or ::.",
    )

    device_days: int = _setting(
        90, "certificates.device_days", "Life of a device's certificate, in days.", 1, 825
    )
    server_days: int = _setting(
        365, "certificates.server_days", "Life of the manager's own certificate, in days.", 2, 825
    )
    server_names: tuple[str, ...] = _setting(
        (),
        "certificates.server_names",
        "More DNS names and IP addresses for it, besides the realm, localhost and 127.0.0.1.\n"
        "A change takes effect at the next start.",
    )

    grace_days: int = _setting(
        0,
        "certificates.grace_days",
        "Days after its end in which a device can still renew its certificate, with the same key.\n"
        "It opens no link meanwhile.",
        0,
        3650,
    )
    crl_hours: int = _setting(
        24,
        "certificates.crl_hours",
        "Life of a revocation list, in hours; a new one is signed after half of it.",
        1,
        24 * 31,
    )
    public_url: str = _setting(
        "",
        "certificates.public_url",
        "Where anybody reaches the EST listener, as in https://kf.plant.example:8443. New\n"
        "certificates then name it as the place of the revocation list and of OCSP.",
    )

    token_hours: int = _setting(
        24, "enrolment.token_hours", "Life of a one-time token, in hours.", 1, 24 * 31
    )
    admission: str = _setting(
        "automatic",
        "enrolment.admission",
        "approve: a first enrolment needs a person's word besides its credential; see\n"
        "keyferry approvals.",
        choices=("automatic", "approve"),
    )
    approval_seconds: int = _setting(
        60,
        "enrolment.approval_seconds",
        "After how many seconds a device that waits for approval is to ask again.",
        1,
        86400,
    )
    hook: tuple[str, ...] = _setting(
        (),
        "enrolment.hook",
        "A command and its arguments, asked before each first certificate: JSON on its standard\n"
        "input, exit status 0 allows, 1 refuses. Anything else, and a late answer, refuses too.",
    )
    hook_seconds: int = _setting(
        5, "enrolment.hook_seconds", "Longest time for that command, or that call.", 1, 60
    )
    hook_url: str = _setting(
        "",
        "enrolment.hook_url",
        "An HTTPS URL that is asked instead: the same JSON by POST; 200 or 204 allows, 403\n"
        "refuses.",
    )
    hook_ca_file: str = _setting(
        "",
        "enrolment.hook_ca_file",
        "CAs for that server's certificate, PEM, a whole path. Empty: those of the system.",
    )
    enrolments_per_hour: int = _setting(
        20, "enrolment.per_device_per_hour", "Certificates that one device may get.", 1, 10000
    )
    failures_per_minute: int = _setting(
        20,
        "enrolment.failures_per_minute",
        "Refused or early attempts from one address, or with one credential, before it must wait.",
        1,
        10000,
    )
    address_enrolments_per_hour: int = _setting(
        1000, "enrolment.per_address_per_hour", "Certificates for one address.", 1, 1000000
    )

    authority: str = _setting(
        "local",
        "authority.kind",
        "local: the key is a file under ca/; pkcs11: it is in a token, and signs there;\n"
        "est: another EST server has it, and nothing of it is here.",
        choices=("local", "pkcs11", "est"),
    )
    role: str = _setting(
        "manager",
        "authority.role",
        "manager: for keyferry serve. ca: for keyferry ca serve, which signs for other managers.\n"
        "directory: for keyferry directory serve, which keeps their public keys.",
        choices=("manager", "ca", "directory"),
    )
    per_manager_per_hour: int = _setting(
        1000,
        "authority.per_manager_per_hour",
        "ca: certificates that one manager may ask for.",
        1,
        1000000,
    )
    est_url: str = _setting(
        "", "authority.est_url", "est: where the CA is, as in https://ca.plant.example:9443."
    )
    registered_as: str = _setting("", "authority.registered_as", "est: this manager's name there.")
    authority_seconds: int = _setting(
        10, "authority.seconds", "est: longest wait for the CA, with its repetitions.", 1, 120
    )
    pkcs11_module: str = _setting(
        "", "authority.pkcs11_module", "pkcs11: the token's library, a whole path."
    )
    pkcs11_token: str = _setting("", "authority.pkcs11_token", "pkcs11: the token's label.")
    pkcs11_key: str = _setting(
        "keyferry issuing CA", "authority.pkcs11_key", "pkcs11: the label of the P-256 key pair."
    )
    pkcs11_pin_file: str = _setting(
        "",
        "authority.pkcs11_pin_file",
        "pkcs11: a file with the PIN, mode 0600; empty: KEYFERRY_PKCS11_PIN in the environment.",
    )

    route_mode: str = _setting(
        "report",
        "relay.route_check",
        "A device may state the route it used. strict: it must, and it must be the one seen\n"
        "(a device learns it by its first registration, which may state none);\n"
        "report: a difference is only written to the audit trail; off.",
        choices=("strict", "report", "off"),
    )
    session_grace: int = _setting(
        30,
        "relay.session_grace",
        "Seconds that a session survives the loss of a device's link.",
        0,
        3600,
    )
    registration_seconds: int = _setting(
        3600, "relay.registration_seconds", "Longest life of a registration.", 60, 86400
    )

    max_links: int = _setting(
        5000, "limits.links", "Devices connected at the same time.", 1, 1000000
    )
    max_handshakes: int = _setting(
        256, "limits.handshakes", "TLS handshakes under way at the same time.", 1, 100000
    )
    handshake_seconds: int = _setting(
        10, "limits.handshake_seconds", "Longest TLS handshake.", 1, 120
    )
    drain_seconds: int = _setting(
        5,
        "limits.drain_seconds",
        "Longest time, when the manager stops, for messages that are on their way.",
        0,
        120,
    )
    max_sessions: int = _setting(
        64, "limits.sessions_per_device", "Sessions, open or half open, of one device.", 1, 10000
    )
    messages_per_second: int = _setting(
        2000, "limits.messages_per_second", "Messages that one device may send.", 1, 1000000
    )
    queue_messages: int = _setting(
        256, "limits.queue_messages", "Messages waiting for one slow device.", 1, 100000
    )

    observe_host: str = _setting(
        "127.0.0.1",
        "observe.host",
        "Address to listen on; empty: not at all. It tells no secrets, but belongs to no\n"
        "stranger's network: leave it on this machine, or put TLS before it.",
    )
    observe_port: int = _setting(9464, "observe.port", "0 takes any free port.", 0, 65535)

    api_listen: str = _setting(
        "",
        "api.listen",
        "HOST:PORT for the admin API over TCP, as in 127.0.0.1:8442; tokens come from keyferry\n"
        "token add. Empty: the socket only, which needs none.",
    )
    api_tls: str = _setting(
        "off",
        "api.tls",
        "server: TLS with the manager's own certificate; needed beyond this machine.",
        choices=("off", "server"),
    )

    database: str = _setting(
        "",
        "database.url",
        "Empty: keyferry.db beside this file. Or PostgreSQL: postgresql://user@host/keyferry",
    )

    directory_socket: str = _setting(
        "",
        "directory.socket",
        "The socket of keyferry directory serve, a whole path. Empty: the database above keeps\n"
        "certificates and public keys.",
    )

    log_level: str = _setting(
        "info", "log.level", "How much.", choices=("debug", "info", "warning", "error")
    )

    @classmethod
    def load(cls, home: Path | str) -> Self:
        """Read ``HOME/keyferry.toml``. ConfigProblem names the key that is wrong."""
        home = Path(home)
        path = home / FILE_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigProblem(
                f"{path} does not exist: make a manager with 'keyferry init {home} --realm "
                "DOMAIN', or name its home with --home or KEYFERRY_HOME."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigProblem(f"{path} cannot be read: {error}.") from None
        return cls.parse(text, home, str(path))

    @classmethod
    def parse(cls, text: str, home: Path, source: str = FILE_NAME) -> Self:
        """The same from the file's text; ``source`` stands in front of problems."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigProblem(f"{source} is not valid TOML: {error}.") from None
        values = _flatten(document, source)
        arguments: dict[str, Any] = {}
        for item in fields(cls):
            key = item.metadata.get("key")
            if key is None or key not in values:
                continue
            arguments[item.name] = _checked(source, key, values.pop(key), item)
        if values:
            raise ConfigProblem(_unknown(source, next(iter(values)), cls.known_keys()))
        if "realm" not in arguments:
            raise ConfigProblem(f'{source}: realm is missing; write realm = "your.domain".')
        return cls(home=home, **arguments)

    @classmethod
    def known_keys(cls) -> list[str]:
        """Every key that the file may have."""
        return [item.metadata["key"] for item in fields(cls) if "key" in item.metadata]

    @property
    def database_url(self) -> str:
        """The URL for Store.open."""
        return self.database or "sqlite:///" + str((self.home / DATABASE_NAME).absolute())

    @property
    def device_host(self) -> str:
        """The host that a new device is told to connect to."""
        if self.public_host:
            return self.public_host
        return self.realm if self.listen_host in ("0.0.0.0", "::", "") else self.listen_host


def template(realm: str, **changes: object) -> str:
    """The text of a new ``keyferry.toml``, each setting commented; ``changes`` by field name."""
    check_realm(realm)
    lines = [_HEADER]
    lines += [
        "# The domain of this manager. Certificates carry it: it cannot change later.",
        "realm = " + _toml(realm),
    ]
    section = ""
    for item in fields(Config):
        if "comment" not in item.metadata:
            continue
        head, key = item.metadata["key"].split(".")
        if head != section:
            section = head
            lines += ["", "# " + _SECTIONS[head], f"[{head}]"]
        lines += ["# " + line for line in item.metadata["comment"].splitlines()]
        lines.append(f"{key} = {_toml(changes.pop(item.name, item.default))}")
    if changes:
        raise TypeError("no such setting: " + ", ".join(changes))
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    # JSON's strings, numbers and arrays are TOML's.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _flatten(document: dict[str, Any], source: str) -> dict[str, object]:
    flat: dict[str, object] = {}
    for head, value in document.items():
        if not isinstance(value, dict):
            flat[head] = value
        elif head not in _SECTIONS:
            raise ConfigProblem(_unknown(source, f"[{head}]", [f"[{name}]" for name in _SECTIONS]))
        else:
            for key, inner in value.items():
                flat[f"{head}.{key}"] = inner
    return flat


def _unknown(source: str, key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]}?" if close else "see the comments of a fresh file."
    return f"{source}: {key} is not a setting; {hint}"


def _checked(source: str, key: str, value: object, item: Any) -> object:
    where = f"{source}: {key}"
    if key == "realm":
        try:
            return check_realm(value)  # type: ignore[arg-type]  # it checks the type itself
        except DecodeError as error:
            raise ConfigProblem(f"{where} is not a domain name ({error.detail}).") from None
    default = item.default
    if isinstance(default, int):
        low, high = item.metadata["low"], item.metadata["high"]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigProblem(f"{where} must be a whole number from {low} to {high}.")
        return value
    if key == "enrolment.hook":
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ConfigProblem(f'{where} must be a list of texts, as in ["/usr/bin/check", "-q"].')
        if value and not Path(value[0]).is_absolute():
            raise ConfigProblem(f"{where}: the command must be a whole path, from / on.")
        return tuple(value)
    if isinstance(default, tuple):
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ConfigProblem(f'{where} must be a list of texts, as in ["kf.plant.example"].')
        for entry in value:
            check_host(entry, where)
        return tuple(value)
    if not isinstance(value, str):
        raise ConfigProblem(f"{where} must be a text in quotes.")
    choices = item.metadata["choices"]
    if choices and value not in choices:
        raise ConfigProblem(f"{where} must be one of {', '.join(choices)}.")
    if key == "enrolment.hook_url" and value and not _HOOK_URL.fullmatch(value):
        raise ConfigProblem(f"{where} must be like https://inventory.plant.example/check.")
    if key in ("certificates.public_url", "authority.est_url") and value:
        _check_url(value, where)
    if key == "api.listen" and value:
        check_host(split_address(value, where)[0], where)
    if key.endswith("host") and value:
        check_host(value, where)
    return value


def _check_url(text: str, where: str) -> None:
    match = re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?", text)
    if match is None:
        raise ConfigProblem(
            f"{where} must be like https://kf.plant.example:8443, without anything after it."
        )
    check_host(match[1].strip("[]"), where)


def split_address(text: str, where: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[HOST]:PORT`` in two, else ConfigProblem."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ConfigProblem(f"{where} must be HOST:PORT, as in 127.0.0.1:8442.")
    return match[1] or match[2], int(match[3])


def check_host(text: str, where: str) -> str:
    """Return ``text`` when it is an IP address or a lower-case DNS name, else ConfigProblem."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return check_realm(text)
    except DecodeError:
        raise ConfigProblem(
            f"{where}: {text!r} is neither an IP address nor a lower-case DNS name."
        ) from None
