"""What a virtual board is made of, and where its folder has what."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

FLASH_SIZE = 512 * 1024


@dataclass(frozen=True)
class Settings:
    """One board. ``folder`` outlives it: the flash is there, and with it what the board knows.

    ``port``: the name under which the serial port is found, a symbolic link. ``heap`` as
    MicroPython takes it (``128k``), ``flash_size`` and ``boot_ms`` (from power to the first
    instruction) in bytes and milliseconds.
    """

    folder: Path
    port: Path
    heap: str = "256k"
    flash_size: int = FLASH_SIZE
    boot_ms: int = 20
    unique_id: str = ""

    @property
    def flash(self) -> Path:
        return self.folder / "flash.img"

    @property
    def rom(self) -> Path:
        """The application's image; a board need not have one."""
        return self.folder / "rom.img"

    @property
    def control(self) -> Path:
        """The socket that stands for the board's plug."""
        return self.folder / "control"

    @property
    def serial_number(self) -> str:
        """16 hexadecimal digits, as a chip's; the same for the same port name."""
        known = self.unique_id or hashlib.sha256(str(self.port).encode()).hexdigest()[:16]
        return known.lower()
