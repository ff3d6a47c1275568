"""The agent on CPython against a real manager, and with MicroPython at the other end."""

import asyncio
import json
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from e2e.test_agents import PATIENCE, PROGRAM, Board, Driven, meet, play, provide
from e2e.test_clock import library
from keyferry_hil.free_port import free_port
from keyferry_hil.virtual_device import Application
from keyferry_manager.cli.demo.stage import Stage
from support.linux_device import LinuxDevice

DAY = 86400


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return Application.build(PROGRAM, tmp_path_factory.mktemp("upkeep"))


class Linux(LinuxDevice, Driven):
    """upkeep.py on CPython."""


def on_linux(stage: Stage, board: Board, **settings: object) -> Linux:
    """The same device as ``board``, by CPython."""
    made = Linux(board.name, stage.folder / f"{board.name}.files", (str(PROGRAM),))
    files = board.files()
    config = json.loads(files["config.json"]) | settings
    made.format(files | {"config.json": json.dumps(config).encode()})
    stage.devices.append(made)
    return made


def command(stage: Stage, board: Board, **more: object) -> LinuxDevice:
    """The same, by the command that a person uses."""
    made = LinuxDevice(board.name, stage.folder / f"{board.name}.files", **more)  # type: ignore[arg-type]
    made.format(board.files())
    stage.devices.append(made)
    return made


def clock(stage: Stage, days: int) -> dict[str, str]:
    """The environment of a process whose clock is off by so many days."""
    path = stage.folder / f"{days}.offset"
    path.write_text(f"{days * DAY:+d}")
    return {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(path),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


async def talk(a: Driven, b: Driven, size: int = 200) -> None:
    """The first records of a session, both ways."""
    for sender, receiver in ((a, b), (b, a)):
        after = len(receiver.events)
        await sender.do("send", size=size, count=3)
        await receiver.wait_for("got", after=after, size=size, count=3, timeout=PATIENCE)


@pytest.mark.parametrize("way", ["--token", "--factory"])
@pytest.mark.parametrize("carrier", ["mqtt", "sip"])
def test_it_enrols_and_meets_a_board_both_ways(
    application: Application, carrier: str, way: str
) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        linux = on_linux(stage, a)
        board = Board("pump-7", b.flash, application, heap="256k")
        stage.devices.append(board)
        await stage.allow("pump-7", "gauge-2")
        await linux.boot()
        await board.boot()
        assert linux.all("enrol-start")[0]["by"] == way[2:]
        for first, second in ((linux, board), (board, linux)):
            for profile in ("cert", "rpk"):
                after = len(first.events), len(second.events)
                await first.do("connect", to=second.name, profile=profile)
                here = await first.wait_for("connected", after=after[0], timeout=PATIENCE)
                there = await second.wait_for("accepted", after=after[1], timeout=PATIENCE)
                assert here["fingerprint"] == there["fingerprint"]
                await talk(first, second, 1024)
                await first.do("close")
                await second.wait_for("over", after=after[1], timeout=PATIENCE)
        files = {path.name: path for path in linux.flash.iterdir()}
        assert "token" not in files
        for name in ("identity.0", "identity.1"):
            assert stat.S_IMODE(files[name].stat().st_mode) == 0o600

    play(application, scene, (way, "--factory"), carrier)


def test_it_renews_in_the_middle_of_a_session(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        linux = on_linux(stage, b)
        await a.boot()
        await linux.boot()
        await meet(a, linux)
        for new_key in (False, True):
            before = linux.all("enrolled")[-1]
            after = len(linux.events)
            await linux.do("renew", new_key=new_key)
            assert linux.all("enrolled")[-1]["serial"] != before["serial"]
            assert linux.all("enrol-start")[-1]["by"] == "link"
            await linux.wait_for("registered", after=after, timeout=PATIENCE)
            if new_key:
                await linux.wait_for("key-proved", after=after, timeout=PATIENCE)
            after = len(linux.events)
            await a.do("send", size=50, count=1)
            await linux.wait_for("got", after=after, size=50, timeout=PATIENCE)
        assert len(linux.all("key-made")) == 2
        # the next start uses it, and renews by EST where that is due
        await linux.power_cut()
        linux._environment = clock(stage, 70)
        after = len(linux.events)
        await linux.boot()
        started = await linux.wait_for("enrol-start", after=after)
        assert started["by"] == "certificate"
        await linux.wait_for("enrolled", after=after)
        await linux.wait_for("key-proved", after=after, timeout=PATIENCE)

    play(application, scene)


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_the_manager_ends_and_starts_again(application: Application, end: str) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        linux = on_linux(stage, a)
        await linux.boot()
        await b.boot()
        await meet(linux, b)
        after = len(linux.events), len(b.events)
        if end == "stopped":
            await stage._stop_manager()
        else:
            manager = stage._manager
            assert manager is not None
            manager.kill()
            await manager.wait()
        down = await linux.wait_for("link-down", after=after[0], timeout=PATIENCE)
        assert down["error"] == "peer-gone"
        await stage.serve()
        for device, mark in ((linux, after[0]), (b, after[1])):
            await device.wait_for("registered", after=mark, timeout=PATIENCE)
        if end == "killed":
            over = await linux.wait_for("over", after=after[0], timeout=PATIENCE)
            assert over["reason"] == "manager-restarted"
            await meet(linux, b)
        await talk(linux, b)

    play(application, scene)


def test_a_board_reaches_it_straight(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        port = free_port()
        linux = on_linux(stage, b, direct_port=port, addresses=[f"127.0.0.1:{port}"])
        await a.boot()
        await linux.boot()
        await a.do("connect", to="pump-7", via="auto")
        for device in (a, linux):
            await device.wait_for("direct-up", timeout=PATIENCE)
        await a.do("send", size=200, count=20)
        await linux.wait_for("got", count=20, timeout=PATIENCE)
        await linux.do("send", size=200, count=20)
        await a.wait_for("got", count=20, timeout=PATIENCE)
        await stage.keyferry("allow", "--remove", "gauge-2", "pump-7", "--home", str(stage.home))
        for device in (a, linux):
            over = await device.wait_for("over", timeout=PATIENCE)
            assert over["reason"] == "access-denied"

    play(application, scene)


def test_a_revoked_one_is_out_and_knows_why(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        linux = on_linux(stage, b)
        await linux.boot()
        after = len(linux.events)
        await stage.keyferry("device", "revoke", "pump-7", "--home", str(stage.home))
        told = await linux.wait_for("manager-error", after=after, timeout=PATIENCE)
        assert told["error"] == "revoked"
        await linux.wait_for("link-down", after=after, timeout=PATIENCE)
        for _ in range(2):  # it tries again by itself, and hears of it from TLS
            again = await linux.wait_for("link-down", after=len(linux.events), timeout=PATIENCE)
            assert again["error"] == "authentication-failed", again

    play(application, scene)


@asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[int]:
    """A port that says ``answer`` to everybody who says something, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with made:
        yield made.sockets[0].getsockname()[1]


def test_managers_that_are_none(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        async def refused(
            *errors: str, days: int = 0, files: dict[str, bytes] | None = None, **settings: object
        ) -> str:
            linux = on_linux(stage, a, **settings)
            if files:
                linux.format(linux.files() | files)
            linux._environment = clock(stage, days) if days else {}
            await linux.start()
            failed = await linux.wait_for("enrol-failed", timeout=PATIENCE)
            assert failed["error"] in errors, failed
            # it goes on trying, with the same key
            await linux.wait_for("key-reused", timeout=PATIENCE)
            await linux.power_cut()
            return failed["detail"]

        async with Stage() as other:
            await other.make_home()
            await other.serve()
            stranger = await provide(other, application, "gauge-2", "--factory")
            theirs = json.loads(stranger.files()["config.json"])
            detail = await refused("authentication-failed", est_port=theirs["est_port"])
            assert "server certificate" in detail
            # the right root, and another realm than the one that it is asked to be
            detail = await refused(
                "authentication-failed",
                files={
                    "root.der": stranger.files()["root.der"],
                    "factory.crt": stranger.files()["factory.crt"],
                    "factory.key": stranger.files()["factory.key"],
                },
                est_port=theirs["est_port"],
                realm="other.example",
            )
            assert "ostname" in detail
            # The manager does not know the factory. With TLS 1.3 it says so after the handshake,
            # and where we have written by then, the reset of the connection may come first.
            detail = await refused(
                "authentication-failed",
                "peer-gone",
                files={
                    "factory.crt": stranger.files()["factory.crt"],
                    "factory.key": stranger.files()["factory.key"],
                },
            )
            assert "alert" in detail.lower() or detail == "Connection lost"
        detail = await refused("clock-wrong", days=10000)
        assert str(int(time.time()) // DAY + 10000)[:3] in str(int(detail.split()[-1][:-1]) // DAY)
        async with server(b"\x00\xff" * 2000) as port:
            await refused("authentication-failed", est_port=port)
        async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as port:
            await refused("authentication-failed", est_port=port)
        async with server(b"") as port:
            await refused("peer-gone", est_port=port)
        await refused("peer-gone", est_port=free_port())

    play(application, scene)


def test_the_command_is_told_to_stop(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        linux = command(stage, b)
        # while there is no manager
        await stage._stop_manager()
        await linux.start()
        await linux.wait_for("enrol-failed", error="peer-gone", timeout=PATIENCE)
        assert await linux.stop() == 0
        await stage.serve()
        await linux.start()
        after = len(linux.events)
        await linux.wait_for("ready", after=after, timeout=PATIENCE)
        # a second process with the same identity
        second = LinuxDevice("second", linux.flash)
        stage.devices.append(second)
        await second.start()
        assert (await second.wait_for("failed"))["error"] == "wrong-state"
        # a session is closed, not lost
        await a.boot()
        await a.do("connect", to="pump-7")
        await linux.wait_for("accepted", peer="gauge-2", timeout=PATIENCE)
        assert await linux.stop() == 0
        over = await a.wait_for("over", timeout=PATIENCE)
        assert over["reason"] == "session-closed"
        # refused for good: its token is of no use any more
        files = linux.files()
        linux.format(
            {name: data for name, data in files.items() if "identity" not in name} | {"token": b"x"}
        )
        after = len(linux.events)
        await linux.start()
        failed = await linux.wait_for("failed", after=after, timeout=PATIENCE)
        assert failed["error"] == "bad-credentials"
        assert linux._process is not None
        assert await linux._process.wait() == 1
        for wrong in ("config.json", "root.der"):
            await linux.power_cut()
            linux.format({name: data for name, data in files.items() if name != wrong})
            after = len(linux.events)
            await linux.start()
            failed = await linux.wait_for("failed", after=after, timeout=PATIENCE)
            assert failed["error"] == "bad-argument"
            assert wrong in failed["detail"]

    play(application, scene, ("--factory", "--token"))
