"""Cuts on virtual boards: the real agent against a real manager, ended by SIGKILL at each write."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from keyferry_hil.virtual_device import Application, DeviceError, VirtualDevice
from keyferry_manager.cli.demo.stage import Stage

APP = Path(__file__).parent / "on_device" / "cut_app.py"
PATIENCE = 120.0
RECORDS = 12  # cells of the case "records"


class Boards:
    """One manager, a device that is cut, and a peer for its sessions."""

    def __init__(self, place: Path, name: str = "pump-7") -> None:
        self._stage = Stage(Application.build(APP, place))
        self._name = name
        self._new = b""  # the flash of a device that was never started
        self._used: set[tuple[str, int]] = set()  # (fingerprint, number) of every record

    async def __aenter__(self) -> Self:
        try:
            await self._stage.make_home()
            settings = self._stage.home / "keyferry.toml"
            text = settings.read_text()
            for name in ("per_device_per_hour", "per_address_per_hour", "failures_per_minute"):
                before, found, after = text.partition(f"{name} = ")
                assert found, name
                text = before + found + "10000\n" + after.partition("\n")[2]
            settings.write_text(text)
            await self._stage.serve()
            self._device = await self._stage.add_device(self._name)
            files = self._device.files()
            config = json.loads(files["config.json"]) | {"trust": "pinned"}
            self._device.format({**files, "config.json": json.dumps(config).encode()})
            self._new = self._device.flash.read_bytes()
            self._peer = await self._stage.add_device("panel-1")
            await self._stage.allow(self._name, "panel-1")
            await self._peer.start()
            await self._peer.wait_for("ready", timeout=PATIENCE)
        except BaseException:
            await self._stage.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stage.__aexit__(None, None, None)

    def _board(self, cut: int = 0) -> VirtualDevice:
        made = self._device
        environment = {"KEYFERRY_CUT": str(cut)}
        board = VirtualDevice(
            made.name, made.flash, made.application, heap="256k", environment=environment
        )
        self._stage.devices[0] = board
        return board

    async def enrolment(self, writes: int) -> tuple[bool, str]:
        """Whether write ``writes`` of a first start was cut, and what was lost, or ""."""
        self._device.flash.write_bytes(self._new)
        board = self._board(writes)
        async with board:
            cut = await _either(board, "cut", "ready")
        return cut, await self._comes_back(board)

    async def renewal(self, writes: int) -> tuple[bool, str]:
        """The same of a renewal with a new key."""
        board = self._board()
        async with board:
            await board.wait_for("ready", timeout=PATIENCE)
            await board.send(do="arm", writes=writes)
            await board.send(do="renew")
            cut = await _either(board, "cut", "key-proved")
        return cut, await self._comes_back(board)

    async def pin(self, writes: int) -> tuple[bool, str]:
        """The same of the first session with a peer, whose key is kept."""
        board = self._board()
        async with board:
            await board.wait_for("ready", timeout=PATIENCE)
            await board.send(do="unpin")
            await board.wait_for("peer-unpinned", timeout=PATIENCE)
            await board.send(do="arm", writes=writes)
            await board.send(do="meet", to="panel-1")
            cut = await _either(board, "cut", "met")
        return cut, await self._comes_back(board, "panel-1")

    async def records(self, count: int) -> tuple[bool, str]:
        """A session with ``count`` records, cut after the last; none may be sealed twice alike."""
        if count > RECORDS:
            return False, ""
        board = self._board()
        async with board:
            await board.wait_for("ready", timeout=PATIENCE)
            await board.send(do="talk", to="panel-1", cut=count)
            if not await _either(board, "cut", "failed"):
                return True, f"no session: {board.events[-1]}"
        for event in board.events:
            if event["event"] == "sealing":
                used = (event["fingerprint"], event["number"])
                if used in self._used:
                    return True, "a sequence number was used twice under one key"
                self._used.add(used)
        return True, ""

    async def _comes_back(self, cut: VirtualDevice, peer: str = "") -> str:
        """The next start must end with a link, and with a session with ``peer``; "" if it does."""
        board = self._board()
        async with board:
            try:
                await board.wait_for("ready", timeout=PATIENCE)
                if peer:
                    await board.send(do="meet", to=peer)
                    await board.wait_for("met", timeout=PATIENCE)
            except DeviceError as error:
                return str(error)
        bad = ("store-damaged", "pins-lost")
        damaged = [event for event in board.events if event["event"] in bad]
        return f"damaged: {damaged}" if damaged else ""


async def _either(board: VirtualDevice, first: str, second: str) -> bool:
    """Which of two events comes: True for the first."""
    hopes = [
        asyncio.create_task(board.wait_for(event, timeout=PATIENCE)) for event in (first, second)
    ]
    done, _ = await asyncio.wait(hopes, return_when=asyncio.FIRST_COMPLETED)
    for hope in hopes:
        hope.cancel()
    await asyncio.gather(*hopes, return_exceptions=True)
    events = [hope.result()["event"] for hope in done if hope.exception() is None]
    if not events:
        raise next(iter(done)).exception() or DeviceError("neither came")
    return first in events


Cell = Callable[[int], Awaitable[tuple[bool, str]]]


async def rows(place: Path, step: int = 1) -> list[dict[str, Any]]:
    """Each case, as flash.rows has it; every ``step``-th write is cut."""
    found = []
    async with Boards(place) as boards:
        cases: list[tuple[str, Cell]] = [
            ("enrolment", boards.enrolment),
            ("renewal", boards.renewal),
            ("pin", boards.pin),
            ("records", boards.records),
        ]
        for name, cell in cases:
            cells, lost = 0, []
            for number in itertools.count(1, step):
                cut, problem = await cell(number)
                if problem:
                    lost.append([number, problem])
                if not cut:
                    break
                cells += 1
            found.append({"case": "board: " + name, "tear": "half", "cells": cells, "lost": lost})
    return found
