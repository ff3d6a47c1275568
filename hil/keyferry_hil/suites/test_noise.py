"""A bad line: noise, torn and endless lines. The application refuses them and goes on.

Bytes of a Ctrl-C are left out of the noise: they are the way to stop a board, and do.
"""

import random
import time

import pytest

pytestmark = pytest.mark.board(state="flashed")
INTERRUPT = 0x03


def alive(one) -> None:
    app = one.board.app
    one.board.line.write(b"\n")
    at = app.send("ping")
    app.wait_for("pong", after=at)


def test_noise_is_refused(board, manager):
    board.join(manager)
    dice = random.Random(board.name)
    for size in (1, 7, 60, 250):
        noise = bytes(byte for byte in dice.randbytes(size) if byte != INTERRUPT)
        board.board.line.write(noise)
        alive(board)
    for line in (
        b"{}\n",
        b'{"do": 1}\n',
        b'{"do": "format"}\n',
        b"[1, 2]\n",
        b'{"do": "connect"}\n',
    ):
        at = len(board.board.app.events)
        board.board.line.write(line)
        board.board.app.wait_for("command-refused", after=at)
    alive(board)


def test_torn_lines_are_put_together(board, manager):
    board.join(manager)
    at = len(board.board.app.events)
    for piece in (b'{"d', b'o": "pi', b'ng"', b"}", b"\n"):
        board.board.line.write(piece)
        time.sleep(0.05)
    board.board.app.wait_for("pong", after=at)


@pytest.mark.board(features=["virtual"])
def test_noise_on_what_the_board_says(boards, manager):
    a, b = (one.join(manager) for one in boards(2))
    manager.allow(a.name, b.name)
    a.connect(b)
    dice = random.Random(a.name)
    for _ in range(5):
        b.board.virtual.noise(b"\n" + dice.randbytes(40).replace(b"\x04", b"") + b"\n")
        at, there = a.board.app.send("send", to=b.name, count=1), len(b.board.app.events)
        record = a.board.app.wait_for("record-sent", after=at)
        b.board.app.wait_for("record-received", after=there, data=record["data"])
