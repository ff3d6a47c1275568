"""What a bench has: ports, switches, virtual boards. What can be done with them is elsewhere."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class SerialPort:
    """A port by its USB serial number or by a pattern of names; ``path`` is one named outright."""

    serial_number: str = ""
    pattern: str = ""
    path: str = ""
    baud: int = 115200

    def __str__(self) -> str:
        return self.path or self.pattern or f"USB serial number {self.serial_number}"


@dataclass(frozen=True)
class HubPort:
    """A port of a USB hub that can switch its power, as uhubctl names it."""

    hub: str
    port: int


@dataclass(frozen=True)
class Relay:
    """A switch in the network: an HTTP POST to ``on`` or ``off`` does it."""

    on: str
    off: str
    seconds: float = 5.0


@dataclass(frozen=True)
class Virtual:
    """A virtual board; see virtual_board.settings for the units."""

    heap: str = "256k"
    boot_ms: int = 20
    flash_size: int = 512 * 1024


@dataclass(frozen=True)
class Network:
    """Where boards find this computer, and the Wi-Fi that they join. Without ``ssid`` they have a
    network already. The password is in a file, since rig files are shared."""

    host: str = "127.0.0.1"
    listen: str = "127.0.0.1"
    ssid: str = ""
    password_file: str = ""


@dataclass(frozen=True)
class BoardSpec:
    """One board of a rig. ``reset``: "" or "esptool" (its lines DTR and RTS). ``firmware``: the
    beginning of the hash that its files must have. ``network``: "own", or "serial" for a board that
    has none: its link goes over its serial line."""

    name: str
    type: str
    port: SerialPort
    features: frozenset[str] = frozenset()
    power: HubPort | Relay | None = None
    reset: str = ""
    virtual: Virtual | None = None
    wiring: dict[str, str] = field(default_factory=dict)
    firmware: str = ""
    network: str = "own"


@dataclass(frozen=True)
class Rig:
    """All boards of one bench. ``state``: a folder for what must live on between runs."""

    name: str
    boards: tuple[BoardSpec, ...]
    network: Network
    state: Path

    def board(self, name: str) -> BoardSpec | None:
        return next((board for board in self.boards if board.name == name), None)
