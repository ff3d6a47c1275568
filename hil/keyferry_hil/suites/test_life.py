"""A certificate's life: renewed, with the same key or another, revoked, and made anew."""

import pytest

pytestmark = pytest.mark.board(state="flashed")


@pytest.mark.parametrize("new_key", [False, True])
def test_renews(board, manager, new_key):
    board.join(manager)
    before = manager.serial(board.name)
    app = board.board.app
    at = app.send("renew", new_key=new_key)
    done = app.wait_for("renewed", "renew-failed", after=at)
    assert done["event"] == "renewed", done
    app.wait_for("registered", after=at)
    assert manager.serial(board.name) != before
    words = [event["event"] for event in app.events[at:]]
    assert ("key-made" in words) == new_key


def test_a_revoked_board_is_out_and_comes_back_as_a_new_one(board, manager):
    board.join(manager)
    name, before = board.name, manager.serial(board.name)
    at = len(board.board.app.events)
    manager.revoke(name)
    board.board.app.wait_for("link-down", after=at)
    # It cannot come back with what it has: not now, and not after a restart.
    board.board.app.wait_for("link-down", after=len(board.board.app.events))
    assert "registered" not in [event["event"] for event in board.board.app.events[at:]]
    board.enrolling(manager, name, manager.add(name, again=True))
    board.to("flashed")
    board.to("enrolled")
    assert manager.serial(name) != before
