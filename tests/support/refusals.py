"""Every refusal, made to happen by a real client of a running manager: what its sender saw, and the
audit line. ``PYTHONPATH=tests python -m support.refusals`` writes docs/refusals.md. CPython only.
"""

import contextlib
import os
import re
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keyferry_core import mqtt_codec as mqtt
from keyferry_core import signalling as sig
from keyferry_core.errors import name_of
from keyferry_manager.admin.service import api_token_hash
from keyferry_manager.audit import writer
from keyferry_manager.authority import fingerprint, serial_text
from keyferry_manager.config import FILE_NAME
from keyferry_manager.store import ApiToken, AuditEntry, FactoryIdentity
from keyferry_manager.tokens import new_token, token_hash
from support.est_client import PKCS10, EstClient, csr, new_key, spoiled
from support.manager_kit import Credentials, Home, PahoDevice, Running, until
from support.pem_keys import key_of

PAGE = Path(__file__).parents[2] / "docs" / "refusals.md"
_HEAD = """# What is refused, what its sender hears, and what is written down

Each row was made to happen by a client against a running manager; a test does it again and holds
this page to what it saw (`tests/manager/test_refusals_page.py`). `PYTHONPATH=tests python -m
support.refusals` writes it anew. A refusal changes nothing: nothing is relayed, no certificate is
issued, no token is used up. What is only a matter of the moment (somebody is offline, a queue is
full) is counted in the metrics and not written to the audit trail, which a flood must not fill.

The middle column is what the sender gets: a TLS alert, a code of MQTT, an error of the signalling
([errors.md](errors.md)), or the line that EST and the admin API answer with. The right one is the
entry of `keyferry audit`: event, name that the link had proved, detail, fields. Addresses,
serials and identifiers differ from run to run and are left out.
"""


@dataclass(frozen=True)
class Row:
    """One refusal. ``audit`` is "" where nothing is written down."""

    what: str
    seen: str
    audit: str


class Stage:
    """A manager with a few devices, and what happened to it since the last look."""

    def __init__(self, running: Running, folder: Path) -> None:
        self.running = running
        self.home = running.home
        self.folder = folder
        self.rows: list[tuple[str, list[Row]]] = []
        self._last = 0

    def section(self, title: str) -> None:
        self.rows.append((title, []))
        self._entries(None)

    def add(self, what: str, event: str | None, act: Callable[[], str]) -> None:
        """Do it, and note what came of it. ``event`` is what the audit trail must say, None for
        nothing."""
        seen = act()
        entries = self._entries(event)
        self.rows[-1][1].append(Row(what, seen, " ".join(_line(entry) for entry in entries)))

    def _entries(self, event: str | None) -> list[AuditEntry]:
        """What was refused since the last look; ``event`` is awaited."""
        found: list[AuditEntry] = []
        marks = 0

        def there() -> bool:
            nonlocal marks
            marks += 1
            mark = os.urandom(8).hex()
            self.running.look(lambda manager: manager.trail.ok("mark", mark, "", mark))
            self.home.audit("mark", mark)
            entries = self.home.store(lambda store: store.audit_entries(1000, after=self._last))
            found[:] = [entry for entry in entries if entry.outcome != "ok"]
            return event is None or event in [entry.event for entry in found]

        until(there)
        if found:
            self._last = max(entry.id for entry in found)
        return found

    # who asks

    def link(self, name: str, credentials: Credentials | None = None) -> PahoDevice:
        device = PahoDevice(self.running, name, credentials or self.home.device(name))
        assert not device.connect().is_failure
        device.register()
        return device

    def est(self, credentials: Credentials | None = None) -> EstClient:
        return EstClient(self.home, self.running.manager.est_port, credentials)

    def token(self, name: str) -> tuple[str, str]:
        secret = new_token()
        expires = int(time.time()) + 3600
        self.home.store(
            lambda store: store.add_device(
                name, token_hash=token_hash(secret), token_expires_at=expires, again=True
            )
        )
        return name, secret

    def factory(self, name: str) -> Credentials:
        credentials = self.home.factory(name)
        certificate = x509.load_der_x509_certificate(credentials.der)
        identity = FactoryIdentity(
            fingerprint(certificate), serial_text(certificate), name, 2**40, int(time.time())
        )
        self.home.store(lambda store: store.add_device(name, factory=identity, again=True))
        return credentials

    def settings(self, **changes: str) -> None:
        """Change settings of the running manager."""
        path = self.home.folder / FILE_NAME
        text = path.read_text()
        for key, value in changes.items():
            text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
            assert count == 1, key
        path.write_text(text)
        self.running.look(lambda manager: manager.reconfigure())


def _line(entry: AuditEntry) -> str:
    fields = {
        key: value
        for key, value in sorted(dict(entry.fields).items())
        if key not in ("request", "session", "link", "serial")
    }
    # What differs from run to run: serials, keys, identifiers, times and ports.
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "…", entry.detail)
    text = re.sub(r"(?<=PKCS#10: ).*", "…", text)  # in the words of a library
    text = re.sub(r"127\.0\.0\.1:\d+", "…", text)
    text = re.sub(r"(?<=was used at )\d+", "…", text)
    text = re.sub(r"(?<=token )\d+", "…", text)
    told = ", ".join(f"{key}={value}" for key, value in fields.items() if value != "")
    parts = [f"`{entry.event}`", entry.name, text, f"[{told}]" if told else ""]
    return " ".join(part for part in parts if part).replace("|", "\\|")


# -- links -------------------------------------------------------------------------------------


def _alert(stage: Stage, credentials: Credentials | None, version: ssl.TLSVersion) -> str:
    try:
        with stage.running.raw(credentials, version=version) as client:
            client.socket.settimeout(20)
            client.socket.sendall(mqtt.connect("pump-7", 60))
            client.socket.recv(100)
    except ssl.SSLError as error:
        words = str(error.reason).lower().replace("tlsv13_alert_", "").replace("tlsv1_alert_", "")
        words = words.replace("sslv3_alert_", "")
        return f"TLS alert `{words}`"
    return "the connection just ended"


def _links(stage: Stage) -> None:
    stage.section("Connections and links")
    home = stage.home
    v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    refused = "connection-refused"
    home.add("pump-7", "valve-2", "third", "away")
    stage.add("no certificate, TLS 1.2", refused, lambda: _alert(stage, None, v12))
    stage.add("no certificate, TLS 1.3", refused, lambda: _alert(stage, None, v13))
    for what, credentials in (
        ("a certificate of another CA", home.stranger("pump-7")),
        ("a certificate that names our CA and is not signed by it", home.forged("pump-7")),
        ("a certificate that has expired", home.expired("pump-7")),
        ("a factory certificate, which is for enrolment only", home.factory("pump-7")),
    ):
        stage.add(what, refused, lambda credentials=credentials: _alert(stage, credentials, v12))
    revoked = home.device("lost")
    home.store(lambda store: store.life.revoke("keyCompromise", device="lost"))
    until(lambda: stage.running.look(lambda manager: len(manager.changes._serials)) == 1)
    stage.add("a revoked certificate", refused, lambda: _alert(stage, revoked, v12))

    def connack(credentials: Credentials, client_id: str, **arguments: Any) -> str:
        with stage.running.raw(credentials) as client:
            return f"CONNACK {client.connect(client_id, **arguments)}, closed"

    pump = home.device("pump-7")
    unknown = home.device("pump-7", known=False)
    stage.add(
        "a certificate of our CA that is in no record",
        "unknown-certificate",
        lambda: connack(unknown, "pump-7"),
    )
    stage.add(
        "another device's client identifier",
        "client-id-mismatch",
        lambda: connack(pump, "valve-2"),
    )
    will = ("kf/u/pump-7", b"gone", 0, False)
    stage.add("a will", "will-refused", lambda: connack(pump, "pump-7", will=will))

    def after(*packets: bytes, connect: bool = True) -> str:
        with stage.running.raw(pump) as client:
            if connect:
                assert client.connect("pump-7") == 0
            for packet in packets:
                client.send(packet)
            answer = client.packet()
            if answer is None:
                return "closed, not acknowledged"
            assert answer[0] == mqtt.TYPE_SUBACK
            return f"SUBACK {answer[2][0]:#x}"

    for what, event, connect, packet in (
        ("PUBLISH to another device's topic", "topic-refused", True,
         mqtt.publish("kf/u/valve-2", b"x", 1, 1)),
        ("SUBSCRIBE to another device's topic", "topic-refused", True,
         mqtt.subscribe(1, [("kf/d/valve-2", 1)])),
        ("SUBSCRIBE to everything", "topic-refused", True, mqtt.subscribe(1, [("#", 1)])),
        ("a topic with a path in it", "topic-refused", True,
         mqtt.publish("kf/u/../../etc/passwd", b"x")),
        ("a topic with SQL in it", "topic-refused", True,
         mqtt.publish("kf/u/pump-7'; DROP TABLE devices; --", b"x")),
        ("a retained message", "retain-refused", True,
         mqtt.publish("kf/u/pump-7", b"x", 1, 1, retain=True)),
        ("QoS 2, which is not offered", "mqtt-violation", True,
         b"\x34\x0c\x00\x06kf/u/a\x00\x01xx"),
        ("a packet that is larger than the limit", "mqtt-violation", True,
         b"\x30\xff\xff\xff\x7f"),
        ("a second CONNECT", "mqtt-violation", True, mqtt.connect("pump-7", 60)),
        ("something else before CONNECT", "mqtt-violation", False, mqtt.PINGREQ),
    ):  # fmt: skip
        stage.add(
            what, event, lambda packet=packet, connect=connect: after(packet, connect=connect)
        )

    def slow() -> str:
        with stage.running.raw(pump) as client:
            assert client.closed(30)
        return "closed"

    def hurry(manager: Any) -> None:
        manager._endpoint.settings = replace(manager._endpoint.settings, connect_timeout=2.0)

    stage.running.look(hurry)
    stage.add("a connection that never says CONNECT (10 s; here 2)", "connect-timeout", slow)

    def half_open() -> str:
        with socket.create_connection(("127.0.0.1", stage.running.port), 20) as plain:
            plain.settimeout(30)
            plain.sendall(b"\x16\x03\x01")
            with contextlib.suppress(ConnectionResetError):
                assert plain.recv(100) == b""
        return "closed"

    stage.add("a TLS handshake that never ends", refused, half_open)


# -- signalling --------------------------------------------------------------------------------


def _error(message: dict[int, Any]) -> str:
    assert message[sig.TYPE] == sig.ERROR, message
    return f"`{name_of(message[sig.ERROR_CODE])}`: {message[sig.TEXT]}"


def _signalling(stage: Stage) -> None:
    stage.section("Messages")
    home, running = stage.home, stage.running
    home.allow("pump-7", "valve-2")
    for name in ("away", "nobody", "gone"):
        home.allow("pump-7", name)
    home.add("gone")
    home.store(lambda store: store.life.revoke("cessationOfOperation", device="gone", remove=True))
    home.allow("pump-7", "gone")
    until(
        lambda: running.look(
            lambda m: m.relay.rules.allows("pump-7", "gone") and "gone" in m.relay.removed
        )
    )
    unregistered = PahoDevice(running, "third", home.device("third"))
    with stage.link("pump-7") as pump, stage.link("valve-2") as valve, unregistered as third:
        assert not third.connect().is_failure

        def say(device: PahoDevice, message: dict[int, Any]) -> Callable[[], str]:
            def act() -> str:
                device.send(message)
                return _error(device.receive())

            return act

        def connect(to: str, **more: Any) -> dict[int, Any]:
            message = {sig.TYPE: sig.CONNECT, sig.TO: to, sig.SESSION: os.urandom(16),
                       sig.PROFILE: 0, sig.MESSAGE_1: b"1"}  # fmt: skip
            return message | more.get("fields", {})

        leg = ["203.0.113.9:1", sig.TRANSPORT_MQTT_TLS, True]
        stage.add("anything before REGISTER", None, say(third, connect("valve-2")))
        third.register()
        forged = connect("valve-2") | {sig.FROM: "pump-7"}
        stage.add("another device's name in `from`", "identity-mismatch", say(third, forged))
        stage.add(
            "a plain message in another device's name",
            "identity-mismatch",
            say(
                third,
                {
                    sig.TYPE: sig.SEND,
                    sig.TO: "valve-2",
                    sig.FROM: "pump-7",
                    sig.ID: 8,
                    sig.DATA: b"open",
                },
            ),
        )
        assert valve.nothing(), "nothing was relayed"
        two = connect("valve-2") | {sig.ROUTE: [leg, leg]}
        stage.add("two legs, where a device states its own", "bad-route", say(pump, two))

        def marked() -> str:
            pump.send(connect("valve-2") | {sig.ROUTE: [leg]})
            first = valve.receive(sig.CONNECT)[sig.ROUTE][0]
            assert first == [*leg, False]
            return "relayed; the peer sees the leg as not verified"

        stage.add("a false first leg, mode `report`", "route-mismatch", marked)
        stage.settings(route_check='"strict"')
        false = connect("valve-2") | {sig.ROUTE: [leg]}
        until(lambda: running.look(lambda m: m.relay.settings.route_mode) == "strict")
        stage.add("a false first leg, mode `strict`", "bad-route", say(pump, false))
        stage.add("no leg at all, mode `strict`", "bad-route", say(pump, connect("valve-2")))
        stage.settings(route_check='"report"')
        stage.add("a session that no rule allows", "access-denied", say(third, connect("pump-7")))
        stage.add(
            "the same for a device that does not exist: who may not ask does not learn that",
            "access-denied",
            say(third, connect("nobody")),
        )
        stage.add(
            "a plain message that no rule allows",
            "access-denied",
            say(third, {sig.TYPE: sig.SEND, sig.TO: "pump-7", sig.ID: 9, sig.DATA: b""}),
        )
        stage.add(
            "a look-up that no rule allows",
            "access-denied",
            say(third, {sig.TYPE: sig.RESOLVE, sig.NAME: "pump-7"}),
        )
        stage.add("a name that is not known", None, say(pump, connect("nobody")))
        stage.add("a device that is offline", None, say(pump, connect("away")))
        stage.add("a device that was removed", None, say(pump, connect("gone")))
        rpk = connect("valve-2") | {sig.PROFILE: sig.PROFILE_RPK}
        stage.add("the profile rpk, of a device without such a key", "unsupported", say(pump, rpk))
        stage.add(
            "a record of a session that there is not",
            None,
            say(
                pump,
                {
                    sig.TYPE: sig.MESSAGE,
                    sig.TO: "valve-2",
                    sig.SESSION: bytes(16),
                    sig.RECORD: b"x",
                },
            ),
        )

        def publish(payload: bytes) -> Callable[[], str]:
            def act() -> str:
                pump.publish(payload)
                return _error(pump.receive())

            return act

        stage.add("bytes that are not CBOR", "malformed", publish(b"\xff\xff"))
        stage.add("CBOR that is not deterministic", "malformed", publish(b"\xa1\x18\x01\x05"))
        stage.add("a type that there is not", "unsupported", publish(b"\xa1\x01\x18\x63"))
        stage.add(
            "a type that only the manager sends",
            "malformed",
            say(pump, {sig.TYPE: sig.RESOLVED, sig.TO: "valve-2"}),
        )
        stage.add("more than 16 KiB", None, publish(bytes(sig.MAX_MESSAGE + 1)))

        def flood() -> str:
            for number in range(17):
                pump.send({sig.TYPE: sig.SEND, sig.TO: "valve-2", sig.ID: 100 + number,
                           sig.DATA: b"x"})  # fmt: skip
            return _error(pump.receive())

        stage.add("the 17th plain message that the peer has not reported on", None, flood)
        for _ in range(16):
            valve.receive(sig.SEND)

        def sessions() -> str:
            for _ in range(6):  # its share is a quarter of 16, and one was begun above
                pump.send(connect("valve-2"))
            return _error(pump.receive())

        stage.add("more sessions with one peer than its share", None, sessions)


# -- certificates ------------------------------------------------------------------------------


def _est_line(answer: Any) -> str:
    return f"{answer.status} `{answer.body.decode().strip()}`"


def _certificates(stage: Stage) -> None:
    stage.section("Certificates, by EST and over the link")
    home = stage.home
    refused = "enrolment-refused"
    basic = stage.token("token-1")
    key = new_key()
    stage.add("no credential", refused, lambda: _est_line(stage.est().enroll(csr())))
    wrong = ("token-1", new_token())
    stage.add("a wrong token", refused, lambda: _est_line(stage.est().enroll(csr(), basic=wrong)))
    stage.add(
        "a user name with SQL in it",
        refused,
        lambda: _est_line(stage.est().enroll(csr(), basic=("' OR 1=1 --", basic[1]))),
    )
    stage.add(
        "a token of another device",
        refused,
        lambda: _est_line(stage.est().enroll(csr(), basic=("pump-7", basic[1]))),
    )
    for what, der in (
        ("another device's name in the request", csr(key, "pump-8")),
        ("a signature that does not verify", spoiled(csr(key))),
        ("a key that is not on P-256", csr(ec.generate_private_key(ec.SECP384R1()))),
        ("what is no request", b"rubbish"),
    ):
        stage.add(what, refused, lambda der=der: _est_line(stage.est().enroll(der, basic=basic)))
    assert stage.est().enroll(csr(key), basic=basic).certificates, "none of it cost the token"
    stage.add(
        "a token a second time",
        refused,
        lambda: _est_line(stage.est().enroll(csr(), basic=basic)),
    )
    pump = home.device("pump-7")
    other = stage.token("token-2")
    stage.add(
        "another device's key",
        refused,
        lambda: _est_line(stage.est().enroll(csr(key_of(pump)), basic=other)),
    )
    withdrawn = home.factory("pump-7")
    stage.add(
        "a factory identity that is not on record",
        refused,
        lambda: _est_line(stage.est(withdrawn).enroll(csr())),
    )
    known = stage.factory("fac-1")
    stage.add(
        "simplereenroll with a factory certificate",
        refused,
        lambda: _est_line(stage.est(known).enroll(csr(), again=True)),
    )
    stage.add(
        "the factory's own key",
        refused,
        lambda: _est_line(stage.est(known).enroll(csr(key_of(known)))),
    )
    stage.add(
        "simpleenroll with a device's certificate",
        refused,
        lambda: _est_line(stage.est(pump).enroll(csr())),
    )
    strange = home.device("pump-7", known=False)
    stage.add(
        "a certificate of our CA that is in no record",
        refused,
        lambda: _est_line(stage.est(strange).enroll(csr(), again=True)),
    )
    lost = home.device("lost-2")
    home.store(lambda store: store.life.revoke("keyCompromise", device="lost-2"))
    stage.add(
        "a revoked certificate",
        refused,
        lambda: _est_line(stage.est(lost).enroll(csr(key_of(lost)), again=True)),
    )
    headers = {"Content-Type": PKCS10}
    stage.add(
        "more than 16 KiB",
        refused,
        lambda: _est_line(stage.est(pump).request("simplereenroll", b"A" * 20000, headers=headers)),
    )
    stage.add(
        "another content type",
        refused,
        lambda: _est_line(
            stage.est(pump).request("simplereenroll", b"{}", headers={"Content-Type": "a/json"})
        ),
    )
    stage.add(
        "a key made by the server",
        refused,
        lambda: _est_line(stage.est(pump).request("serverkeygen", b"")),
    )
    stage.add(
        "a path that there is not",
        None,
        lambda: _est_line(stage.est().request("../../etc/passwd")),
    )
    hook = stage.folder / "hook.sh"
    hook.write_text("#!/bin/sh\necho not in the inventory\nexit 1\n")
    hook.chmod(0o755)
    stage.settings(hook=f'["{hook}"]')
    third = stage.token("token-3")
    ask = lambda: _est_line(stage.est().enroll(csr(), basic=third))  # noqa: E731
    stage.add("the hook says no", refused, ask)
    hook.write_text("#!/bin/sh\nexit 2\n")
    stage.add("the hook fails", refused, ask)
    stage.settings(hook="[]", admission='"approve"')
    request = csr()
    ask = lambda: _est_line(stage.est().enroll(request, basic=third))  # noqa: E731
    stage.add("a request that a person has not looked at yet", None, ask)
    (approval,) = home.store(lambda store: store.approvals.all())
    home.store(lambda store: store.approvals.decide(str(approval.id), False))
    stage.add("a request that a person denied", refused, ask)
    stage.settings(admission='"automatic"')
    with stage.link("pump-7", pump) as link:

        def certify(der: bytes) -> Callable[[], str]:
            def act() -> str:
                link.send({sig.TYPE: sig.CERTIFY, sig.REQUEST: der})
                return _error(link.receive())

            return act

        stage.add("over the link: another name", refused, certify(csr(name="pump-8")))
        stage.add("over the link: another device's key", refused, certify(csr(key)))
        stage.add("over the link: what is no request", refused, certify(b"rubbish"))
    stage.settings(per_device_per_hour="1")
    stage.add(
        "more certificates than a device may have in an hour",
        refused,
        lambda: _est_line(stage.est(pump).enroll(csr(key_of(pump)), again=True)),
    )
    stage.settings(failures_per_minute="1")
    stage.add(
        "more failures than an address may have in a minute: cheap, and not written down",
        None,
        lambda: re.sub(r"in \d+ s", "in … s", _est_line(stage.est().enroll(csr()))),
    )
    stage.settings(failures_per_minute="1000", per_device_per_hour="1000")


# -- the admin API -----------------------------------------------------------------------------


def _api(stage: Stage) -> None:
    stage.section("The admin API over TCP")
    port = stage.running.manager.api_port
    secret = "kfa_" + "A" * 43
    now = int(time.time())
    token = ApiToken("viewer", api_token_hash(secret), ("devices:read",), now, now + 60, "test")
    stage.home.store(lambda store: store.api_tokens.add(token))

    def ask(method: str, path: str, token: str = "") -> str:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(trust_env=False) as client:
            answer = client.request(method, f"http://127.0.0.1:{port}{path}", headers=headers)
        said = answer.json()
        return f"{answer.status_code} `{said['title']}`: {said['detail']}"

    refused = "api-refused"
    stage.add("no token", refused, lambda: ask("GET", "/v1/devices"))
    stage.add("a token that there is not", refused, lambda: ask("GET", "/v1/links", "kfa_x"))
    stage.add(
        "a token without the scope",
        refused,
        lambda: ask("DELETE", "/v1/devices/pump-7", secret),
    )


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A manager whose settings let everything be seen."""
    home = Home(
        folder / "home",
        failures_per_minute=1000,
        enrolments_per_hour=1000,
        handshake_seconds=2,
        max_sessions=16,
        api_listen="127.0.0.1:0",
    )
    usual = writer._INTERVAL
    writer._INTERVAL = 0.02  # seconds: each row waits for its entry
    try:
        with home.running() as running:
            yield Stage(running, folder)
    finally:
        writer._INTERVAL = usual


def page(folder: Path) -> str:
    """The text of docs/refusals.md, by what happens now."""
    text = _HEAD
    with stage(folder) as made:
        for part in (_links, _signalling, _certificates, _api):
            part(made)
        for title, rows in made.rows:
            text += f"\n## {title}\n\n| what is refused | its sender sees | the audit trail has |\n"
            text += "|---|---|---|\n"
            for row in rows:
                text += f"| {row.what} | {row.seen} | {row.audit or '—'} |\n"
    return text


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory(prefix="keyferry-refusals-") as folder:
        text = page(Path(folder))
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE}: {text.count(chr(10))} lines", file=sys.stderr)


if __name__ == "__main__":
    main()
