"""A built image in real MicroPython: its boot code, what it runs, and what it does not."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyferry_firmware import boards, device_files, record
from keyferry_firmware.problems import FirmwareProblem
from keyferry_hil import interpreter
from keyferry_hil.virtual_device import Application, DeviceError, VirtualDevice
from support.command import command

MAIN = """
import gc, json, os, sys
import helper
if __name__ == "__main__":
    gc.collect()
    used = gc.mem_alloc()
    import keyferry_core.cbor
    gc.collect()
    fields = {"event": "up", "files": os.listdir("/"), "place": keyferry_core.cbor.__file__}
    fields.update(path=sys.path, helped=helper.VALUE, used=gc.mem_alloc() - used)
    print(json.dumps(fields))
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("boot")
    (place / "application").mkdir()
    (place / "application" / "main.py").write_text(MAIN)
    (place / "application" / "helper.py").write_text("VALUE = [1, 2]\n")
    line = ("firmware", "build", "--board", "virtual", "--no-preflight")
    command(place, *line, "--app", place / "application", "-o", place / "out")
    return place / "out"


async def _up(device: VirtualDevice) -> dict:
    async with device:
        return await device.wait_for("up", timeout=60)


def test_it_runs_in_place_after_its_hash_was_checked(out: Path, tmp_path: Path) -> None:
    device = VirtualDevice("pump-7", tmp_path / "flash", Application.built(out))
    # a file of the same name on the flash is not what runs
    device.format({"config.json": b"{}", "helper.py": b"VALUE = 'from flash'\n"})
    event = asyncio.run(_up(device))
    assert event["place"] == "/rom/keyferry_core/cbor.mpy"
    assert event["path"] == ["/rom", ".frozen"]
    assert event["helped"] == [1, 2]
    assert {"boot.py", "main.py", "config.json"} <= set(event["files"])
    assert event["used"] < 8000, "the code itself is not in the heap"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: image[:3000] + bytes((image[3000] ^ 4,)) + image[3001:], "SHA-256 is wrong"),
        (lambda image: image[:-1] + bytes((image[-1] ^ 128,)), "SHA-256 is wrong"),
        (lambda image: image[:40] + bytes((image[40] ^ 1,)) + image[41:], "SHA-256 is wrong"),
        (lambda image: image[:-1], "it is cut short"),
        (lambda image: image[:63], "there is none"),
        (lambda image: image[64:], "there is none"),
        (lambda image: b"\xff" * 8192, "there is none"),
        (lambda image: image[:8] + b"\xff\xff\xff\xff" + image[12:], "it is cut short"),
        (lambda image: image[:8] + bytes(4) + image[12:], "it is cut short"),
    ],
)
def test_a_changed_image_is_refused_at_boot(out: Path, tmp_path: Path, change, said: str) -> None:
    good = Application.built(out)
    image = tmp_path / "rom.img"
    image.write_bytes(change(good.rom.read_bytes()))
    device = VirtualDevice("pump-7", tmp_path / "flash", Application(image, out, good.flash))
    device.format({})

    async def main() -> str:
        async with device:
            with pytest.raises(DeviceError) as caught:
                await device.wait_for("up", timeout=60)
        return str(caught.value)

    told = asyncio.run(main())
    assert "keyferry boot: the application image is refused: " in told
    assert said in told
    assert "no application runs" in told


def test_an_interpreter_that_cannot_map_it_says_so(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "micropython"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} -m micropython_unix "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("MICROPYTHON", str(other))
    device = VirtualDevice("pump-7", tmp_path / "flash", Application.built(out))
    device.format({})
    with pytest.raises(DeviceError, match="refused: this interpreter cannot map an image"):
        asyncio.run(_up(device))


XIP = """
import os, sys
sys.path.insert(0, os.getenv("BOOT"))
import keyferry_boot
address, size = os.getenv("KEYFERRY_ROM").split(":")
keyferry_boot.start("xip", int(address), int(size))
import helper
print(helper.VALUE, helper.__file__, len(os.listdir("/rom/keyferry_core")) > 20)
"""


def test_an_area_of_flash_larger_than_the_image_is_mapped_by_its_address(
    out: Path, tmp_path: Path
) -> None:
    # as RP2's boot.py does it; the memory is this process's
    image = tmp_path / "flash"
    image.write_bytes((out / record.ROM).read_bytes().ljust(0x4C000, b"\xff"))
    script = tmp_path / "script.py"
    script.write_text(XIP)
    boot = tmp_path / "keyferry_boot.mpy"
    boot.write_bytes(device_files.boot_files(boards.load("pico-w"))["keyferry_boot.mpy"])
    line, added = interpreter.command_with_rom(image, ["-X", "heapsize=128k", str(script)])
    done = subprocess.run(
        line,
        env={**os.environ, "MICROPYPATH": ".frozen", "BOOT": str(tmp_path), **added},
        capture_output=True,
        text=True,
        timeout=60,
    )
    booted, *rest = done.stdout.splitlines()
    assert booted.startswith("keyferry boot: application image "), done.stdout + done.stderr
    assert rest == ["[1, 2] /rom/helper.mpy True"], done.stdout + done.stderr


RADIO = """
import json
STA_IF = "station"
class WLAN:
    def __init__(self, interface):
        self.asked = 0
    def active(self, on):
        self.on = on
    def connect(self, ssid, password):
        print(json.dumps({"event": "joins", "ssid": ssid, "password": password, "on": self.on}))
    def isconnected(self):
        self.asked += 1
        return self.asked > 3
"""


def test_the_wifi_is_begun_before_the_application_runs(tmp_path: Path) -> None:
    place = tmp_path / "application"
    place.mkdir()
    (place / "main.py").write_text("import json\nprint(json.dumps({'event': 'up'}))\n")
    line = ("firmware", "build", "--board", "virtual", "--no-preflight", "--app", place)

    def boot(out: Path) -> VirtualDevice:
        device = VirtualDevice("pump-7", tmp_path / "flash", Application.built(out))
        device.format({"wifi.json": b'{"ssid": "plant", "password": "correct horse"}'})
        asyncio.run(_up(device))
        return device

    command(tmp_path, *line, "-o", tmp_path / "bare")
    assert "keyferry boot: this board has no Wi-Fi" in boot(tmp_path / "bare").console
    # a radio as MicroPython's boards have it, in the one way that modules come to this board
    (place / "network.py").write_text(RADIO)
    command(tmp_path, *line, "-o", tmp_path / "radio")
    device = boot(tmp_path / "radio")
    assert [event["event"] for event in device.events] == ["joins", "up"]
    joined = device.events[0]
    assert (joined["ssid"], joined["password"], joined["on"]) == ("plant", "correct horse", True)
    assert "correct horse" not in "".join(device.console)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "not JSON"),
        (b'{"ssid": "plant", "password": "correct horse"', "not JSON"),
        (b'"correct horse"', "the radio does not take it"),
        (b'["correct horse"]', "the radio does not take it"),
        (b'{"password": "correct horse"}', "the radio does not take it"),
        (b'{"ssid": "plant", "password": "correct horse"}', "the radio does not take it"),
    ],
)
def test_the_application_runs_whatever_is_wrong_with_the_wifi(
    booted: Path, tmp_path: Path, data: bytes, said: str
) -> None:
    device = VirtualDevice("pump-7", tmp_path / "flash", Application.built(booted))
    device.format({"wifi.json": data})
    asyncio.run(_up(device))
    assert [event["event"] for event in device.events] == ["up"]
    console = "\n".join(device.console)
    assert f"keyferry boot: wifi.json: {said}" in console
    assert "correct" not in console


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application beside a radio whose driver tells in its errors what it was given."""
    place = tmp_path_factory.mktemp("application")
    (place / "main.py").write_text("import json\nprint(json.dumps({'event': 'up'}))\n")
    driver = RADIO.replace("        print(", "        raise OSError(")
    assert driver != RADIO
    (place / "network.py").write_text(driver)
    out = tmp_path_factory.mktemp("built") / "image"
    line = ("firmware", "build", "--board", "virtual", "--no-preflight", "--app", place)
    command(place.parent, *line, "-o", out)
    return out


def test_only_a_whole_build_for_this_board_is_taken(out: Path, tmp_path: Path) -> None:
    import shutil

    changed = tmp_path / "changed"
    shutil.copytree(out, changed)
    (changed / "bytecode" / "main.mpy").unlink()
    with pytest.raises(FirmwareProblem, match=r"bytecode/main\.mpy is missing"):
        Application.built(changed)
    known = json.loads((out / record.NAME).read_text())
    known["board"]["name"] = "pico-w"
    (changed / record.NAME).write_text(json.dumps(known))
    with pytest.raises(FirmwareProblem, match="built for pico-w"):
        Application.built(changed)
    with pytest.raises(FirmwareProblem, match="cannot be read"):
        Application.built(tmp_path)
