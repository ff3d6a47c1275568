"""A build: everything that goes onto one kind of board, in one folder, from the sources.

``rom.img`` (sealed, rom.py), ``littlefs.img`` (boot code only: what makes a device itself is in
provision.py), ``bytecode/`` with ``manifest.py`` for those who freeze and ``package.json`` for mip,
``build.json`` and ``sbom.cdx.json``, and with a base image the one file to flash.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyferry_firmware import application, device_files, images, record, release, rom, sbom, sources
from keyferry_firmware.boards import Board
from keyferry_firmware.firmware import Base, merge
from keyferry_firmware.problems import FirmwareProblem


@dataclass(frozen=True)
class Build:
    """The files of a build by their path, and its record, which is one of them."""

    files: dict[str, bytes]
    record: dict[str, Any]


def build(
    board: Board, place: Path, *, base: Base | None = None, key: release.PrivateKey | None = None
) -> Build:
    """Build for ``board`` what is in ``place``. The same input gives the same bytes, signed too.

    ``base``: the board's MicroPython, checked by firmware.read_base. ``key``: the release key.
    """
    built = application.build(place)
    image = rom.seal(images.romfs(built.files))
    if len(image) > board.rom.size:
        raise FirmwareProblem(
            f"{board.name} has {board.rom.size} bytes for the application, and its image has "
            f"{len(image)}; the largest of it: {_largest(built.files)}."
        )
    filesystem = images.littlefs(
        device_files.boot_files(board), board.files.size, program=board.program
    )
    files = {
        record.ROM: image,
        record.FILES: filesystem,
        "manifest.py": _manifest(),
        "package.json": _package(built.files),
        **{f"{record.BYTECODE}/{name}": data for name, data in built.files.items()},
    }
    if base is not None:
        files.update(merge(board, base, image, filesystem))
    written = {
        "format": record.FORMAT,
        "board": {
            "name": board.name,
            "family": board.family,
            "heap": board.heap,
            "program": board.program,
            "chip": 0 if board.base is None else board.base.chip,
        },
        "keyferry": {
            "version": record.own_version(),
            "source": record.commit(sources.package_folder("keyferry_core")),
        },
        "application": record.commit(place),
        "entry": built.entry,
        "tools": record.tool_versions(),
        "base": None
        if base is None
        else {"sha256": base.sha256, "size": len(base.data), "micropython": base.version},
        "flash": {
            "rom": {"offset": board.rom.offset, "size": board.rom.size, "used": len(image)},
            "files": {"offset": board.files.offset, "size": board.files.size},
        },
        "modules": [
            {**item, "part": "application" if item["path"] in built.own else "keyferry"}
            for item in record.files(built.files)
        ],
    }
    files["sbom.cdx.json"] = sbom.make(written)
    written["files"] = record.files(files)
    files[record.NAME] = record.encode(written)
    if key is not None:
        files[release.NAME] = release.sign(key, files[record.NAME])
    return Build(files, written)


def _largest(files: dict[str, bytes]) -> str:
    found = sorted(files, key=lambda name: (-len(files[name]), name))[:3]
    return ", ".join(f"{name} ({len(files[name])})" for name in found)


def _manifest() -> bytes:
    """For MicroPython's own build: freezes the same bytecode into a firmware."""
    return (
        "# FROZEN_MANIFEST=this file, in a build of MicroPython: include() the board's own first.\n"
        f'freeze_mpy("{record.BYTECODE}")\n'
    ).encode()


def _package(files: dict[str, bytes]) -> bytes:
    """For ``mpremote mip install package.json``: core and agent, and the application's modules."""
    urls = [[name, f"{record.BYTECODE}/{name}"] for name in files]
    value = {"urls": urls, "deps": [], "version": record.own_version()}
    return json.dumps(value, indent=1).encode() + b"\n"
