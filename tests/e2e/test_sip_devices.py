"""Devices that speak SIP, in the real interpreter, among themselves and with one on MQTT."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from keyferry_hil.virtual_device import Application, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage
from support.trail import audited

PROGRAM = Path(__file__).parent / "on_device" / "upkeep.py"
PATIENCE = 60.0
# What a long life with both roles takes on a 64-bit board with MQTT.
LONG = "144k"

Scene = Callable[[Stage, VirtualDevice, VirtualDevice], Awaitable[None]]


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return Application.build(PROGRAM, tmp_path_factory.mktemp("upkeep"))


def play(application: Application, carriers: tuple[str, str], scene: Scene) -> None:
    """A manager and two boards of which the first may ask for the second, then the scene."""

    async def main() -> None:
        async with Stage(application) as stage:
            await stage.make_home()
            settings = stage.home / "keyferry.toml"
            text = settings.read_text()
            assert '\nroute_check = "report"\n' in text
            text = text.replace('\nroute_check = "report"\n', '\nroute_check = "strict"\n')
            settings.write_text(text)
            await stage.serve()
            # the ports that it got are the ports that it keeps, also after a restart
            for port in ("mqtt_port", "est_port", "sip_port"):
                assert f"\n{port} = 0\n" in text
                text = text.replace(f"\n{port} = 0\n", f"\n{port} = {stage.ready[port]}\n")
            settings.write_text(text)
            a, b = await stage.add_pair("gauge-2", "pump-7", carriers=carriers)
            for board, carrier in ((a, carriers[0]), (b, carriers[1])):
                settled = json.loads(board.files()["config.json"])
                assert settled.get("carrier", "mqtt") == carrier
                if carrier == "mqtt":
                    board._heap = LONG  # a long life, with both roles
                await board.start()
                await board.wait_for("ready", timeout=PATIENCE)
            await scene(stage, a, b)

    asyncio.run(main())


async def do(board: VirtualDevice, what: str, **arguments: object) -> str:
    """Give a command and wait until it is done: the name of the error, "" for none."""
    after = len(board.events)
    await board.send(do=what, **arguments)
    done = await board.wait_for("done", what=what, after=after, timeout=PATIENCE)
    return str(done["problem"]).partition(":")[0]


async def meet(a: VirtualDevice, b: VirtualDevice) -> None:
    after = len(a.events), len(b.events)
    assert await do(a, "connect", to=b.name) == "", "\n".join(map(str, b.events[-10:]))
    here = await a.wait_for("connected", after=after[0], timeout=PATIENCE)
    there = await b.wait_for("accepted", after=after[1], timeout=PATIENCE)
    assert here["fingerprint"] == there["fingerprint"]


async def talk(a: VirtualDevice, b: VirtualDevice, size: int, count: int) -> None:
    after = len(b.events)
    assert await do(a, "send", size=size, count=count) == ""
    await b.wait_for("got", after=after, size=size, timeout=PATIENCE)


@pytest.mark.parametrize("carriers", [("sip", "mqtt"), ("mqtt", "sip")], ids="-".join)
def test_a_device_on_each_carrier(application: Application, carriers: tuple[str, str]) -> None:
    async def scene(stage: Stage, a: VirtualDevice, b: VirtualDevice) -> None:
        await meet(a, b)
        for size in (0, 1, 600):
            await talk(a, b, size, 5)
            await talk(b, a, size, 5)
        assert await do(b, "listen") == ""
        after = len(b.events)
        assert await do(a, "tell", to="pump-7", size=20) == ""
        told = await b.wait_for("told", after=after, size=20, timeout=PATIENCE)
        assert (told["sender"], told["verified"]) == ("gauge-2", [True, True])
        # the manager goes and comes: both link again, and the session goes on
        marks = len(a.events), len(b.events)
        await stage._stop_manager()
        for board, mark in zip((a, b), marks, strict=True):
            await board.wait_for("link-down", after=mark, timeout=PATIENCE)
        await stage.serve()
        for board, mark in zip((a, b), marks, strict=True):
            await board.wait_for("registered", after=mark, timeout=PATIENCE)
        await talk(a, b, 50, 1)
        await talk(b, a, 51, 1)
        after = len(b.events)
        assert await do(a, "close") == ""
        over = await b.wait_for("over", after=after, timeout=PATIENCE)
        assert over["reason"] == "session-closed"
        await meet(a, b)
        assert not [event for event in a.events + b.events if event["event"] == "message-refused"]

    play(application, carriers, scene)


def test_what_devices_on_sip_are_refused(application: Application) -> None:
    async def scene(stage: Stage, a: VirtualDevice, b: VirtualDevice) -> None:
        home = ("--home", str(stage.home))

        async def rules(command: tuple[str, ...], rules: int, devices: int) -> None:
            await stage.keyferry(*command, *home)
            await stage._rules_in_force(devices=devices, rules=rules)

        # no rule: not even whether it exists
        for name in ("gauge-2", "valve-9"):
            assert await do(b, "connect", to=name) == "access-denied"
            assert await do(b, "tell", to=name, size=1) == "access-denied"
            assert await do(b, "resolve", name=name) == "access-denied"
        assert not [event for event in a.events if event["event"] == "message-1"]
        await rules(("allow", "gauge-2", "valve-9"), 2, 2)
        assert await do(a, "connect", to="valve-9") == "unknown-name"
        assert await do(a, "resolve", name="valve-9") == "unknown-name"
        assert await do(a, "resolve", name="pump-7") == ""
        resolved = await a.wait_for("resolved", timeout=PATIENCE)
        assert (resolved["online"], resolved["certified"]) == (True, True)
        assert await do(a, "tell", to="pump-7", size=20) == "declined"
        # a leg that is not ours is not believed, and a name that is not ours even less
        after = len(b.events)
        leg = ["192.0.2.1:5061", 2, True]
        assert await do(a, "lie", name="gauge-2", leg=leg) == ""
        assert await do(a, "connect", to="pump-7") == "bad-route"
        assert await do(a, "lie", name="pump-7", leg=None) == ""
        assert await do(a, "connect", to="pump-7") == "identity-mismatch"
        assert await do(a, "tell", to="pump-7", size=20) == "identity-mismatch"
        assert not [event for event in b.events[after:] if event["event"] == "message-1"]
        for event in ("identity-mismatch", "access-denied"):
            assert await audited(stage, event)
        seen = next(event["seen"] for event in a.events if event["event"] == "registered")
        assert await do(a, "lie", name="gauge-2", leg=[seen, 2, True]) == ""
        await meet(a, b)
        # a peer that is away, and one that is no more
        await b.power_cut()
        while (found := await do(a, "connect", to="pump-7")) != "peer-offline":
            assert found == "peer-gone"  # the manager has not noticed before
        after = len(a.events)
        assert await do(a, "resolve", name="pump-7") == ""
        resolved = await a.wait_for("resolved", after=after, timeout=PATIENCE)
        assert resolved["online"] is False
        await stage.keyferry("device", "remove", "pump-7", *home)
        await stage.keyferry("allow", "gauge-2", "pump-7", *home)  # its rules went with it
        for _ in range(600):
            if (found := await do(a, "connect", to="pump-7")) == "device-gone":
                break
            assert found in ("peer-offline", "access-denied")
            await asyncio.sleep(0.1)
        assert found == "device-gone"
        # a revoked one loses its link, and gets none again
        after = len(a.events)
        await stage.keyferry("device", "revoke", "gauge-2", *home)
        await a.wait_for("link-down", after=after, timeout=PATIENCE)
        after = len(a.events)
        await a.wait_for("link-down", after=after, timeout=PATIENCE)
        assert not [event for event in a.events[after:] if event["event"] == "registered"]

    play(application, ("sip", "sip"), scene)
