"""What a test file of tests/core and tests/agent may import: it runs on CPython and MicroPython."""

import json


def raises(kind, call, *args, **kwargs):
    """Call ``call(*args, **kwargs)`` and return the exception of class ``kind`` that it raised.

    Any other exception passes through. AssertionError when nothing was raised.
    """
    try:
        result = call(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError("expected " + kind.__name__ + ", got the result " + repr(result)[:200])


def vectors(name):
    """The parsed tests/vectors/NAME; NAME may leave ``.json`` out."""
    folder = __file__.replace("\\", "/").rsplit("/", 2)[0]
    if not name.endswith(".json"):
        name += ".json"
    # MicroPython's open takes no encoding by name; JSON files here are ASCII.
    with open(folder + "/vectors/" + name) as file:
        return json.load(file)
