"""A clock that is wrong: no link is made with it, and nothing is lost."""

import time

import pytest

pytestmark = pytest.mark.board(state="flashed")
YEAR = 365 * 86400


@pytest.mark.board(features=["virtual"])
@pytest.mark.parametrize(("years", "event"), [(-10, "clock-not-set"), (10, "identity-unusable")])
def test_a_wrong_clock(board, manager, years, event):
    board.join(manager)
    serial = manager.serial(board.name)
    board.board.to_prompt()
    board.board.set_clock(time.time() + years * YEAR)
    app = board.board.start_app()
    app.wait_for(event)
    app.pump(0.5)
    assert not app.all("registered")
    board.board.to_prompt()
    board.board.set_clock()
    board.restart()
    assert manager.serial(board.name) == serial, "it has its identity still"
