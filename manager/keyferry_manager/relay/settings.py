"""What the relay is told by the configuration."""

from dataclasses import dataclass
from typing import Literal

RouteMode = Literal["strict", "report", "off"]


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Times in seconds."""

    route_mode: RouteMode = "report"
    session_grace: float = 30.0
    registration: float = 3600.0
    sessions_per_device: int = 64
    sessions_total: int = 20_000
    max_links: int = 5_000
    half_open: float = 30.0
