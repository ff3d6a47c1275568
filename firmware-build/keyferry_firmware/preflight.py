"""Flash and heap of a build on its board, before anything is flashed.

The built bytecode runs in the real interpreter, in place, with that board's heap: modules are
imported, then both roles of EDHOC run. The pinned interpreter has 64 bits, so a board needs less:
each pointer there takes half the bytes. ``MICROPYTHON`` may name one of 32 bits.
"""

import ast
import json
import os
import re
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyferry_firmware import images, mpy, record, rename, size, sources
from keyferry_firmware.boards import Board
from keyferry_firmware.fold import fold
from keyferry_firmware.problems import FirmwareProblem

# What an agent with a link and two sessions has loaded.
ENTRIES = (
    "keyferry_agent.agent",
    "keyferry_agent.link",
    "keyferry_agent.carriers.mqtt",
    "keyferry_agent.sessions",
    "keyferry_core.edhoc.initiator",
    "keyferry_core.edhoc.responder",
    "keyferry_core.session",
)
_ON_DEVICE = Path(__file__).parent / "on_device"
_SECONDS = 120
_MAP_LINE = re.compile(r"([0-9a-f]{8}): (\S{1,64})")
_PIECE = re.compile(r"[^.=]=*")
_ENDED = ("MemoryError", "memory allocation failed", "FATAL")


@dataclass(frozen=True)
class Finding:
    """What was measured, in bytes; ``modules`` is heap by module, in the order of their import."""

    board: str
    flash: int
    flash_limit: int
    heap: int
    imported: int
    peak: int
    largest: int  # the largest piece that anything had
    piece: int  # the largest free piece at the worst moment
    modules: dict[str, int]
    completed: bool

    def rows(self) -> list[tuple[str, int, int]]:
        """What is needed, and what there is."""
        return [
            ("flash for the application", self.flash, self.flash_limit),
            ("heap after import", self.imported, self.heap),
            ("heap in a handshake, both roles", self.peak, self.heap),
            ("largest piece of heap", self.largest, self.piece),
        ]

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "flash": self.flash,
            "flash_limit": self.flash_limit,
            "heap": self.heap,
            "heap_imported": self.imported,
            "heap_handshake": self.peak,
            "largest_piece": self.largest,
            "largest_free": self.piece,
            "modules": self.modules,
        }


def order(entries: tuple[str, ...] = ENTRIES) -> list[str]:
    """The device's modules that ``entries`` load, each after those that it imports itself."""
    trees = {
        _dotted(name): ast.parse(path.read_bytes()) for name, path in sources.modules().items()
    }
    found: list[str] = []
    begun: set[str] = set()

    def visit(name: str) -> None:
        if name in begun:
            return
        begun.add(name)
        for needed in _imports(trees[name]):
            if needed in trees:
                visit(needed)
        found.append(name)

    for entry in entries:
        visit(entry)
    return found


def _loop() -> str:
    """The name in an image of p256_point._run, inside which a handshake needs most."""
    texts = {name: path.read_bytes() for name, path in sources.everything().items()}
    names = rename.choose(fold(texts))
    own = names.own.get("keyferry_core.p256_point", {})
    return {**names.everywhere, **own}.get("_run", "_run")


def _dotted(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(tree: ast.Module) -> list[str]:
    """What a module imports at its top: names that may be modules."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def measure(board: Board, files: dict[str, bytes]) -> Finding:
    """Measure a build's files (build.Build.files). FirmwareProblem when there is no interpreter."""
    from keyferry_hil import interpreter

    prefix = record.BYTECODE + "/"
    modules = {
        name.removeprefix(prefix): data for name, data in files.items() if name.startswith(prefix)
    }
    subject = _ON_DEVICE / "preflight_subject.py"
    modules["preflight_subject.mpy"] = mpy.compile_source(subject.read_bytes(), "preflight_subject")
    known = order()
    with tempfile.TemporaryDirectory(prefix="keyferry-preflight-") as folder:
        image = Path(folder, "rom.img")
        image.write_bytes(images.romfs(modules))
        start = Path(folder, "start.py")
        start.write_bytes((_ON_DEVICE / "preflight_start.py").read_bytes())
        place = sources.package_folder("keyferry_hil") / "on_device" / "rom.py"
        start.with_name("rom.py").write_bytes(place.read_bytes())
        arguments = ["-X", f"heapsize={board.heap}k", str(start)]
        try:
            arguments = [*arguments, _loop(), *known]
            line, added = interpreter.command_with_rom(image, arguments)
        except interpreter.InterpreterError as error:
            raise FirmwareProblem(f"{error}; or build with --no-preflight.") from None
        try:
            done = subprocess.run(
                line,
                env={**os.environ, "MICROPYPATH": ".frozen", **added},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise FirmwareProblem("the preflight did not end; try again.") from None
    said = done.stdout + done.stderr
    if done.returncode != 0 and not any(word in said for word in _ENDED):
        raise FirmwareProblem("the preflight failed: " + " ".join(said.split("\n")[-3:]))
    return _read(board, len(files[record.ROM]), done.stdout)


def _read(board: Board, flash: int, text: str) -> Finding:
    imported = start = peak = block = 0
    heaps: dict[str, int] = {}
    completed = False
    for line in text.splitlines():
        if line.startswith("{"):
            event = json.loads(line)
            if event["event"] == "start":
                start, block = event["used"], event["block"]
            elif event["event"] == "module":
                heaps[event["name"]] = event["bytes"]
            elif event["event"] == "imported":
                imported = event["used"]
            else:
                completed = True
        elif line.startswith("live "):
            peak = max(peak, int(line.split()[1]))
    if not imported:  # it did not come so far
        imported = start + sum(heaps.values())
    largest, piece = (number * block for number in _pieces(_maps(text, block)))
    return Finding(
        *(board.name, flash, board.rom.size, board.heap * 1024),
        *(imported, max(peak, imported), largest, piece, heaps, completed),
    )


def _maps(text: str, block: int) -> list[str]:
    """The heap's maps in what the interpreter printed, a character a block: "." is a free one."""
    maps: list[str] = []
    for line in text.splitlines():
        if line.startswith("GC memory layout"):
            maps.append("")
        elif maps and (match := _MAP_LINE.fullmatch(line)):
            # lines that are free altogether are left out
            maps[-1] = maps[-1].ljust(int(match[1], 16) // block, ".") + match[2]
    return maps


def _pieces(maps: list[str]) -> tuple[int, int]:
    """Blocks of the largest piece that came after the first map, and of the smallest of the
    largest free pieces of all maps."""
    if not maps:
        return 0, 0
    first, *later = [{match.span() for match in _PIECE.finditer(found)} for found in maps]
    largest = max((end - at for pieces in later for at, end in pieces - first), default=0)
    free = min(max(map(len, re.findall(r"\.+", found)), default=0) for found in maps)
    return largest, free


def check(found: Finding, built: dict[str, Any], earlier: dict[str, Any] | None = None) -> None:
    """FirmwareProblem when the build does not fit its board, naming what grew.

    ``built``, ``earlier``: records. What grew is told against the earlier build, or else against
    the lines of budget.toml.
    """
    if found.flash > found.flash_limit:
        short = f"its image has {found.flash} bytes, and there is room for {found.flash_limit}"
    elif not found.completed:
        short = (
            f"a handshake does not end in its heap of {found.heap} bytes "
            f"({found.imported} are taken by the modules)"
        )
    elif found.largest > found.piece:
        short = f"a piece of {found.largest} bytes is needed, and the largest free is {found.piece}"
    else:
        short = ""
    grown = _grown(built, earlier)
    if short:
        most = sorted(found.modules, key=lambda name: -found.modules[name])[:3]
        taken = ", ".join(f"{name} ({found.modules[name]})" for name in most) or "nothing"
        told = "; ".join(grown) or "no module grew; most heap is with " + taken
        raise FirmwareProblem(
            f"{found.board}: {short}: {told}. Make it smaller, or take a board with more."
        )
    if earlier is None and grown:
        raise FirmwareProblem(
            f"{found.board}: over the budget: {'; '.join(grown)}. Make it smaller, or raise its "
            "line in budget.toml."
        )


def _grown(built: dict[str, Any], earlier: dict[str, Any] | None) -> list[str]:
    """Modules that are larger than they were or than they may be, the one that grew most first."""
    if earlier is None:
        budget = tomllib.loads(size.BUDGET.read_text())["modules"]
        before = {name + ".mpy": limit for name, limit in budget.items()}
        word = "budget"
    else:
        before = {item["path"]: item["size"] for item in earlier["modules"]}
        word = "before"
    grown = []
    for item in built["modules"]:
        known = before.get(item["path"], 0 if earlier is not None else None)
        if known is not None and item["size"] > known:
            grown.append(
                (item["size"] - known, f"{item['path']} has {item['size']} bytes, {word} {known}")
            )
    return [text for _, text in sorted(grown, key=lambda pair: (-pair[0], pair[1]))[:5]]
