"""The protocol core's self-test on the board: published vectors, judged here."""

import pytest

from keyferry_hil.vectors import formats, runtimes, shipped
from keyferry_hil.vectors.board import board as vector_board
from keyferry_hil.vectors.run import run

REMOVE = """
import os
def remove(folder):
    for entry in list(os.ilistdir(folder)):
        path = folder + "/" + entry[0]
        if entry[1] & 0x4000:
            remove(path)
        else:
            os.remove(path)
    os.rmdir(folder)
try:
    remove("/lib/keyferry_core")
except OSError:
    pass
"""


@pytest.mark.board(state="booted")
def test_published_vectors(board, measure):
    files = [formats.load(path) for path in shipped()]
    own = board.board
    path = own.line.path
    own.close()
    try:
        with vector_board(path, baud=own.spec.port.baud, install=True) as answering:
            outcome = run(files, answering)
            who = runtimes.about(answering)
    finally:
        own.to_prompt()
        own.repl.run(REMOVE)
        own.seen = None
    assert who.runtime == "micropython"
    assert outcome.failures == []
    assert outcome.abandoned == ""
    assert outcome.passed > 100
    measure("published vectors", round(outcome.seconds, 2), "s", board)
