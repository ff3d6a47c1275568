"""The virtual board: flash that outlives power cuts, code in place, and clear ends."""

import asyncio
import stat
import sys
from pathlib import Path

import pytest

from keyferry_hil.interpreter import InterpreterError
from keyferry_hil.virtual_device import Application, DeviceError, VirtualDevice

MAIN = """
import gc, json, os, sys
gc.collect()
before = gc.mem_alloc()
import keyferry_core.cbor
gc.collect()
with open("/boots", "a") as file:
    file.write("x")
print("plain output")
print('{"event": 7}')
used = gc.mem_alloc() - before
place = keyferry_core.cbor.__file__
print(json.dumps({"event": "up", "files": os.listdir("/"), "used": used, "place": place}))
while True:
    command = json.loads(sys.stdin.readline())
    if command["do"] == "fail":
        1 / 0
    print(json.dumps({"event": "did", "what": command["do"]}))
"""


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    place = tmp_path_factory.mktemp("application")
    (place / "main.py").write_text(MAIN)
    return Application.build(place / "main.py", place)


@pytest.fixture
def device(application: Application, tmp_path: Path) -> VirtualDevice:
    device = VirtualDevice("pump-7", tmp_path / "flash", application)
    device.format({"config.json": b"{}", "factory.key": b"secret"})
    return device


def test_its_flash_is_private_and_outlives_power_cuts(device: VirtualDevice) -> None:
    async def main() -> None:
        for boot in (1, 2, 3):
            position = len(device.events)
            await device.start()
            event = await device.wait_for("up", after=position)
            assert {"boots", "config.json", "factory.key"} <= set(event["files"])
            await device.power_cut()
            assert not device.running
            assert device.files()["boots"] == b"x" * boot

    assert stat.S_IMODE(device.flash.stat().st_mode) == 0o600
    asyncio.run(main())
    assert device.files()["factory.key"] == b"secret"


def test_commands_reach_it_and_other_output_is_no_event(device: VirtualDevice) -> None:
    async def main() -> None:
        async with device:
            await device.send(do="one")
            await device.send(do="two")
            await device.wait_for("did", what="two")

    asyncio.run(main())
    assert [event["event"] for event in device.events] == ["up", "did", "did"]
    assert list(device.console) == ["plain output", '{"event": 7}']


def test_an_end_is_told_with_the_console(device: VirtualDevice) -> None:
    async def main() -> None:
        async with device:
            await device.send(do="fail")
            with pytest.raises(DeviceError, match=r"ended \(status 1\) before did") as caught:
                await device.wait_for("did")
            assert "ZeroDivisionError" in str(caught.value)

    asyncio.run(main())


def test_silence_has_an_end(device: VirtualDevice) -> None:
    async def main() -> None:
        async with device:
            await device.wait_for("up")
            with pytest.raises(DeviceError, match=r"no did what='never' within 0\.2 s"):
                await device.wait_for("did", timeout=0.2, what="never")

    asyncio.run(main())


def test_it_starts_once(device: VirtualDevice) -> None:
    async def main() -> None:
        async with device:
            with pytest.raises(ValueError, match="already running"):
                await device.start()
        await device.power_cut()  # a second time changes nothing
        with pytest.raises(ValueError, match="not running"):
            await device.send(do="anything")

    asyncio.run(main())


def test_code_runs_in_place(
    device: VirtualDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Another interpreter gets the same modules as files, and pays for them with heap.
    other = tmp_path / "other-micropython"
    other.write_text('#!/bin/sh\nexec python3 -m micropython_unix "$@"\n')
    other.chmod(0o755)

    async def imported() -> tuple[str, int]:
        position = len(device.events)
        async with device:
            event = await device.wait_for("up", after=position)
        return event["place"], event["used"]

    place, in_rom = asyncio.run(imported())
    assert place == "/rom/keyferry_core/cbor.mpy"
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("MICROPYTHON", str(other))
    place, in_heap = asyncio.run(imported())
    assert place == "/rom/keyferry_core/cbor.mpy"
    assert in_rom < in_heap


def test_an_interpreter_that_is_not_there_is_named(
    device: VirtualDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MICROPYTHON", "/nowhere/micropython")

    async def main() -> None:
        with pytest.raises(InterpreterError, match="/nowhere/micropython: not an executable"):
            await device.start()

    asyncio.run(main())
    assert not device.running
