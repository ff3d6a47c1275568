"""A CA rolls over under two live boards, and a third that is switched off: real agents, a real
manager, the real commands."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest

from e2e.test_agents import PATIENCE, PROGRAM, Board, play, provide
from keyferry_hil.virtual_device import Application
from keyferry_manager.cli.demo.stage import Stage, StageError
from support.trail import audited


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return Application.build(PROGRAM, tmp_path_factory.mktemp("rollover"))


async def rollover(stage: Stage, *step: str) -> dict:
    return await stage.keyferry("ca", "rollover", *step, "--home", str(stage.home))


async def behind(stage: Stage, step: str, names: list[str]) -> None:
    """Wait until the rehearsal of ``step`` names just these."""
    end = time.monotonic() + PATIENCE
    while True:
        found = (await rollover(stage, "--dry-run"))["steps"]
        (here,) = [each for each in found if each["step"] == step]
        named = sorted(each["name"] for each in here["stranded"])
        if named == names:
            return
        assert time.monotonic() < end, (step, found)
        await asyncio.sleep(0.5)


async def taken_over(stage: Stage, phase: str) -> None:
    """Wait until the manager goes on with a phase."""
    end = time.monotonic() + PATIENCE
    while True:
        entries = await stage.keyferry("audit", "--home", str(stage.home))
        if any(
            each["event"] == "ca-rollover-taken-over" and each["detail"] == phase
            for each in entries
        ):
            return
        assert time.monotonic() < end, entries
        await asyncio.sleep(0.3)


async def up(board: Board, begin: Callable[[], Awaitable[object]]) -> int:
    """Do something after which the board makes its link anew, and wait for that."""
    after = len(board.events)
    await begin()
    await board.wait_for("link-down", after=after, timeout=PATIENCE)
    await board.wait_for("registered", after=after + 1, timeout=PATIENCE)
    return after


async def meet(a: Board, b: Board, profile: str) -> None:
    after = len(a.events), len(b.events)
    await a.do("connect", to=b.name, profile=profile)
    here = await a.wait_for("connected", after=after[0], timeout=PATIENCE)
    there = await b.wait_for("accepted", after=after[1], timeout=PATIENCE)
    assert here["fingerprint"] == there["fingerprint"]
    await a.do("close")
    await b.wait_for("over", after=after[1], timeout=PATIENCE)


async def hint(board: Board, event: str, **fields: object) -> None:
    """Let the board register again, hear that the CAs are others, and do what is needed."""
    after = len(board.events)
    await board.do("register")
    await board.wait_for(event, after=after, timeout=PATIENCE, **fields)
    down = await board.wait_for("link-down", after=after, timeout=PATIENCE)
    at = board.events.index(down)
    await board.wait_for("registered", after=at, timeout=PATIENCE)
    assert not board.all("renewal-failed"), "\n".join(map(str, board.events[after:]))


@pytest.mark.parametrize("carrier", ["mqtt", "sip"])
def test_two_boards_go_over_to_the_new_ca_and_a_third_is_left_behind(
    application: Application, carrier: str
) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        await stage.keyferry("device", "list", "--home", str(stage.home))
        c = await provide(stage, application, "valve-9", "--factory")
        # Following takes a second TLS connection in the middle of a life, as a renewal does.
        heap = "160k" if carrier == "mqtt" else "208k"
        a = Board(a.name, a.flash, application, heap=heap)
        b = Board(b.name, b.flash, application, heap=heap)
        for board in (a, b):
            settled = json.loads(board.files()["config.json"])
            assert settled.get("carrier", "mqtt") == carrier
        stage.devices += [a, b]
        for board in (a, b, c):
            await board.boot()
        await c.power_cut()
        await meet(a, b, "cert")

        # start: both learn of the new root, which the old one signed
        await rollover(stage, "start")
        await taken_over(stage, "started")
        await behind(stage, "switch", ["gauge-2", "pump-7", "valve-9"])
        for board in (a, b):
            await board.do("hurry")
            await hint(board, "authorities", roots=2, issuers=2)
            assert len(board.all("enrolled")) == 1  # what they have is as good as before
        await behind(stage, "switch", ["valve-9"])
        with pytest.raises(StageError, match="switch would leave 1 device behind: valve-9"):
            await rollover(stage, "switch")

        # the power goes, at the manager and at a board
        assert stage._manager is not None
        stage._manager.kill()
        await stage._manager.wait()
        await b.power_cut()
        await rollover(stage, "switch", "--strand", "valve-9")
        await stage.serve()
        await a.wait_for("registered", after=len(a.events), timeout=PATIENCE)

        # switch: one of them renews, by itself, and meets the other that has not yet
        await a.wait_for("enrol-start", by="link", timeout=PATIENCE)
        enrolled = a.all("enrolled")
        while len(enrolled) < 2:
            await a.wait_for("enrolled", after=a.events.index(enrolled[-1]) + 1, timeout=PATIENCE)
            enrolled = a.all("enrolled")
        await a.wait_for("registered", after=a.events.index(enrolled[-1]), timeout=PATIENCE)
        await behind(stage, "finish", ["pump-7", "valve-9"])
        await b.boot()
        assert len(b.all("enrolled")) == 1
        for profile in ("cert", "rpk"):
            await meet(a, b, profile)
        await b.do("hurry")
        await hint(b, "enrolled")
        await behind(stage, "finish", ["valve-9"])
        for profile in ("cert", "rpk"):
            await meet(a, b, profile)

        # finish: the old root is held by nobody any more
        with pytest.raises(StageError, match="finish would leave 1 device behind: valve-9"):
            await rollover(stage, "finish")
        await rollover(stage, "finish", "--strand", "valve-9")
        await taken_over(stage, "finished")
        for board in (a, b):
            await hint(board, "authorities", roots=1, issuers=1)
            assert len(board.all("enrolled")) == 2
        await meet(a, b, "cert")
        await a.power_cut()
        await a.boot()
        await meet(a, b, "rpk")
        assert not a.all("renewal-failed") + b.all("renewal-failed")

        # who was left behind is refused in the handshake, and it is written down
        await c.start()
        down = await c.wait_for("link-down", after=len(c.events), timeout=PATIENCE)
        assert down["error"] == "authentication-failed"
        assert await audited(stage, "connection-refused")

    play(application, scene, carrier=carrier)
