"""``keyferry firmware``: from sources to files that go onto boards."""

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from keyferry_firmware.problems import FirmwareProblem
from keyferry_manager.cli.base import (
    JsonOption,
    ProblemGroup,
    app,
    printable,
    write,
    write_json,
    write_table,
)
from keyferry_manager.problems import Problem

if TYPE_CHECKING:
    from keyferry_firmware.boards import Board
    from keyferry_firmware.build import Build
    from keyferry_firmware.preflight import Finding


class KeyKind(enum.StrEnum):
    """What a release key is."""

    P256 = "p256"
    ED25519 = "ed25519"


class FirmwareGroup(ProblemGroup):
    """Shows a FirmwareProblem, or that the extra is not installed, as one sentence."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FirmwareProblem as problem:
            raise Problem(printable(str(problem))) from None
        except ModuleNotFoundError as error:
            raise Problem(f"{error.name} is missing: pip install 'keyferry[firmware]'.") from None


commands = typer.Typer(
    cls=FirmwareGroup, help="Build images for boards, sign and check them.", no_args_is_help=True
)
keys = typer.Typer(cls=FirmwareGroup, help="Release keys.", no_args_is_help=True)
commands.add_typer(keys, name="key")
app.add_typer(commands, name="firmware")

BoardOption = Annotated[
    str,
    typer.Option("--board", metavar="BOARD", help="One of `keyferry firmware boards`, or a .toml."),
]


@commands.command("boards")
def list_boards(as_json: JsonOption = False) -> None:
    """List the boards that images can be built for."""
    from keyferry_firmware import boards

    found = [boards.load(name) for name in boards.names()]
    if as_json:
        write_json(
            [
                {
                    "name": board.name,
                    "title": board.title,
                    "flash": board.flash,
                    "application": board.rom.size,
                    "files": board.files.size,
                    "heap": board.heap * 1024,
                    "features": list(board.features),
                    "flashing": board.flashing,
                }
                for board in found
            ]
        )
        return
    rows = [
        (
            board.name,
            f"{board.flash // 1024}",
            f"{board.rom.size // 1024}",
            f"{board.files.size // 1024}",
            f"{board.heap}",
            board.title,
        )
        for board in found
    ]
    columns = ("BOARD", "FLASH KiB", "APPLICATION", "FILES", "HEAP", "")
    write_table(columns, rows, "No boards: the installation is not whole.")


@commands.command()
def build(
    board: BoardOption,
    application: Annotated[
        Path,
        typer.Option("--app", metavar="DIR", help="Folder with main.py, or one .py file."),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="New folder for what is built.")
    ],
    base: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="MicroPython's own image for the board (.bin, .uf2)."),
    ] = None,
    base_sha256: Annotated[
        str, typer.Option(metavar="HEX", help="What the publisher says is its SHA-256.")
    ] = "",
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Release key to sign the build with.")
    ] = None,
    preflight: Annotated[
        bool,
        typer.Option(
            "--preflight/--no-preflight", help="Measure flash and heap; refuse what does not fit."
        ),
    ] = True,
    against: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="An earlier build: say which modules grew since."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build what goes onto a board: bytecode, ROMFS and LittleFS images, record and SBOM.

    The same input gives the same bytes. With --base one file comes out that can be flashed; with
    --key the record of the build is signed. The folder is written whole or not at all.
    """
    from keyferry_firmware import boards, firmware, output, record, release
    from keyferry_firmware import build as building

    chosen = boards.load(board)
    output.check_free(out)
    secret = None if key is None else release.private_key(key)
    earlier = None if against is None else record.read(against)
    given = None if base is None else firmware.read_base(chosen, base, base_sha256)
    made = building.build(chosen, application, base=given, key=secret)
    found = _preflight(chosen, made, earlier) if preflight else None
    output.write_folder(out, made.files)
    flash = {name: len(data) for name, data in made.files.items() if "/" not in name}
    if as_json:
        value = {
            "board": chosen.name,
            "folder": str(out),
            "files": flash,
            "signed": key is not None,
        }
        write_json({**value, "preflight": None if found is None else found.values()})
        return
    write(Text(f"Built for {chosen.name} in {out}.", style="bold"))
    rows = [(name, str(size), record.digest(made.files[name])) for name, size in flash.items()]
    write_table(("FILE", "BYTES", "SHA-256"), rows, "")
    if found is not None:
        _show_preflight(found)
    write(Text(f"How it gets onto the board: {chosen.flashing}"))


def _preflight(board: "Board", made: "Build", earlier: dict[str, Any] | None) -> "Finding":
    from keyferry_firmware import preflight

    found = preflight.measure(board, made.files)
    preflight.check(found, made.record, earlier)
    return found


def _show_preflight(found: "Finding") -> None:
    write()
    rows = [(name, str(used), str(limit)) for name, used, limit in found.rows()]
    write_table((f"PREFLIGHT {found.board}", "NEEDED", "THERE IS"), rows, "")


@commands.command()
def verify(
    place: Annotated[Path, typer.Argument(metavar="FILE", help="A build's folder or build.cose.")],
    key: Annotated[Path, typer.Option(metavar="PUB", help="Public release key (.pub).")],
    as_json: JsonOption = False,
) -> None:
    """Check that a build is whole, unchanged, and signed with this key."""
    from keyferry_firmware import release

    public = release.public_key(key)
    found = release.verify(place, public)
    if as_json:
        board, files = found["board"]["name"], len(found["files"])
        write_json(
            {"verified": True, "board": board, "files": files, "key": release.name_of(public)}
        )
        return
    write(
        Text(
            f"{place}: {len(found['files'])} files for {found['board']['name']}, as signed by "
            f"{release.name_of(public)}."
        )
    )


@keys.command("new")
def new_key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes.")],
    kind: Annotated[
        KeyKind, typer.Option(help="P-256 signs with ES256, Ed25519 with EdDSA.")
    ] = KeyKind.P256,
    as_json: JsonOption = False,
) -> None:
    """Make a release key: FILE (only you can read it), and FILE.pub for those who verify."""
    from keyferry_firmware import release

    public, name = release.new_key(path, kind.value)
    if as_json:
        write_json({"key": name, "kind": kind.value, "private": str(path), "public": str(public)})
        return
    write(Text(f"Release key {name}: {path} signs, {public} verifies. Keep the first to yourself."))


@commands.command()
def provision(
    devices: Annotated[
        Path, typer.Option(metavar="CSV", help="The list of devices; docs/firmware.md has columns.")
    ],
    image: Annotated[
        Path, typer.Option(metavar="DIR", help="The build that they run: `firmware build`'s -o.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="New folder, for your eyes only.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(metavar="PUB", help="Public release key: take no build but one signed by it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make each device's own file system: identity, trust, Wi-Fi; and labels for claim tokens.

    All devices of the list or none. Only you can read what is made; provisioned.json says what
    that is, without secrets.
    """
    from keyferry_firmware import devices as listed
    from keyferry_firmware import output, provision, release

    output.check_free(out)
    if key is not None:
        release.verify(image, release.public_key(key))
    built, filesystem = provision.read_build(image)
    found = listed.read(devices)
    files = provision.provision(built, filesystem, found)
    output.write_folder(out, files, private=True)
    if as_json:
        write_json({"folder": str(out), **json.loads(files[provision.LOG])})
        return
    rows = [(item.name, item.realm, item.credential) for item in found]
    write_table(("DEVICE", "REALM", "CREDENTIAL"), rows, "")
    write(Text(f"{len(found)} devices in {out}: there are secrets in it, keep it to yourself."))
