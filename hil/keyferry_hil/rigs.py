"""Rig files: TOML, one for each bench. Everything in them is checked before anything is touched."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import (
    BoardSpec,
    HubPort,
    Network,
    Relay,
    Rig,
    SerialPort,
    Virtual,
)

_LARGEST = 1 << 16
_MOST_BOARDS = 256
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_FEATURE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_HEAP = re.compile(r"[1-9][0-9]{0,8}[kKmM]?")
# Numbers that the system gives in the order of plugging in.
_MOVES = re.compile(r"/dev/(tty(USB|ACM|S)|cu\.usb\w*)[0-9]*|COM[0-9]+", re.IGNORECASE)


def folder() -> Path:
    """Where the rig files that ship are."""
    here = Path(__file__).parent
    shipped = here / "rigs"
    return shipped if shipped.is_dir() else here.parent / "rigs"


def find(name: str) -> Path:
    """A rig by its path, or by the name of one that ships. BenchProblem("rig-wrong")."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = folder() / f"{name}.toml"
    if re.fullmatch(r"[\w-]+", name) and shipped.is_file():
        return shipped
    known = ", ".join(sorted(path.stem for path in folder().glob("*.toml")))
    raise BenchProblem("rig-wrong", name, f"neither a file nor one of {known}")


def default_state() -> Path:
    """``KEYFERRY_BENCH``, or a folder of this user's."""
    named = os.environ.get("KEYFERRY_BENCH", "")
    if named:
        return Path(named)
    base = os.environ.get("XDG_STATE_HOME", "") or str(Path.home() / ".local" / "state")
    return Path(base) / "keyferry-bench"


def load(path: Path, state: Path | None = None) -> Rig:
    """Read and check a rig file. BenchProblem("rig-wrong") names the place."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise BenchProblem("rig-wrong", str(path), f"more than {_LARGEST} bytes")
        values = tomllib.loads(data.decode())
    except (OSError, ValueError) as error:
        raise BenchProblem("rig-wrong", str(path), str(error)) from None
    reader = _Reader(str(path))
    place = (state or default_state()) / path.stem
    return reader.rig(values, path.stem, place)


def only_ports(ports: list[str], baud: int = 115200, state: Path | None = None) -> Rig:
    """A rig of boards that nothing is known of but where they are."""
    boards = tuple(
        BoardSpec(f"port-{number}", "unknown", SerialPort(path=port, baud=baud))
        for number, port in enumerate(ports, 1)
    )
    return Rig("ports", boards, Network(), (state or default_state()) / "ports")


class _Reader:
    def __init__(self, file: str) -> None:
        self._file = file

    def _wrong(self, where: str, detail: str) -> BenchProblem:
        return BenchProblem("rig-wrong", self._file, f"{where}: {detail}")

    def _table(self, value: Any, where: str, **kinds: type) -> dict[str, Any]:
        """``value`` as a table with no other keys than these, each of its kind."""
        if not isinstance(value, dict):
            raise self._wrong(where, "expected a table")
        for key, item in value.items():
            if key not in kinds:
                raise self._wrong(where, f"{key}: unknown; known are {', '.join(kinds)}")
            kind = kinds[key]
            if not isinstance(item, kind) or isinstance(item, bool) != (kind is bool):
                raise self._wrong(where, f"{key}: expected {kind.__name__}")
            if isinstance(item, str) and (not item or len(item) > 256 or not item.isprintable()):
                raise self._wrong(where, f"{key}: expected 1 to 256 printable characters")
        return value

    def rig(self, values: Any, stem: str, state: Path) -> Rig:
        top = self._table(values, "top", board=list, network=dict, name=str)
        listed = top.get("board", [])
        if not 0 < len(listed) <= _MOST_BOARDS:
            raise self._wrong("board", f"expected 1 to {_MOST_BOARDS} tables [[board]]")
        boards = [self._board(item, f"board {at}", state) for at, item in enumerate(listed, 1)]
        for what, all_of_them in (
            ("name", [board.name for board in boards]),
            ("port", [str(board.port) for board in boards]),
        ):
            for item in all_of_them:
                if all_of_them.count(item) > 1:
                    raise self._wrong("board", f"{what} {item!r} is there twice")
        network = self._table(
            top.get("network", {}), "network", host=str, listen=str, ssid=str, password_file=str
        )
        return Rig(top.get("name", stem), tuple(boards), Network(**network), state)

    def _board(self, value: Any, where: str, state: Path) -> BoardSpec:
        known = self._table(
            value,
            where,
            name=str,
            type=str,
            serial_number=str,
            port=str,
            baud=int,
            features=list,
            power=dict,
            reset=str,
            virtual=dict,
            wiring=dict,
            firmware=str,
            network=str,
        )
        name = known.get("name", "")
        if not _NAME.fullmatch(name):
            raise self._wrong(where, "name: expected a-z, 0-9 and - (at most 32)")
        where = f"board {name}"
        features = known.get("features", [])
        for feature in features:
            if not isinstance(feature, str) or not _FEATURE.fullmatch(feature):
                raise self._wrong(where, f"features: {feature!r}: expected words of a-z, 0-9, -")
        virtual = self._virtual(known.get("virtual"), where)
        wiring = known.get("wiring", {})
        self._table(wiring, f"{where}: wiring", **dict.fromkeys(wiring, str))
        if known.get("reset", "esptool") != "esptool":
            raise self._wrong(where, 'reset: expected "esptool"')
        if known.get("network", "own") not in ("own", "serial"):
            raise self._wrong(where, 'network: expected "own" or "serial"')
        firmware = known.get("firmware", "")
        if not re.fullmatch("[0-9a-f]{0,64}", firmware):
            raise self._wrong(
                where, "firmware: expected hexadecimal digits, as bench list has them"
            )
        return BoardSpec(
            name,
            known.get("type", "virtual" if virtual else "unknown"),
            self._port(known, where, virtual, state),
            frozenset(features),
            self._power(known.get("power"), where),
            known.get("reset", ""),
            virtual,
            wiring,
            firmware,
            known.get("network", "own"),
        )

    def _port(
        self, known: dict[str, Any], where: str, virtual: Virtual | None, state: Path
    ) -> SerialPort:
        named = [key for key in ("serial_number", "port") if key in known]
        if virtual is not None:
            if named or "power" in known or "reset" in known:
                raise self._wrong(where, "a virtual board has its own port, power and reset")
            return SerialPort(path=str(state / known["name"] / "port"))
        if len(named) != 1:
            raise self._wrong(where, "expected one of serial_number, port, virtual")
        baud = known.get("baud", 115200)
        if not 300 <= baud <= 4_000_000:
            raise self._wrong(where, "baud: expected 300 to 4000000")
        pattern = known.get("port", "")
        if _MOVES.fullmatch(pattern):
            raise self._wrong(
                where,
                f"port: {pattern} changes with the order of plugging in; write its"
                " serial_number, or a pattern such as /dev/serial/by-id/*Espressif*",
            )
        return SerialPort(known.get("serial_number", ""), pattern, baud=baud)

    def _virtual(self, value: Any, where: str) -> Virtual | None:
        if value is None:
            return None
        where += ": virtual"
        known = self._table(value, where, heap=str, boot_ms=int, flash_size=int)
        if not _HEAP.fullmatch(known.get("heap", "1k")):
            raise self._wrong(where, "heap: expected bytes, or such as 128k")
        if not 0 <= known.get("boot_ms", 0) <= 60_000:
            raise self._wrong(where, "boot_ms: expected 0 to 60000")
        size = known.get("flash_size", 65536)
        if size % 4096 or not 65536 <= size <= 64 << 20:
            raise self._wrong(where, "flash_size: expected a multiple of 4096, 64 KiB to 64 MiB")
        return Virtual(**known)

    def _power(self, value: Any, where: str) -> HubPort | Relay | None:
        if value is None:
            return None
        where += ": power"
        known = self._table(value, where, uhubctl=dict, relay=dict)
        if len(known) != 1:
            raise self._wrong(where, "expected one of uhubctl, relay")
        if "uhubctl" in known:
            hub = self._table(known["uhubctl"], f"{where}: uhubctl", hub=str, port=int)
            if not re.fullmatch(r"[0-9]+(-[0-9]+(\.[0-9]+)*)?", hub.get("hub", "")):
                raise self._wrong(where, "uhubctl: hub: expected a location such as 1-1.4")
            if not 1 <= hub.get("port", 0) <= 64:
                raise self._wrong(where, "uhubctl: port: expected 1 to 64")
            return HubPort(**hub)
        relay = self._table(known["relay"], f"{where}: relay", on=str, off=str)
        for key in ("on", "off"):
            if not re.match("https?://", relay.get(key, "")):
                raise self._wrong(where, f"relay: {key}: expected an http(s) address")
        return Relay(**relay)
