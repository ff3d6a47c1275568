"""``keyferry ca``: a CA that stands apart, and the managers that it signs for."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from keyferry_manager.authority.files import PRIVATE, write_new
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    NameArgument,
    Value,
    WatchOption,
    duration_parser,
    group,
    host_parser,
    moment,
    show_stored,
    table,
    utc,
    when,
    with_store,
    write,
    write_json,
)
from keyferry_manager.cli.serving import ServeJsonOption, configured, say_ready, until_stopped
from keyferry_manager.config import Config
from keyferry_manager.problems import ConfigProblem, Problem, StoreProblem
from keyferry_manager.tokens import new_token, token_hash

if TYPE_CHECKING:
    from keyferry_manager.store import Store

commands = group("ca", "Run a CA that stands apart from the managers.")


@commands.command()
def serve(
    home: HomeOption = DEFAULT_HOME,
    as_json: ServeJsonOption = False,
) -> None:
    """Run the CA until SIGTERM or Ctrl-C: it signs for the managers that were added to it."""
    config = configured(home, as_json)
    asyncio.run(_serve(home, config, as_json))


async def _serve(home: Path, config: Config, as_json: bool) -> None:
    from keyferry_manager.ca import CaServer  # the others start faster without

    stopping = until_stopped()
    server = CaServer(home)
    await server.start()
    try:
        say_ready(
            f"CA of {config.realm} on {config.listen_host}, port {server.port}",
            as_json,
            realm=config.realm,
            host=config.listen_host,
            port=server.port,
        )
        await stopping.wait()
    finally:
        await server.stop()


@commands.command()
def add(
    name: NameArgument,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Where name and one-time token go, mode 0600; it must not exist."
        ),
    ],
    host: Annotated[
        list[str] | None,
        typer.Option(
            parser=host_parser,
            metavar="HOST",
            help="A name or address that the manager's certificate may carry, besides the realm, "
            "localhost and 127.0.0.1.",
        ),
    ] = None,
    expires: Annotated[
        int, typer.Option(parser=duration_parser, metavar="TIME", help="Life of the token.")
    ] = "24h",  # type: ignore[assignment]  # parsed
    again: Annotated[
        bool, typer.Option("--again", help="For a manager that exists: a new token, new hosts.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Register a manager: the token in FILE is good for its first certificate.

    Bring FILE to the manager, and run `keyferry init DIR --authority est …` there.
    """
    _must_be_ca(home)
    out = out.absolute()
    if out.exists():
        raise Problem(f"{out} exists already and is not overwritten: choose another with --out.")
    secret = new_token()
    now = int(time.time())
    hosts = tuple(host or ())

    async def work(_config: Config, store: "Store") -> None:
        if await store.registration.introducer(name) is not None:
            raise StoreProblem(f"{name} is the name of a device: choose another for the manager.")
        await store.add_device(
            name,
            token_hash=token_hash(secret),
            token_expires_at=now + expires,
            again=again,
            now=now,
        )
        await store.registration.add(name, hosts)
        await store.audit("manager-added", name, hosts=list(hosts), expires=now + expires)

    try:
        write_new(out, f"{name}:{secret}\n".encode(), PRIVATE)
    except OSError as error:
        raise Problem(f"{out} cannot be written: {error.strerror}.") from None
    try:
        with_store(home, work)
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    result = {"name": name, "hosts": list(hosts), "file": str(out), "expires": utc(now + expires)}
    if as_json:
        write_json(result)
        return
    write(Text(f"{name} can register until {moment(now + expires)}.", style="bold"))
    write(Text(f"Bring {out} and {home / 'ca' / 'root.pem'} to it."))


@commands.command(name="list")
def list_(
    home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """List the managers that this CA signs for."""
    _must_be_ca(home)

    async def work(store: "Store") -> Value:
        found = []
        for item in await store.registration.all():
            mine = await store.certificates(item.name)
            found.append(
                {
                    "name": item.name,
                    "hosts": list(item.hosts),
                    "added": utc(item.created_at),
                    "certificate_expires": utc(mine[0].not_after if mine else None),
                }
            )
        return found

    show_stored(home, work, _managers, as_json=as_json, watch=watch)


def _managers(found: Value) -> Table | Text:
    return table(
        ("MANAGER", "HOSTS", "ADDED", "CERTIFICATE UNTIL"),
        [
            (
                row["name"],
                ", ".join(row["hosts"]),
                when(row["added"]),
                when(row["certificate_expires"]) or "none yet",
            )
            for row in found
        ],
        "This CA signs for nobody: keyferry ca add NAME --out FILE",
    )


@commands.command()
def remove(
    name: NameArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Remove a manager: its certificates are revoked, and it gets no more for its devices."""
    _must_be_ca(home)

    async def work(_config: Config, store: "Store") -> int:
        if await store.registration.get(name) is None:
            raise StoreProblem(f"no manager is called {name}: 'keyferry ca list' shows them.")
        order = await store.life.revoke("cessationOfOperation", device=name, remove=True)
        return order.certificates

    _, count = with_store(home, work)
    if as_json:
        write_json({"name": name, "certificates": count})
    else:
        write(Text(f"{name} is removed; certificates revoked: {count}."))


def _must_be_ca(home: Path) -> None:
    if Config.load(home).role != "ca":
        raise ConfigProblem(
            f"{home} is the home of a manager: make a CA's with 'keyferry init --role ca'."
        )
