"""A manager's whole home in one file, made while it serves, and brought back from it.

The archive is a tar file. Its first member, ``manifest.json``, says the format, the realm, the
time, the kind of database, and size and SHA-256 of each other member: ``home/…`` for the files of
the home, CA keys included, and ``database``. Whoever has it has the CA: it is of mode 0600.
"""

import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from keyferry_manager.audit.heads import FILE_NAME as HEAD_NAME
from keyferry_manager.authority import files
from keyferry_manager.config import DATABASE_NAME, Config
from keyferry_manager.config import FILE_NAME as CONFIG_NAME
from keyferry_manager.problems import Problem
from keyferry_manager.store import copying

_FORMAT = 1
_MANIFEST = "manifest.json"
_DATABASE = "database"
_HOME = "home/"
_MAX_MANIFEST = 4 << 20
# Of a file in a home, keys and certificates and settings; the database is no such file.
_MAX_FILE = 64 << 20
_MAX_FILES = 20_000
_ATTEMPTS = 5
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*(/[A-Za-z0-9_][A-Za-z0-9_.@-]*)*")


class BackupProblem(Problem):
    """A backup cannot be made, or what is given is none."""


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made: where, how large, and of when (Unix seconds)."""

    file: Path
    size: int
    files: int
    at: float


def back_up(config: Config, target: Path) -> Made:
    """Write a backup of a home into ``target``, which must not exist. BackupProblem when not."""
    if target.exists():
        raise BackupProblem(f"{target} exists already and is not overwritten.")
    try:
        with tempfile.TemporaryDirectory(prefix=".keyferry-", dir=target.absolute().parent) as name:
            return _back_up(config, target, Path(name))
    except OSError as error:
        raise BackupProblem(f"the backup cannot be written: {error.strerror}.") from None


def restore(archive: Path, home: Path, database: str = "") -> dict[str, Any]:
    """Make ``home``, which must not exist or be empty, from an archive; return its manifest.

    ``database`` is a URL to take instead of the one in the settings. Everything is checked before
    the home stands under its name; a PostgreSQL database must be empty.
    """
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise BackupProblem(
            f"{home} exists already and is not overwritten: choose another directory, or move it "
            "away."
        )
    home = home.absolute()
    building = home.with_name(f".{home.name}.{secrets.token_hex(4)}")
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(mode=0o700)
        return _restore(archive, building, home, database)
    except OSError as error:
        raise BackupProblem(f"{home} cannot be made: {error.strerror}.") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


# making


def _back_up(config: Config, target: Path, work: Path) -> Made:
    copy = work / _DATABASE
    files.write_new(copy, b"", files.PRIVATE)
    for _ in range(_ATTEMPTS):
        at = time.time()
        # The signed head first: all that it names is in the database then.
        found = _home_files(config)
        copy.write_bytes(b"")
        kind = copying.copy_database(config.database_url, copy)
        if _same(found, _home_files(config)):
            break
    else:
        raise BackupProblem("the home changed each time while it was read: try again.")
    manifest = {
        "format": _FORMAT,
        "realm": config.realm,
        "at": at,
        "database": kind,
        "members": {
            _HOME + name: {"size": len(data), "sha256": _digest(data), "mode": mode}
            for name, (data, mode) in found.items()
        }
        | {_DATABASE: {"size": copy.stat().st_size, "sha256": _digest_of(copy), "mode": 0o600}},
    }
    building = work / "archive"
    files.write_new(building, b"", files.PRIVATE)
    with tarfile.open(building, "w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, _MANIFEST, json.dumps(manifest, indent=1).encode(), 0o600, at)
        for name, (data, mode) in found.items():
            _add(archive, _HOME + name, data, mode, at)
        with copy.open("rb") as file:
            info = _info(_DATABASE, copy.stat().st_size, 0o600, at)
            archive.addfile(info, file)
    with building.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(building, target)  # unlike a rename, it overwrites nothing
    except FileExistsError:
        raise BackupProblem(f"{target} exists already and is not overwritten.") from None
    files.sync_directory(target.absolute().parent)
    return Made(target, target.stat().st_size, len(found), at)


def _home_files(config: Config) -> dict[str, tuple[bytes, int]]:
    """Content and mode of every file of a home, without the database and what is temporary."""
    databases = {DATABASE_NAME, Path(config.database_url).name}
    found: dict[str, tuple[bytes, int]] = {}
    for path in sorted(config.home.rglob("*")):
        name = path.relative_to(config.home).as_posix()
        status = path.lstat()
        database = name.removesuffix("-wal").removesuffix("-shm").removesuffix("-journal")
        if not stat.S_ISREG(status.st_mode) or database in databases or not _NAME.fullmatch(name):
            continue
        if status.st_size > _MAX_FILE or len(found) >= _MAX_FILES:
            raise BackupProblem(f"{path} is no file of a manager's home: move it elsewhere.")
        found[name] = path.read_bytes(), stat.S_IMODE(status.st_mode)
    return found


def _same(one: dict[str, tuple[bytes, int]], two: dict[str, tuple[bytes, int]]) -> bool:
    names = (one.keys() | two.keys()) - {HEAD_NAME}
    return all(one.get(name) == two.get(name) for name in names)


def _info(name: str, size: int, mode: int, at: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, mode, int(at)
    return info


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int, at: float) -> None:
    archive.addfile(_info(name, len(data), mode, at), io.BytesIO(data))


# bringing back


def _restore(archive: Path, building: Path, home: Path, database: str) -> dict[str, Any]:
    copy = building / ".database"
    try:
        with tarfile.open(archive, "r:") as tar:
            manifest = _manifest(tar)
            _extract(tar, manifest["members"], building, copy)
    except tarfile.TarError:
        raise BackupProblem(f"{archive} is no backup, or was cut off.") from None
    except FileNotFoundError:
        raise BackupProblem(f"{archive} does not exist.") from None
    settings = building / CONFIG_NAME
    if not settings.exists():
        raise BackupProblem(f"{archive} is no backup: {CONFIG_NAME} is missing in it.")
    if database:
        _change_database(settings, database)
    there = Config.load(building)
    inside = not there.database
    url = there.database_url
    copying.check_empty(url)
    copying.restore_database(copy, cast(copying.Kind, manifest["database"]), url)
    copy.unlink()
    if not inside and copying.kind_of(url) == "sqlite":
        files.sync_directory(Path(url.removeprefix("sqlite:///")).parent)
    files.sync_directory(building)
    os.rename(building, home)
    files.sync_directory(home.parent)
    return manifest


def _manifest(tar: tarfile.TarFile) -> dict[str, Any]:
    first = tar.next()
    if first is None or first.name != _MANIFEST or first.size > _MAX_MANIFEST:
        raise BackupProblem("it is no backup of Keyferry.")
    file = tar.extractfile(first)
    try:
        manifest = json.loads(file.read() if file else b"")
        members = manifest["members"]
        good = (
            manifest["format"] == _FORMAT
            and manifest["database"] in ("sqlite", "postgresql")
            and isinstance(manifest["realm"], str)
            and isinstance(manifest["at"], int | float)
            and _DATABASE in members
            and all(_good_member(name, member) for name, member in members.items())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        good = False
        manifest = {}
    if not good:
        raise BackupProblem(
            "it is no backup that this version knows: a newer Keyferry may have made it."
        )
    return manifest


def _good_member(name: str, member: Any) -> bool:
    inner = name.removeprefix(_HOME)
    return (
        (name == _DATABASE or (name != inner and _NAME.fullmatch(inner) is not None))
        and ".." not in name
        and isinstance(member["size"], int)
        and 0 <= member["size"] <= (1 << 50 if name == _DATABASE else _MAX_FILE)
        and isinstance(member["sha256"], str)
        and isinstance(member["mode"], int)
    )


def _extract(tar: tarfile.TarFile, members: dict[str, Any], building: Path, copy: Path) -> None:
    left = dict(members)
    while (info := tar.next()) is not None:
        expected = left.pop(info.name, None)
        source = tar.extractfile(info) if info.isreg() else None
        if expected is None or source is None or info.size != expected["size"]:
            raise BackupProblem(f"the backup is damaged: {info.name!r} is not what it says.")
        path = copy
        if info.name != _DATABASE:
            path = building / info.name.removeprefix(_HOME)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = hashlib.sha256()
        mode = expected["mode"] & 0o744  # never writable by others, whatever the archive says
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        descriptor = os.open(path, flags, mode)
        with os.fdopen(descriptor, "wb") as target:
            os.fchmod(descriptor, mode)
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
            target.flush()
            os.fsync(descriptor)
        if digest.hexdigest() != expected["sha256"]:
            raise BackupProblem(f"the backup is damaged: {info.name!r} was changed.")
    if left:
        raise BackupProblem(f"the backup was cut off: {min(left)!r} is missing.")


def _change_database(settings: Path, url: str) -> None:
    text = settings.read_text(encoding="utf-8")
    line = "url = " + json.dumps(url, ensure_ascii=False)
    section = re.search(r"(?m)^\[database\][ \t]*$", text)
    if section is None:
        text = text.rstrip("\n") + f"\n\n[database]\n{line}\n"
    else:
        head, tail = text[: section.end()], text[section.end() :]
        end = re.search(r"(?m)^\[", tail)
        body, rest = (tail, "") if end is None else (tail[: end.start()], tail[end.start() :])
        changed, count = re.subn(r"(?m)^url[ \t]*=.*$", lambda _: line, body, count=1)
        text = head + (changed if count else f"\n{line}{body}") + rest
    files.replace(settings, text.encode(), files.PRIVATE)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
