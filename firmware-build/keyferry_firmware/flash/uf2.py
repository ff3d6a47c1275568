"""RP2 boards: a UF2 file onto the drive that their boot ROM shows."""

import errno
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from keyferry_firmware import rp2
from keyferry_firmware.flash.console import Console
from keyferry_firmware.flash.failure import Failure, stopped
from keyferry_firmware.flash.image import Image

_APPEARS = 40.0  # seconds until a drive is mounted
_PIECE = 64 << 10
_NAMES = {0xE48BFF56: "RPI-RP2", 0xE48BFF59: "RP2350", 0xE48BFF5A: "RP2350"}
_BOARD_ID = re.compile(r"^Board-ID: *(\S+)", re.MULTILINE)
# A drive does not say whose it is: one board at a time goes into its boot ROM.
_ONE = threading.Lock()


def file_for(image: Image, device: bytes | None, keep: bool) -> bytes:
    """The UF2 file to copy: the build, with a device's own file system, or with none."""
    if image.whole is None:
        raise Failure(
            "no-base",
            f"the build for {image.board} has no MicroPython in it",
            "build it with --base",
        )
    if device is None and not keep:
        return image.whole
    return rp2.with_area(
        image.whole, image.chip, image.files_offset, image.files_size, device or b""
    )


def board_id(drive: Path) -> str:
    """What a boot drive says its board is, "" when it is none."""
    try:
        with (drive / "INFO_UF2.TXT").open("rb") as file:
            found = _BOARD_ID.search(file.read(4096).decode("ascii", "replace").replace("\r", ""))
    except OSError:
        return ""
    return found[1] if found else ""


def drives() -> dict[Path, str]:
    """The boot drives that are mounted, and what they say they are."""
    places = [*Path("/Volumes").glob("*")]
    try:
        for line in Path("/proc/mounts").read_text(errors="replace").splitlines():
            words = line.split(" ")
            if len(words) > 2 and words[2] in ("vfat", "msdos"):
                places.append(Path(words[1].replace("\\040", " ")))
    except OSError:
        pass  # no Linux
    found = {place: board_id(place) for place in places}
    return {place: name for place, name in found.items() if name in _NAMES.values()}


def flash(
    image: Image,
    data: bytes,
    port: str,
    drive: str,
    *,
    progress: Callable[[float], None],
    stop: threading.Event,
) -> None:
    """Copy onto ``drive``; without one, send the board at ``port`` into its boot ROM first."""
    if drive:
        place = Path(drive)
        _check(image, place)
        _copy(place, data, progress, stop)
        return
    with _ONE:
        before = set(drives())
        with Console(port) as console:
            console.enter()
            console.start("import machine; machine.bootloader()")
        end = time.monotonic() + _APPEARS
        while True:
            new = [place for place in drives() if place not in before]
            if new:
                break
            if stop.is_set():
                raise stopped()
            if time.monotonic() >= end:
                raise Failure(
                    "no-drive",
                    "the board's boot drive did not appear",
                    "mount it and name it with --drive, or hold BOOTSEL while you plug it in",
                )
            time.sleep(0.3)
        _check(image, new[0])
        _copy(new[0], data, progress, stop)


def _check(image: Image, place: Path) -> None:
    found, wanted = board_id(place), _NAMES[image.chip]
    if not found:
        raise Failure(
            "no-drive",
            f"{place} is no boot drive: it has no INFO_UF2.TXT",
            "hold BOOTSEL while you plug the board in, and name the drive that appears",
        )
    if found != wanted:
        raise Failure(
            "wrong-chip",
            f"{place} is the drive of an {found}, and the build is for {wanted}",
            "name the drive of a board of the kind that was built for",
        )


def _copy(
    place: Path, data: bytes, progress: Callable[[float], None], stop: threading.Event
) -> None:
    room = os.statvfs(place)
    if room.f_bavail * room.f_frsize < len(data):
        raise _full(place)
    target = place / "firmware.uf2"
    written = 0
    try:
        with target.open("wb") as file:
            while written < len(data):
                if stop.is_set():
                    raise stopped()
                written += file.write(data[written : written + _PIECE])
                file.flush()
                progress(written / len(data))
            os.fsync(file.fileno())
    except OSError as error:
        if written == len(data) and not board_id(place):
            return  # the board has it all, and started: its drive is gone
        _remove(target)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(place) from None
        raise Failure(
            "copy-failed",
            f"copying to {place} failed: {error.strerror}",
            "hold BOOTSEL while you plug the board in again",
            again=True,
        ) from None
    except Failure:
        _remove(target)
        raise


def _remove(target: Path) -> None:
    try:
        target.unlink(missing_ok=True)
    except OSError:
        pass  # the drive is gone


def _full(place: Path) -> Failure:
    return Failure(
        "flash-full", f"there is no room for the image on {place}", "plug the board in anew"
    )
