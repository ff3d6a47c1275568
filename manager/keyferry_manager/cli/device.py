"""``keyferry device``: add devices, and look at them."""

import asyncio
import base64
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from rich.table import Table
from rich.text import Text

from keyferry_core.owner import MAX_ENDORSEMENT
from keyferry_manager import owner
from keyferry_manager.authority import LocalAuthority, fingerprint, open_authority, serial_text
from keyferry_manager.authority.chain import Chain
from keyferry_manager.authority.files import PRIVATE, sync_directory, write_new
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    Carrier,
    HomeOption,
    JsonOption,
    NameArgument,
    Profile,
    Trust,
    Value,
    WatchOption,
    duration_parser,
    group,
    home_option,
    host_parser,
    rows,
    show_list,
    table,
    when,
    with_admin,
    write,
    write_json,
)
from keyferry_manager.config import Config
from keyferry_manager.problems import ConfigProblem, Problem
from keyferry_manager.tokens import new_token, token_hash

if TYPE_CHECKING:
    from keyferry_manager.authority.remote import RemoteAuthority

commands = group("device", "Add devices, and look at them.")

PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the settings'.")]


@dataclass(frozen=True, slots=True)
class _Files:
    """A device's files, before they are written: name, content, mode."""

    entries: list[tuple[str, bytes, int]]

    def write(self, folder: Path) -> None:
        for name, data, mode in self.entries:
            write_new(folder / name, data, mode)
        sync_directory(folder)


@commands.command()
def add(
    name: NameArgument,
    factory: Annotated[
        bool,
        typer.Option("--factory", help="Make a factory identity: a key, and a certificate."),
    ] = False,
    token: Annotated[
        bool, typer.Option("--token", help="Make a one-time token; it is shown once.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the device's files go; it must not exist yet. Default with --factory: "
            "a directory of the device's name.",
        ),
    ] = None,
    expires: Annotated[
        int | None,
        typer.Option(
            parser=duration_parser,
            metavar="TIME",
            help="Life of the token: 30m, 24h, 7d. Default: the settings', 24h.",
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="For a device that exists: its earlier ways to enrol end."),
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(
            parser=host_parser, metavar="HOST", help="Where the device reaches this manager."
        ),
    ] = None,
    mqtt_port: PortOption = None,
    est_port: PortOption = None,
    carrier: Annotated[
        Carrier,
        typer.Option(help="How it speaks to this manager; sip needs listen.sip_port: docs/sip.md."),
    ] = Carrier.MQTT,
    sip_port: PortOption = None,
    time_port: PortOption = None,
    profile: Annotated[
        Profile, typer.Option(help="What it asks its peers for; it answers either: docs/keys.md.")
    ] = Profile.CERT,
    trust: Annotated[
        Trust | None,
        typer.Option(help="Who must vouch for its peers' keys; default ca: docs/keys.md."),
    ] = None,
    owner_key: Annotated[
        Path | None,
        typer.Option(
            "--owner", metavar="FILE", help="The owner's public key; means --trust owner."
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Add a device, with a factory identity or a one-time token to enrol with.

    The files are what the device needs: config.json, root.der, and its credential. The private
    key of a factory identity is written there and kept nowhere else.
    """
    if factory == token:
        raise typer.BadParameter("give either --factory or --token.")
    if sip_port is not None and carrier is not Carrier.SIP:
        raise typer.BadParameter("--sip-port goes with --carrier sip.")
    if trust is None:
        trust = Trust.CA if owner_key is None else Trust.OWNER
    if (trust is Trust.OWNER) != (owner_key is not None):
        raise typer.BadParameter("--trust owner goes with --owner FILE.")
    if expires is not None and not token:
        raise typer.BadParameter("--expires goes with --token.")
    config = Config.load(home)
    authority = open_authority(config)
    folder = out or (Path(name) if factory else None)
    entries = []
    if folder is not None:
        folder = folder.absolute()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Problem(
                f"{folder} exists already and is not overwritten: choose another with --out."
            )
        ports = {
            "mqtt_port": mqtt_port,
            "est_port": est_port,
            "sip_port": sip_port,
            "time_port": time_port,
        }
        entries = _common_files(config, authority, name, host, ports, carrier, profile)
        entries = [*_trusting(entries, trust), *owner_files(owner_key)]
    elif owner_key is not None or trust is not Trust.CA:
        raise typer.BadParameter("--trust and --owner go with --out DIR: they are on its flash.")
    identity = None
    secret = ""
    if factory:
        identity, credential = _factory_identity(authority, name, int(time.time()))
        entries += credential
    else:
        secret = new_token()
        entries.append(("token", secret.encode() + b"\n", PRIVATE))
    # The secret is made here and only its hash goes further.
    sha256 = token_hash(secret) if secret else None

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.add_device(
            name, again=again, seconds=expires, token_sha256=sha256, factory=identity
        )

    if folder is None:
        added = with_admin(home, work)
    else:
        added = _write_files(folder, _Files(entries), lambda: with_admin(home, work))
    result: dict[str, Any] = {"name": name, "expires": added["expires"]}
    if folder is not None:
        result["files"] = str(folder)
    if identity is not None:
        result["factory_serial"] = identity["serial"]
    if secret:
        result["token"] = secret
    if as_json:
        write_json(result)
        return
    _show_added(name, folder, secret, added["expires"], home)


def _show_added(name: str, folder: Path | None, secret: str, ends: str, home: Path) -> None:
    write(Text(f"{name} can enrol now.", style="bold"))
    if secret:
        write(Text(f"  token    {secret}"))
        write(Text(f"  expires  {when(ends)}"))
        write(Text("It is good for one certificate, and cannot be shown again."))
    if folder is not None:
        write(Text(f"Its files are in {folder}: copy them to the root of the device."))
        if not secret:
            write(Text("The private key in there exists nowhere else."))
    write(Text(f"Let another device ask for it: keyferry allow OTHER {name}{home_option(home)}"))


def _common_files(
    config: Config,
    authority: Chain,
    name: str,
    host: str | None,
    ports: dict[str, int | None],
    carrier: Carrier,
    profile: Profile,
) -> list[tuple[str, bytes, int]]:
    link_port = f"{carrier.value}_port"
    link = ports[link_port] or getattr(config, link_port)
    est_port = ports["est_port"] or config.est_port
    time_port = ports["time_port"] or config.time_port
    if link < 0:
        raise ConfigProblem(
            "this manager does not listen for SIP: set listen.sip_port in keyferry.toml, 5061 by "
            "custom, or say with --sip-port where the device finds it."
        )
    if not link or not est_port:
        raise ConfigProblem(
            "the settings let the system choose the ports: say with "
            f"--{carrier.value}-port and --est-port which ones the device shall use."
        )
    settings = {
        "name": name,
        "realm": config.realm,
        "host": host or config.device_host,
        link_port: link,
        "est_port": est_port,
        "session_grace": config.session_grace,
    }
    if carrier is not Carrier.MQTT:
        settings["carrier"] = carrier.value
    if time_port > 0:
        settings["time_port"] = time_port
    if profile is not Profile.CERT:
        settings["profile"] = profile.value
    return [
        ("config.json", json.dumps(settings, indent=2).encode() + b"\n", 0o644),
        ("root.der", authority.root.public_bytes(Encoding.DER), 0o644),
    ]


def _trusting(entries: list[tuple[str, bytes, int]], trust: Trust) -> list[tuple[str, bytes, int]]:
    if trust is Trust.CA:
        return entries
    (name, config, mode), *others = entries
    settings = {**json.loads(config), "trust": trust.value}
    return [(name, json.dumps(settings, indent=2).encode() + b"\n", mode), *others]


def owner_files(path: Path | None) -> list[tuple[str, bytes, int]]:
    """``owner.pub`` for a device, of the owner's public key in PEM."""
    return [] if path is None else [("owner.pub", owner.public_key(path), 0o644)]


def _factory_identity(
    authority: "LocalAuthority | RemoteAuthority", name: str, now: int
) -> tuple[dict[str, Any], list[tuple[str, bytes, int]]]:
    key = ec.generate_private_key(ec.SECP256R1())
    if isinstance(authority, LocalAuthority):
        certificate = authority.issue_factory(name, key.public_key(), now)
    else:
        certificate = asyncio.run(_factory_from_ca(authority, name, key))
    identity = {
        "fingerprint": fingerprint(certificate),
        "serial": serial_text(certificate),
        "not_after": int(certificate.not_valid_after_utc.timestamp()),
    }
    # TraditionalOpenSSL is SEC1 for a key on a curve.
    private = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return identity, [
        ("factory.key", private, PRIVATE),
        ("factory.crt", certificate.public_bytes(Encoding.DER), 0o644),
    ]


async def _factory_from_ca(
    authority: "RemoteAuthority", name: str, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """The CA has the factory CA's key; the device's stays here, on its way to the device."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    try:
        return await authority.issue_factory(name, request.public_bytes(Encoding.DER))
    finally:
        await authority.close()


def _write_files(
    folder: Path, files: _Files, commit: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The files in a directory beside, then the database, then the directory's name. What
    ``commit`` gave."""
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(mode=0o700)
        files.write(building)
        committed = commit()
        os.rename(building, folder)
        sync_directory(folder.parent)
        return committed
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise Problem(f"{folder} cannot be written: {error.strerror}.") from None
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


@commands.command()
def endorse(
    name: NameArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What 'keyferry owner endorse' wrote.")
    ],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Take over what the owner signed for a device's key: peers that want it get it delivered."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_ENDORSEMENT + 1)
    except OSError as error:
        raise Problem(f"{file} cannot be read: {error.strerror}.") from None

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.endorse(name, base64.b64encode(data).decode())

    found = with_admin(home, work)
    if as_json:
        write_json(found)
        return
    until = f" until {when(found['expires'])}" if found["expires"] else ""
    write(Text(f"{name} is endorsed{until}, for its key {found['key'][:16]}."))


@commands.command("list")
def list_devices(
    home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """List the devices, who is connected, and until when their certificates hold."""

    async def work(admin: Admin) -> Value:
        return await rows(admin.devices)

    show_list(home, work, _listed, as_json=as_json, watch=watch)


def _listed(found: Value) -> Table | Text:
    return table(
        ("NAME", "STATE", "LINK", "CERTIFICATE UNTIL", "ADDED"),
        [
            (
                item["name"],
                item["state"],
                "online" if item["online"] else "",
                when(item["expires"]),
                when(item["added"]),
            )
            for item in found
        ],
        "No device yet: add one with 'keyferry device add NAME --factory'.",
    )


@commands.command()
def show(name: NameArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show a device: its certificates, how it may enrol, and whom it may ask for."""

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.device(name)

    found = with_admin(home, work)
    if as_json:
        write_json(found)
        return
    online = "  online" if found["online"] else ""
    write(Text(f"{name}  {found['state']}{online}", style="bold"))
    write(Text(f"  identity     {found['identity']}"))
    write(Text(f"  added        {when(found['added'])}"))
    for item in found["certificates"]:
        until = when(item["expires"])
        line = f"  certificate  {item['serial']}  until {until}  ({item['admission']})"
        if item["revoked"]:
            line += f"  revoked {when(item['revoked'])}: {item['reason']}"
        write(Text(line))
    for item in found["factory"]:
        write(Text(f"  factory      {item['serial']}  until {when(item['expires'])}"))
    for item in found["tokens"]:
        write(Text(f"  token        {item['state']}, until {when(item['expires'])}"))
    if found["agreement_key"] is not None:
        write(Text(f"  rpk key      {found['agreement_key']}"))
    write(Text(f"  may ask      {', '.join(found['may_ask']) or 'nobody'}"))
    write(Text(f"  asked by     {', '.join(found['asked_by']) or 'nobody'}"))
