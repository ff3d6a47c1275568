"""CA, directory and manager as three processes, and two boards that meet through them."""

import asyncio
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from e2e.test_restart import meet
from keyferry_manager.cli.demo.stage import REALM, Stage
from support.processes import LOCAL, Served, answer, keyferry

PATIENCE = 90.0


class Apart(Stage):
    """A stage whose manager has neither a CA's key nor the directory."""

    ca: Served
    directory: Served

    async def make_home(self) -> None:
        await asyncio.to_thread(self._make)

    def _make(self) -> None:
        ca, directory, token = (self.folder / name for name in ("ca", "directory", "token"))
        keyferry("init", ca, "--realm", REALM, "--role", "ca", *LOCAL)
        keyferry("init", directory, "--realm", REALM, "--role", "directory", *LOCAL)
        self.ca = Served(ca, "ca", "serve")
        self.directory = Served(directory, "directory", "serve")
        keyferry("ca", "add", "manager-1", "--out", token, "--home", ca)
        keyferry(
            *("init", self.home, "--realm", REALM, *LOCAL, "--authority", "est"),
            *("--ca-url", f"https://127.0.0.1:{self.ca.ready['port']}"),
            *("--ca-root", ca / "ca" / "root.pem", "--ca-token-file", token),
            *("--directory-socket", self.directory.ready["socket"]),
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        saved = None
        if kind is not None and self.log.exists():
            saved = self.log.read_text()[-4000:]
        for name in ("ca", "directory"):
            served: Served | None = getattr(self, name, None)
            if served is not None:
                if kind is not None:
                    print(name, served.said()[-3000:])
                await asyncio.to_thread(served.stop)
        if saved:
            print(saved)
        await super().__aexit__(kind, error, traceback)


def listed(stage: Apart) -> dict[str, Any]:
    home = stage.directory.home
    return {item["name"]: item for item in answer("directory", "list", "--home", home)}


@pytest.mark.needs("ps")
def test_two_boards_meet_with_ca_and_directory_apart() -> None:
    async def main() -> None:
        async with Apart() as stage:
            await stage.make_home()
            await stage.serve()
            a, b = await stage.add_pair("gauge-2", "pump-7")
            for board in (a, b):
                await board.start()
            for board in (a, b):
                await board.wait_for("ready", timeout=PATIENCE)
            await meet(a, b)
            await asyncio.to_thread(look, stage)

    asyncio.run(main())


def look(stage: Apart) -> None:
    """What is where, while all three run."""
    pids = {
        "ca": stage.ca.pid,
        "directory": stage.directory.pid,
        "manager": stage.ready["pid"],
    }
    listing = subprocess.run(
        ["ps", "-o", "pid=,args=", "-p", ",".join(map(str, pids.values()))],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    print(listing)
    rows = {int(line.split()[0]): line for line in listing.splitlines()}
    assert set(rows) == set(pids.values())
    assert "ca serve" in rows[pids["ca"]]
    assert "directory serve" in rows[pids["directory"]]
    assert " serve" in rows[pids["manager"]]
    # the CA wrote down what it signed, the directory has it, and the manager has no key
    certified = answer("audit", "--event", "certified", "--home", stage.ca.home)
    serials = {entry["name"]: entry["fields"]["serial"] for entry in certified}
    assert {name: item["serial"] for name, item in listed(stage).items()} == serials
    assert set(serials) == {"gauge-2", "pump-7"}
    assert sorted(path.name for path in (stage.home / "ca").iterdir()) == [
        "factory.pem",
        "issuing.pem",
        "root.pem",
    ]
    homes = (str(stage.ca.home), str(stage.directory.home / "keyferry.db"))
    for link in Path(f"/proc/{pids['manager']}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        assert not target.startswith(homes), target


def test_without_the_directory_nobody_new_gets_in() -> None:
    async def main() -> None:
        async with Apart() as stage:
            await stage.make_home()
            await stage.serve()
            a, b = await stage.add_pair("gauge-2", "pump-7")
            for board in (a, b):
                await board.start()
                await board.wait_for("ready", timeout=PATIENCE)
            home = stage.directory.home
            await asyncio.to_thread(stage.directory.stop)
            # who is in goes on: nothing of a session asks the directory
            await meet(a, b)
            # a new device is told to come again, and keeps its way to enrol
            c = await stage.add_device("valve-2")
            await c.start()
            failed = await c.wait_for("enrol-failed", timeout=PATIENCE)
            assert "HTTP 503" in failed["detail"]
            stage.directory = await asyncio.to_thread(Served, home, "directory", "serve")
            await c.wait_for("ready", timeout=PATIENCE)
            assert "valve-2" in await asyncio.to_thread(listed, stage)

    asyncio.run(main())
