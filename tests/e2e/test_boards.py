"""Boards with a radio, against a real manager: Wi-Fi that is lost or refused, and deep sleep.

Interpreter, TLS and flash are real; ``machine`` and ``network`` are tests/support/fake_board.py.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from e2e.test_clock import YEARS, library
from keyferry_firmware import details, sources
from keyferry_hil.virtual_device import Application, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage
from support import fake_board
from support.cable import Cable

APP = Path(__file__).parent / "on_device" / "board_app.py"
PATIENCE = 90.0
SSID = "plant"
PASSWORD = "correct horse 7b1f"
WIFI = json.dumps({"ssid": SSID, "password": PASSWORD}).encode()
AIR = {SSID: PASSWORD}
Scene = Callable[[Stage, Application], Awaitable[None]]


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return Application.build(APP, tmp_path_factory.mktemp("board"))


class Board(VirtualDevice):
    """One whose radio and sleep are those of a port; the environment has what is around it."""

    def __init__(self, name: str, flash: Path, application: Application, port: str) -> None:
        self.surroundings = {
            "KEYFERRY_FAKES": str(Path(fake_board.__file__).parent),
            "KEYFERRY_PORT": port,
            "KEYFERRY_WOKE": "PWRON_RESET",
            "KEYFERRY_AIR": json.dumps(AIR),
        }
        # the fake is compiled on the device, and stays in its heap
        super().__init__(name, flash, application, heap="256k", environment=self.surroundings)
        self.said: list[str] = []

    async def boot(self, **surroundings: str) -> None:
        """Power on, with an empty list of events."""
        self._environment |= surroundings
        self.events.clear()
        await self.start()

    async def sleep(self, ms: int = 60000) -> None:
        await self.send(do="sleep", ms=ms)
        await self.wait_for("asleep", ms=ms, timeout=PATIENCE)
        await self.end()

    async def end(self) -> None:
        assert self._process is not None
        await asyncio.wait_for(self._process.wait(), PATIENCE)
        await self.power_cut()
        self.said += [*self.console, *map(json.dumps, self.events)]

    def states(self) -> list[str]:
        return [event["state"] for event in self.events if event["event"] == "state"]


async def board(
    stage: Stage,
    application: Application,
    name: str,
    port: str,
    mqtt_port: int = 0,
    time_port: int = 0,
    wifi: bytes = WIFI,
) -> Board:
    files = stage.folder / "devices" / name
    await stage.keyferry(
        *("device", "add", name, "--factory", "--out", str(files), "--home", str(stage.home)),
        *("--mqtt-port", str(mqtt_port or stage.ready["mqtt_port"])),
        *("--est-port", str(stage.ready["est_port"])),
        *("--time-port", str(time_port or stage.ready["time_port"])),
    )
    made = Board(name, stage.folder / f"{name}.flash", application, port)
    made.format({path.name: path.read_bytes() for path in files.iterdir()} | {"wifi.json": wifi})
    shutil.rmtree(files)
    stage.devices.append(made)
    return made


def play(application: Application, scene: Scene) -> None:
    async def main() -> None:
        async with Stage() as stage:
            await stage.make_home()
            await stage.serve()
            await scene(stage, application)

    asyncio.run(main())


@pytest.mark.parametrize(
    "port", ["esp32", pytest.param("rp2", marks=pytest.mark.needs("faketime"))]
)
def test_a_device_that_sleeps_deeply_is_at_work_again(
    application: Application, port: str, record_property: Callable[[str, object], None]
) -> None:
    async def scene(stage: Stage, application: Application) -> None:
        await stage.allow("gauge-2", "pump-7")
        async with Cable(stage.ready["mqtt_port"]) as link, Cable(stage.ready["time_port"]) as ask:
            peer = await board(stage, application, "pump-7", "esp32")
            await peer.boot()
            await peer.wait_for("ready", timeout=PATIENCE)
            device = await board(stage, application, "gauge-2", port, link.port, ask.port)
            clock = wrong_clock(stage.folder / "offset") if port == "rp2" else dict
            await device.boot(**clock())
            await device.wait_for("ready", timeout=PATIENCE)
            assert [event for event in device.events if event["event"] == "enrolled"]
            await device.send(do="work", to="pump-7")
            await device.wait_for("worked", data="two bar", timeout=PATIENCE)
            await device.sleep()
            files = device.files()
            assert "identity.0" in files
            for times in range(3):
                link.bytes, link.turns, link.connections = [0, 0], 0, 0
                ask.bytes, ask.turns, ask.connections = [0, 0], 0, 0
                cause = "DEEPSLEEP_RESET" if port == "esp32" else "WDT_RESET"
                await device.boot(KEYFERRY_WOKE=cause, **clock())
                woke = await device.wait_for("woke", timeout=PATIENCE)
                assert woke["why"] == ("deep-sleep" if port == "esp32" else "watchdog")
                await device.wait_for("ready", timeout=PATIENCE)
                if times:  # the first shows what going to sleep and waking up cost by themselves
                    await device.send(do="work", to="pump-7")
                    await device.wait_for("worked", data="two bar", timeout=PATIENCE)
                await device.sleep()
                names = [event["event"] for event in device.events]
                assert not {"enrol-start", "key-made", "enrolled"} & set(names)
                assert names[-1] == "asleep"
                assert device.files() == files, "nothing is written that need not be"
                assert link.connections == 1
                # its clock runs on through the sleep, or it asks once
                assert ask.connections == (0 if port == "esp32" else 1)
                if not times:
                    record_property("link", (*link.bytes, link.turns))
                    record_property("time", (*ask.bytes, ask.turns))
                    print(port, "link", link.bytes, link.turns, "time", ask.bytes, ask.turns)
            assert PASSWORD not in "".join(device.said)
            ended = [event for event in peer.events if event["event"] == "session-ended"]
            assert {event["reason"] for event in ended} <= {"session-closed"}

    play(application, scene)


def wrong_clock(offset: Path) -> Callable[[], dict[str, str]]:
    """What a board that starts in 2021 at every reset is started with."""

    def surroundings() -> dict[str, str]:
        offset.write_text(f"{YEARS['2021'] - int(time.time()):+d}")
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    return surroundings


@pytest.mark.parametrize("port", ["esp32", "rp2"])
def test_wifi_that_is_refused_lost_and_back(application: Application, port: str) -> None:
    async def scene(stage: Stage, application: Application) -> None:
        async with Cable(stage.ready["mqtt_port"]) as link:
            device = await board(stage, application, "gauge-2", port, link.port)
            await device.boot(KEYFERRY_AIR=json.dumps({SSID: "another password"}))
            down = await device.wait_for("wifi-down", timeout=PATIENCE)
            assert down["reason"] == "wrong-password"
            await device.wait_for("state", state="wifi-password", code="K41", timeout=PATIENCE)
            await device.send(do="air", networks=AIR)  # nobody reads yet: it is not at work
            await device.power_cut()
            await device.boot(KEYFERRY_AIR=json.dumps(AIR))
            ready = await device.wait_for("ready", timeout=PATIENCE)
            assert ready["blinks"], "the lamp showed something while it started"
            up = await device.wait_for("wifi-up")
            assert (up["address"], up["rssi"]) == ("192.0.2.7", -60)
            assert device.states()[-1] == "up"
            # the access point goes, and with it the cable
            mark = len(device.events)
            link.silent = True
            await device.send(do="air", networks={})
            await device.wait_for("wifi-down", after=mark, reason="lost", timeout=PATIENCE)
            await device.wait_for(
                "wifi-down", after=mark, reason="no-such-network", timeout=PATIENCE
            )
            link.cut()
            await device.wait_for("link-down", after=mark, timeout=PATIENCE)
            assert device.states()[-1] == "no-wifi"
            mark = len(device.events)
            link.silent = False
            await device.send(do="air", networks=AIR)
            await device.wait_for("wifi-up", after=mark, timeout=PATIENCE)
            await device.wait_for("registered", after=mark, timeout=PATIENCE)
            await device.wait_for("state", after=mark, state="up", timeout=PATIENCE)
            await device.power_cut()
            said = "".join([*device.console, *map(json.dumps, device.events)])
            assert PASSWORD not in said
            assert "another password" not in said

    play(application, scene)


@pytest.mark.parametrize(
    "wifi",
    [
        b'{"ssid": "plant", "password": "correct horse 7b1f"',
        b'{"ssid": "plant", "password": ["correct horse 7b1f"]}',
        b'{"ssid": "plant", "correct horse 7b1f": ""}',
        b'{"ssid": "plant", "password": "correct horse 7b1f' + 50 * b"x" + b'"}',
        WIFI + 600 * b" ",
    ],
    ids=["cut off", "a list", "another key", "too long", "too large"],
)
def test_a_wifi_file_that_is_wrong_is_named_and_its_password_is_not(
    application: Application, tmp_path: Path, wifi: bytes
) -> None:
    device = Board("gauge-2", tmp_path / "flash", application, "rp2")
    settings = {"name": "gauge-2", "realm": "plant.example"}
    sentences = details.table(path.read_bytes() for path in sources.everything().values())
    device.format({"config.json": json.dumps(settings).encode(), "wifi.json": wifi})

    async def main() -> None:
        await device.boot()
        try:
            failed = await device.wait_for("failed", timeout=PATIENCE)
        finally:
            await device.end()
        assert failed["error"] == "bad-argument"
        assert "wifi.json: " in details.explain(failed["detail"], sentences)

    asyncio.run(main())
    assert device.states() == ["config-error"]
    assert "correct" not in "".join(device.said)
