# heap: 512k
"""The state that a lamp and the log show, by the agent's events."""

import asyncio

from keyferry_agent import signal
from keyferry_agent.board import Board
from keyferry_agent.signal import STATES, Signal
from support import fake_board
from support.agent_kit import until


def states(*events):
    """Each state that these events led through, from the first on."""
    told = []

    def show(event, **fields):
        if event == "state":
            assert fields["code"] == STATES[fields["state"]][0]
            told.append(fields["state"])

    made = Signal(show)
    assert made.state == "starting"
    for event in events:
        name, fields = (event, {}) if isinstance(event, str) else event
        made(name, **fields)
    assert told == [] or made.state == told[-1]
    return told


def wifi(reason):
    return ("wifi-down", {"reason": reason, "status": 0, "retry_ms": 1})


def link(error):
    return ("link-down", {"error": error, "detail": "", "retry_ms": 1})


def test_a_first_start():
    found = states(
        *("wifi-up", ("time-failed", {"error": "timeout", "retry_ms": 9}), "time"),
        *("key-made", "enrol-start", "enrolled", "link-up", "registered", "message-1", "stopped"),
    )
    assert found == [
        "connecting",
        "clock",
        "connecting",
        "enrolling",
        "connecting",
        "up",
        "stopped",
    ]


def test_a_network_that_goes_and_comes():
    found = states("registered", wifi("lost"), link("timeout"), wifi("wrong-password"), "wifi-up")
    assert found == ["up", "no-wifi", "wifi-password", "connecting"]
    # the radio lost its network and was back before the link noticed
    assert states("registered", "wifi-up") == ["up"]
    assert states("registered", link("timeout"), "link-up", "registered") == [
        "up",
        "connecting",
        "up",
    ]


def test_what_an_operator_must_see_to():
    for error, state in (
        ("authentication-failed", "refused"),
        ("revoked", "refused"),
        ("clock-wrong", "clock"),
        ("timeout", "connecting"),
    ):
        assert states("registered", link(error))[-1] == state
    for error, state in (
        ("bad-argument", "config-error"),
        ("clock-wrong", "clock"),
        ("storage-failed", "storage-error"),
        ("bad-credentials", "refused"),
    ):
        assert states(("start-failed", {"error": error, "detail": ""})) == [state]
    assert states("registered", ("store-failed", {"error": "storage-failed"}), "registered") == [
        "up",
        "storage-error",
        "up",
    ]


def test_what_is_no_change_is_not_told():
    quiet = [
        "registered",
        "registered",
        ("time", {"signed": True}),
        "message-refused",
        "enrolled-x",
    ]
    assert states(*quiet) == ["up"]
    # nobody waits for the time: the clock can be right
    assert states("registered", ("time-failed", {"error": "timeout", "retry_ms": 0})) == ["up"]


def test_each_state_has_a_code_of_its_own_and_flashes_that_can_be_told_apart():
    codes = [code for code, _ in STATES.values()]
    assert len(set(codes)) == len(codes)
    for state, (code, flashes) in STATES.items():
        assert (len(code), code[0]) == (3, "K") and code[1:].isdigit(), state
        # who counts the flashes has the code's first digit
        assert flashes == (0 if state == "stopped" else int(code[1]) + 1), state


class Clock:
    """In place of asyncio in the module: sleeps are only noted."""

    def __init__(self):
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        await asyncio.sleep(0.002)


def blinks(state, lamp, log, count):
    made = Signal(None, lamp)
    made.state = state
    noted = Clock()

    async def main():
        signal.asyncio = noted
        task = asyncio.create_task(made.blink())
        await until(lambda: len(log) >= count)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass

    try:
        asyncio.run(main())
    finally:
        signal.asyncio = asyncio
    return noted.slept


def test_the_lamp_shows_it():
    for state, (_, flashes) in STATES.items():
        if not flashes:
            continue
        log = []
        slept = blinks(state, log.append, log, 4 * flashes)
        assert log[: 4 * flashes] == [True, False] * (2 * flashes)
        assert log[-1] is False, "nothing stays on"
        pause = 4 if state == "up" else 1.5
        assert slept[: 2 * flashes + 1] == [0.06, 0.24] * flashes + [pause]


def test_the_boards_own_lamp():
    for port in ("esp32", "rp2"):
        air = fake_board.install(port)
        try:
            blinks("up", Board().led, air.lamp, 4)
            assert air.lamp[:4] == [1, 0, 1, 0]
        finally:
            fake_board.remove()


def test_without_a_lamp_it_ends_at_once():
    async def main():
        await Signal().blink()
        Board().led(True)  # a board without one

    asyncio.run(main())
