"""``keyferry firmware flash``: a build onto many boards, and a report of each."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from keyferry_firmware.problems import FirmwareProblem
from keyferry_manager.cli.base import JsonOption, printable, write, write_line, write_table
from keyferry_manager.cli.firmware import commands

if TYPE_CHECKING:
    from keyferry_firmware.flash.run import Event, Result


@commands.command()
def flash(
    image: Annotated[Path, typer.Argument(metavar="DIR", help="The build: `firmware build`'s -o.")],
    ports: Annotated[
        list[str] | None,
        typer.Option(
            "--port", metavar="PORT[=DEVICE]", help="A board's serial port; may be repeated."
        ),
    ] = None,
    drives: Annotated[
        list[str] | None,
        typer.Option(
            "--drive", metavar="DIR", help="RP2: the boot drive of the board at the n-th --port."
        ),
    ] = None,
    boards: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Boards in a list with the columns port, drive, name."),
    ] = None,
    provisioned: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Devices' own images: `firmware provision`'s -o."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="PUB", help="Public release key that must have signed.")
    ] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Flash a build whose signature nobody checks.")
    ] = False,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="esptool, uf2 or mpremote; the board's usual one.")
    ] = "",
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Leave the board's file system, its identity too.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Start each board and ask what it has.")
    ] = True,
    baud: Annotated[int, typer.Option(min=9600, max=4_000_000, help="esptool's speed.")] = 460_800,
    stub: Annotated[
        bool, typer.Option("--stub/--no-stub", help="esptool's own loader, or the chip's.")
    ] = True,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Boards at the same time.")] = 8,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the report goes; flash-TIME.json here if not."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a build onto boards, many at once, and check each at its console.

    ESP32 boards are written by esptool, RP2 boards by UF2 onto their boot drive, boards that run
    MicroPython and virtual ones through their REPL (mpremote). The build must be signed by --key.
    The file system is written anew, with a device's own one (--provisioned, --port PORT=DEVICE)
    or the boot code alone, unless --keep-files.

    Then each board is reset and asked: MicroPython's version, the hash that its boot code found,
    the first lines of its log, test vectors. A board that fails is tried once more, when that may
    help; the others go on. The report is by serial number. --json: an event a line, the report
    last. Exit code 0: all boards are flashed. 1: some are not.

    Examples:

        keyferry firmware flash out --key release.key.pub --port /dev/ttyUSB0 --port /dev/ttyUSB1

        keyferry firmware flash out --key key.pub --provisioned devices --port /dev/ttyACM0=pump-7
    """
    from keyferry_firmware import release
    from keyferry_firmware.flash import image as images
    from keyferry_firmware.flash import run, targets

    if (key is None) != unsigned:
        raise FirmwareProblem(
            "say which release key must have signed the build (--key release.key.pub), or that "
            "none needs to (--unsigned)."
        )
    if method and method not in run.METHODS:
        raise FirmwareProblem(f"--method: expected one of {', '.join(run.METHODS)}.")
    found = images.load(image, None if key is None else release.public_key(key))
    devices = {} if provisioned is None else images.provisioned(provisioned, found)
    chosen = targets.from_options(ports or (), drives or ())
    chosen += [] if boards is None else targets.read(boards)
    targets.check(chosen, devices)
    options = run.Options(run.method_for(found, method), baud, stub, keep_files, check, jobs)
    place = report or Path(time.strftime("flash-%Y%m%dT%H%M%SZ.json", time.gmtime()))
    if not place.parent.is_dir():
        raise FirmwareProblem(f"{place.parent} is no folder for the report: make it first.")
    stop = threading.Event()
    with _progress(as_json) as tell:
        results = run.flash(found, devices, chosen, options, tell, stop)
    made = run.report(found, results, options)
    run.write_report(place, made)
    if as_json:
        write_line({"event": "report", "file": str(place), **made})
    else:
        _show(results, place)
    if stop.is_set():
        raise KeyboardInterrupt
    if not all(item.ok for item in results):
        raise typer.Exit(1)


def _show(results: "list[Result]", place: Path) -> None:
    rows = [
        (
            item.serial_number or "?",
            item.board,
            "flashed" if item.ok else "FAILED",
            str(item.attempts),
            item.micropython,
            item.image[:16],
            f"{item.self_test} passed" if item.self_test else "",
            f"{item.seconds:.1f}",
        )
        for item in sorted(results, key=lambda item: (item.serial_number, item.board))
    ]
    columns = ("SERIAL NUMBER", "BOARD", "", "TRIES", "MICROPYTHON", "IMAGE", "VECTORS", "SECONDS")
    write_table(columns, rows, "")
    for item in results:
        if not item.ok:
            text = Text("FAILED ", style="bold red")
            text.append(printable(f"{item.board}: {item.text}: {item.remedy}."), style="default")
            write(text)
    good = sum(item.ok for item in results)
    write(Text(f"{good} of {len(results)} boards flashed. Report: {place}"))


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[["Event"], None]]:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if as_json:
        yield write_line
        return
    if not console.is_terminal:
        yield lambda event: print(_line(event), file=sys.stderr, flush=True)
        return
    columns = (
        *(TextColumn("{task.description}", markup=False), BarColumn()),
        *(TextColumn("{task.fields[state]}", markup=False), TimeElapsedColumn()),
    )
    with Progress(*columns, console=console) as shown:
        tasks: dict[str, TaskID] = {}

        def tell(event: "Event") -> None:
            board = event["board"]
            if board not in tasks:
                tasks[board] = shown.add_task(printable(board), total=1.0, state="")
            part = {"start": 0.0, "written": 1.0}.get(event["event"], event.get("part"))
            shown.update(tasks[board], completed=part, state=printable(_words(event)))

        yield tell


def _words(event: "dict[str, Any]") -> str:
    kind = event["event"]
    if kind == "start":
        return "writing" if event["attempt"] == 1 else "writing again"
    if kind == "progress":
        return f"{event['part']:.0%}"
    if kind == "retry":
        return f"failed ({event['text']}), once more"
    if kind == "failed":
        return f"FAILED: {event['text']}"
    return {"written": "written, checking", "done": "done"}.get(kind, json.dumps(event))


def _line(event: "dict[str, Any]") -> str:
    return printable(f"{event['board']}: {_words(event)}")
