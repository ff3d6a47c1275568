"""Many boards at once: each is written, checked, tried once more when that may help, reported."""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from keyferry_firmware import record
from keyferry_firmware.flash import check, esptool, repl, uf2
from keyferry_firmware.flash.failure import Failure, stopped
from keyferry_firmware.flash.image import Image, files_of
from keyferry_firmware.flash.targets import Target
from keyferry_firmware.output import write_new
from keyferry_firmware.problems import FirmwareProblem

METHODS = ("esptool", "uf2", "mpremote")
_USUAL = {"esp32": "esptool", "rp2": "uf2", "process": "mpremote"}
_STEP = 0.05  # of the whole, between two words of progress
Event = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How: see the command line's options of the same names."""

    method: str
    baud: int = 460_800
    stub: bool = True
    keep: bool = False
    check: bool = True
    jobs: int = 8


@dataclass
class Result:
    """What became of one board."""

    board: str  # how it was named: device, port or drive
    port: str
    drive: str
    device: str
    ok: bool = False
    attempts: int = 0
    serial_number: str = ""
    micropython: str = ""
    machine: str = ""
    image: str = ""  # SHA-256 as the boot check has it
    free_heap: int = 0
    self_test: int = 0  # vectors that passed
    log: list[str] = field(default_factory=list)
    problem: str = ""
    text: str = ""
    remedy: str = ""
    seconds: float = 0.0


def method_for(image: Image, wanted: str) -> str:
    """The method: the usual one of the board's family, or ``wanted`` where that can work."""
    usual = _USUAL[image.family]
    method = wanted or usual
    if method != usual and (method, image.family) != ("mpremote", "esp32"):
        raise FirmwareProblem(f"{image.board} is not flashed with {method}: use {usual}.")
    if method != "mpremote" and image.whole is None:
        raise FirmwareProblem(
            f"the build for {image.board} has no MicroPython in it, so there is nothing that "
            f"{method} could write: build it with --base."
        )
    return method


def flash(
    image: Image,
    devices: dict[str, bytes],
    targets: list[Target],
    options: Options,
    tell: Callable[[Event], None],
    stop: threading.Event,
) -> list[Result]:
    """Flash all of them; results in the order of ``targets``. ``tell`` is called by one thread at
    a time. ``stop`` ends it soon, and so does Ctrl-C, which sets it: the results say of each board
    how far it got."""
    lock = threading.Lock()

    def one_word(event: Event) -> None:
        with lock:
            tell(event)

    def one(target: Target) -> Result:
        return _Run(image, devices.get(target.device), target, options, one_word, stop).result()

    for target in targets:
        if options.check and not target.port:
            raise FirmwareProblem(
                f"{target.drive}: name the board's --port as well, so that it can be checked "
                "afterwards, or say --no-check."
            )
        if not target.port and options.method != "uf2":
            raise FirmwareProblem(f"{target.drive}: {options.method} needs a port, not a drive.")
    with ThreadPoolExecutor(min(options.jobs, len(targets))) as pool:
        futures = [pool.submit(one, target) for target in targets]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            stop.set()
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            raise


class _Run:
    """One board, with its second try."""

    def __init__(
        self,
        image: Image,
        filesystem: bytes | None,
        target: Target,
        options: Options,
        tell: Callable[[Event], None],
        stop: threading.Event,
    ) -> None:
        self._image = image
        self._filesystem = filesystem
        self._target = target
        self._options = options
        self._tell = tell
        self._stop = stop
        self._told = 0.0
        self._result = Result(target.label, target.port, target.drive, target.device)

    def result(self) -> Result:
        """Never raises: whatever goes wrong with one board is in its result."""
        found = self._result
        begin = time.monotonic()
        while True:
            found.attempts += 1
            self._say("start", attempt=found.attempts)
            try:
                if self._stop.is_set():
                    raise stopped()
                self._once()
                found.ok = True
                found.problem = found.text = found.remedy = ""
            except Failure as failure:
                found.problem, found.text = failure.name, str(failure)
                found.remedy = failure.remedy
                if failure.again and found.attempts == 1 and not self._stop.is_set():
                    self._say("retry", problem=failure.name, text=str(failure))
                    continue
            except (FirmwareProblem, OSError) as error:
                found.problem, found.text, found.remedy = "failed", str(error), "put that right"
            found.seconds = round(time.monotonic() - begin, 3)
            self._say("done" if found.ok else "failed", **asdict(found))
            return found

    def _once(self) -> None:
        self._told = 0.0
        self._write()
        self._say("written")
        if not self._options.check:
            return
        checked = check.check(self._image, self._target.port)
        found, seen = self._result, checked.seen
        found.serial_number = seen.serial_number or found.serial_number
        found.micropython, found.machine = seen.version, seen.machine
        found.image, found.free_heap = seen.image, seen.free
        found.log, found.self_test = checked.log, checked.passed

    def _write(self) -> None:
        image, options, target = self._image, self._options, self._target
        common: dict[str, Any] = {"progress": self._progress, "stop": self._stop}
        if options.method == "esptool":
            parts = esptool.pieces(image, self._filesystem, options.keep)
            self._result.serial_number = esptool.flash(
                image, parts, target.port, baud=options.baud, stub=options.stub, **common
            )
        elif options.method == "uf2":
            data = uf2.file_for(image, self._filesystem, options.keep)
            uf2.flash(image, data, target.port, target.drive, **common)
        else:
            files = files_of(image.filesystem if self._filesystem is None else self._filesystem)
            keep = options.keep and self._filesystem is None
            repl.flash(image, files, target.port, keep=keep, **common)

    def _progress(self, part: float) -> None:
        if part - self._told >= _STEP or part >= 1 > self._told:
            self._told = part
            self._say("progress", part=round(part, 3))

    def _say(self, event: str, **fields: object) -> None:
        self._tell({"event": event, "board": self._target.label, **fields})


def report(image: Image, results: list[Result], options: Options) -> dict[str, Any]:
    """What is kept of a run, by serial number."""
    ordered = sorted(results, key=lambda item: (item.serial_number, item.board))
    return {
        "format": 1,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "built_for": image.board,
        "application": record.digest(image.rom),
        "image": image.digest,
        "signed_by": image.signed_by,
        "method": options.method,
        "checked": options.check,
        "flashed": sum(item.ok for item in results),
        "failed": sum(not item.ok for item in results),
        "boards": [asdict(item) for item in ordered],
    }


def write_report(path: Path, value: dict[str, Any]) -> None:
    """Write it whole or not at all, readable by its owner only: boards' logs are in it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write_new(temporary, json.dumps(value, indent=1).encode() + b"\n", 0o600)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FirmwareProblem(f"{path} cannot be written: {error.strerror}.") from None
