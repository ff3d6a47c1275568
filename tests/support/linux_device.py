"""This machine as a device, by CPython: a folder in the place of a flash. CPython only."""

import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from keyferry_hil.virtual_device import Application, VirtualDevice

# What a device on CPython is made of, for those who ask a virtual one for its image.
NOTHING = Application(Path(os.devnull), Path(os.devnull))
# The command that a person uses.
COMMAND = ("-m", "keyferry_agent")


class LinuxDevice(VirtualDevice):
    """A process of this Python on a folder, which outlives it; else as a virtual device.

    ``program`` are the arguments before the folder, and ``more`` those after it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        program: tuple[str, ...] = COMMAND,
        *,
        more: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, folder, NOTHING, environment=environment)
        self._line = [sys.executable, *program, str(folder), *more]

    def format(self, files: Mapping[str, bytes], size: int = 0) -> None:
        """Make the folder anew, with these files, for its owner alone."""
        shutil.rmtree(self.flash, ignore_errors=True)
        self.flash.mkdir(mode=0o700)
        for name, content in files.items():
            path = self.flash / name
            path.touch(mode=0o600)
            path.write_bytes(content)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.flash.iterdir()}

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._reader is not None
        await self._reader
        assert self._process.returncode is not None
        return self._process.returncode

    def _command(self) -> tuple[list[str], dict[str, str]]:
        return self._line, {**os.environ, **self._environment, "PYTHONUNBUFFERED": "1"}
