"""The network goes and comes back; the manager too."""

import pytest

pytestmark = pytest.mark.board(state="flashed")


def test_a_cut_network(board, manager, network_path):
    board.join(manager, mqtt_port=network_path.port)
    app = board.board.app
    at = len(app.events)
    network_path.cut()
    app.wait_for("link-down", after=at)
    app.wait_for("link-down", after=len(app.events))  # it tries, in vain
    at = len(app.events)
    network_path.mend()
    app.wait_for("registered", after=at)


def test_a_network_that_carries_nothing(board, manager, network_path):
    board.join(manager, mqtt_port=network_path.port, keep_alive=5)
    app = board.board.app
    at = len(app.events)
    network_path.stall()
    app.wait_for("link-down", after=at)
    at = len(app.events)
    network_path.mend()
    app.wait_for("registered", after=at)


def test_sessions_go_on_after_a_short_cut(boards, manager, network_path):
    a, b = boards(2)
    a.join(manager)
    b.join(manager, mqtt_port=network_path.port)
    manager.allow(a.name, b.name)
    a.connect(b)
    at = len(b.board.app.events)
    network_path.cut()
    b.board.app.wait_for("link-down", after=at)
    network_path.mend()
    b.board.app.wait_for("registered", after=at)
    sent = a.board.app.send("send", to=b.name, count=1)
    record = a.board.app.wait_for("record-sent", after=sent)
    b.board.app.wait_for("record-received", after=at, data=record["data"])


@pytest.mark.board(features=["wifi"])
def test_the_radio_goes_off(board, manager):
    """On boards with a radio: its own switch, and not a cable of ours."""
    board.join(manager)
    board.board.to_prompt(soft_reset=False)
    board.board.repl.run("import network; network.WLAN(network.STA_IF).active(False)")
    board.board.repl.run("import network; network.WLAN(network.STA_IF).active(True)")
    board.restart()
