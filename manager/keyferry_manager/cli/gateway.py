"""``keyferry gateway``: whom a gateway lets in, as a table beside its files."""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from rich.text import Text

from keyferry_core.errors import DecodeError
from keyferry_core.names import check_name
from keyferry_manager.cli.base import (
    JsonOption,
    group,
    name_parser,
    write,
    write_json,
)
from keyferry_manager.problems import Conflict, Invalid, NotFound

FILE = "gateway.json"
_CONFIG = "config.json"

commands = group("gateway", "Say whom a gateway lets in, and to which devices (docs/gateway.md).")

FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="The gateway's own files, as 'keyferry device add --out' made them."
    ),
]
PartyArgument = Annotated[
    str, typer.Argument(metavar="NAME", parser=name_parser, help="What the third party is called.")
]


@commands.command()
def add(
    folder: FolderArgument,
    name: PartyArgument,
    to: Annotated[
        list[str],
        typer.Option("--to", metavar="DEVICE", parser=name_parser, help="A device it may reach."),
    ],
    port: Annotated[
        list[str] | None,
        typer.Option(
            "--port", metavar="DEVICE:PORT", help="A port of one, for its own TLS or SSH."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="FILE",
            dir_okay=False,
            help="Its client certificate (PEM, ECDSA on P-256), and no token.",
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="A name or address of the gateway in URLs."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add a third party to a gateway's table, or give it another token.

    Its token is shown once; the table keeps a hash. What it may do is up to the policy, too: the
    rule that it needs is shown as well.
    """
    gateway = _gateway(folder)
    table = _read(folder)
    parties = table.setdefault("third_parties", {})
    if not isinstance(parties, dict):
        raise Invalid(f"{folder / FILE}: third_parties is no object.")
    ports = [_port(item, to) for item in port or []]
    entry: dict[str, Any] = {"to": sorted(set(to))}
    if ports:
        entry["ports"] = sorted(set(ports))
    token = ""
    if certificate is not None:
        encoded = _certificate(certificate)
        entry["certificate"] = f"party-{name}.crt"
        _write(folder / f"party-{name}.crt", encoded)
    else:
        token = secrets.token_urlsafe(32)
        entry["token"] = hashlib.sha256(token.encode()).hexdigest()
    parties[name] = entry
    for item in host or []:
        hosts = table.setdefault("hosts", [])
        if item not in hosts:
            hosts.append(item)
    _write(folder / FILE, json.dumps(table, indent=1, sort_keys=True).encode() + b"\n")
    if as_json:
        write_json({"gateway": gateway, "name": name, **entry, "token": token or None})
        return
    write(Text(f"{name} may come in through {gateway}."))
    if token:
        write(Text(f"Its token, shown this once: {token}"))
    listed = ", ".join(f'"{device}"' for device in entry["to"])
    write(Text("\nFor policy.toml, and then 'keyferry policy apply':"))
    write(
        Text(
            f'[[allow]]\nfrom = "{gateway} for {name}"\nto = [{listed}]\n'
            'what = ["session", "message"]'
        )
    )
    write(Text("\nFor config.json of each of these devices:"))
    write(Text(f'"third_parties": ["{gateway} for {name}"]'))


@commands.command()
def remove(folder: FolderArgument, name: PartyArgument, as_json: JsonOption = False) -> None:
    """Take a third party out of a gateway's table."""
    gateway = _gateway(folder)
    table = _read(folder)
    entry = table.get("third_parties", {}).pop(name, None)
    if entry is None:
        raise NotFound(f"{folder / FILE} has no {name}: 'keyferry gateway show' lists them.")
    (folder / f"party-{name}.crt").unlink(missing_ok=True)
    _write(folder / FILE, json.dumps(table, indent=1, sort_keys=True).encode() + b"\n")
    if as_json:
        write_json({"gateway": gateway, "name": name, "removed": True})
        return
    write(Text(f"{name} may no longer come in through {gateway}."))


@commands.command()
def show(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Show whom a gateway lets in, and to which devices."""
    gateway = _gateway(folder)
    parties = _read(folder).get("third_parties", {})
    found = [
        {
            "name": name,
            "by": "certificate" if "certificate" in entry else "token",
            "to": entry["to"],
            "ports": entry.get("ports", []),
        }
        for name, entry in sorted(parties.items())
    ]
    if as_json:
        write_json({"gateway": gateway, "third_parties": found})
        return
    for item in found:
        ports = f"; ports {', '.join(item['ports'])}" if item["ports"] else ""
        write(Text(f"{item['name']} ({item['by']}): {', '.join(item['to'])}{ports}"))
    if not found:
        write(Text("Nobody may come in yet: 'keyferry gateway add' changes that."))


# inside


def _gateway(folder: Path) -> str:
    """The gateway's name, of the files that it is made from."""
    try:
        return check_name(json.loads((folder / _CONFIG).read_bytes())["name"])
    except FileNotFoundError:
        raise NotFound(
            f"{folder} has no {_CONFIG}: make the gateway's files with "
            f"'keyferry device add NAME --out {folder}'."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, DecodeError):
        raise Invalid(f"{folder / _CONFIG} is not a device's configuration.") from None


def _read(folder: Path) -> dict[str, Any]:
    try:
        table = json.loads((folder / FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        table = None
    if not isinstance(table, dict):
        raise Invalid(f"{folder / FILE} is not a table that this command can read.")
    return table


def _port(text: str, to: list[str]) -> str:
    device, _, number = text.rpartition(":")
    if not number.isdecimal() or not 0 < int(number) <= 65535:
        raise Invalid(f"{text!r} is not DEVICE:PORT.")
    if device not in to:
        raise Conflict(f"--port {text} needs --to {device or 'DEVICE'}.")
    return f"{device}:{int(number)}"


def _certificate(path: Path) -> bytes:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise Invalid(f"{path} is not a certificate in PEM.") from None
    key = found.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Invalid(f"{path}: a gateway takes certificates for keys on P-256 only.")
    return found.public_bytes(Encoding.DER)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and for its owner only."""
    temporary = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(data)
    temporary.replace(path)
