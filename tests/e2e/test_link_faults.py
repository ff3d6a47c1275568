"""What happens to a link on its way, with devices in the real interpreter and a cable between."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable

import pytest

from e2e.test_agents import PATIENCE, PROGRAM, Board, meet
from keyferry_hil.virtual_device import Application
from keyferry_manager.cli.demo.stage import HEAP, Stage
from support.cable import Cable

KEEP_ALIVE = 5  # seconds; the least that a device may have


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return Application.build(PROGRAM, tmp_path_factory.mktemp("upkeep"))


async def provide(stage: Stage, application: Application, name: str, port: int) -> Board:
    """A board of a new device that reaches the manager at ``port``."""
    files = stage.folder / "devices" / name
    await stage.keyferry(
        *("device", "add", name, "--factory", "--out", str(files), "--home", str(stage.home)),
        *("--mqtt-port", str(port), "--est-port", str(stage.ready["est_port"])),
    )
    settings = json.loads((files / "config.json").read_text())
    (files / "config.json").write_text(json.dumps(settings | {"keep_alive": KEEP_ALIVE}))
    board = Board(name, stage.folder / f"{name}.flash", application, heap=HEAP)
    board.format({path.name: path.read_bytes() for path in files.iterdir()})
    shutil.rmtree(files)
    stage.devices.append(board)
    await board.boot()
    return board


Scene = Callable[[Cable, Board, Board], Awaitable[None]]


def play(application: Application, scene: Scene) -> None:
    """A manager, gauge-2 behind a cable, pump-7 beside it, and a session, then the scene."""

    async def main() -> None:
        async with Stage() as stage:
            await stage.make_home()
            await stage.serve()
            await stage.allow("gauge-2", "pump-7")
            async with Cable(stage.ready["mqtt_port"]) as cable:
                a = await provide(stage, application, "gauge-2", cable.port)
                b = await provide(stage, application, "pump-7", stage.ready["mqtt_port"])
                await meet(a, b)
                await scene(cable, a, b)
                after = len(b.events)
                await a.do("send", size=100, count=3)
                await b.wait_for("got", after=after, count=len(b.all("got")) + 3, timeout=PATIENCE)
                assert not a.all("over") + b.all("over"), "the session lived on"

    asyncio.run(main())


def test_a_half_open_connection_is_noticed_and_made_anew(application: Application) -> None:
    async def scene(cable: Cable, a: Board, b: Board) -> None:
        after = len(a.events)
        cable.silent = True
        down = await a.wait_for("link-down", after=after, timeout=PATIENCE)
        assert down["error"] == "timeout"
        cable.silent = False
        await a.wait_for("registered", after=after, timeout=PATIENCE)

    play(application, scene)


def test_a_link_that_is_cut_while_records_are_under_way(application: Application) -> None:
    async def scene(cable: Cable, a: Board, b: Board) -> None:
        for _ in range(3):
            after = len(a.events)
            await a.send(do="send", size=500, count=5)
            cable.cut()
            await a.wait_for("registered", after=after, timeout=PATIENCE)
            done = await a.wait_for("done", what="send", after=after, timeout=PATIENCE)
            assert done["problem"] == ""

    play(application, scene)


def test_an_address_that_changes_is_seen_at_the_next_link(application: Application) -> None:
    async def scene(cable: Cable, a: Board, b: Board) -> None:
        assert a.all("registered")[-1]["seen"].startswith("127.0.0.1:")
        after = len(a.events)
        cable.address = "127.0.0.9"
        cable.cut()
        found = await a.wait_for("registered", after=after, timeout=PATIENCE)
        assert found["seen"].startswith("127.0.0.9:")

    play(application, scene)
