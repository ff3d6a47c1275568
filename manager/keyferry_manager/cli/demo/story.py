"""What happens in the demo, in order, and what is checked of it."""

import asyncio
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from keyferry_core import rpk, signalling
from keyferry_hil import interpreter
from keyferry_hil.virtual_device import Application, DeviceError, Event, VirtualDevice
from keyferry_manager.cli.demo.evidence import Entry, Haystack, private_key_of
from keyferry_manager.cli.demo.screen import Screen
from keyferry_manager.cli.demo.stage import HEAPS, REALM, Stage

INITIATOR = "gauge-2"
RESPONDER = "pump-7"
STRANGER = "valve-9"
# Seconds that anything may take on a slow machine.
PATIENCE = 30.0

# What --carrier says of the one who asks and of its peer, where they differ.
_CARRIERS = {"mixed": ("mqtt", "sip")}

_NEVER_SEEN: Entry = {"checks": [], "outcome": "never seen", "sizes": {}, "octets": 0, "sent": ""}
# What the manager's steps mean (keyferry_manager.relay.steps).
_STEPS = {
    "name": "'from' is the name that the link's certificate proves",
    "registered": "the sender is registered on this link",
    "route": "the stated route against the one seen",
    "policy": "a rule allows it",
    "known": "the name is known",
    "peer": "the peer is online",
    "profile": "what the profile needs can be delivered",
    "new_session": "a free session identifier, and room",
    "session": "the session is theirs",
    "facts": "what the manager knows first-hand",
    "unchanged": "the bytes",
    "deliver": "handed to the peer's link",
    "offer": "session",
    "establish": "session",
    "count": "session",
}


async def play(
    *,
    records: int,
    keep: bool,
    profile: str,
    carrier: str,
    as_json: bool,
    application: Application | None = None,
) -> bool:
    """The whole demo. True when every check held; cleans up however it ends."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    interpreter.command()  # says at once if there is none
    screen = Screen(as_json)
    async with Stage(application) as stage:
        try:
            carriers = _CARRIERS.get(carrier, (carrier, carrier))
            await _Story(stage, screen, records, profile, carriers).tell()
        except DeviceError as error:
            screen.check("both devices go on to the end", False, str(error))
        screen.end()
        if keep:
            await _look_around(stage, screen)
    return screen.held


async def _look_around(stage: Stage, screen: Screen) -> None:
    screen.note("")
    screen.note("It runs on. In another terminal:")
    for command in ("device list", f"device show {INITIATOR}", "sessions", "audit"):
        screen.note(f"  keyferry {command} --home {stage.home}")
    screen.note(f"  tail -f {stage.folder / 'trace.jsonl'}      all that the manager sees")
    screen.note("Ctrl-C ends it and removes everything.")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass  # Ctrl-C is how --keep ends


class _Story:
    def __init__(
        self,
        stage: Stage,
        screen: Screen,
        records: int,
        profile: str,
        carriers: tuple[str, str],
    ) -> None:
        self._stage = stage
        self._screen = screen
        self._records = records
        self._profile = profile
        self._carriers = carriers
        self._heaps = " and ".join(dict.fromkeys(HEAPS[carrier] for carrier in carriers))
        self._plaintexts: list[str] = []
        self._certificates: dict[str, x509.Certificate] = {}
        self._agreement: dict[str, bytes] = {}

    async def tell(self) -> None:
        screen = self._screen
        with screen.phase("A manager"):
            await self._set_up()
        with screen.phase("Two devices enrol, over mutual TLS"):
            for device, carrier in zip(
                (self._initiator, self._responder), self._carriers, strict=True
            ):
                await self._enrol(device, carrier)
            await self._listed()
        with screen.phase("What no rule allows is refused"):
            await self._denied()
        with screen.phase(f"{INITIATOR} asks for {RESPONDER}: keys through the manager"):
            await self._keys()
            if self._profile == "rpk":
                await self._agreement_keys()
        with screen.phase(f"{self._records} records each way"):
            await self._exchange()
        with screen.phase("What the manager saw"):
            await self._evidence()

    # -- the manager --

    async def _set_up(self) -> None:
        stage, screen = self._stage, self._screen
        await stage.make_home()
        screen.say("manager", f"keyferry init: root, issuing and factory CA for {REALM}")
        await stage.serve()
        ports = {name: stage.ready[name] for name in ("mqtt_port", "sip_port", "est_port")}
        screen.say(
            "manager",
            "keyferry serve: on 127.0.0.1, over TLS, MQTT on {mqtt_port}, SIP on {sip_port}, "
            "EST on {est_port}".format(**ports),
            **ports,
        )
        self._initiator, self._responder = await stage.add_pair(
            INITIATOR, RESPONDER, self._profile, self._carriers
        )
        screen.say("manager", f"keyferry allow {INITIATOR} {RESPONDER}: this one direction only")
        screen.say(
            "manager",
            f"keyferry device add --factory, for {INITIATOR} and for {RESPONDER}",
        )
        screen.say(
            "host",
            f"two boards, each a MicroPython process with {self._heaps} of heap, its own flash and "
            "its own factory identity",
        )

    # -- enrolment --

    async def _enrol(self, device: VirtualDevice, carrier: str) -> None:
        screen, name = self._screen, device.name
        began = time.monotonic()
        await device.start()
        event = await device.wait_for("boot", timeout=PATIENCE)
        screen.say(name, f"boots MicroPython: {_kib(event['free'])} of heap free")
        await device.wait_for("enrol-start", by="factory", timeout=PATIENCE)
        event = await device.wait_for("key-made", timeout=PATIENCE)
        screen.say(name, f"makes its own key pair on the device, on {event['curve']}")
        event = await device.wait_for("certificate-request", timeout=PATIENCE)
        size = event["bytes"]
        screen.say(name, f"signs a certificate request, {size} bytes (PKCS#10)", bytes=size)
        event = await device.wait_for("enrolled", timeout=PATIENCE)
        serial, until = event["serial"], _day(event["not_after"])
        screen.say(
            name,
            f"enrolled by EST, admitted by its factory certificate: sip:{name}@{REALM}, "
            f"serial {serial}, until {until}",
            serial=serial,
            not_after=event["not_after"],
        )
        await device.wait_for("link-up", timeout=PATIENCE)
        screen.say(name, f"link up: {carrier.upper()} over mutual TLS with the new certificate")
        event = await device.wait_for("registered", timeout=PATIENCE)
        address = event["seen"]
        screen.say(name, f"registered: {name} is at {address}", address=address)
        await device.wait_for("ready", timeout=PATIENCE)
        took = time.monotonic() - began
        screen.say(name, f"ready, {took:.2f} s after power-on", seconds=round(took, 3))

    async def _listed(self) -> None:
        listed = await self._stage.keyferry("device", "list", "--home", str(self._stage.home))
        known = {item["name"]: item for item in listed}
        same = [
            known[device.name]["state"] == "enrolled"
            and _same_serial(known[device.name]["serial"], _last(device, "enrolled")["serial"])
            for device in (self._initiator, self._responder)
        ]
        self._screen.check(
            "keyferry device list has both, with the serials that the devices say", all(same)
        )

    # -- access --

    async def _denied(self) -> None:
        screen, device = self._screen, self._responder
        for name, why in (
            (INITIATOR, f"the rule is from {INITIATOR} to {RESPONDER}, not back"),
            (STRANGER, "no rule, and so not even a word on whether it exists"),
        ):
            after = len(self._stage.trace.entries)
            await device.send(do="connect", to=name)
            event = await device.wait_for("connect-failed", peer=name, timeout=PATIENCE)
            screen.say(device.name, f"asks for {name}, and is told: {event['text']}")
            entry = await self._seen(
                lambda entry, name=name: entry["type"] == "connect" and entry["to"] == name, after
            )
            self._show_checks(entry)
            screen.check(
                f"{device.name} may not ask for {name}",
                event["error"] == "access-denied" and entry["outcome"] == "access-denied",
                why,
            )
        reached = [event for event in self._initiator.events if event["event"] == "message-1"]
        screen.check(f"nothing of it reached {INITIATOR}", not reached)

    # -- key exchange --

    async def _keys(self) -> None:
        screen, a, b = self._screen, self._initiator, self._responder
        after = len(self._stage.trace.entries)
        await a.send(do="connect", to=b.name)
        sizes = []
        for number, kind, sender, receiver in (
            (1, "connect", a, b),
            (2, "accept", b, a),
            (3, "message", a, b),
        ):
            event = await sender.wait_for(f"message-{number}", sent=True, timeout=PATIENCE)
            size = event["bytes"]
            sizes.append(size)
            screen.say(
                sender.name,
                f"sends message_{number}, {size} bytes (EDHOC, RFC 9528)",
                message=number,
                bytes=size,
            )
            entry = await self._seen(
                lambda entry, kind=kind, sender=sender: (
                    entry["type"] == kind and entry["link"] == sender.name
                ),
                after,
            )
            self._show_checks(entry)
            screen.check(
                f"the manager's checks of '{kind}' passed, and it was relayed",
                entry["outcome"] == "relayed" and entry["sizes"].get(f"message_{number}") == size,
                f"{entry['octets']} bytes in, {len(entry['sent']) // 2} out",
            )
            await receiver.wait_for(f"message-{number}", sent=False, bytes=size, timeout=PATIENCE)
        event_a = await a.wait_for("connected", peer=b.name, timeout=PATIENCE)
        event_b = await b.wait_for("accepted", peer=a.name, timeout=PATIENCE)
        fingerprints = [event_a["fingerprint"], event_b["fingerprint"]]
        for device, fingerprint in zip((a, b), fingerprints, strict=True):
            screen.say(device.name, f"session fingerprint {fingerprint}", fingerprint=fingerprint)
        screen.check(
            "both devices derived the same fingerprint (EDHOC_Exporter)",
            len(set(fingerprints)) == 1 and len(fingerprints[0]) == 32,
            f"message_1, 2, 3: {' + '.join(map(str, sizes))} = {sum(sizes)} bytes",
        )

    async def _agreement_keys(self) -> None:
        """What the profile rpk is about: keys of their own, which the certificates' endorsed."""
        delivered = []
        for device, kind in ((self._initiator, "connect"), (self._responder, "accept")):
            entry = await self._seen(
                lambda entry, device=device, kind=kind: (
                    entry["type"] == kind and entry["link"] == device.name and entry["sent"]
                ),
                0,
            )
            message = cbor2.loads(bytes.fromhex(entry["sent"])) if entry["sent"] else {}
            endorsed = message.get(signalling.PUBLIC_KEY, b"")
            name, credential, _, _ = rpk.parse_endorsed(endorsed)
            self._agreement[name] = credential.public
            key_id = rpk.key_id(credential.public).hex()
            made = _last(device, "agreement-key-made")["key_id"]
            self._screen.say(
                "manager",
                f"delivers the agreement key of {name}, {key_id}, endorsed by its certificate's "
                f"key: {len(endorsed)} bytes",
                key_id=key_id,
            )
            delivered.append((name, key_id) == (device.name, made))
        self._screen.check(
            "each device was handed the key that the other one made on its board",
            delivered == [True, True] and len(self._agreement) == 2,
        )

    # -- records --

    async def _exchange(self) -> None:
        a, b = self._initiator, self._responder
        for sender, receiver in ((a, b), (b, a)):
            began = time.monotonic()
            sent = await self._send_all(sender, receiver)
            received = await self._received(receiver, sender.name)
            took = time.monotonic() - began
            self._plaintexts += sent
            self._screen.say(
                sender.name,
                f"sent {len(sent)} records to {receiver.name}, the last one: {sent[-1]}",
                seconds=round(took, 3),
            )
            self._screen.check(
                f"{receiver.name} decrypted all {self._records}, in order, byte for byte",
                len(sent) == self._records == len(set(sent)) and received == sent,
                f"{took:.2f} s, {len(sent) / took:.0f} a second",
            )

    async def _send_all(self, sender: VirtualDevice, receiver: VirtualDevice) -> list[str]:
        await sender.send(do="send", to=receiver.name, count=self._records)
        return await self._collect(sender, "record-sent", receiver.name)

    async def _received(self, receiver: VirtualDevice, sender: str) -> list[str]:
        return await self._collect(receiver, "record-received", sender)

    async def _collect(self, device: VirtualDevice, event: str, peer: str) -> list[str]:
        """The data of the first ``records`` such events of a device."""
        found: list[str] = []
        position = 0
        while len(found) < self._records:
            next_one = await device.wait_for(event, after=position, peer=peer, timeout=PATIENCE)
            position = device.events.index(next_one, position) + 1
            found.append(next_one["data"])
        return found

    # -- evidence --

    async def _evidence(self) -> None:
        stage, screen, a, b = self._stage, self._screen, self._initiator, self._responder
        trace = stage.trace
        trace.poll()
        relayed = [
            entry
            for entry in trace.entries
            if entry["type"] == "message" and "record" in entry["sizes"]
        ]
        if relayed:
            entry = relayed[-1]
            screen.say(
                "manager",
                f"relayed {len(relayed)} records; of the last: from {entry['from']} to "
                f"{entry['to']}, {entry['sizes']['record']} bytes, {entry['seen'][-64:]}",
            )
        heaps = [await self._memory(device) for device in (a, b)]
        keys = await self._private_keys()
        hay = await asyncio.to_thread(Haystack, trace, [stage.home, stage.log, trace.path])
        screen.say(
            "host",
            f"searching all {hay.octets} bytes that the manager received, passed on, logged or "
            "keeps on disk",
        )
        screen.check(
            "the search finds what must be there: both devices' certificates",
            all(
                hay.holds(certificate.public_bytes(Encoding.DER))
                for certificate in self._certificates.values()
            )
            and len(self._certificates) == 2,
        )
        screen.check(
            f"the manager relayed {2 * self._records} records and saw none of the plaintexts",
            len(relayed) == len(self._plaintexts) == 2 * self._records
            and not any(hay.holds(text.encode()) for text in self._plaintexts),
            "ciphertext and sizes only",
        )
        screen.check(
            "the private keys, enrolled and factory, are on the devices' own flash only",
            len(keys) == (6 if self._profile == "rpk" else 4)
            and not any(hay.holds(key) for key in keys),
        )
        screen.check(
            f"the whole agent, with a link and a session, fits {self._heaps} of heap",
            all(free > 0 for free in heaps),
            ", ".join(
                f"{device.name}: {_kib(free)} free"
                for device, free in zip((a, b), heaps, strict=True)
            ),
        )
        screen.check("the manager and both devices still run", self._all_run())

    async def _memory(self, device: VirtualDevice) -> int:
        await device.send(do="memory")
        event = await device.wait_for("memory", timeout=PATIENCE)
        return event["free"]

    async def _private_keys(self) -> list[bytes]:
        """Of both devices: the factory's, the one that the enrolled certificate is for, and with
        the profile rpk the one for agreement."""
        keys = []
        for device in (self._initiator, self._responder):
            certificate = self._certificate_of(device.name)
            if certificate is None:
                continue
            self._certificates[device.name] = certificate
            files = device.files()
            wanted: list[object] = [certificate.public_key()]
            if device.name in self._agreement:
                encoded = self._agreement[device.name]
                wanted.append(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), encoded))
            for public in wanted:
                key = await asyncio.to_thread(private_key_of, public, files.values())
                if key is not None:
                    keys.append(key)
            factory = load_der_private_key(files["factory.key"], None)
            if isinstance(factory, ec.EllipticCurvePrivateKey):
                keys.append(factory.private_numbers().private_value.to_bytes(32, "big"))
        return keys

    def _certificate_of(self, name: str) -> x509.Certificate | None:
        """As the manager handed it to the peer."""
        for entry in self._stage.trace.entries:
            if entry["link"] == name and entry["type"] in ("connect", "accept") and entry["sent"]:
                return _certificate_in(bytes.fromhex(entry["sent"]))
        return None

    def _all_run(self) -> bool:
        devices = (self._initiator, self._responder)
        return self._stage.manager_runs() and all(device.running for device in devices)

    async def _seen(self, wanted: Callable[[Entry], bool], after: int) -> Entry:
        entry = await self._stage.trace.wait_for(wanted, after=after, timeout=PATIENCE)
        return entry or _NEVER_SEEN

    def _show_checks(self, entry: Entry) -> None:
        last = len(entry["checks"]) - 1
        for position, (step, outcome) in enumerate(entry["checks"]):
            good = position < last or entry["outcome"] == "relayed"
            text = f"{_STEPS.get(step, step)}: {outcome}"
            self._screen.detail(step.replace("_", " "), text, good=good, outcome=outcome)


def _certificate_in(message: bytes) -> x509.Certificate:
    """The certificate that the manager added to a signalling message."""
    return x509.load_der_x509_certificate(cbor2.loads(message)[signalling.CREDENTIAL])


def _last(device: VirtualDevice, name: str) -> Event:
    return next(event for event in reversed(device.events) if event["event"] == name)


def _kib(octets: int) -> str:
    return f"{octets / 1024:.0f} KiB"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _same_serial(one: str, other: str) -> bool:
    return int(one, 16) == int(other, 16)
