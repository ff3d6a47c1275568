"""``keyferry backup`` and ``keyferry restore``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from keyferry_manager.cli.base import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    app,
    home_option,
    moment,
    utc,
    with_store,
    write,
    write_json,
)
from keyferry_manager.config import Config

if TYPE_CHECKING:
    from keyferry_manager.store import Store
    from keyferry_manager.store.chain import Chain


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="It must not exist yet.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write everything that a manager is into one file, of mode 0600, also while it serves:
    settings, policy, CA keys, certificates and the database.

    Keep it where you would keep the CA's keys.
    """
    from keyferry_manager.backup import back_up  # takes long

    made = back_up(Config.load(home), file)

    async def work(_config: Config, store: "Store") -> None:
        await store.audit("backup-made", detail=str(file), at=round(made.at), octets=made.size)

    with_store(home, work)
    if as_json:
        write_json({"file": str(file), "at": utc(made.at), "bytes": made.size})
    else:
        write(Text(f"{file}: {made.size} bytes, {made.files} files and the database."))


@app.command()
def restore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The backup.")
    ],
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The home to make; it must not exist yet.")
    ],
    database: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Another PostgreSQL database than the one in the settings; it must be empty. "
            "Leave a password out of it: PostgreSQL finds it in ~/.pgpass.",
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Make a manager's home from a backup. Nothing that exists is overwritten.

    The audit trail is verified to its signed head. What was issued or revoked since the backup is
    not known to the restored manager: revoke again what must stay revoked.
    """
    from keyferry_manager.audit import heads
    from keyferry_manager.authority.chain import CA_FOLDER
    from keyferry_manager.authority.generations import every_root
    from keyferry_manager.backup import restore as bring_back
    from keyferry_manager.store.chain import Chain

    manifest = bring_back(file, directory, database)
    signed = directory / heads.FILE_NAME
    roots = every_root(directory / CA_FOLDER)
    known = [heads.read(signed, *roots).hash] if signed.exists() else []

    async def work(_config: Config, store: "Store") -> "Chain":
        chain, last = Chain(known), 0
        while entries := await store.audit_chain(last):
            for entry in entries:
                chain.follow(entry)
            last = chain.last
        chain.finish()
        await store.life.skip_crl_numbers()
        await store.audit("restored", detail=f"from the backup of {utc(manifest['at'])}")
        return chain

    _, chain = with_store(directory, work)
    if as_json:
        made = {"home": str(directory), "realm": manifest["realm"], "at": utc(manifest["at"])}
        write_json({**made, "audit_entries": chain.entries})
        return
    write(Text(f"A manager for {manifest['realm']}, as of {moment(manifest['at'])}."))
    write(Text(f"The audit trail is whole: {chain.entries} entries."))
    write("Next:")
    write(Text(f"  keyferry serve{home_option(directory)}"))
