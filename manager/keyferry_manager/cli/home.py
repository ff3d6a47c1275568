"""``keyferry init`` and ``keyferry serve``."""

import asyncio
import os
import secrets
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from keyferry_manager.authority import LocalAuthority
from keyferry_manager.authority.chain import Chain
from keyferry_manager.authority.files import sync_directory, write_new
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    app,
    home_option,
    host_parser,
    realm_parser,
    utc,
    write,
    write_json,
)
from keyferry_manager.cli.serving import ServeJsonOption, configured, say_ready, until_stopped
from keyferry_manager.config import FILE_NAME, Config, template
from keyferry_manager.policy import FILE_NAME as POLICY_NAME
from keyferry_manager.policy import TEMPLATE as POLICY_TEMPLATE
from keyferry_manager.problems import ConfigProblem

if TYPE_CHECKING:
    from keyferry_manager.app import Manager

Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")]


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The home to make; it must not exist yet.")
    ],
    realm: Annotated[
        str,
        typer.Option(
            parser=realm_parser,
            metavar="DOMAIN",
            help="The domain of this manager, as in plant.example; it cannot change later.",
        ),
    ],
    host: Annotated[
        str, typer.Option(parser=host_parser, metavar="ADDRESS", help="Address to listen on.")
    ] = "0.0.0.0",
    mqtt_port: Port = 8883,
    est_port: Port = 8443,
    sip_port: Annotated[
        int,
        typer.Option(
            min=-1, max=65535, help="SIP over TLS, 5061 by custom; -1: none, 0 takes any free port."
        ),
    ] = -1,
    observe_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="For metrics, on this machine only; 0 if --mqtt-port is 0."
        ),
    ] = None,
    time_port: Annotated[
        int | None,
        typer.Option(
            min=-1,
            max=65535,
            help="For signed time, plain HTTP; -1: none; 0, any free port, if --mqtt-port is 0.",
            show_default="8480",
        ),
    ] = None,
    public_host: Annotated[
        str | None,
        typer.Option(parser=host_parser, metavar="HOST", help="Where devices reach this manager."),
    ] = None,
    authority: Annotated[
        Literal["local", "pkcs11", "est"],
        typer.Option(
            help="Where the key of the issuing CA is: a file, a token that signs, or a CA that "
            "stands apart and is asked by EST."
        ),
    ] = "local",
    pkcs11_module: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="pkcs11: the token's library, as libsofthsm2.so."),
    ] = None,
    pkcs11_token: Annotated[
        str, typer.Option(metavar="LABEL", help="pkcs11: the token's label.")
    ] = "",
    pkcs11_key: Annotated[
        str,
        typer.Option(metavar="LABEL", help="pkcs11: the key pair; made when it is not there."),
    ] = "keyferry issuing CA",
    pkcs11_pin_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="pkcs11: a file with the PIN, mode 0600. Without it: KEYFERRY_PKCS11_PIN.",
        ),
    ] = None,
    role: Annotated[
        Literal["manager", "ca", "directory"],
        typer.Option(
            help="ca: for `keyferry ca serve`, which signs for other managers; directory: for "
            "`keyferry directory serve`, which keeps their public keys."
        ),
    ] = "manager",
    ca_url: Annotated[
        str, typer.Option(metavar="URL", help="est: as in https://ca.plant.example:9443.")
    ] = "",
    ca_root: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="est: the CA's ca/root.pem, which you brought here."),
    ] = None,
    ca_token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="est: what `keyferry ca add` made: name and token."),
    ] = None,
    directory_socket: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep public keys behind `keyferry directory serve`."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a manager's home: CA, server certificate, database and configuration.

    It is made whole or not at all, and nothing that exists is overwritten.
    """
    registered_as, token, root = "", "", b""
    if authority == "est":
        if role != "manager" or not (ca_url and ca_root and ca_token_file):
            raise typer.BadParameter(
                "--authority est needs --ca-url, --ca-root and --ca-token-file, and no --role."
            )
        root = _read(ca_root)
        registered_as, _, token = _read(ca_token_file).decode(errors="replace").partition(":")
    text = template(
        realm,
        role=role,
        directory_socket=_whole(directory_socket),
        est_url=ca_url,
        registered_as=registered_as,
        listen_host=host,
        mqtt_port=mqtt_port,
        est_port=est_port,
        sip_port=sip_port,
        observe_port=observe_port if observe_port is not None else 9464 if mqtt_port else 0,
        time_port=time_port if time_port is not None else 8480 if mqtt_port else 0,
        public_host=public_host or "",
        authority=authority,
        pkcs11_module=_whole(pkcs11_module),
        pkcs11_token=pkcs11_token,
        pkcs11_key=pkcs11_key,
        pkcs11_pin_file=_whole(pkcs11_pin_file),
    )
    if authority == "pkcs11" and not (pkcs11_module and pkcs11_token):
        raise typer.BadParameter("--authority pkcs11 needs --pkcs11-module and --pkcs11-token.")
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigProblem(
            f"{directory} exists already and is not overwritten: choose another directory, or "
            "move it away."
        )
    made_authority = _make_home(directory, text, root, token.strip())
    made: dict[str, str | None] = {
        "home": str(directory),
        "realm": realm,
        "config": str(directory / FILE_NAME),
    }
    if made_authority is not None:
        made |= _authority_made(directory, made_authority)
    if as_json:
        write_json(made)
        return
    _show_made(directory, realm, authority, role)


def _authority_made(directory: Path, authority: Chain) -> dict[str, str | None]:
    return {
        "root_certificate": str(directory / "ca" / "root.pem"),
        "root_expires": utc(authority.root.not_valid_after_utc.timestamp()),
        "issuing_expires": utc(authority.issuing.not_valid_after_utc.timestamp()),
        "factory_expires": utc(authority.factory.not_valid_after_utc.timestamp()),
    }


def _show_made(directory: Path, realm: str, authority: str, role: str) -> None:
    what_it_is = "CA" if role == "ca" else role
    write(Text(f"A {what_it_is} for {realm}, in {directory}", style="bold"))
    in_token = "; its key is in the token" if authority == "pkcs11" else ""
    files = [
        (FILE_NAME, "the settings, with comments"),
        (POLICY_NAME, "who may do what with whom; it allows nothing yet"),
        ("ca/root.*", "root CA: the one thing that devices trust"),
        ("ca/issuing.*", "issuing CA: signs devices and the server" + in_token),
        ("ca/factory.*", "factory CA: signs what lets a device enrol"),
        ("server.pem", "the server's key and certificate, renewed by itself"),
        ("keyferry.db", "devices, certificates, rules, audit trail"),
    ]
    if role == "ca":
        files = [item for item in files if item[0] != POLICY_NAME]
    if role == "directory":
        files = [files[0], ("keyferry.db", "certificates and public keys")]
    for name, what in files:
        write(Text(f"  {name:14} {what}"))
    option = home_option(_shown(directory))
    write()
    if role == "directory":
        write("Next:")
        write(Text(f"  keyferry directory serve{option}"))
        return
    if authority == "est":
        write(Text("No key of a CA is here: they stay with the CA that stands apart."))
    else:
        write(Text("Keep a copy of ca/ where nobody else can read it: the keys are not encrypted."))
    write("Next:")
    if role == "ca":
        write(Text(f"  keyferry ca serve{option}"))
        write(Text(f"  keyferry ca add manager-1 --out manager-1.token{option}"))
        return
    write(Text(f"  keyferry serve{option}"))
    write(Text(f"  keyferry device add pump-7 --factory{option}"))


def _whole(path: Path | None) -> str:
    return "" if path is None else str(path.absolute())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigProblem(f"{path} cannot be read: {error.strerror}.") from None


def _make_home(directory: Path, text: str, root: bytes, token: str) -> Chain | None:
    building = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(mode=0o700)
        config = Config.parse(text, building)
        write_new(building / FILE_NAME, text.encode(), 0o600)
        write_new(building / POLICY_NAME, POLICY_TEMPLATE.encode(), 0o600)
        authority = _make_authority(config, root, token)
        asyncio.run(_make_database(config))
        sync_directory(building)
        # Replaces an empty directory, and fails on one that somebody filled in the meantime.
        os.rename(building, directory)
        sync_directory(directory.parent)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise ConfigProblem(f"{directory} cannot be made: {error.strerror}.") from None
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return authority


def _make_authority(config: Config, root: bytes, token: str) -> Chain | None:
    if config.role == "directory":
        return None
    if config.authority != "est":
        return LocalAuthority.create(config)
    from keyferry_manager.authority.remote import RemoteAuthority  # its HTTP client loads slowly

    asyncio.run(RemoteAuthority.create(config, root, token))
    return RemoteAuthority(config)


async def _make_database(config: Config) -> None:
    from keyferry_manager.store import Store  # takes long: see base.with_store

    async with Store.open(config.database_url) as store:
        await store.migrate()
        await store.audit("home-made", detail=config.realm)


def _shown(directory: Path) -> Path:
    with suppress(ValueError):
        return directory.relative_to(Path.cwd())
    return directory


@app.command()
def serve(
    home: HomeOption = DEFAULT_HOME,
    as_json: ServeJsonOption = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Append all that the relay sees, as it came, in JSON lines: for demonstrations.",
        ),
    ] = None,
) -> None:
    """Run the manager until SIGTERM or Ctrl-C.

    One line on standard output says when it is ready and on which ports; the log goes to
    standard error.
    """
    config = configured(home, as_json)
    asyncio.run(_serve(home, config, as_json, trace))


async def _serve(home: Path, config: Config, as_json: bool, trace: Path | None) -> None:
    # Only this command needs the servers: the others start faster without.
    from keyferry_manager.app import Manager

    stopping = until_stopped()
    manager = Manager(home, trace=trace)
    await manager.start()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, manager.reconfigure)
    try:
        say_ready(
            _addresses(config, manager),
            as_json,
            realm=config.realm,
            host=config.listen_host,
            mqtt_port=manager.mqtt_port,
            est_port=manager.est_port,
            time_port=manager.time_port,
            sip_port=manager.sip_port,
            observe_port=manager.observe_port,
            api_port=manager.api_port,
        )
        await stopping.wait()
        await manager.drain()
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        await manager.stop()


def _addresses(config: Config, manager: "Manager") -> str:
    """Where it is reached, for people."""
    line = (
        f"{config.realm} on {config.listen_host}, MQTT port {manager.mqtt_port}, "
        f"EST port {manager.est_port}"
    )
    if manager.time_port >= 0:
        line += f", time port {manager.time_port}"
    if manager.sip_port >= 0:
        line += f", SIP port {manager.sip_port}"
    if manager.observe_port:
        line += f", metrics on {config.observe_host} port {manager.observe_port}"
    if manager.api_port is not None:
        line += f", API port {manager.api_port}"
    return line
