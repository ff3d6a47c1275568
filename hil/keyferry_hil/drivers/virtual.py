"""The virtual board: starting its process, and its plug, power and reset."""

import base64
import contextlib
import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keyferry_firmware import images
from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import BoardSpec

START_SECONDS = 60.0
_ANSWER_SECONDS = 30.0


def is_virtual(spec: BoardSpec) -> bool:
    return spec.virtual is not None


class VirtualBoardProcess:
    """A virtual board that this process keeps running."""

    def __init__(self, spec: BoardSpec) -> None:
        assert spec.virtual is not None
        self._who = spec.name
        self.port = Path(spec.port.path)
        self.folder = self.port.parent
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (self.folder / "process.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise BenchProblem(
                "lease-held", self._who, "another process runs this virtual board"
            ) from None
        options = {
            "--port": str(self.port),
            "--heap": spec.virtual.heap,
            "--boot-ms": str(spec.virtual.boot_ms),
            "--flash-size": str(spec.virtual.flash_size),
        }
        words = [word for option in options.items() for word in option]
        self._log = (self.folder / "board.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "keyferry_hil.virtual_board", str(self.folder), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_ready(self) -> None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        if not ready or not self._process.stdout.readline():
            said = (self.folder / "board.log").read_text(errors="replace").strip()
            raise BenchProblem(
                "no-answer", self._who, f"the virtual board does not start: {said[-300:]}"
            )

    def stop(self) -> None:
        """Unplug it, and end its process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
        self._lock.close()


class VirtualControl:
    """Plug, power and reset of a virtual board that runs, in whatever process."""

    def __init__(self, who: str, folder: Path) -> None:
        self._who = who
        self._folder = folder

    def order(self, do: str, **fields: Any) -> dict[str, Any]:
        """One order, and the board's state after it. BenchProblem("control-failed")."""
        folder = -1
        try:
            folder = os.open(self._folder, os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as plug:
                plug.settimeout(_ANSWER_SECONDS)
                plug.connect(f"/proc/self/fd/{folder}/control")
                plug.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
                with plug.makefile() as answers:
                    line = answers.readline()
        except OSError as error:
            raise BenchProblem(
                "control-failed", self._who, f"the virtual board does not run: {error}"
            ) from None
        finally:
            if folder >= 0:
                os.close(folder)
        answer = json.loads(line or '{"error": "it ended"}')
        if "error" in answer:
            raise BenchProblem("control-failed", self._who, f"{do}: {answer['error']}")
        return answer

    def runs(self) -> bool:
        try:
            return bool(self.order("status"))
        except BenchProblem:
            return False

    def off(self) -> None:
        self.order("power_off")

    def on(self) -> None:
        self.order("power_on")

    def hard_reset(self) -> None:
        self.order("reset")

    def noise(self, data: bytes) -> None:
        """Bytes on the line to the host that the board never sent."""
        self.order("noise", data=base64.b64encode(data).decode())

    def wait_cut(self, seconds: float = 60.0) -> None:
        """Wait until the power is off, by a cut that was set."""
        end = time.monotonic() + seconds
        while self.order("status")["powered"]:
            if time.monotonic() > end:
                raise BenchProblem("control-failed", self._who, "the power was not cut")
            time.sleep(0.05)

    def flash(self, files: Mapping[str, bytes]) -> None:
        """Write an application's image, as a programmer does: the board is off meanwhile."""
        rom = self._folder / "rom.img"
        image = images.romfs(files)
        if rom.is_file() and rom.read_bytes() == image:
            return
        self.off()
        temporary = self._folder / "rom.new"
        temporary.write_bytes(image)
        os.replace(temporary, rom)
        self.on()

    def flash_image(self) -> bytes:
        """Its file system, as LittleFS; it is switched off, or writes nothing."""
        return (self._folder / "flash.img").read_bytes()

    def swap_flash(self, image: bytes) -> None:
        """Another file system, while the board is off."""
        place = self._folder / "flash.img"
        temporary = self._folder / "flash.new"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(image)
        os.replace(temporary, place)
