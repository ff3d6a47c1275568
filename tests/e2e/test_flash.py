"""A flash that is full or read-only: LittleFS in the real interpreter, and a real manager."""

import asyncio
from pathlib import Path

import pytest
from littlefs import LittleFSError

from e2e.test_agents import PATIENCE, PROGRAM, Board, meet, play
from e2e.test_clock import board as board_of_a_year
from e2e.test_clock import play as play_with_clocks
from keyferry_hil.virtual_device import Application, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage

BLOCK = 4096
# Blocks of a flash, which a board's files and the filler share.
BLOCKS = 24
FILLER = "filler"


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return Application.build(PROGRAM, tmp_path_factory.mktemp("upkeep"))


def fill(board: VirtualDevice, left: int = 0) -> None:
    """Put a file on its flash that leaves ``left`` blocks."""
    files = {name: data for name, data in board.files().items() if name != FILLER}
    for blocks in range(BLOCKS, 0, -1):
        # a byte less than a block for each: large files have pointers in their blocks
        content = bytes(blocks * (BLOCK - 8))
        try:
            board.format({**files, FILLER: content}, BLOCKS * BLOCK)
        except LittleFSError as error:
            if error.code != LittleFSError.Error.LFS_ERR_NOSPC:
                raise
            continue
        if left:
            content = bytes((blocks - left) * (BLOCK - 8))
            board.format({**files, FILLER: content}, BLOCKS * BLOCK)
        return
    raise AssertionError("it was full before")


def empty(board: VirtualDevice) -> None:
    files = {name: data for name, data in board.files().items() if name != FILLER}
    board.format(files, BLOCKS * BLOCK)


def read_only(board: VirtualDevice, state: bool = True) -> None:
    board._environment = {"KEYFERRY_FLASH_READONLY": "1"} if state else {}


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4])
def test_a_token_is_not_used_up_for_a_certificate_that_cannot_be_kept(
    application: Application, left: int
) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        fill(b, left)
        await b.start()
        # with whatever room there is, it has its identity on flash or has not asked for one
        while not any(b.all(name) for name in ("ready", "enrol-failed", "failed")):
            await asyncio.sleep(0.05)
            assert b.running
        if left == 4:
            await b.wait_for("ready", timeout=PATIENCE)
        if not b.all("ready"):
            failed = b.all("enrol-failed")[0]
            assert failed["error"] == "storage-failed"
            assert "the flash is full" in failed["detail"]
            assert not b.all("enrol-start")
            # it asks the flash again
            await b.wait_for("enrol-failed", after=b.events.index(failed) + 1, timeout=PATIENCE)
            await b.power_cut()
            assert "token" in b.files()
            empty(b)
            await b.boot()
        assert not b.all("store-failed")
        await b.power_cut()
        await b.boot()
        assert len(b.all("enrolled")) == 1
        await a.boot()
        await meet(a, b)

    play(application, scene, ("--factory", "--token"))


def test_a_read_only_flash_uses_no_token_up(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        # the flash failed after a first try made a key
        await stage._stop_manager()
        await b.start()
        await b.wait_for("enrol-failed", error="peer-gone", timeout=PATIENCE)
        await b.power_cut()
        await stage.serve()
        read_only(b)
        after = len(b.events)
        await b.start()
        failed = await b.wait_for("enrol-failed", after=after, timeout=PATIENCE)
        assert failed["error"] == "storage-failed"
        assert "the flash is read-only" in failed["detail"]
        assert not [e for e in b.events[after:] if e["event"] == "enrol-start"]
        await b.power_cut()
        read_only(b, False)
        await b.boot()
        await a.boot()
        await meet(a, b)

    play(application, scene, ("--factory", "--token"))


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_device_with_an_identity_goes_on_with_it(application: Application, state: str) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        b = Board("pump-7", b.flash, application, heap="160k")
        stage.devices.append(b)
        await b.boot()
        await b.power_cut()
        if state == "full":
            fill(b)
        else:
            read_only(b)
        kept = b.files()
        await a.boot()
        await b.boot()
        await meet(a, b)
        for new_key in (False, True):
            after = len(b.events)
            await b.send(do="renew", new_key=new_key)
            done = await b.wait_for("done", what="renew", after=after, timeout=PATIENCE)
            assert done["problem"].startswith("storage-failed"), done
            failed = await b.wait_for("renewal-failed", after=after)
            assert f"the flash is {state}" in failed["detail"]
            # what is there goes on: the link, the session, and new ones
            assert not [e for e in b.events[after:] if e["event"] == "link-down"]
            await a.do("send", size=50, count=1)
            await b.wait_for("got", after=after, size=50, timeout=PATIENCE)
            await a.do("close")
            await meet(a, b)
        await b.power_cut()
        assert b.files()["identity.0"] == kept["identity.0"] or state == "full"
        await b.boot()
        await a.do("connect", to="pump-7")
        # and it renews when the flash is well again
        await b.power_cut()
        if state == "full":
            empty(b)
        read_only(b, False)
        await b.boot()
        await b.do("renew", new_key=True)
        await b.wait_for("key-proved", timeout=PATIENCE)

    play(application, scene)


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_factory_reset(application: Application, state: str) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        await b.boot()
        await b.power_cut()
        b.format({**b.files(), "factory-reset": b""}, BLOCKS * BLOCK)
        if state == "full":
            fill(b)
            # there is no room to write over the keys, nor for new ones afterwards; they go
            after = len(b.events)
            await b.start()
            failed = await b.wait_for("enrol-failed", after=after, timeout=PATIENCE)
            assert failed["error"] == "storage-failed"
            names = [event["event"] for event in b.events[after:]]
            assert "factory-reset" in names
            assert "enrol-start" not in names
            await b.power_cut()
            assert "factory-reset" not in b.files()
            empty(b)
            await b.boot()
            assert len(b.all("enrolled")) == 2
            return
        read_only(b)
        after = len(b.events)
        await b.start()
        # it must not be used any more, and cannot be erased: that is said, and nothing is done
        told = await b.wait_for("store-failed", after=after, timeout=PATIENCE)
        assert told["error"] == "storage-failed"
        assert "the flash is read-only" in told["detail"]
        failed = await b.wait_for("failed", after=after, timeout=PATIENCE)
        assert failed["error"] == "storage-failed"
        assert "link-up" not in [event["event"] for event in b.events[after:]]
        await b.power_cut()
        read_only(b, False)
        after = len(b.events)
        await b.boot()
        assert "enrolled" in [event["event"] for event in b.events[after:]]

    play(application, scene)


@pytest.mark.needs("faketime")
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_the_time_is_used_though_it_cannot_be_kept(tmp_path: Path, state: str) -> None:
    async def scene(stage: Stage) -> None:
        device = await board_of_a_year(stage, "pump-7", "2021")
        await device.wait_for("ready", timeout=PATIENCE)
        await device.power_cut()
        files = {name: data for name, data in device.files().items() if "clock" not in name}
        device.format(files, BLOCKS * BLOCK)
        environment = dict(device._environment)
        offset = Path(environment["FAKETIME_TIMESTAMP_FILE"])
        offset.write_text("-300000000")
        if state == "full":
            fill(device)
        else:
            device._environment = {**environment, "KEYFERRY_FLASH_READONLY": "1"}
        after = len(device.events)
        await device.start()
        time = await device.wait_for("time", after=after, timeout=PATIENCE)
        assert time["signed"]
        await device.wait_for("ready", after=after, timeout=PATIENCE)
        if state == "read-only":
            failed = await device.wait_for("store-failed", after=after)
            assert failed["error"] == "storage-failed"
            assert "the flash is read-only" in failed["detail"]

    play_with_clocks(tmp_path, scene)
