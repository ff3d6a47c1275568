# heap: 1m
"""The watchdog is fed while the agent's loop turns, and by nobody once it has stopped."""

import asyncio
import time

from keyferry_agent import watchdog
from keyferry_agent.agent import Agent
from keyferry_core.errors import LocalError
from support.agent_kit import Folder, Hub, Party, fails, introduce, run, until


class Dog:
    """Counts how often it is fed."""

    def __init__(self):
        self.fed = 0

    def __call__(self):
        self.fed += 1


def play(scene, *arguments):
    kept, watchdog.PERIOD = watchdog.PERIOD, 0.01
    try:
        run(scene(*arguments))
    finally:
        watchdog.PERIOD = kept


def test_it_is_fed_from_start_to_stop():
    dog = Dog()

    async def main():
        hub = Hub()
        async with Party(hub, "pump-7") as b, Party(hub, "panel-1", watchdog=dog) as a:
            started = dog.fed
            assert started >= 1
            session, taken = await introduce(a, b)
            await until(lambda: dog.fed > started)
            await session.send(b"two bar")
            assert await taken.recv() == b"two bar"
            before = dog.fed
            await until(lambda: dog.fed >= before + 5)
        stopped = dog.fed
        await asyncio.sleep(0.1)
        assert dog.fed == stopped

    play(main)


def test_a_task_that_stops_the_others_starves_it():
    dog = Dog()

    async def main():
        async with Party(Hub(), "panel-1", watchdog=dog):
            before = dog.fed
            time.sleep(0.2)  # as a driver that waits for its bus does
            assert dog.fed == before
            await until(lambda: dog.fed > before)

    play(main)


def test_whoever_cannot_start_leaves_it_alone():
    dog = Dog()

    async def main():
        with Folder() as folder:
            agent = Agent(folder.path, watchdog=dog)
            await fails(LocalError, agent.start())
            after = dog.fed
            await asyncio.sleep(0.1)
            assert dog.fed == after

    play(main)
