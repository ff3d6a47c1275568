"""A virtual board: real MicroPython in its own process, with its own flash and a limited heap.

Its application prints one JSON object a line, with the key "event"; the host waits for them.
"""

import asyncio
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keyferry_firmware import images, record
from keyferry_firmware.problems import FirmwareProblem
from keyferry_hil import interpreter

Event = dict[str, Any]

_PREBOOT = Path(__file__).parent / "on_device" / "preboot.py"
_MAX_LINE = 1 << 20


class DeviceError(Exception):
    """The device ended, or stayed silent, where an event was awaited."""


@dataclass(frozen=True)
class Application:
    """A built application: core, agent and one ``main``, for any number of devices."""

    rom: Path
    folder: Path
    # What each device's flash has besides its own files: of a built image, its boot code.
    flash: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def build(cls, main: Path, place: Path, *, optimise: int = 3) -> "Application":
        """Compile it into ``place``: a ROMFS image, and the same files in a folder.

        The folder serves an interpreter that ``MICROPYTHON`` names and that cannot map the image.
        """
        files = images.application(main, optimise=optimise)
        folder = place / "rom"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        rom = place / "rom.img"
        rom.write_bytes(images.romfs(files))
        return cls(rom, folder)

    @classmethod
    def built(cls, folder: Path) -> "Application":
        """What ``keyferry firmware build --board virtual`` made, exactly as it is.

        FirmwareProblem when it is for another board, or is not what its record says.
        """
        known = record.read(folder)
        if known["board"]["name"] != "virtual":
            raise FirmwareProblem(
                f"{folder} is built for {known['board']['name']}: build it with --board virtual."
            )
        wrong = record.compare(known, folder, record.BESIDES)
        if wrong:
            raise FirmwareProblem(f"{folder} is not what was built: {'; '.join(wrong)}.")
        flash = images.read_littlefs((folder / record.FILES).read_bytes())
        return cls(folder / record.ROM, folder / record.BYTECODE, flash)


class VirtualDevice:
    """One board. Its flash is a file of the host, which outlives the process, as flash does."""

    def __init__(
        self,
        name: str,
        flash: Path,
        application: Application,
        *,
        heap: str = "128k",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.flash = flash
        self.application = application
        self.events: list[Event] = []
        self.console: deque[str] = deque(maxlen=200)
        self._heap = heap
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    def format(self, files: Mapping[str, bytes], size: int = 256 * 1024) -> None:
        """Write a new flash image that holds ``files``; readable by its owner only (0600)."""
        image = images.littlefs({**self.application.flash, **files}, size)
        handle, temporary = tempfile.mkstemp(dir=self.flash.parent)  # mkstemp makes it 0600
        with os.fdopen(handle, "wb") as file:
            file.write(image)
        os.replace(temporary, self.flash)

    def files(self) -> dict[str, bytes]:
        """The files on its flash, of a device that is off or writes nothing meanwhile."""
        return images.read_littlefs(self.flash.read_bytes())

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Power on."""
        if self.running:
            raise ValueError(self.name + ": already running")
        self._news = asyncio.Condition()
        line, environment = self._command()
        self._process = await asyncio.create_subprocess_exec(
            *line,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            limit=_MAX_LINE,
            start_new_session=True,  # Ctrl-C in a terminal is for us; we end the devices
        )
        self._reader = asyncio.create_task(self._read(self._process))

    def _command(self) -> tuple[list[str], dict[str, str]]:
        """The program that is the device, and its environment."""
        arguments = ["-X", "heapsize=" + self._heap, str(_PREBOOT)]
        environment = {
            **os.environ,
            **self._environment,
            "KEYFERRY_FLASH": str(self.flash),
            "MICROPYPATH": ".frozen",
        }
        line, added = interpreter.command_with_rom(self.application.rom, arguments)
        return line, environment | added

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            event = _parse(line)
            if event is None:
                self.console.append(line)
                continue
            event["at"] = time.monotonic()
            async with self._news:
                self.events.append(event)
                self._news.notify_all()
        await process.wait()
        async with self._news:
            self._news.notify_all()

    async def wait_for(
        self, name: str, *, timeout: float = 30.0, after: int = 0, **fields: object
    ) -> Event:
        """The first event ``name`` with these fields among ``events[after:]``, past or to come.

        DeviceError when the process ends or ``timeout`` seconds pass before it comes; its text
        ends with the last events and the last lines of the device's console.
        """
        position = after
        what = name + "".join(f" {key}={value!r}" for key, value in fields.items())
        try:
            async with asyncio.timeout(timeout), self._news:
                while True:
                    while position < len(self.events):
                        event = self.events[position]
                        position += 1
                        wanted = all(event.get(key) == value for key, value in fields.items())
                        if event["event"] == name and wanted:
                            return event
                    if not self.running:
                        break
                    await self._news.wait()
        except TimeoutError:
            raise DeviceError(
                f"{self.name}: no {what} within {timeout:g} s{self._tail()}"
            ) from None
        status = self._process.returncode if self._process else "off"
        raise DeviceError(f"{self.name}: ended (status {status}) before {what}{self._tail()}")

    def _tail(self) -> str:
        lines = [json.dumps(event) for event in self.events[-3:]] + list(self.console)[-20:]
        return "".join("\n    " + line for line in lines)

    async def send(self, **command: object) -> None:
        """Write one JSON line to the application's standard input."""
        if self._process is None or self._process.stdin is None:
            raise ValueError(self.name + ": not running")
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def power_cut(self) -> None:
        """Kill it at once, as when the power goes (SIGKILL). Its flash stays as it was."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            try:
                process.kill()
            except ProcessLookupError:
                pass  # it ended in this moment
        if process.stdin is not None:
            process.stdin.close()
        if self._reader is not None:
            await self._reader

    async def __aenter__(self) -> "VirtualDevice":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.power_cut()


def _parse(line: str) -> Event | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("event"), str) else None
