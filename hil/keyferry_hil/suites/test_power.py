"""Power cuts: whatever is interrupted, the board comes back with its identity whole."""

import random
import time

import pytest

ROUNDS = 4
MARKS = ["key-made", "certificate-request", "enrolled", "registered"]
WRITES = [1, 2, 4, 7]


@pytest.mark.board(features=["power"], state="flashed")
def test_cuts_at_random_moments(board, manager):
    board.join(manager)
    serial = manager.serial(board.name)
    dice = random.Random(board.name)
    for _ in range(ROUNDS):
        board.board.start_app()
        time.sleep(dice.uniform(0.0, 0.6))
        board.board.power_off()
        board.board.power_on()
    board.restart()
    assert manager.serial(board.name) == serial, "it did not have to enrol again"


@pytest.mark.board(features=["virtual"], state="flashed")
@pytest.mark.parametrize("mark", MARKS)
def test_a_cut_at_a_marked_point(board, manager, mark):
    name = "mark-" + mark + "-" + board.label
    board.enrolling(manager, name, {})
    board.give(manager.add(name), wipe=True)
    virtual = board.board.virtual
    virtual.order("cut_at", text=f'"event": "{mark}"')
    board.board.start_app()
    virtual.wait_cut()
    board.board.power_on()
    app = board.board.start_app()
    event = app.wait_for("ready", "start-failed")
    if event["event"] == "start-failed":
        # The manager gave the certificate, and the cut took it: the token is spent, by design.
        assert mark == "certificate-request"
        assert app.all("enrol-refused")
        board.give({"token": manager.add(name, again=True)["token"]})
        board.restart()
    assert manager.serial(name)


@pytest.mark.board(features=["virtual"], state="flashed")
@pytest.mark.parametrize("write", WRITES)
def test_a_cut_in_the_middle_of_a_write(board, manager, write):
    board.join(manager)
    virtual = board.board.virtual
    board.board.power_off()
    virtual.order("cut_at", write=write)
    board.board.power_on()
    app = board.board.start_app()
    app.wait_for("ready")
    app.send("renew", new_key=True)
    virtual.wait_cut()
    board.board.power_on()
    board.restart()
    # The old identity or the new one, and in any case a whole one.
    manager.wait_online(board.name)


@pytest.mark.board(features=["reset"], state="flashed")
def test_a_hard_reset_in_a_session(boards, manager):
    a, b = (one.join(manager) for one in boards(2))
    manager.allow(a.name, b.name)
    a.connect(b)
    b.board.hard_reset()
    b.restart()
    a.connect(b)
