"""Sets the demo up and takes it down: a manager's home and process, two devices, nothing left."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keyferry_hil import bench
from keyferry_hil.virtual_device import Application, VirtualDevice
from keyferry_manager.cli.demo.evidence import Trace

REALM = "plant.example"
HEAP = "128k"
# SIP's text needs more code than MQTT's: on 32 bits both fit 128 KiB (docs/benchmarks.md).
HEAPS = {"mqtt": HEAP, "sip": "176k"}
_READY_SECONDS = 30
_STOP_SECONDS = 10


class StageError(Exception):
    """The demo could not be set up; the text says what failed."""


class Stage:
    """One manager and its devices, in a temporary folder that only its owner can read.

    ``application``: what the devices run; without it the bench's is compiled.
    """

    def __init__(self, application: Application | None = None) -> None:
        self._built = application
        self.folder = Path(tempfile.mkdtemp(prefix="keyferry-demo-"))
        self.home = self.folder / "home"
        self.log = self.folder / "manager.log"
        self.trace = Trace(self.folder / "trace.jsonl")
        self.ready: dict[str, Any] = {}
        self.devices: list[VirtualDevice] = []
        self._environment = {
            key: value for key, value in os.environ.items() if key != "KEYFERRY_HOME"
        }
        self._manager: asyncio.subprocess.Process | None = None
        self._application: asyncio.Task[Application] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            for device in self.devices:
                await device.power_cut()
            await self._stop_manager()
            if self._application is not None:
                # Its thread cannot be stopped, and would put files back that are removed here.
                await asyncio.wait([self._application])
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def keyferry(self, *arguments: str) -> Any:
        """Run ``keyferry ARGUMENTS --json`` and return what it wrote."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "keyferry_manager", *arguments, "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )
        try:
            output, problem = await process.communicate()
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        if process.returncode != 0:
            text = problem.decode(errors="replace").strip()
            raise StageError(f"'keyferry {' '.join(arguments)}' failed: {text}")
        return json.loads(output)

    async def make_home(self) -> None:
        """``keyferry init``, on loopback and free ports."""
        await self.keyferry(
            *("init", str(self.home), "--realm", REALM, "--host", "127.0.0.1"),
            *("--mqtt-port", "0", "--est-port", "0", "--sip-port", "0"),
        )

    async def serve(self) -> None:
        """``keyferry serve`` in a process of its own, until it says that it is ready."""
        with self.log.open("wb") as log:
            self._manager = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "keyferry_manager", "serve", "--json"),
                *("--home", str(self.home), "--trace", str(self.folder / "trace.jsonl")),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the demo, which ends the manager itself
                preexec_fn=bench.end_with_parent,
            )
        assert self._manager.stdout is not None
        try:
            async with asyncio.timeout(_READY_SECONDS):
                line = await self._manager.stdout.readline()
        except TimeoutError:
            raise StageError(f"the manager was not ready within {_READY_SECONDS} s") from None
        if not line:
            said = self.log.read_text(errors="replace").strip().splitlines()[-5:]
            raise StageError("the manager did not start: " + "\n".join(said))
        self.ready = json.loads(line)

    async def add_device(
        self, name: str, profile: str = "cert", carrier: str = "mqtt"
    ) -> VirtualDevice:
        """``keyferry device add NAME --factory``, and a virtual board with those files."""
        if self._application is None:
            self._application = asyncio.create_task(self._build())
        files = self.folder / "devices" / name
        await self.keyferry(
            *("device", "add", name, "--factory", "--out", str(files), "--home", str(self.home)),
            *("--carrier", carrier),
            *(f"--{carrier}-port", str(self.ready[f"{carrier}_port"])),
            *("--est-port", str(self.ready["est_port"]), "--profile", profile),
            *("--time-port", str(self.ready["time_port"])),
        )
        # Shielded: a thread compiles it, and whoever waits beside us wants it as well.
        application = await asyncio.shield(self._application)
        device = VirtualDevice(
            name, self.folder / f"{name}.flash", application, heap=HEAPS[carrier]
        )
        device.format({path.name: path.read_bytes() for path in files.iterdir()})
        # The key of the factory identity is on the device now, and nowhere else.
        shutil.rmtree(files)
        self.devices.append(device)
        return device

    async def _build(self) -> Application:
        if self._built is not None:
            return self._built
        place = self.folder / "application"
        place.mkdir()
        return await asyncio.to_thread(Application.build, bench.APPLICATION, place)

    async def add_pair(
        self,
        initiator: str,
        responder: str,
        profile: str = "cert",
        carriers: tuple[str, str] = ("mqtt", "mqtt"),
    ) -> tuple[VirtualDevice, VirtualDevice]:
        """Two devices, and the rule that lets the first ask for the second, all at once."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.allow(initiator, responder))
                first = group.create_task(self.add_device(initiator, profile, carriers[0]))
                second = group.create_task(self.add_device(responder, profile, carriers[1]))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        await self._rules_in_force(devices=2, rules=1)
        return first.result(), second.result()

    async def _rules_in_force(self, **wanted: int) -> None:
        """Until the running manager has seen what the commands wrote; it looks twice a second."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while True:
                    whole, _, _ = self.log.read_text().rpartition("\n")
                    for line in whole.splitlines():
                        entry = json.loads(line) if line.startswith("{") else {}
                        if entry.get("event") == "rules-loaded" and wanted.items() <= entry.items():
                            return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise StageError("the manager did not take over devices and rules") from None

    async def allow(self, initiator: str, responder: str) -> None:
        """``keyferry allow FROM TO``."""
        await self.keyferry("allow", initiator, responder, "--home", str(self.home))

    def manager_runs(self) -> bool:
        return self._manager is not None and self._manager.returncode is None

    async def _stop_manager(self) -> None:
        manager = self._manager
        if manager is None or manager.returncode is not None:
            return
        manager.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await manager.wait()
        except TimeoutError:
            manager.kill()
            await manager.wait()
