"""Whom devices believe, in the real interpreter, against whoever runs the manager and its CA.

The manager's operator makes a second board for a name: a factory identity of its own, a key of its
own, and a certificate of the realm's CA for it. Where the CA is trusted alone, that is the device.
"""

import asyncio
import json
import shutil
from pathlib import Path

from keyferry_hil.virtual_device import Event, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage
from keyferry_manager.owner import public_key

PATIENCE = 60.0
# What the judging of peers takes with both profiles and both roles in one heap: docs/keys.md.
HEAP = "144k"


def provision(device: VirtualDevice, trust: str, **files: bytes) -> None:
    """Set a device's trust mode, before its first start."""
    if device._heap == "128k":
        device._heap = HEAP
    kept = device.files()
    settings = json.loads(kept["config.json"])
    settings["trust"] = trust
    kept["config.json"] = json.dumps(settings).encode()
    device.format({**kept, **files})


async def start(*devices: VirtualDevice) -> None:
    for device in devices:
        after = len(device.events)
        await device.start()
        await device.wait_for("ready", after=after, timeout=PATIENCE)


def told(device: VirtualDevice, name: str) -> list[Event]:
    return [event for event in device.events if event["event"] == name]


async def attempt(a: VirtualDevice, b: str, profile: str = "") -> Event:
    """``connected``, or ``connect-failed`` with the error."""
    after = len(a.events)
    await a.send(do="connect", to=b, profile=profile)
    async with asyncio.timeout(PATIENCE):
        while True:
            for event in a.events[after:]:
                if event["event"] in ("connected", "connect-failed"):
                    return event
            await asyncio.sleep(0.05)


async def meet(a: VirtualDevice, b: VirtualDevice, profile: str = "") -> None:
    after = len(b.events)
    up = await attempt(a, b.name, profile)
    assert up["event"] == "connected", up
    other = await b.wait_for("accepted", after=after, peer=a.name, timeout=PATIENCE)
    assert up["fingerprint"] == other["fingerprint"]
    await a.send(do="close", to=b.name)
    await b.wait_for("session-over", after=after, timeout=PATIENCE)


async def substitute(stage: Stage, device: VirtualDevice) -> VirtualDevice:
    """Another board in the name of ``device``, which is switched off."""
    await device.power_cut()
    files = stage.folder / "second"
    ready = stage.ready
    await stage.keyferry(
        *("device", "add", device.name, "--factory", "--again", "--out", str(files)),
        *("--home", str(stage.home), "--mqtt-port", str(ready["mqtt_port"])),
        *("--est-port", str(ready["est_port"]), "--time-port", str(ready["time_port"])),
    )
    second = VirtualDevice(device.name, stage.folder / "second.flash", device.application)
    second.format({path.name: path.read_bytes() for path in files.iterdir()})
    shutil.rmtree(files)
    stage.devices.append(second)
    await start(second)
    return second


async def endorsed(stage: Stage, key: Path, *devices: VirtualDevice) -> None:
    """The owner signs for what the devices themselves say that their keys are."""
    home = ("--home", str(stage.home))
    for device in devices:
        pem, out = stage.folder / f"{device.name}.pem", stage.folder / f"{device.name}.cose"
        await stage.keyferry("certificate", "export", device.name, "--out", str(pem), *home)
        signed = await stage.keyferry(
            "owner", "endorse", str(pem), "--key", str(key), "--out", str(out)
        )
        assert signed["key"] == (await device.wait_for("peer-trust"))["own_key"]
        await stage.keyferry("device", "endorse", device.name, str(out), *home)


def test_an_owners_signature_and_a_manager_that_issues_another_certificate() -> None:
    async def main() -> None:
        async with Stage() as stage:
            await stage.make_home()
            await stage.serve()
            key = stage.folder / "owner.key"
            await stage.keyferry("owner", "new", str(key))
            point = public_key(key.with_name("owner.key.pub"))
            gauge = await stage.add_device("gauge-2")
            pump = await stage.add_device("pump-7", carrier="sip")
            plain = await stage.add_device("plain-1")  # trusts the CA alone
            for device in (gauge, pump):
                provision(device, "owner", **{"owner.pub": point})
            for pair in (("gauge-2", "pump-7"), ("pump-7", "gauge-2"), ("plain-1", "pump-7")):
                await stage.allow(*pair)
            await stage._rules_in_force(devices=3, rules=3)
            await start(gauge, pump, plain)
            assert (await attempt(gauge, "pump-7"))["error"] == "not-endorsed"
            await endorsed(stage, key, gauge, pump)
            await asyncio.sleep(1.5)  # the manager looks twice a second
            for profile in ("cert", "rpk"):
                await meet(gauge, pump, profile)
                await meet(pump, gauge, profile)
            assert (await attempt(plain, "pump-7"))["error"] == "not-endorsed"
            second = await substitute(stage, pump)
            await meet(plain, second)
            for profile in ("cert", "rpk"):
                assert (await attempt(gauge, "pump-7", profile))["error"] == "not-endorsed"
            assert stage.manager_runs()

    asyncio.run(main())


async def renew(device: VirtualDevice) -> None:
    """A new certificate with a new key, and the link on it."""
    after = len(device.events)
    await device.send(do="renew", new_key=True)
    await device.wait_for("renewed", after=after, timeout=PATIENCE)
    await device.wait_for("key-proved", after=after, timeout=PATIENCE)


def test_pinned_keys_follow_a_renewal_and_nobody_else() -> None:
    async def main() -> None:
        async with Stage() as stage:
            await stage.make_home()
            await stage.serve()
            gauge = await stage.add_device("gauge-2")
            pump = await stage.add_device("pump-7", carrier="sip")
            plain = await stage.add_device("plain-1")  # trusts the CA alone
            # In the middle of a life there is less memory for a renewal than at a start, and a SIP
            # device needs more than one on MQTT.
            pump._heap, plain._heap = "240k", "160k"
            for device in (gauge, pump):
                provision(device, "pinned")
            for pair in (("gauge-2", "pump-7"), ("pump-7", "gauge-2"), ("plain-1", "pump-7")):
                await stage.allow(*pair)
            await stage._rules_in_force(devices=3, rules=3)
            await start(gauge, pump, plain)
            await meet(gauge, pump)
            await meet(pump, gauge, "rpk")
            await meet(plain, pump)
            (first,) = told(gauge, "peer-pinned")
            assert first["key"] == (await pump.wait_for("peer-trust"))["own_key"]
            assert {event["peer"] for event in told(pump, "peer-pinned")} == {"gauge-2", "plain-1"}
            for _ in range(2):  # nobody meets the key between
                await renew(pump)
            await renew(plain)  # pins nothing itself, and its peers can follow
            await gauge.power_cut()
            await start(gauge)
            for profile in ("cert", "rpk"):
                await meet(gauge, pump, profile)
                await meet(pump, gauge, profile)
                await meet(plain, pump, profile)
            latest = told(gauge, "peer-pinned")[-1]
            assert (latest["peer"], latest["was"]) == ("pump-7", first["key"])
            assert latest["key"] == told(pump, "peer-trust")[-1]["own_key"]
            second = await substitute(stage, pump)
            await meet(plain, second)
            for profile in ("cert", "rpk"):
                assert (await attempt(gauge, "pump-7", profile))["error"] == "key-changed"
            await gauge.power_cut()
            await start(gauge)
            assert (await attempt(gauge, "pump-7"))["error"] == "key-changed"
            assert stage.manager_runs()

    asyncio.run(main())
