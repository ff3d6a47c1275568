"""A virtual board whose link breaks again and again, with records in between, and its heap.

A real manager and two boards in the real interpreter. The board under test reaches the manager
through a cable that the host cuts: both ends see a reset, as when a Wi-Fi goes. Its session lives
on over the cuts, so that whatever a reconnect or a record leaves behind adds up in one heap.
"""

import asyncio
import shutil
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keyferry_hil.virtual_device import Application, DeviceError, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage
from support.cable import Cable

PROGRAM = Path(__file__).parent / "on_device" / "soak_app.py"
HEAP = "128k"
PEER_HEAP = "512k"
SIZE = 64  # bytes of a record
PATIENCE = 60.0
# Bytes by which the heap in use may differ between the second fifth of a run and its last: what is
# live at a collection is not the same each time, a few packets of a few hundred bytes.
SLACK = 1024


@dataclass
class Sample:
    """The device's heap after a round, in bytes, and what it had done by then."""

    reconnects: int
    records: int
    used: int
    free: int
    largest: int


@dataclass
class Result:
    """``grown``: the bytes in use in the last fifth of the run less those in the second, means."""

    samples: list[Sample]
    grown: float
    flat: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(samples: list[Sample]) -> Result:
    """Whether the heap stayed as it was, once it had filled up with what is kept."""
    fifth = max(1, len(samples) // 5)
    early = statistics.fmean(sample.used for sample in samples[fifth : 2 * fifth])
    late = statistics.fmean(sample.used for sample in samples[-fifth:])
    return Result(samples, late - early, late - early <= SLACK)


class Soak:
    """A manager, a device behind a cable, and its peer."""

    def __init__(self, stage: Stage, cable: Cable) -> None:
        self._stage = stage
        self._cable = cable
        self._devices: list[VirtualDevice] = []

    async def begin(self) -> None:
        """Enrol both, and a session between them."""
        stage = self._stage
        place = stage.folder / "soak"
        place.mkdir()
        application = await asyncio.to_thread(Application.build, PROGRAM, place)
        await stage.allow("gauge-2", "pump-7")
        for name, heap, port in (
            ("gauge-2", HEAP, self._cable.port),
            ("pump-7", PEER_HEAP, stage.ready["mqtt_port"]),
        ):
            files = stage.folder / "devices" / name
            await stage.keyferry(
                *("device", "add", name, "--factory", "--out", str(files)),
                *("--mqtt-port", str(port), "--est-port", str(stage.ready["est_port"])),
                *("--home", str(stage.home)),
            )
            device = VirtualDevice(name, stage.folder / f"{name}.flash", application, heap=heap)
            device.format({path.name: path.read_bytes() for path in files.iterdir()})
            shutil.rmtree(files)
            stage.devices.append(device)
            self._devices.append(device)
            await device.start()
        for device in self._devices:
            await device.wait_for("ready", timeout=PATIENCE)
        await stage._rules_in_force(devices=2, rules=1)
        await self._tell(self._devices[0], "connected", do="connect", to="pump-7")
        await self._devices[1].wait_for("accepted", timeout=PATIENCE)

    async def _tell(self, device: VirtualDevice, event: str, **command: object) -> dict[str, Any]:
        device.events.clear()  # a long run has more of them than anybody wants to keep
        await device.send(**command)
        return await device.wait_for(event, timeout=PATIENCE)

    async def reconnect(self) -> None:
        """Cut the cable once, and wait until the device is registered again."""
        device = self._devices[0]
        device.events.clear()
        self._cable.cut()
        await device.wait_for("registered", timeout=PATIENCE)

    async def records(self, count: int) -> None:
        """``count`` records, half of them each way; every one has to arrive."""
        for sender, receiver in (self._devices, self._devices[::-1]):
            half = count // 2
            await self._tell(sender, "sent", do="send", count=half, size=SIZE)
            await self._tell(receiver, "received", do="await", count=half)

    async def memory(self, reconnects: int, records: int) -> Sample:
        found = await self._tell(self._devices[0], "memory", do="memory")
        return Sample(reconnects, records, found["used"], found["free"], found["largest"])


async def run(
    reconnects: int,
    records: int,
    rounds: int,
    progress: Callable[[Sample], None] = lambda sample: None,
) -> Result:
    """So many of both, in ``rounds`` of equal size. DeviceError: the device gave up."""
    samples = []
    async with Stage() as stage:
        await stage.make_home()
        await stage.serve()
        async with Cable(stage.ready["mqtt_port"]) as cable:
            soak = Soak(stage, cable)
            await soak.begin()
            for number in range(1, rounds + 1):
                for _ in range(reconnects // rounds):
                    await soak.reconnect()
                await soak.records(records // rounds)
                sample = await soak.memory(
                    number * (reconnects // rounds), number * (records // rounds)
                )
                samples.append(sample)
                progress(sample)
            if cable.connections < reconnects:
                raise DeviceError(f"{cable.connections} connections for {reconnects} reconnects")
    return judge(samples)
