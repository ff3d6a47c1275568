"""Heap of MicroPython: what modules take, what a run needs at its peak, the least that suffices.

Subjects run in a folder of their own and name files shortly, so that the length of a path here
does not count. Where pieces come to lie differs from run to run, so a heap suffices when several
runs in a row end well.

All of it by the interpreter that ``MICROPYTHON`` names, else the pinned one, which has 64 bits:
each pointer takes twice the bytes of a board's.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench import build
from bench.on_both import roles
from keyferry_core.suite import Crypto
from keyferry_hil import interpreter

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ROM_START = HERE / "on_device" / "rom_start.py"
ROM_PLACE = ROOT / "hil" / "keyferry_hil" / "on_device" / "rom.py"
SUBJECTS = ("import_subject", "role_subject", "introduction_subject")
AMPLE = 1024  # KiB
RUNS = 10

CORE = (
    "keyferry_core.suite",
    "keyferry_core.edhoc.initiator",
    "keyferry_core.edhoc.responder",
    "keyferry_core.trust",
    "keyferry_core.session",
)
AGENT = (
    "keyferry_agent.agent",
    "keyferry_agent.link",
    "keyferry_agent.carriers.mqtt",
    "keyferry_agent.sessions",
)
ROLES = ("initiator", "responder", "both")


class Place:
    """A folder with what subjects need: modules, their ROMFS image, and what to work on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subjects = [HERE / "on_device" / f"{name}.py" for name in SUBJECTS]
        files = build.modules(*subjects)
        build.write(files, folder / "mpy")
        build.write_rom(files, folder / "rom.img")
        (folder / "start.py").write_bytes(ROM_START.read_bytes())
        (folder / "rom.py").write_bytes(ROM_PLACE.read_bytes())
        known = json.loads((ROOT / "tests" / "vectors" / "identities.json").read_text())
        known["devices"] = {name: known["devices"][name] for name in ("panel-1", "pump-7")}
        del known["source"]
        (folder / "people.json").write_text(json.dumps(known))
        (folder / "script.txt").write_text(_script())


def _script() -> str:
    """Keys and messages of one run, made here."""
    crypto = Crypto(roles.Counter(b"keys"))
    keys_i, keys_r = crypto.generate(), crypto.generate()
    messages = roles.both(roles.make, keys_i, keys_r)
    return "\n".join(part.hex() for part in (*keys_i, *keys_r, *messages))


def _command(form: str, kib: int, subject: str) -> tuple[list[str], dict[str, str]]:
    """Command line and environment that start a subject in one form of the modules."""
    size = ["-X", f"heapsize={kib}k"]
    if form == "rom":
        line, added = interpreter.command_with_rom(Path("rom.img"), [*size, "start.py", subject])
        return line, added | {"MICROPYPATH": ".frozen"}
    path = "mpy:.frozen"
    if form == "py":
        folders = [ROOT / "shared", ROOT / "device", HERE / "on_both", HERE / "on_device"]
        path = ":".join([*map(str, folders), ".frozen"])
    return [*interpreter.command(), *size, "-m", subject], {"MICROPYPATH": path}


FORMS = {"py": ".py", "mpy": ".mpy", "rom": "ROMFS"}


def run(place: Place, form: str, kib: int, subject: str, *arguments: str) -> str | None:
    """The last line that the subject prints, or None when the heap was too small."""
    command, added = _command(form, kib, subject)
    done = subprocess.run(
        [*command, *arguments],
        cwd=place.folder,
        env=os.environ | added,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0 and done.stdout.strip():
        return done.stdout.strip().split("\n")[-1]
    text = done.stdout + done.stderr
    # a heap that is far too small ends the interpreter before it can say so
    if "MemoryError" in text or "memory allocation failed" in text or "FATAL" in text:
        return None
    raise RuntimeError(f"{subject} with {kib} KiB: status {done.returncode}, {text[-2000:]}")


def imported(place: Place, form: str, modules: tuple[str, ...]) -> int:
    """Bytes of heap that the modules take, with all that they import."""
    answer = run(place, form, AMPLE, "import_subject", *modules)
    if answer is None:
        raise RuntimeError("the modules do not import")
    return int(answer)


def peak(place: Place, role: str) -> int:
    """Bytes of live heap at the worst moment of a run, over what was there before it."""
    answer = run(place, "rom", AMPLE, "role_subject", role, "script.txt", "peak")
    if answer is None:
        raise RuntimeError("the run did not end")
    return int(answer)


def completes_role(place: Place, form: str, kib: int, role: str) -> bool:
    """Whether EDHOC by one role, or by ``both``, fits a heap of so many KiB."""
    return run(place, form, kib, "role_subject", role, "script.txt") is not None


def completes_introduction(place: Place, form: str, kib: int) -> bool:
    """Whether both sides of a whole introduction fit a heap of so many KiB."""
    return run(place, form, kib, "introduction_subject", "people.json") is not None


def smallest(completes: Callable[[int], bool], low: int = 16, high: int = 256) -> int:
    """The least KiB in which ``completes`` is true RUNS times, by bisection in steps of 1."""

    def always(kib: int) -> bool:
        return all(completes(kib) for _ in range(RUNS))

    if not always(high):
        raise RuntimeError(f"not even in {high} KiB")
    while high - low > 1:
        middle = (low + high) // 2
        if always(middle):
            high = middle
        else:
            low = middle
    return high
