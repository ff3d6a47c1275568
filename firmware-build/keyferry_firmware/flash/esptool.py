"""ESP32 boards: esptool, as a program of its own."""

import os
import re
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from keyferry_firmware import esp32
from keyferry_firmware.flash.console import clean, open_port
from keyferry_firmware.flash.failure import Failure, stopped
from keyferry_firmware.flash.image import Image

# Seconds for all of it, and without a word from esptool.
_OVERALL, _SILENT = 900.0, 120.0
# Bytes of its output that are kept, from the beginning and from the end.
_HEAD, _TAIL = 8192, 16384
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?) ?%")
_MAC = re.compile(r"MAC: +((?:[0-9a-f]{2}:){5}[0-9a-f]{2})")
# What esptool says, in which case it is, what to do, and whether a second try may help.
_SAID = (
    (
        r"This chip is|Wrong chip|wrong chip|Unexpected chip",
        ("wrong-chip", "name the port of a board of the kind that was built for", False),
    ),
    (
        r"Permission denied",
        ("no-permission", "become a member of the port's group (often dialout)", False),
    ),
    (
        r"[Bb]usy|exclusively lock",
        ("port-in-use", "close the program that has the port open", False),
    ),
    (
        r"will not fit|doesn't fit|does not fit|exceeds|larger than",
        ("flash-full", "build for a board file with the flash that this board has", False),
    ),
    (
        r"MD5|verif",
        ("not-verified", "try a shorter cable or a lower --baud; the flash may be worn out", True),
    ),
    (
        r"Failed to connect|No serial data|Wrong boot mode|sync reply",
        ("no-answer", "hold BOOT while it connects; check cable and power", True),
    ),
)


def pieces(image: Image, device: bytes | None, keep: bool) -> dict[int, bytes]:
    """``{offset: bytes}`` to write: the whole build, with a device's own file system, or none."""
    if image.whole is None:
        raise Failure(
            "no-base",
            f"the build for {image.board} has no MicroPython in it",
            "build it with --base, or flash with --method mpremote a board that runs MicroPython",
        )
    if device is None and not keep:
        return {0: image.whole}
    end = image.files_offset + image.files_size
    found = {0: image.whole[: image.files_offset], end: image.whole[end:]}
    if device is not None:
        found[image.files_offset] = esp32.used(device)
    return {offset: data for offset, data in found.items() if data}


def flash(
    image: Image,
    parts: dict[int, bytes],
    port: str,
    *,
    baud: int,
    stub: bool,
    progress: Callable[[float], None],
    stop: threading.Event,
) -> str:
    """Write and verify. The board's MAC, or "". Failure says what esptool could not do."""
    open_port(port).close()  # says why not more plainly than esptool does
    chip = esp32.CHIPS[image.chip][0]
    with tempfile.TemporaryDirectory(prefix="keyferry-flash-") as folder:
        line = [sys.executable, "-m", "esptool", "--chip", chip, "--port", port]
        line += ["--baud", str(baud), "--after", "hard-reset"]
        line += [] if stub else ["--no-stub"]
        line += ["write-flash"]
        for offset, data in sorted(parts.items()):
            place = Path(folder, f"{offset:x}.bin")  # the folder is ours alone
            place.write_bytes(data)
            line += [hex(offset), str(place)]
        status, said = _run(line, [len(data) for _, data in sorted(parts.items())], progress, stop)
    if status == 0:
        found = _MAC.search(said)
        return found[1].replace(":", "") if found else ""
    raise _failure(said)


def _run(
    line: list[str],
    sizes: list[int],
    progress: Callable[[float], None],
    stop: threading.Event,
) -> tuple[int, str]:
    process = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"},
        start_new_session=True,  # Ctrl-C is for us, and we end it
    )
    assert process.stdout is not None
    begin = heard = time.monotonic()
    said = b""
    at, before = 0, 0.0
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                now = time.monotonic()
                if stop.is_set():
                    raise stopped()
                if now - begin > _OVERALL or now - heard > _SILENT:
                    raise Failure(
                        "timeout", "esptool did not end", "check cable and power", again=True
                    )
                if not selector.select(0.2):
                    continue
                data = os.read(process.stdout.fileno(), 4096)
                if not data:
                    break
                heard = now
                said = _kept(said + data)
                for match in _PERCENT.findall(data.decode(errors="replace")):
                    part = min(float(match), 100.0)
                    if part < before and at < len(sizes) - 1:
                        at += 1
                    before = part
                    progress((sum(sizes[:at]) + sizes[at] * part / 100) / sum(sizes))
        return process.wait(_SILENT), said.decode(errors="replace")
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def _kept(said: bytes) -> bytes:
    return said if len(said) <= _HEAD + _TAIL else said[:_HEAD] + said[-_TAIL:]


def _failure(said: str) -> Failure:
    lines = [clean(line) for line in re.split(r"[\r\n]+", said)]
    lines = [line for line in lines if line]
    wrong = [line for line in lines if re.search(r"error|fatal|failed|match", line, re.I)]
    last = (wrong or lines or ["nothing"])[-1]
    for pattern, (name, remedy, again) in _SAID:
        if re.search(pattern, " ".join(wrong or lines[-3:])):
            return Failure(name, f"esptool: {last}", remedy, again=again)
    return Failure(
        "esptool", f"esptool: {last}", "check cable and power, and flash it again", again=True
    )
