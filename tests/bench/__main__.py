"""``make bench``: time of the core's work on both runtimes, and of the manager's relay.

Times are in milliseconds of processor time, the mean of the middle half of runs that take turns.
The machine's speed is in them; the ratios are what can be compared.
"""

import argparse
import contextlib
import json
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench import bench_relay, build, timing, wire, workers
from bench.tables import Cell, show
from keyferry_hil import interpreter

PRIMITIVES = ("keygen", "ecdh", "ecdh x-only", "sign", "verify")
SIZES = (16, 256, 1024)
CASES = [
    f"{profile}, {way}"
    for profile in ("cert suite 3", "rpk suite 3", "method 3 suite 2")
    for way in ("first", "cached", "ahead")
    if (profile, way) != ("method 3 suite 2", "first")  # there is no certificate in it
]
SIDES = {"initiator": (0, 2), "responder": (1, 3)}
STEPS = ("start to message_1", "message_1 to 2", "message_2 to 3", "message_3 to session")
KINDS = ("fixed", "variable", "double")
LAKERS = "lakers method 3 suite 2"

CORE, PEER, DEVICE = "CPython", "CPython, cryptography", "MicroPython"


def measure(rounds: int, heap: str) -> dict[str, Any]:
    """Everything but the relay."""
    with (
        tempfile.TemporaryDirectory(prefix="keyferry-bench-") as folder,
        contextlib.ExitStack() as s,
    ):
        modules = build.write(build.modules(), Path(folder))
        running = {
            CORE: workers.cpython("core"),
            PEER: workers.cpython("cryptography"),
            DEVICE: workers.micropython(modules, heap),
        }
        for worker in running.values():
            s.callback(worker.close)
        counted = {name: timing.counts(running[name]) for name in (CORE, DEVICE)}
        times = timing.interleaved(running, rounds)
    measured = {exchange.name: wire.measure(exchange) for exchange in wire.EXCHANGES}
    return {"runtimes": runtimes(), "us": times, "multiplications": counted, "wire": measured}


def runtimes() -> dict[str, str]:
    """Which versions run."""
    line = "import sys; print('.'.join(map(str, sys.implementation.version[:3])))"
    done = subprocess.run([*interpreter.command(), "-c", line], capture_output=True, text=True)
    return {"CPython": platform.python_version(), "MicroPython": done.stdout.strip()}


def side(steps: list[float], name: str) -> float:
    """One side's share of the four steps."""
    return sum(steps[index] for index in SIDES[name])


def show_primitives(times: dict[str, Any]) -> None:
    lines: list[list[Cell]] = []
    for case in PRIMITIVES:
        core, peer, device = (times[name][case] / 1000 for name in (CORE, PEER, DEVICE))
        lines.append([case, core, peer, core / peer, device, device / core])
    headings = ["", "CPython", "cryptography", "ratio", "MicroPython", "to CPython"]
    show("P-256, one operation (ms)", headings, lines)


def show_handshakes(times: dict[str, Any]) -> None:
    lines: list[list[Cell]] = []
    for case in CASES:
        for name in SIDES:
            core, peer, device = (side(times[n][case], name) / 1000 for n in (CORE, PEER, DEVICE))
            lines.append([f"{case}: {name}", core, peer, device])
    headings = ["", "CPython", "cryptography", "MicroPython"]
    show(
        "A whole side of EDHOC (ms); first: the peer's certificate is new, cached: it is known,\n"
        "ahead: and ephemeral keys were made before",
        headings,
        lines,
    )
    lines = []
    theirs = times[PEER][LAKERS]
    for label, who, case in (
        ("lakers", PEER, LAKERS),
        ("ours, CPython with cryptography", PEER, "method 3 suite 2, cached"),
        ("ours, CPython", CORE, "method 3 suite 2, cached"),
        ("ours, MicroPython", DEVICE, "method 3 suite 2, cached"),
    ):
        line: list[Cell] = [label]
        for name in SIDES:
            own = side(times[who][case], name)
            line += [own / 1000, own / side(theirs, name)]
        lines.append(line)
    headings = ["", "initiator", "ratio", "responder", "ratio"]
    show("Method 3, suite 2, kid of 1 byte, against lakers (ms)", headings, lines)


def show_steps(times: dict[str, Any], counted: dict[str, Any]) -> None:
    lines: list[list[Cell]] = []
    for case in CASES:
        steps = counted[CORE][case]
        for index, step in enumerate(STEPS):
            if counted[DEVICE][case] != steps:
                raise RuntimeError(f"{case}: the runtimes count differently")
            own = times[DEVICE][case][index] / 1000
            lines.append([case if not index else "", step, *steps[index], own])
    headings = ["", "step", *KINDS, "MicroPython"]
    show("Scalar multiplications of each step, and its time (ms)", headings, lines)


def show_records(times: dict[str, Any]) -> None:
    lines: list[list[Cell]] = []
    for name, raw in ((DEVICE, "one ECB call"), (PEER, "AESCCM of cryptography")):
        for work in ("seal", "open"):
            for size in SIZES:
                own, theirs = times[name][f"{work} {size}"], times[name][f"raw {size}"]
                cells = [1e6 / own, size / own, size / theirs, own / theirs]
                lines.append([f"{name}: {work} {size} B", *cells])
        lines[-6][0] = f"{lines[-6][0]} (raw: {raw})"
    headings = ["", "records/s", "MB/s", "raw MB/s", "time to raw"]
    show("Records", headings, lines)


def show_wire(measured: dict[str, tuple[int, int, int]]) -> None:
    lines: list[list[Cell]] = []
    for exchange in wire.EXCHANGES:
        found, stated = measured[exchange.name], exchange.stated
        same = "as stated" if tuple(found) == stated else "stated: " + "/".join(map(str, stated))
        lines.append([exchange.name, *found, sum(found), same])
    lines += [[name, None, None, None, total, "stated"] for name, total in wire.OTHERS.items()]
    show("Bytes on the wire", ["", "message_1", "message_2", "message_3", "sum", ""], lines)


def show_all(found: dict[str, Any], heap: str) -> None:
    versions = found["runtimes"]
    print(f"CPython {versions['CPython']}; MicroPython {versions['MicroPython']}, heap {heap}")
    show_primitives(found["us"])
    show_handshakes(found["us"])
    show_steps(found["us"], found["multiplications"])
    show_records(found["us"])
    show_wire(found["wire"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="runs of each case")
    parser.add_argument("--heap", default="256k", help="MicroPython's heap")
    parser.add_argument("--relay-seconds", type=float, default=3.0, help="0: without the relay")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of tables")
    options = parser.parse_args()
    found = measure(options.rounds, options.heap)
    if not options.json:
        show_all(found, options.heap)
    if options.relay_seconds:
        relayed = bench_relay.run(options.relay_seconds, 4)
        if options.json:
            found["relay"] = bench_relay.as_json(relayed)
        else:
            print("\nThe manager's relay")
            bench_relay.show(relayed)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
