"""``keyferry owner``: a key that no manager has, and what it signs. It needs no home."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from keyferry_manager import owner
from keyferry_manager.authority.files import write_new
from keyferry_manager.cli.base import (
    JsonOption,
    duration_parser,
    group,
    write,
    write_json,
)
from keyferry_manager.problems import Problem

commands = group("owner", "An owner's key, kept offline, and what it signs: docs/keys.md.")


@commands.command()
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The key; the public one: FILE.pub")],
    as_json: JsonOption = False,
) -> None:
    """Make an owner's key, P-256. Keep it away from the manager and from every network."""
    public, name = owner.new_key(file)
    result: dict[str, Any] = {"key": str(file), "public": str(public), "name": name}
    if as_json:
        write_json(result)
        return
    write(Text(f"The owner's key {name} is in {file}: keep it offline, and a copy of it."))
    write(Text(f"{public} goes onto devices: keyferry device add NAME --owner {public}"))


@commands.command()
def endorse(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="PEM or DER.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The owner's key.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where it goes; it is not overwritten.")
    ],
    life: Annotated[
        int | None,
        typer.Option(
            "--for",
            parser=duration_parser,
            metavar="TIME",
            help="How long it counts, such as 365d. Default: as long as the device has this key.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign for the key in a device's certificate.

    Compare the key's name with what the device itself says (its event 'peer-trust'), not with
    what the manager says: the manager could have made the certificate.
    """
    until = 0 if life is None else int(time.time()) + life
    signed, device, name = owner.endorse(certificate, key, until)
    try:
        write_new(out, signed)
    except OSError as error:
        raise Problem(f"{out} cannot be written: {error.strerror}.") from None
    if as_json:
        write_json({"device": device, "key": name, "until": until, "file": str(out)})
        return
    write(Text(f"Signed: the key {name} is that of {device}."))
    write(Text(f"Hand it to the manager: keyferry device endorse {device.split('@')[0]} {out}"))
