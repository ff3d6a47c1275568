"""Killing an agent in the middle of a session and starting it again, without the manager's help."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from keyferry_hil.virtual_device import VirtualDevice
from keyferry_manager.cli.demo.stage import Stage

PATIENCE = 60.0
Scene = Callable[[Stage, VirtualDevice, VirtualDevice], Awaitable[None]]


def play(scene: Scene, grace: int = 30) -> None:
    """Two enrolled devices with a session from the first to the second, then the scene."""

    async def main() -> None:
        async with Stage() as stage:
            await stage.make_home()
            settings = stage.home / "keyferry.toml"
            text = settings.read_text()
            assert "session_grace = 30" in text
            settings.write_text(text.replace("session_grace = 30", f"session_grace = {grace}"))
            await stage.serve()
            a, b = await stage.add_pair("gauge-2", "pump-7")
            for device in (a, b):
                await device.start()
                await device.wait_for("ready", timeout=PATIENCE)
            await meet(a, b)
            await scene(stage, a, b)
            assert stage.manager_runs()

    asyncio.run(main())


async def meet(a: VirtualDevice, b: VirtualDevice) -> str:
    """A session from ``a`` to ``b`` with a record each way; its fingerprint."""
    marks = len(a.events), len(b.events)
    await a.send(do="connect", to=b.name)
    up = await a.wait_for("connected", after=marks[0], peer=b.name, timeout=PATIENCE)
    other = await b.wait_for("accepted", after=marks[1], peer=a.name, timeout=PATIENCE)
    assert up["fingerprint"] == other["fingerprint"]
    for sender, receiver, mark in ((a, b, marks[1]), (b, a, marks[0])):
        count = len(sender.events)
        await sender.send(do="send", to=receiver.name, count=1)
        sent = await sender.wait_for("record-sent", after=count, timeout=PATIENCE)
        await receiver.wait_for("record-received", after=mark, data=sent["data"], timeout=PATIENCE)
    return up["fingerprint"]


@pytest.mark.parametrize("killed", ["responder", "initiator"])
def test_a_killed_device_comes_back_and_its_peer_is_told(killed: str) -> None:
    async def scene(stage: Stage, a: VirtualDevice, b: VirtualDevice) -> None:
        lost, peer = (b, a) if killed == "responder" else (a, b)
        before = a.events[[event["event"] for event in a.events].index("connected")]
        mark = len(peer.events)
        await lost.power_cut()
        after = len(lost.events)
        await lost.start()
        await lost.wait_for("ready", after=after, timeout=PATIENCE)
        again = [event["event"] for event in lost.events[after:]]
        assert "enrolled" not in again, "the identity is on its flash"
        over = await peer.wait_for("session-over", after=mark, timeout=PATIENCE)
        assert over["reason"] == "peer-restarted"
        assert over["peer"] == lost.name
        assert await meet(a, b) != before["fingerprint"]

    play(scene)


def test_a_device_that_stays_away_is_gone_after_the_grace() -> None:
    async def scene(stage: Stage, a: VirtualDevice, b: VirtualDevice) -> None:
        mark = len(a.events)
        await b.power_cut()
        over = await a.wait_for("session-over", after=mark, timeout=PATIENCE)
        assert over["reason"] == "peer-gone"
        await a.send(do="connect", to=b.name)
        failed = await a.wait_for("connect-failed", after=mark, timeout=PATIENCE)
        assert failed["error"] == "peer-offline"
        after = len(b.events)
        await b.start()
        await b.wait_for("ready", after=after, timeout=PATIENCE)
        await meet(a, b)

    play(scene, grace=1)


def test_a_session_that_is_closed_ends_on_both_sides() -> None:
    async def scene(stage: Stage, a: VirtualDevice, b: VirtualDevice) -> None:
        await a.send(do="close", to=b.name)
        over = await b.wait_for("session-over", timeout=PATIENCE)
        assert over["reason"] == "session-closed"
        await meet(a, b)

    play(scene)
