"""``keyferry token`` and ``keyferry api``: who may use the admin API, and what it is."""

import re
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from keyferry_manager.admin.scopes import SCOPES, check_scopes, check_token_name
from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    Admin,
    HomeOption,
    JsonOption,
    Value,
    WatchOption,
    group,
    rows,
    show_list,
    table,
    when,
    with_admin,
    write,
    write_json,
)

_UNITS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST = 366 * 86400

tokens = group("token", "Say who may use the admin API over TCP.")
api = group("api", "The admin API itself.")

TokenArgument = Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")]


def _life(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    life = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < life <= _LONGEST:
        raise typer.BadParameter("write a time such as 12h or 90d, of 366 days at most.")
    return life


@tokens.command("add")
def add_token(
    name: TokenArgument,
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help=f"What it is good for; give it again for more. {', '.join(SCOPES)}.",
        ),
    ],
    expires: Annotated[
        int | None,
        typer.Option(parser=_life, metavar="TIME", help="Its life: 12h, 30d. Default: 90d."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Make a token for the admin API. It is shown once; only its hash is kept."""
    check_token_name(name)
    scopes = check_scopes(scope)

    async def work(admin: Admin) -> dict[str, Any]:
        return await admin.add_api_token(name, scopes, expires)

    made = with_admin(home, work)
    if as_json:
        write_json(made)
        return
    write(Text(f"{name} may use the admin API.", style="bold"))
    write(Text(f"  token    {made['token']}"))
    write(Text(f"  scopes   {', '.join(made['scopes'])}"))
    write(Text(f"  expires  {when(made['expires'])}"))
    write("It cannot be shown again. Send it as: Authorization: Bearer TOKEN")


@tokens.command("list")
def list_tokens(
    home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """List the tokens: what for, until when, made by whom."""

    async def work(admin: Admin) -> Value:
        return await rows(admin.api_tokens)

    show_list(home, work, _listed, as_json=as_json, watch=watch)


def _listed(found: Value) -> Table | Text:
    return table(
        ("NAME", "STATE", "UNTIL", "MADE", "BY", "SCOPES"),
        [
            (
                item["name"],
                item["state"],
                when(item["expires"]),
                when(item["created"]),
                item["by"],
                ", ".join(item["scopes"]),
            )
            for item in found
        ],
        "No token: over TCP nobody can use the admin API.",
    )


@tokens.command("remove")
def remove_token(
    name: TokenArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """End a token: it is good for nothing from now on."""
    check_token_name(name)

    async def work(admin: Admin) -> None:
        await admin.remove_api_token(name)

    with_admin(home, work)
    if as_json:
        write_json({"name": name, "removed": True})
    else:
        write(Text(f"{name} is good for nothing any more."))


@api.command()
def openapi() -> None:
    """Write the API's OpenAPI 3.1 document, for programs that make clients."""
    from keyferry_manager.api.application import document  # takes long

    write_json(document())
