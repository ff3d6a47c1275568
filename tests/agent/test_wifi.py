# heap: 2m
"""The board's radio on either port, as far as a fake can be one: joined, lost, wrong and silent."""

import asyncio
import os
import sys

from keyferry_agent import wifi
from keyferry_agent.agent import Agent
from keyferry_agent.board import Board
from keyferry_agent.config import ConfigError
from keyferry_agent.wifi import Wifi
from support import fake_board
from support.agent_kit import Events, Folder, Hub, Party, fails, introduce, run, until
from support.portable import raises

SSID = "plant"
PASSWORD = "correct horse 7b1f"
GOOD = b'{"ssid": "plant", "password": "correct horse 7b1f"}'
PORTS = ("esp32", "rp2")
KEPT = (wifi.BACKOFF, wifi.JOIN_TIMEOUT, wifi.LOOK, wifi.LOOK_UP)


class Scene:
    """A board with a radio, a folder with ``wifi.json``, and what it said."""

    def __init__(self, port, data=GOOD):
        self.air = fake_board.install(port)
        self.air.networks = {SSID: PASSWORD}
        self.folder = Folder()
        self.data = data
        self.events = []
        self.ups = 0

    def __enter__(self):
        self.folder.__enter__()
        if self.data is not None:
            self.folder.write("wifi.json", self.data)
        wifi.BACKOFF, wifi.LOOK, wifi.LOOK_UP, wifi.JOIN_TIMEOUT = (0, 0), 0.002, 0.005, 0.1
        return self

    def __exit__(self, *what):
        wifi.BACKOFF, wifi.JOIN_TIMEOUT, wifi.LOOK, wifi.LOOK_UP = KEPT
        fake_board.remove()
        self.folder.__exit__(*what)

    def event(self, event, **fields):
        if len(self.events) < 100 or event != "wifi-down":  # without a backoff they are many
            self.events.append((event, fields))

    def up(self):
        self.ups += 1

    def reasons(self):
        return [fields["reason"] for event, fields in self.events if event == "wifi-down"]

    def play(self, scene):
        async def main():
            kept = Wifi(Board(), self.folder.path, self.event, os.urandom, self.up)
            task = asyncio.create_task(kept.start())
            try:
                await scene(kept, task)
            finally:
                task.cancel()
                kept.stop()

        run(main())
        assert PASSWORD not in str(self.events)


def test_it_joins():
    for port in PORTS:
        with Scene(port) as scene:

            async def play(kept, task):
                await task
                assert kept.joined.is_set()

            scene.play(play)
            assert scene.events == [("wifi-up", {"address": "192.0.2.7", "rssi": -60})]
            assert scene.air.heard == [(SSID, PASSWORD)]
            assert scene.ups == 1


def test_what_boot_code_began_is_not_begun_again():
    for port in PORTS:
        for looks in (0, 5):  # still joining, and there already
            with Scene(port) as scene:
                radio = Board().radio()
                radio.active(True)
                radio.connect(SSID, PASSWORD)
                for _ in range(looks):
                    radio.isconnected()

                async def play(kept, task):
                    await task

                scene.play(play)
                assert len(scene.air.heard) == 1


def test_an_open_network_gets_no_password():
    for port in PORTS:
        with Scene(port, b'{"ssid": "yard"}') as scene:
            scene.air.networks = {"yard": None}

            async def play(kept, task):
                await task

            scene.play(play)
            assert scene.air.heard == [("yard", None)]


def failing(scene, reason, status):
    """It says ``reason`` again and again, and joins as soon as that is gone."""
    networks = scene.air.networks

    async def play(kept, task):
        await until(lambda: len(scene.reasons()) >= 3)
        assert not kept.joined.is_set() and not task.done()
        scene.air.networks, scene.air.mood = {SSID: PASSWORD}, ""
        await task
        assert kept.joined.is_set()

    scene.play(play)
    assert networks is not None
    assert set(scene.reasons()) == {reason}, scene.events
    assert scene.events[0][1]["status"] == status, scene.events
    assert scene.events[-1][0] == "wifi-up"


def test_a_wrong_password_is_called_that():
    for port, status in (("esp32", 15), ("rp2", -3)):
        with Scene(port) as scene:
            scene.air.networks = {SSID: "another one"}
            failing(scene, "wrong-password", status)


def test_a_network_that_is_not_there():
    for port, status in (("esp32", 201), ("rp2", -2)):
        with Scene(port) as scene:
            scene.air.networks = {}
            failing(scene, "no-such-network", status)


def test_other_refusals():
    for port, mood, reason, status in (
        ("esp32", "no-address", "no-address", 1001),
        ("rp2", "no-address", "no-address", 2),
        ("esp32", "silent", "no-answer", 1001),
        ("rp2", "silent", "no-answer", 1),
        ("esp32", "associate", "refused", 203),
        ("rp2", "associate", "refused", -1),
        ("esp32", "broken", "radio-failed", None),
        ("rp2", "broken", "radio-failed", None),
    ):
        with Scene(port) as scene:
            scene.air.mood = mood
            failing(scene, reason, status)


def test_numbers_without_a_name():
    with Scene("esp32"):
        port = wifi._Port()
        for number, reason in ((2, "refused"), (39, "refused"), (1001, ""), (1000, ""), (0, "")):
            assert port.failure(number) == reason
        for number in (202, 204, 15):
            assert port.failure(number) == "wrong-password"
        for number in (201, 210, 211, 212):
            assert port.failure(number) == "no-such-network"
    with Scene("rp2"):
        port = wifi._Port()
        for number in (0, 1, 2, 3, 15, 201):
            assert port.failure(number) == ""


def test_it_comes_back_after_a_loss():
    for port in PORTS:
        with Scene(port) as scene:

            async def play(kept, task):
                await task
                scene.air.networks = {}
                await until(lambda: not kept.joined.is_set())
                await until(lambda: "no-such-network" in scene.reasons())
                scene.air.networks = {SSID: PASSWORD}
                await until(kept.joined.is_set)

            scene.play(play)
            assert scene.reasons()[0] == "lost"
            assert scene.ups == 2


def test_attempts_are_further_and_further_apart():
    with Scene("rp2") as scene:
        scene.air.networks = {}
        waits = []

        async def sleep(seconds):
            waits.append(seconds)
            await asyncio.sleep(0)

        class Quick:
            def __getattr__(self, name):
                return getattr(asyncio, name)

        quick = Quick()
        quick.sleep = sleep
        wifi.BACKOFF = (1, 60)
        wifi.asyncio = quick
        try:

            async def play(kept, task):
                await until(lambda: len(scene.reasons()) >= 9)

            scene.play(play)
        finally:
            wifi.asyncio = asyncio
        waits = [wait for wait in waits if wait > 0.1]
        for index, limit in enumerate((1, 2, 4, 8, 16, 32, 60, 60)):
            wait = waits[index]
            assert limit / 2 <= wait <= limit, waits


def test_what_is_wrong_with_the_file_is_named_and_the_password_is_not():
    for data in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'"correct horse 7b1f"',
        b"\xff\xfe",
        b'{"ssid": "plant", "password": "correct horse 7b1f"',
        b'{"password": "correct horse 7b1f"}',
        b'{"ssid": "", "password": "correct horse 7b1f"}',
        b'{"ssid": 7, "password": "correct horse 7b1f"}',
        b'{"ssid": "' + 33 * b"x" + b'", "password": "correct horse 7b1f"}',
        b'{"ssid": "plant", "password": ["correct horse 7b1f"]}',
        b'{"ssid": "plant", "password": "' + 4 * b"correct horse 7b1f" + b'"}',
        b'{"ssid": "plant", "password": "short"}',
        b'{"ssid": "plant", "correct horse 7b1f": 1}',
        b'{"ssid": "plant", "pasword": "correct horse 7b1f"}',
        b'{"ssid": "plant", "password": "correct horse 7b1f"}' + 500 * b" ",
        512 * b"[",
    ):
        with Scene("rp2", data) as scene:
            error = raises(ConfigError, wifi.read, scene.folder.path + "/")
            assert "wifi.json: " in error.detail, data
            said = str(error) + repr(error) + str(error.args)
            assert "correct" not in said and "short" not in said, said
            # and an agent does not start with it, which it says
            events = Events()
            agent = Agent(scene.folder.path, events, board=Board())
            error = run(fails(ConfigError, agent.start()))
            assert "correct" not in str(error) + repr(error) + str(events)
            (name, fields), *_ = events
            assert (name, fields["error"]) == ("start-failed", "bad-argument")
            assert "wifi.json: " in fields["detail"]


def test_an_agent_waits_for_its_radio_and_comes_back_with_it():
    for port in PORTS:
        with Scene(port) as scene:
            scene.air.networks = {}

            async def main():
                hub = Hub()
                a = Party(hub, "panel-1", board=Board())
                a.folder.write("wifi.json", GOOD)
                try:
                    task = asyncio.create_task(a.agent.start())
                    await until(lambda: "wifi-down" in a.events.names())
                    assert hub.opened == 0 and not task.done()
                    scene.air.networks = {SSID: PASSWORD}
                    await asyncio.wait_for(task, 10)
                    names = a.events.names()
                    assert names.index("wifi-up") < names.index("link-up")
                    async with Party(hub, "pump-7") as b:
                        session, taken = await introduce(a, b)
                        # the access point goes, and with it the link
                        hub.allow_opening = False
                        scene.air.networks = {}
                        hub.cut("panel-1")
                        await until(lambda: a.events.all("wifi-down")[-1]["reason"] != "lost")
                        await until(lambda: "link-down" in a.events.names())
                        hub.allow_opening = True
                        scene.air.networks = {SSID: PASSWORD}
                        await until(lambda: "panel-1" in hub.links)
                        await session.send(b"two bar")
                        assert await taken.recv() == b"two bar"
                    await asyncio.wait_for(a.agent.stop(), 10)
                finally:
                    a.folder.__exit__()
                assert PASSWORD not in str(a.events)

            run(main())


def test_a_radio_that_is_back_ends_the_wait_for_the_next_link():
    with Scene("rp2") as scene:

        async def main():
            from keyferry_agent import agent as module

            hub = Hub()
            a = Party(hub, "panel-1", board=Board())
            a.folder.write("wifi.json", GOOD)
            try:
                await asyncio.wait_for(a.agent.start(), 10)
                module.BACKOFF = (3600, 3600)
                scene.air.networks = {}
                await until(lambda: "wifi-down" in a.events.names())
                hub.cut("panel-1")
                await until(lambda: "link-down" in a.events.names())
                assert a.events.all("link-down")[0]["retry_ms"] >= 1000000
                scene.air.networks = {SSID: PASSWORD}
                await until(lambda: "panel-1" in hub.links)
                await asyncio.wait_for(a.agent.stop(), 10)
            finally:
                a.folder.__exit__()

        run(main())


def test_without_a_radio_or_without_the_file_nothing_is_waited_for():
    for data, events in ((None, []), (GOOD, ["wifi-down"])):
        with Scene("rp2", data) as scene:
            if data:
                fake_board.remove()
                sys.modules["network"] = None  # MicroPython's unix port has none anyway
                sys.modules.pop("network")

            async def play(kept, task):
                await asyncio.wait_for(task, 10)

            scene.play(play)
            assert [event for event, _ in scene.events] == events
            assert scene.air.heard == []
