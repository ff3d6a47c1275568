"""Boards whose clock is wrong, against a real manager: TLS and agent alike see the wrong year."""

import asyncio
import getpass
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keyferry_hil import bench
from keyferry_hil.free_port import free_port
from keyferry_hil.virtual_device import Application, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage
from support.system_parts import find

pytestmark = pytest.mark.needs("faketime")

APP = Path(__file__).parent / "on_device" / "clock_app.py"
PATIENCE = 90.0
YEARS = {"1970": 86400, "2000": 946684800, "2021": 1609459200, "2099": 4070908800}
Scene = Callable[[Stage], Awaitable[None]]


def library() -> Path:
    """libfaketime, which stands where Debian puts it for its program."""
    assert find("faketime")
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


async def board(stage: Stage, name: str, year: str, **change: object) -> VirtualDevice:
    """A device that boots in ``year``, with ``change`` in its configuration."""
    made = await stage.add_device(name)
    files = made.files()
    settings = json.loads(files["config.json"])
    assert settings["time_port"] == stage.ready["time_port"]
    files["config.json"] = json.dumps({**settings, **change}).encode()
    offset = stage.folder / f"{name}.offset"
    offset.write_text(f"{YEARS[year] - int(time.time()):+d}")
    environment = {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    device = VirtualDevice(name, made.flash, made.application, environment=environment)
    device.format(files)
    stage.devices[-1] = device
    await device.start()
    return device


def play(place: Path, scene: Scene) -> None:
    """The scene, beside a manager that serves."""

    async def main() -> None:
        async with Stage(await asyncio.to_thread(Application.build, APP, place)) as stage:
            await stage.make_home()
            await stage.serve()
            await scene(stage)

    asyncio.run(main())


def test_a_board_that_boots_in_another_year_gets_the_time_and_enrols(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        for year in sorted(YEARS):
            device = await board(stage, f"pump-{year}", year)
            await device.wait_for("ready", timeout=PATIENCE)
            event = await device.wait_for("time", signed=True, set=True)
            assert abs(event["now"] - time.time()) < PATIENCE
            assert abs(event["was"] - YEARS[year]) < PATIENCE
            names = [event["event"] for event in device.events]
            assert names.index("time") < names.index("enrol-start")
        # a clock that jumps while the device runs is put right
        mark = len(device.events)
        await device.send(do="jump", seconds=-700_000_000)
        event = await device.wait_for("time", after=mark, signed=True, timeout=PATIENCE)
        assert event["set"]
        assert event["was"] < YEARS["2021"]
        await device.power_cut()
        assert "clock.1" in device.files(), "the floor is on flash"

    play(tmp_path, scene)


def test_a_wrong_clock_with_nobody_to_ask_is_called_that(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        past = await board(stage, "pump-7", "2021", time_port=0)
        failed = await past.wait_for("failed", timeout=PATIENCE)
        assert failed["error"] == "clock-wrong"
        ahead = await board(stage, "pump-8", "2099", time_port=0)
        failed = await ahead.wait_for("enrol-failed", timeout=PATIENCE)
        assert failed["error"] == "clock-wrong", "TLS said so, and it has a name"

    play(tmp_path, scene)


@asynccontextmanager
async def chrony(folder: Path) -> AsyncIterator[int]:
    """A chronyd that says this machine's time, and never sets it; its port."""
    program = find("chronyd")
    assert program
    place = folder / "chrony"
    place.mkdir()
    port = free_port(udp=True)
    (place / "conf").write_text(
        f"port {port}\nbindaddress 127.0.0.1\ncmdport 0\nbindcmdaddress /\n"
        f"allow 127.0.0.1\nlocal stratum 8\npidfile {place}/pid\n"
    )
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-x", "-n", "-U", "-u", getpass.getuser(), "-f", str(place / "conf")],
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=bench.end_with_parent,
        )
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.needs("chronyd")
def test_without_signed_time_it_comes_from_an_ntp_server(tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        async with chrony(tmp_path) as port:
            for year in ("1970", "2021"):
                ntp = f"127.0.0.1:{port}"
                device = await board(stage, f"pump-{year}", year, time_port=0, ntp=ntp)
                await device.wait_for("ready", timeout=PATIENCE)
                event = await device.wait_for("time", ntp=True, signed=False, set=True)
                assert abs(event["now"] - time.time()) < PATIENCE
                await device.power_cut()
                assert "clock.0" not in device.files(), "NTP moves no floor"

    play(tmp_path, scene)
