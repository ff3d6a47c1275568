"""``keyferry certificate``: what was issued to devices, and until when it holds."""

import base64
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.table import Table
from rich.text import Text

from keyferry_manager.admin.values import seconds
from keyferry_manager.authority.files import write_new
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    NameArgument,
    Value,
    WatchOption,
    duration_parser,
    group,
    name_parser,
    rows,
    show_list,
    table,
    when,
    with_admin,
    write,
    write_json,
)
from keyferry_manager.problems import NotFound, Problem

commands = group("certificate", "Look at the certificates of devices.")


@commands.callback()
def _group() -> None:
    """Look at the certificates of devices."""


@commands.command("list")
def list_certificates(
    device: Annotated[
        str | None,
        typer.Option("--device", parser=name_parser, metavar="NAME", help="Of this device only."),
    ] = None,
    expiring: Annotated[
        int | None,
        typer.Option(
            "--expiring",
            parser=duration_parser,
            metavar="TIME",
            help="Only devices whose newest certificate ends within so long (such as 14d), the "
            "soonest first; those that have ended too.",
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """List certificates, the newest first. A device that renews in time is in no list of
    `--expiring`: what is in it, is to be looked after."""

    async def work(admin: Admin) -> Value:
        found = await rows(lambda limit, cursor: admin.certificates(limit, cursor, device=device))
        if expiring is None:
            return found
        return ending(found, time.time() + expiring)

    show_list(home, work, _shown, as_json=as_json, watch=watch)


def ending(found: Value, before: float) -> Value:
    """The newest certificate of each device, if it ends ``before`` (Unix time) and was not
    revoked; the soonest first. ``found`` is newest first."""
    newest: dict[str, dict[str, object]] = {}
    for item in found:
        newest.setdefault(item["name"], item)
    due = [
        item
        for item in newest.values()
        if item["revoked"] is None and (seconds(str(item["expires"])) or 0.0) <= before
    ]
    return sorted(due, key=lambda item: (str(item["expires"]), str(item["name"])))


@commands.command("export")
def export_certificate(
    name: NameArgument,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where it goes; PEM, never overwritten.")
    ],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write a device's newest certificate that was not revoked, for its owner to sign."""

    async def work(admin: Admin) -> dict[str, Any]:
        found = await rows(lambda limit, cursor: admin.certificates(limit, cursor, device=name))
        for item in found:
            if item["revoked"] is None:
                return await admin.certificate(item["serial"])
        raise NotFound(f"{name} has no certificate: it has not enrolled yet, or was revoked.")

    found = with_admin(home, work)
    certificate = x509.load_der_x509_certificate(base64.b64decode(found["der"]))
    try:
        write_new(out, certificate.public_bytes(Encoding.PEM), 0o644)
    except OSError as error:
        raise Problem(f"{out} cannot be written: {error.strerror}.") from None
    result = {"name": name, "serial": found["serial"], "file": str(out)}
    if as_json:
        write_json(result)
        return
    write(Text(f"The certificate {found['serial']} of {name} is in {out}."))


def _shown(found: Value) -> Table | Text:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return table(
        ("DEVICE", "STATE", "EXPIRES", "ISSUED", "WITH", "SERIAL"),
        [
            (
                item["name"],
                "revoked" if item["revoked"] else "ended" if item["expires"] < now else "holds",
                when(item["expires"]),
                when(item["issued"]),
                item["admission"],
                item["serial"],
            )
            for item in found
        ],
        "There is none.",
    )
