"""Agents on virtual boards against a real manager: a device's years, in a minute."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from keyferry_hil.free_port import free_port
from keyferry_hil.virtual_device import Application, Event, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage

PROGRAM = Path(__file__).parent / "on_device" / "upkeep.py"
# What a long life with both roles takes on a 64-bit board; the demo's short one has 128.
LONG = "144k"
PATIENCE = 40.0


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return Application.build(PROGRAM, tmp_path_factory.mktemp("upkeep"))


class Driven(VirtualDevice):
    """A device that runs upkeep.py."""

    async def boot(self) -> None:
        after = len(self.events)
        await self.start()
        await self.wait_for("ready", after=after, timeout=PATIENCE)

    async def do(self, what: str, **arguments: object) -> Event:
        """Give a command and wait until it is done."""
        after = len(self.events)
        await self.send(do=what, **arguments)
        done = await self.wait_for("done", what=what, after=after, timeout=PATIENCE)
        assert done["problem"] == "", "\n".join(map(str, self.events[-10:]))
        return done

    def all(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]


class Board(Driven):
    """A virtual board."""


async def provide(
    stage: Stage, application: Application, name: str, way: str, carrier: str = "mqtt"
) -> Board:
    """A board with the files of a new device, which enrols by ``way``."""
    files = stage.folder / "devices" / name
    speaks = () if carrier == "mqtt" else ("--carrier", carrier)
    if carrier == "sip":
        speaks += ("--sip-port", str(stage.ready["sip_port"]))
    await stage.keyferry(
        *("device", "add", name, way, "--out", str(files), "--home", str(stage.home)),
        *speaks,
        *("--mqtt-port", str(stage.ready["mqtt_port"])),
        *("--est-port", str(stage.ready["est_port"])),
    )
    board = Board(name, stage.folder / f"{name}.flash", application, heap=LONG)
    board.format({path.name: path.read_bytes() for path in files.iterdir()})
    shutil.rmtree(files)
    stage.devices.append(board)
    return board


Scene = Callable[[Stage, Board, Board], Awaitable[None]]


def play(
    application: Application,
    scene: Scene,
    ways: tuple[str, str] = ("--factory",) * 2,
    carrier: str = "mqtt",
) -> None:
    """A manager and two boards that may ask for each other, then the scene."""

    async def main() -> None:
        async with Stage() as stage:
            await stage.make_home()
            await stage.serve()
            # the ports that it got are the ports that it keeps, also after a restart
            settings = stage.home / "keyferry.toml"
            text = settings.read_text()
            for port in ("mqtt_port", "est_port", "sip_port"):
                assert f"\n{port} = 0\n" in text
                text = text.replace(f"\n{port} = 0\n", f"\n{port} = {stage.ready[port]}\n")
            settings.write_text(text)
            a = await provide(stage, application, "gauge-2", ways[0], carrier)
            b = await provide(stage, application, "pump-7", ways[1], carrier)
            await stage.allow("gauge-2", "pump-7")
            await scene(stage, a, b)

    asyncio.run(main())


async def meet(a: Driven, b: Driven) -> None:
    after = len(a.events), len(b.events)
    try:
        await a.do("connect", to=b.name)
    except AssertionError:
        print("\n".join(map(str, b.events)), *b.console)
        raise
    here = await a.wait_for("connected", after=after[0], timeout=PATIENCE)
    there = await b.wait_for("accepted", after=after[1], timeout=PATIENCE)
    assert here["fingerprint"] == there["fingerprint"]


def test_a_token_is_used_once_and_forgotten(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        assert "token" in b.files()
        twin = Board("twin", stage.folder / "twin.flash", application, heap=LONG)
        stage.devices.append(twin)
        twin.format({name: data for name, data in b.files().items()})
        await a.boot()
        await b.boot()
        await meet(a, b)
        await b.power_cut()
        assert sorted(b.files()) == ["config.json", "identity.0", "identity.1", "root.der"]
        # whoever copied the token before comes too late
        await twin.start()
        refused = await twin.wait_for("enrol-refused", timeout=PATIENCE)
        assert refused["error"] == "bad-credentials"
        assert (await twin.wait_for("failed"))["error"] == "bad-credentials"
        await b.boot()
        assert len(b.all("enrolled")) == 1

    play(application, scene, ("--factory", "--token"))


def test_a_manager_of_another_root_gets_nothing(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        async with Stage() as other:
            await other.make_home()
            await other.serve()
            stranger = await provide(other, application, "pump-7", "--token")
            files = a.files()
            files["root.der"] = stranger.files()["root.der"]
            a.format(files)
            await a.start()
            failed = await a.wait_for("enrol-failed", timeout=PATIENCE)
            assert failed["error"] == "authentication-failed"
            assert "server certificate" in failed["detail"]
            # it will ask again, with the same key
            await a.wait_for("key-reused", timeout=PATIENCE)
            assert len(a.all("key-made")) == 1

    play(application, scene)


def test_renewal_in_the_middle_of_a_session(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        # In the middle of a session there is less memory for it than at a start: 128 KiB may not
        # do, and then the agent says so and renews at its next start.
        b = Board("pump-7", b.flash, application, heap="160k")
        stage.devices.append(b)
        await a.boot()
        await b.boot()
        await meet(a, b)
        for new_key in (False, True):
            before = b.all("enrolled")[-1]
            after = len(b.events)
            await b.do("renew", new_key=new_key)
            assert b.all("enrolled")[-1]["serial"] != before["serial"]
            # over the link that stands: no second TLS connection, and no HTTP
            started = await b.wait_for("enrol-start", after=after)
            assert started["by"] == "link", "\n".join(map(str, b.events[after:]))
            down = await b.wait_for("link-down", after=after, timeout=PATIENCE)
            assert down["retry_ms"] == 0
            await b.wait_for("registered", after=after, timeout=PATIENCE)
            # the session that stands goes on
            after = len(b.events)
            await a.do("send", size=50, count=1)
            await b.wait_for("got", after=after, size=50, timeout=PATIENCE)
            # a new one is made with the new certificate
            await a.do("close")
            await b.wait_for("over", after=after, timeout=PATIENCE)
            await meet(a, b)
        assert not b.all("certify-failed")
        assert len(b.all("key-made")) == 2
        assert not a.all("message-refused")
        # the next start uses it, too
        await b.power_cut()
        await b.boot()
        await meet(a, b)

    play(application, scene)


def test_the_manager_stops_and_starts_again(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        await a.boot()
        await b.boot()
        await meet(a, b)
        after = len(a.events), len(b.events)
        await stage._stop_manager()
        for board, mark in zip((a, b), after, strict=True):
            await board.wait_for("link-down", after=mark, timeout=PATIENCE)
        await stage.serve()
        for board, mark in zip((a, b), after, strict=True):
            await board.wait_for("registered", after=mark, timeout=PATIENCE)
        # it left the session to its next run, which goes by the same identifier
        await a.do("send", size=50, count=1)
        await b.wait_for("got", after=after[1], size=50, timeout=PATIENCE)
        for board, mark in zip((a, b), after, strict=True):
            assert "over" not in [event["event"] for event in board.events[mark:]]

    play(application, scene)


def test_the_manager_is_killed_and_starts_again(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        await a.boot()
        await b.boot()
        await meet(a, b)
        after = len(a.events), len(b.events)
        manager = stage._manager
        assert manager is not None
        manager.kill()
        await manager.wait()
        await stage.serve()
        # both wait in recv() and say nothing: the new run of the manager knows of no session
        for board, mark in zip((a, b), after, strict=True):
            over = await board.wait_for("over", after=mark, timeout=PATIENCE)
            assert over["reason"] == "manager-restarted"
            await board.wait_for("registered", after=mark, timeout=PATIENCE)
        await meet(a, b)

    play(application, scene)


def test_plain_messages_and_what_became_of_them(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        await a.boot()
        await b.boot()

        async def tell(sender: Board, to: str, size: int = 20) -> str:
            after = len(sender.events)
            await sender.send(do="tell", to=to, size=size)
            done = await sender.wait_for("done", what="tell", after=after, timeout=PATIENCE)
            return str(done["problem"]).partition(":")[0]

        assert await tell(a, "pump-7") == "declined"  # its application takes none yet
        await b.do("listen")
        for size in (0, 20, 1024):
            after = len(b.events)
            assert await tell(a, "pump-7", size) == ""
            told = await b.wait_for("told", after=after, size=size, timeout=PATIENCE)
            assert (told["sender"], told["verified"]) == ("gauge-2", [True, True])
        assert await tell(b, "gauge-2") == "access-denied"
        assert await tell(a, "valve-9") == "access-denied"
        await meet(a, b)
        assert await tell(a, "pump-7") == ""
        await b.power_cut()
        # until the manager notices it goes nowhere, and the sender hears that either way
        assert await tell(a, "pump-7") in ("peer-gone", "peer-offline")
        await b.boot()
        await b.do("listen")
        assert await tell(a, "pump-7") == ""

    play(application, scene)


def test_records_too_large_for_a_small_board(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        # the sender is a larger machine
        big = Board("gauge-2", a.flash, application, heap="512k")
        stage.devices.append(big)
        await big.boot()
        await b.boot()
        await meet(big, b)
        await big.do("send", size=1024, count=5)
        await b.wait_for("got", size=1024, count=5, timeout=PATIENCE)
        await big.do("send", size=8192, count=3)
        refused = await b.wait_for("message-refused", timeout=PATIENCE)
        assert refused["error"] == "too-large"
        await big.do("send", size=100, count=1)
        await b.wait_for("got", size=100, timeout=PATIENCE)
        assert not b.all("link-down")
        # the other way it has no memory to send so much either, and says so
        await b.do("send", size=500, count=5)
        await big.wait_for("got", size=500, count=5, timeout=PATIENCE)

    play(application, scene)


def test_many_sessions_leave_no_memory_behind(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        await a.boot()
        await b.boot()
        free = []
        for round_ in range(12):
            await meet(a, b)
            marks = len(a.events), len(b.events)
            await a.do("send", size=200, count=20)
            await b.do("send", size=200, count=20)
            await a.wait_for("got", after=marks[0], count=20, timeout=PATIENCE)
            await b.wait_for("got", after=marks[1], count=20, timeout=PATIENCE)
            await a.do("close")
            await b.wait_for("over", after=marks[1], timeout=PATIENCE)
            if round_ >= 4:
                here, there = await a.do("memory"), await b.do("memory")
                free.append((here["free"], there["free"]))
        for first, last in zip(free[0], free[-1], strict=True):
            assert last > first - 1024, free

    play(application, scene)


def test_records_go_straight_to_the_peer_until_that_is_withdrawn(application: Application) -> None:
    async def scene(stage: Stage, a: Board, b: Board) -> None:
        port = free_port()
        files = b.files()
        config = json.loads(files["config.json"])
        config |= {"direct_port": port, "addresses": [f"127.0.0.1:{port}"]}
        b.format(files | {"config.json": json.dumps(config).encode()})
        await a.boot()
        await b.boot()
        await a.do("connect", to="pump-7", via="auto")
        for board in (a, b):
            await board.wait_for("direct-up", timeout=PATIENCE)
        await a.do("send", size=200, count=40)
        await b.wait_for("got", count=40, timeout=PATIENCE)
        await b.do("send", size=200, count=40)
        await a.wait_for("got", count=40, timeout=PATIENCE)
        (session,) = await stage.keyferry("sessions", "--home", str(stage.home))
        assert session["messages"] < 10, "the manager carried the exchange, and nothing after it"
        await stage.keyferry("allow", "--remove", "gauge-2", "pump-7", "--home", str(stage.home))
        for board in (a, b):
            over = await board.wait_for("over", timeout=PATIENCE)
            assert over["reason"] == "access-denied"
            await board.wait_for("direct-down", timeout=PATIENCE)

    play(application, scene)
