"""Boards that run MicroPython: the image and the files through the raw REPL.

The image goes where the board's ``vfs.rom_ioctl`` says it belongs; a virtual board has its image in
a file of this machine. The order is such that a board that loses power halfway has either the old
application or one that its boot code refuses.
"""

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path

from keyferry_firmware import device_files, esp32, record
from keyferry_firmware.flash.console import Console
from keyferry_firmware.flash.failure import Failure, stopped
from keyferry_firmware.flash.image import Image
from keyferry_firmware.flash.look import Seen, look

_WRITER = Path(__file__).parent.parent / "on_device" / "flash_write.py"
_PIECE = 3072  # bytes in one line of code
_BYTECODE = 6
_BLOCK = 4096


def flash(
    image: Image,
    files: dict[str, bytes],
    port: str,
    *,
    keep: bool,
    progress: Callable[[float], None],
    stop: threading.Event,
) -> None:
    """Write image and files. ``keep``: leave the other files on the board."""
    with Console(port) as console:
        console.enter()
        _check(image, look(console))
        console.run(_WRITER.read_text())
        room = json.loads(console.run(f"room({len(image.rom)})"))
        _check_room(image, files, room, keep)
        total = len(image.rom) + sum(map(len, files.values()))
        done = 0
        console.run(f"begin({len(image.rom)})")
        for at in range(0, len(image.rom), _PIECE):
            if stop.is_set():
                raise stopped()
            piece = image.rom[at : at + _PIECE]
            console.run(f"put({at}, {base64.b64encode(piece)!r})")
            done += len(piece)
            progress(done / total)
        said = console.run(f"end({len(image.rom)})").strip()
        if said != record.digest(image.rom):
            raise Failure(
                "not-verified",
                "the image on the board is not what was written",
                "flash it again; the flash may be worn out",
                again=True,
            )
        if not keep:
            console.run("clear()")
        # what starts the application comes last
        for name in sorted(files, key=lambda name: (name in device_files.BOOT_FILES, name)):
            if stop.is_set():
                raise stopped()
            console.write_file("/" + name, files[name])
            done += len(files[name])
            progress(done / total)


def _check(image: Image, seen: Seen) -> None:
    if image.family == "process":
        fits = seen.platform == "linux"
    else:
        name = esp32.CHIPS[image.chip][0]
        fits = seen.platform == "esp32" and _chip(seen.machine) == name
    if not fits:
        raise Failure(
            "wrong-board",
            f"the board is {seen.machine or seen.platform}, and the build is for {image.board}",
            "name the port of a board of the kind that was built for",
        )
    if seen.bytecode != _BYTECODE:
        raise Failure(
            "wrong-micropython",
            f"MicroPython {seen.version} takes no bytecode of version {_BYTECODE}",
            "flash the board's MicroPython anew, with a build that has --base",
        )


def _chip(machine: str) -> str:
    """The chip at the end of what MicroPython says: "… module with ESP32C3"."""
    return machine.rpartition(" with ")[2].replace("-", "").strip().lower()


def _check_room(image: Image, files: dict[str, bytes], room: dict[str, int], keep: bool) -> None:
    if room["image"] < len(image.rom):
        raise Failure(
            "flash-full" if room["image"] else "no-place",
            f"the board has {room['image']} bytes for the image, and it has {len(image.rom)}",
            "flash a build with --base, which brings a partition for it",
        )
    blocks = sum(-(-len(data) // _BLOCK) + 1 for data in files.values()) * _BLOCK
    have = room["free"] if keep else room["all"]
    if blocks > have:
        raise Failure(
            "flash-full",
            f"the board's file system has {have} bytes, and the files need {blocks}",
            "remove files from the board, or leave out --keep-files",
        )
