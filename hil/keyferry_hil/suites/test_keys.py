"""Keys and certificates that are broken, or somebody else's. What is private stays on the board."""

import json

import pytest

from keyferry_hil.problems import BenchProblem

pytestmark = pytest.mark.board(state="flashed")
BREAK = """
import os
for name in {names!r}:
    if name in os.listdir("/"):
        with open("/" + name, "r+b") as file:
            file.seek({place})
            byte = file.read(1)
            file.seek({place})
            file.write(bytes([byte[0] ^ 1]))
"""


@pytest.mark.parametrize("place", [0, 10, 60], ids=["magic", "checksum", "content"])
def test_a_broken_keystore_is_noticed_and_made_anew(board, manager, place):
    board.join(manager)
    before = manager.serial(board.name)
    board.board.to_prompt()
    board.board.repl.run(BREAK.format(names=("identity.0", "identity.1"), place=place))
    app = board.board.start_app()
    app.wait_for("start-failed", "enrol-refused", "enrol-failed")
    assert not app.all("registered")
    board.give({"token": manager.add(board.name, again=True)["token"]})
    board.restart()
    assert manager.serial(board.name) != before


@pytest.mark.parametrize("copy", ["identity.0", "identity.1"])
def test_one_broken_copy_is_no_loss(board, manager, copy):
    board.join(manager)
    serial = manager.serial(board.name)
    board.board.to_prompt()
    board.board.repl.run(BREAK.format(names=(copy,), place=60))
    board.restart()
    assert manager.serial(board.name) == serial


def test_anothers_name_is_not_taken(boards, manager):
    a, b = (one.join(manager) for one in boards(2))
    b.board.to_prompt()
    config = json.loads(b.board.repl.read_file("/config.json"))
    b.board.repl.write_file("/config.json", json.dumps({**config, "name": a.name}).encode())
    app = b.board.start_app()
    app.wait_for("identity-unusable", error="name-not-allowed")
    app.pump(0.5)
    assert not app.all("registered")
    manager.wait_online(a.name)


@pytest.mark.board(features=["virtual"])
def test_swapped_flash_is_two_swapped_names_and_no_more(boards, manager):
    """Who moves the flash moves the identity: the names change places, and both links hold."""
    a, b = (one.join(manager) for one in boards(2))
    manager.allow(a.name, b.name)
    for one in (a, b):
        one.board.power_off()
    images = [one.board.virtual.flash_image() for one in (a, b)]
    for one, image in ((a, images[1]), (b, images[0])):
        one.board.virtual.swap_flash(image)
        one.board.power_on()
        one.restart()
    a.name, b.name = b.name, a.name
    b.connect(a)
    with pytest.raises(BenchProblem, match="access-denied"):
        a.connect(b)
