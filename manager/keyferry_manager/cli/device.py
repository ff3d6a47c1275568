"""``keyferry device``: add devices, and look at them."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from rich.text import Text

from keyferry_manager.access import in_force
from keyferry_manager.authority import LocalAuthority, fingerprint, serial_text
from keyferry_manager.authority.files import PRIVATE, sync_directory, write_new
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    NameArgument,
    ProblemGroup,
    Profile,
    app,
    duration_parser,
    home_option,
    host_parser,
    moment,
    utc,
    with_store,
    write,
    write_json,
    write_table,
)
from keyferry_manager.config import Config
from keyferry_manager.enrolment import new_token, token_hash
from keyferry_manager.problems import ConfigProblem, Problem, StoreProblem
from keyferry_manager.store import Certificate, FactoryIdentity, Revoked, Token

if TYPE_CHECKING:
    from keyferry_manager.store import Store

commands = typer.Typer(
    cls=ProblemGroup, help="Add devices, and look at them.", no_args_is_help=True
)
app.add_typer(commands, name="device")

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
    profile: Annotated[
        Profile, typer.Option(help="What it asks its peers for; it answers either: docs/keys.md.")
    ] = Profile.CERT,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Add a device, with a factory identity or a one-time token to enrol with.

    The files are what the device needs: config.json, root.der, and its credential. The private
    key of a factory identity is written there and kept nowhere else.
    """
    if factory == token:
        raise typer.BadParameter("give either --factory or --token.")
    if expires is not None and not token:
        raise typer.BadParameter("--expires goes with --token.")
    config = Config.load(home)
    authority = LocalAuthority(config)
    folder = out or (Path(name) if factory else None)
    entries = []
    if folder is not None:
        folder = folder.absolute()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Problem(
                f"{folder} exists already and is not overwritten: choose another with --out."
            )
        entries = _common_files(config, authority, name, host, mqtt_port, est_port, profile)
    now = int(time.time())
    identity = None
    secret = ""
    ends = 0
    if factory:
        identity, credential = _factory_identity(authority, name, now)
        entries += credential
        ends = identity.not_after
    else:
        secret = new_token()
        ends = now + (expires or config.token_hours * 3600)
        entries.append(("token", secret.encode() + b"\n", PRIVATE))

    async def work(_config: Config, store: "Store") -> None:
        await store.add_device(
            name,
            factory=identity,
            token_hash=token_hash(secret) if secret else "",
            token_expires_at=ends,
            again=again,
            now=now,
        )
        kind = "factory" if factory else "token"
        await store.audit("device-added", name, credential=kind, again=again, expires=ends)

    if folder is None:
        with_store(home, work)
    else:
        _write_files(folder, _Files(entries), lambda: with_store(home, work))
    result: dict[str, Any] = {"name": name, "expires": utc(ends)}
    if folder is not None:
        result["files"] = str(folder)
    if identity is not None:
        result["factory_serial"] = identity.serial
    if secret:
        result["token"] = secret
    if as_json:
        write_json(result)
        return
    _show_added(name, folder, secret, ends, home)


def _show_added(name: str, folder: Path | None, secret: str, ends: int, home: Path) -> None:
    write(Text(f"{name} can enrol now.", style="bold"))
    if secret:
        write(Text(f"  token    {secret}"))
        write(Text(f"  expires  {moment(ends)}"))
        write(Text("It is good for one certificate, and cannot be shown again."))
    if folder is not None:
        write(Text(f"Its files are in {folder}: copy them to the root of the device."))
        if not secret:
            write(Text("The private key in there exists nowhere else."))
    write(Text(f"Let another device ask for it: keyferry allow OTHER {name}{home_option(home)}"))


def _common_files(
    config: Config,
    authority: LocalAuthority,
    name: str,
    host: str | None,
    mqtt_port: int | None,
    est_port: int | None,
    profile: Profile,
) -> list[tuple[str, bytes, int]]:
    mqtt_port = mqtt_port or config.mqtt_port
    est_port = est_port or config.est_port
    if not mqtt_port or not est_port:
        raise ConfigProblem(
            "the settings let the system choose the ports: say with --mqtt-port and --est-port "
            "which ones the device shall use."
        )
    settings = {
        "name": name,
        "realm": config.realm,
        "host": host or config.device_host,
        "mqtt_port": mqtt_port,
        "est_port": est_port,
        "session_grace": config.session_grace,
    }
    if profile is not Profile.CERT:
        settings["profile"] = profile.value
    return [
        ("config.json", json.dumps(settings, indent=2).encode() + b"\n", 0o644),
        ("root.der", authority.root.public_bytes(Encoding.DER), 0o644),
    ]


def _factory_identity(
    authority: LocalAuthority, name: str, now: int
) -> tuple[FactoryIdentity, list[tuple[str, bytes, int]]]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_factory(name, key.public_key(), now)
    identity = FactoryIdentity(
        fingerprint=fingerprint(certificate),
        serial=serial_text(certificate),
        device=name,
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        created_at=now,
    )
    # TraditionalOpenSSL is SEC1 for a key on a curve.
    private = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return identity, [
        ("factory.key", private, PRIVATE),
        ("factory.crt", certificate.public_bytes(Encoding.DER), 0o644),
    ]


def _write_files(folder: Path, files: _Files, commit: Any) -> None:
    """The files in a directory beside, then the database, then the directory's name."""
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(mode=0o700)
        files.write(building)
        commit()
        os.rename(building, folder)
        sync_directory(folder.parent)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise Problem(f"{folder} cannot be written: {error.strerror}.") from None
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


@commands.command("list")
def list_devices(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the devices, and until when their certificates hold."""
    revoked: set[str] = set()

    async def work(_config: Config, store: "Store") -> list[tuple[str, int, Certificate | None]]:
        latest = await store.latest_certificates()
        revoked.update(item.serial for item in await store.life.all_revoked())
        return [
            (device.name, device.created_at, latest.get(device.name))
            for device in await store.devices()
        ]

    _, found = with_store(home, work)
    now = time.time()
    if as_json:
        write_json(
            [
                {
                    "name": name,
                    "added": utc(created),
                    "state": _state(certificate, now, revoked),
                    "serial": certificate.serial if certificate else None,
                    "expires": utc(certificate.not_after if certificate else None),
                }
                for name, created, certificate in found
            ]
        )
        return
    rows = [
        (
            name,
            _state(certificate, now, revoked),
            moment(certificate.not_after if certificate else None),
            moment(created),
        )
        for name, created, certificate in found
    ]
    write_table(
        ("NAME", "STATE", "CERTIFICATE UNTIL", "ADDED"),
        rows,
        "No device yet: add one with 'keyferry device add NAME --factory'.",
    )


@commands.command()
def show(name: NameArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show a device: its certificates, how it may enrol, and whom it may ask for."""

    async def work(_config: Config, store: "Store") -> dict[str, Any]:
        device = await store.device(name)
        if device is None:
            raise StoreProblem(
                f"no device is called {name}: 'keyferry device list' shows those there are."
            )
        rules = await in_force(store)
        names = {device.name for device in await store.devices()} | rules.policy.names
        names.update(*rules.pairs)
        return {
            "device": device,
            "certificates": await store.certificates(name),
            "revoked": {item.serial: item for item in await store.life.all_revoked()},
            "factory": await store.factory_identities(name),
            "tokens": await store.tokens(name),
            "keys": [key for key in await store.presences.keys() if key.device == name],
            "may_ask": sorted(other for other in names if rules.allows(name, other)),
            "asked_by": sorted(other for other in names if rules.allows(other, name)),
        }

    config, found = with_store(home, work)
    now = time.time()
    revoked: dict[str, Revoked] = found["revoked"]
    value = {
        "name": name,
        "identity": f"sip:{name}@{config.realm}",
        "added": utc(found["device"].created_at),
        "state": _state(next(iter(found["certificates"]), None), now, revoked),
        "certificates": [
            _certificate(item, revoked.get(item.serial)) for item in found["certificates"]
        ],
        "factory": [
            {"serial": item.serial, "expires": utc(item.not_after)} for item in found["factory"]
        ],
        "tokens": [_token(item, now) for item in found["tokens"]],
        "agreement_key": next((key.key_id for key in found["keys"]), None),
        "may_ask": found["may_ask"],
        "asked_by": found["asked_by"],
    }
    if as_json:
        write_json(value)
        return
    write(Text(f"{name}  {value['state']}", style="bold"))
    write(Text(f"  identity     {value['identity']}"))
    write(Text(f"  added        {moment(found['device'].created_at)}"))
    for item in found["certificates"]:
        until = moment(item.not_after)
        line = f"  certificate  {item.serial}  until {until}  ({item.admission})"
        if item.serial in revoked:
            ended = revoked[item.serial]
            line += f"  revoked {moment(ended.revoked_at)}: {ended.reason}"
        write(Text(line))
    for item in found["factory"]:
        write(Text(f"  factory      {item.serial}  until {moment(item.not_after)}"))
    for item in found["tokens"]:
        shown = _token(item, now)
        write(Text(f"  token        {shown['state']}, until {moment(item.expires_at)}"))
    if value["agreement_key"] is not None:
        write(Text(f"  rpk key      {value['agreement_key']}"))
    write(Text(f"  may ask      {', '.join(found['may_ask']) or 'nobody'}"))
    write(Text(f"  asked by     {', '.join(found['asked_by']) or 'nobody'}"))


def _state(certificate: Certificate | None, now: float, revoked: Container[str]) -> str:
    if certificate is None:
        return "waiting"
    if certificate.serial in revoked:
        return "revoked"
    return "enrolled" if certificate.not_after > now else "expired"


def _certificate(item: Certificate, revoked: Revoked | None) -> dict[str, Any]:
    return {
        "serial": item.serial,
        "not_before": utc(item.not_before),
        "expires": utc(item.not_after),
        "issued": utc(item.issued_at),
        "admission": item.admission,
        "fingerprint": item.fingerprint,
        "revoked": utc(revoked.revoked_at) if revoked else None,
        "reason": revoked.reason if revoked else None,
    }


def _token(item: Token, now: float) -> dict[str, Any]:
    state = "used" if item.used_at else "expired" if item.expires_at <= now else "waiting"
    return {"state": state, "expires": utc(item.expires_at), "used": utc(item.used_at)}
