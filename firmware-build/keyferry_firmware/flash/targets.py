"""Which boards: what the command line and lists say of ports, drives and devices."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from keyferry_firmware.problems import FirmwareProblem

COLUMNS = ("port", "drive", "name")
_MOST_BYTES = 1 << 20
_MOST = 256


@dataclass(frozen=True)
class Target:
    """One board. ``port`` or ``drive`` is there, or both; ``device`` is "" for none."""

    port: str
    drive: str
    device: str

    @property
    def label(self) -> str:
        return self.device or self.port or self.drive


def from_options(ports: Iterable[str], drives: Iterable[str]) -> list[Target]:
    """``PORT`` or ``PORT=DEVICE`` each; the n-th drive belongs to the n-th port."""
    given, left = list(ports), list(drives)
    found = []
    for number in range(max(len(given), len(left))):
        port, _, device = (given[number] if number < len(given) else "").partition("=")
        drive = left[number] if number < len(left) else ""
        if not drive and not port:
            raise FirmwareProblem("--port: expected PORT, or PORT=DEVICE for a provisioned one.")
        found.append(Target(port, drive, device))
    return found


def read(path: Path) -> list[Target]:
    """The boards of a CSV file with the columns of COLUMNS. FirmwareProblem names the line."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise FirmwareProblem(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise FirmwareProblem(f"{path} is not UTF-8; save it as UTF-8.") from None
    if len(data) > _MOST_BYTES:
        raise FirmwareProblem(f"{path} has more than {_MOST_BYTES} bytes: split the list.")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    found = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            where = f"{path}, line {reader.line_num}"
            if not any(cells):
                continue
            if not header:
                header = cells
                wrong = [column for column in header if column not in COLUMNS]
                if wrong or len(set(header)) != len(header):
                    raise FirmwareProblem(f"{where}: expected columns of {', '.join(COLUMNS)}.")
                continue
            if len(cells) != len(header):
                raise FirmwareProblem(f"{where}: expected {len(header)} cells, as the first line.")
            row = dict(zip(header, cells, strict=True))
            target = Target(*(row.get(column, "") for column in COLUMNS))
            if not target.port and not target.drive:
                raise FirmwareProblem(f"{where}: neither a port nor a drive.")
            found.append(target)
    except csv.Error as error:
        raise FirmwareProblem(f"{path}, line {reader.line_num}: {error}.") from None
    return found


def check(targets: list[Target], devices: Iterable[str]) -> None:
    """FirmwareProblem when a board is there twice, a device is unknown, or there is none."""
    if not targets:
        raise FirmwareProblem("no board was named: --port PORT, --drive FOLDER, or --boards CSV.")
    if len(targets) > _MOST:
        raise FirmwareProblem(f"more than {_MOST} boards: flash them in several runs.")
    known = set(devices)
    seen: set[tuple[str, str]] = set()
    for target in targets:
        resolved = str(Path(target.port).resolve()) if target.port else ""
        drive = str(Path(target.drive).resolve()) if target.drive else ""
        for what, value in (("port", resolved), ("drive", drive), ("device", target.device)):
            if value and (what, value) in seen:
                raise FirmwareProblem(f"{what} {value} is there twice; name each board once.")
            seen.add((what, value))
        if target.device and target.device not in known:
            raise FirmwareProblem(
                f"{target.device} is not among the provisioned devices: --provisioned names the "
                "folder that 'keyferry firmware provision' made."
            )
