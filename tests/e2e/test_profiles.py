"""Profiles cert and rpk between real MicroPython devices of 128 KiB, through a real manager."""

import asyncio
from collections.abc import Awaitable, Callable

import cbor2

from keyferry_agent.store import Store
from keyferry_core import rpk
from keyferry_core import signalling as sig
from keyferry_hil.virtual_device import VirtualDevice
from keyferry_manager.cli.demo.stage import Stage

PATIENCE = 60.0
Scene = Callable[[Stage, VirtualDevice, VirtualDevice], Awaitable[None]]


def play(scene: Scene, profiles: tuple[str, str]) -> None:
    """Two enrolled devices that may ask for each other, then the scene."""

    async def main() -> None:
        async with Stage() as stage:
            await stage.make_home()
            await stage.serve()
            a = await stage.add_device("gauge-2", profiles[0])
            b = await stage.add_device("pump-7", profiles[1])
            await stage.allow("gauge-2", "pump-7")
            await stage.allow("pump-7", "gauge-2")
            await stage._rules_in_force(devices=2, rules=2)
            for device in (a, b):
                device._heap = "144k"  # both profiles and both roles in one heap
                await device.start()
                await device.wait_for("ready", timeout=PATIENCE)
            await scene(stage, a, b)
            assert stage.manager_runs()
            for device in (a, b):
                assert device.running, device._tail()

    asyncio.run(main())


async def meet(a: VirtualDevice, b: VirtualDevice, profile: str = "") -> list[int]:
    """A session from ``a`` with ten records each way; the sizes of message_1, 2 and 3."""
    marks = len(a.events), len(b.events)
    await a.send(do="connect", to=b.name, profile=profile)
    up = await a.wait_for("connected", after=marks[0], peer=b.name, timeout=PATIENCE)
    other = await b.wait_for("accepted", after=marks[1], peer=a.name, timeout=PATIENCE)
    assert up["fingerprint"] == other["fingerprint"]
    for sender, receiver, mark in ((a, b, marks[1]), (b, a, marks[0])):
        count = len(sender.events)
        await sender.send(do="send", to=receiver.name, count=10)
        for _ in range(10):
            sent = await sender.wait_for("record-sent", after=count, timeout=PATIENCE)
            count = sender.events.index(sent, count) + 1
            await receiver.wait_for(
                "record-received", after=mark, data=sent["data"], timeout=PATIENCE
            )
    await a.send(do="close", to=b.name)
    await b.wait_for("session-over", after=marks[1], timeout=PATIENCE)
    steps = [event for event in a.events[marks[0] :] if event["event"].startswith("message-")]
    return [step["bytes"] for step in steps][:3]


CERT = [37, 115 + 37, 98 + 37]
RPK = [37, 61 + 37, 44 + 37]


def test_two_devices_with_rpk() -> None:
    async def scene(stage: Stage, a: VirtualDevice, b: VirtualDevice) -> None:
        for _ in range(3):
            assert await meet(a, b) == RPK
            assert await meet(b, a) == RPK
        stage.trace.poll()
        for entry in stage.trace.entries:
            if entry["type"] in ("connect", "accept"):
                sent = cbor2.loads(bytes.fromhex(entry["sent"]))
                assert rpk.parse_endorsed(sent[sig.PUBLIC_KEY])[0] == entry["link"]
        # the key was made on the board, and is the same after a restart
        made = await a.wait_for("agreement-key-made")
        await a.power_cut()
        after = len(a.events)
        await a.start()
        await a.wait_for("ready", after=after, timeout=PATIENCE)
        assert not [e for e in a.events[after:] if e["event"] == "agreement-key-made"]
        assert await meet(a, b) == RPK
        again = cbor2.loads(bytes.fromhex(await _last_connect(stage, "gauge-2")))
        _, credential, _, _ = rpk.parse_endorsed(again[sig.PUBLIC_KEY])
        assert rpk.key_id(credential.public).hex() == made["key_id"]

    play(scene, ("rpk", "rpk"))


async def _last_connect(stage: Stage, name: str) -> str:
    stage.trace.poll()
    return [e for e in stage.trace.entries if e["type"] == "connect" and e["link"] == name][-1][
        "sent"
    ]


def test_each_device_with_a_profile_of_its_own() -> None:
    async def scene(stage: Stage, a: VirtualDevice, b: VirtualDevice) -> None:
        assert await meet(a, b) == RPK  # as it is configured
        assert await meet(b, a) == CERT
        assert await meet(a, b, "cert") == CERT  # as its application asks
        assert await meet(b, a, "rpk") == RPK
        for device in (a, b):
            await device.send(do="memory")
            assert (await device.wait_for("memory", timeout=PATIENCE))["free"] > 0

    play(scene, ("rpk", "cert"))


def test_a_device_of_an_earlier_version_gets_its_key_at_the_next_start() -> None:
    async def scene(stage: Stage, a: VirtualDevice, b: VirtualDevice) -> None:
        await b.power_cut()
        files = b.files()
        # The flash as a version without agreement keys left it: identity.1, the first write of
        # the identity; set_agreement is the write after it.
        place = stage.folder / "earlier"
        place.mkdir()
        for name, data in files.items():
            (place / name).write_bytes(data)
        store = Store(str(place))
        assert store.identity is not None
        assert store.agreement is not None
        for slot in "01":
            (place / f"identity.{slot}").unlink(missing_ok=True)
        Store(str(place)).set_identity(*store.identity)
        assert Store(str(place)).agreement is None
        b.format({path.name: path.read_bytes() for path in place.iterdir()})
        after = len(b.events)
        await b.start()
        made = await b.wait_for("agreement-key-made", after=after, timeout=PATIENCE)
        await b.wait_for("ready", after=after, timeout=PATIENCE)
        assert not [e for e in b.events[after:] if e["event"] == "enrolled"]
        assert await meet(a, b, "rpk") == RPK
        assert await meet(a, b, "cert") == CERT
        await b.power_cut()
        for name, data in b.files().items():
            (place / name).write_bytes(data)
        kept = Store(str(place)).agreement
        assert kept is not None
        _, credential, _, _ = rpk.parse_endorsed(kept[1])
        assert rpk.key_id(credential.public).hex() == made["key_id"]
        await b.start()

    play(scene, ("cert", "cert"))
