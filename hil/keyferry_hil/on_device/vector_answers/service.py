"""One question, one answer: CBOR in lines of base64, so that any console can carry it.

A message is one or more lines: ``.`` and base64 where more follows, ``!`` and base64 at its end.
Each ``.`` line from the host is answered with a line ``.``, since a board's console holds few
bytes while the board is busy. A line ``q`` ends the service.

A question is ``[operation, arguments]``. An answer is ``[0, microseconds, value]``;
``[1, microseconds, "error: detail"]`` for a refusal in the core's own errors; or
``[2, microseconds, text]`` for any other exception, which is a fault of the core.
"""

import binascii
import gc
import sys
import time

from keyferry_core import cbor
from keyferry_core._compat import CPYTHON
from keyferry_core.errors import KeyferryError

ANSWERED, REFUSED, CRASHED = 0, 1, 2
# Bytes of an answer in one line; a multiple of three, so that only the last line is padded.
_PIECE = 192

if CPYTHON:

    def _now() -> int:
        return time.perf_counter_ns() // 1000

    def _since(start: int) -> int:
        return _now() - start

else:

    def _now() -> int:
        return time.ticks_us()  # pyright: ignore[reportAttributeAccessIssue]

    def _since(start: int) -> int:
        return time.ticks_diff(time.ticks_us(), start)  # pyright: ignore[reportAttributeAccessIssue]

    # Modules come and go here; collected often, what stays lies together and leaves long pieces.
    gc.threshold(8192)


# What this module itself needs; the rest of the core goes when another group is asked.
_KEEP = ("", "_compat", "cbor", "errors", "utf8")
_loaded = ""


def _operation(name: str):
    """The function behind an operation's name.

    Groups are imported when one of their operations is asked, and on a device the group before is
    dropped then: a heap of 128 KiB that holds all of them has no room left for work.
    """
    global _loaded
    group = "primitives"
    if name == "edhoc_schedule":
        group = "schedule"
    elif name.startswith("edhoc_"):
        group = "edhoc"
    elif name.startswith(("cbor", "cose", "oscore")):
        group = "formats"
    package = __name__.rsplit(".", 1)[0]
    if group != _loaded and not CPYTHON:
        _forget("keyferry_core", _KEEP)
        _forget(package, ("", "service"))
        _loaded = ""  # an import that fails leaves half of a module behind
        gc.collect()
    module = __import__(package + "." + group, None, None, ("*",))
    _loaded = group
    return getattr(module, "do_" + name)


def _forget(package: str, keep: tuple) -> None:
    for name in list(sys.modules):
        if name != package and not name.startswith(package + "."):
            continue
        rest = name[len(package) + 1 :]
        if rest not in keep:
            del sys.modules[name]
            # a module is also an attribute of the package that it is in
            parent, _, own = name.rpartition(".")
            if parent in sys.modules and hasattr(sys.modules[parent], own):
                delattr(sys.modules[parent], own)


def about() -> list:
    """``[implementation, version, platform, where the core was imported from]``."""
    import keyferry_core

    version = ".".join([str(part) for part in sys.implementation.version[:3]])
    if not CPYTHON:
        # "3.4.0; MicroPython COMMIT on DATE": the language's version, and the build
        version += " (" + sys.version.split("MicroPython ", 1)[-1] + ")"
    where = getattr(keyferry_core, "__file__", "") or "the firmware"
    return [sys.implementation.name, version, sys.platform, where]


def answer(question: bytes) -> bytes:
    """The answer to one question. Nothing that the core does wrong gets out as an exception."""
    start = _now()
    try:
        name, arguments = cbor.decode(question)
        if name == "about":
            return cbor.encode([ANSWERED, 0, about()])
        operation = _operation(name)
        if not CPYTHON:
            gc.collect()
        start = _now()
        value = operation(*arguments)
        took = _since(start)
        del operation, arguments
        if not CPYTHON:
            gc.collect()  # a long answer takes one piece
        return cbor.encode([ANSWERED, took, value])
    except KeyferryError as error:
        return cbor.encode([REFUSED, _since(start), error.name + ": " + error.detail])
    except Exception as error:
        took = _since(start)
        text = str(error)
        return cbor.encode([CRASHED, took, type(error).__name__ + (": " + text if text else "")])


def serve() -> None:
    """Answer what comes in on the console, until it ends or says ``q``."""
    read = sys.stdin.readline
    write = sys.stdout.write
    question = bytearray()
    write("ready\n")
    while True:
        line = read()
        if not line or line[0] == "q":
            return
        if line[0] not in ".!":
            continue  # an empty line, or noise of the console
        question.extend(binascii.a2b_base64(line[1:].strip()))
        if line[0] == ".":
            write(".\n")
            continue
        asked, question = bytes(question), bytearray()
        line = ""
        result = answer(asked)
        for start in range(0, len(result), _PIECE):
            piece = binascii.b2a_base64(result[start : start + _PIECE]).decode().strip()
            write(("!" if start + _PIECE >= len(result) else ".") + piece + "\n")
