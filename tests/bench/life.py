"""The agent's whole life in a heap of some size: enrol, link, and a session of each kind.

A real manager and virtual devices. The device under test begins one session and is asked for
another, so both roles of EDHOC are in its heap; each session carries records both ways.
"""

import asyncio
from typing import Any, Self

from keyferry_hil.virtual_device import DeviceError, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage

# What the other devices have, so that only one is tight.
AMPLE = "512k"
RECORDS = 3
SECONDS = 60.0


class Lives:
    """A manager and two peers; ``live`` puts a new device beside them, which links by ``carrier``
    while the peers link by MQTT."""

    def __init__(self, carrier: str = "mqtt") -> None:
        self._carrier = carrier
        self._stage = Stage()
        self._peers: list[VirtualDevice] = []
        self._count = 0

    async def __aenter__(self) -> Self:
        try:
            await self._stage.make_home()
            await self._stage.serve()
            for name in ("panel-1", "panel-2"):
                peer = await self._add(name, AMPLE, "mqtt")
                await peer.start()
                self._peers.append(peer)
            for peer in self._peers:
                await peer.wait_for("ready")
        except BaseException:
            await self._stage.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stage.__aexit__(None, None, None)

    async def _add(self, name: str, heap: str, carrier: str) -> VirtualDevice:
        """A device with its files on flash, in a heap of our choice."""
        made = await self._stage.add_device(name, carrier=carrier)
        device = VirtualDevice(name, made.flash, made.application, heap=heap)
        self._stage.devices[-1] = device
        return device

    async def live(self, kib: int) -> dict[str, Any]:
        """A new device's life in ``kib`` KiB; its heap at the end. DeviceError: it ran short."""
        self._count += 1
        name = f"pump-{self._count}"
        device = await self._add(name, f"{kib}k", self._carrier)
        first, second = self._peers
        await self._stage.allow(name, first.name)
        await self._stage.allow(second.name, name)
        async with device:
            await device.wait_for("ready", timeout=SECONDS)
            await device.send(do="connect", to=first.name)
            await _either(device, "connected", "connect-failed")
            await second.send(do="connect", to=name)
            await _either(device, "accepted", "message-refused")
            for sender, receiver in ((device, first), (first, device), (device, second)):
                await self._converse(sender, receiver)
            await self._converse(second, device)
            await device.send(do="memory")
            return await device.wait_for("memory", timeout=SECONDS)

    async def _converse(self, sender: VirtualDevice, receiver: VirtualDevice) -> None:
        before = len(receiver.events)
        await sender.send(do="send", to=receiver.name, count=RECORDS)
        for number in range(RECORDS):
            found = await receiver.wait_for(
                "record-received", timeout=SECONDS, after=before, peer=sender.name
            )
            before = receiver.events.index(found) + 1
            if f"record {number + 1}:" not in found["data"]:
                raise DeviceError(f"{receiver.name}: {found['data']} is not record {number + 1}")

    async def completes(self, kib: int) -> bool:
        """Whether a life in ``kib`` KiB goes well."""
        try:
            await self.live(kib)
        except DeviceError:
            return False
        return True


async def _either(device: VirtualDevice, good: str, bad: str) -> None:
    """Wait for ``good``; DeviceError at once when ``bad`` comes, or when the device ends."""
    hopes = [asyncio.create_task(device.wait_for(event, timeout=SECONDS)) for event in (good, bad)]
    done, waiting = await asyncio.wait(hopes, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    if done.pop().result()["event"] != good:
        raise DeviceError(f"{device.name}: {bad}")
