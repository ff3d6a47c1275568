"""``keyferry demo``: two devices meet through a manager, on this machine, before your eyes."""

import asyncio
import enum
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyferry_manager.cli.base import JsonOption, Profile, app
from keyferry_manager.problems import Problem

if TYPE_CHECKING:
    from keyferry_hil.virtual_device import Application


class Carriers(enum.StrEnum):
    """What the two devices link by."""

    MQTT = "mqtt"
    SIP = "sip"
    MIXED = "mixed"


@app.command()
def demo(
    records: Annotated[
        int, typer.Option(min=1, max=10000, help="Records that each device sends to the other.")
    ] = 100,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running afterwards, until Ctrl-C.")
    ] = False,
    profile: Annotated[
        Profile,
        typer.Option(help="How they agree on keys: signatures, or static Diffie-Hellman."),
    ] = Profile.CERT,
    carrier: Annotated[
        Carriers,
        typer.Option(help="How they link to the manager; mixed: the one by MQTT, its peer by SIP."),
    ] = Carriers.MQTT,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Run what `keyferry firmware build --board virtual` put there."
        ),
    ] = None,
    gateway: Annotated[
        bool,
        typer.Option(
            "--gateway", help="A gateway and a device behind it instead, and curl lines to try."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch two devices enrol, ask for each other, agree on keys and use them.

    One manager and two agents start here, each agent in a MicroPython of its own with 128 KiB of
    heap, or 176 for SIP. Exit code 0 means that every check held.
    """
    if gateway and carrier is not Carriers.MQTT:
        raise typer.BadParameter("--carrier does not go with --gateway: that one links by MQTT.")
    # Only this command needs the bench: the others work without it.
    try:
        from keyferry_hil.interpreter import InterpreterError
        from keyferry_hil.virtual_device import DeviceError
        from keyferry_manager.cli.demo.stage import StageError
        from keyferry_manager.cli.demo.story import play
    except ImportError as error:
        raise Problem(
            f"the demo needs virtual devices, and {error.name} is missing: "
            "pip install 'keyferry[hil]'."
        ) from None
    application = None if image is None else _built(image)
    if gateway:
        from keyferry_manager.cli.demo import gateway as other

        playing = other.play(keep, as_json)
    else:
        playing = play(
            records=records,
            keep=keep,
            profile=profile.value,
            carrier=carrier.value,
            as_json=as_json,
            application=application,
        )
    try:
        held = asyncio.run(playing)
    except (InterpreterError, StageError, DeviceError) as error:
        raise Problem(str(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    raise typer.Exit(0 if held else 1)


def _built(image: Path) -> "Application":
    """The application in a build's folder, if it is one that the demo can talk to."""
    from keyferry_firmware import record
    from keyferry_firmware.problems import FirmwareProblem
    from keyferry_hil import bench
    from keyferry_hil.virtual_device import Application

    try:
        application = Application.built(image)
        entry = record.read(image)["entry"]
    except FirmwareProblem as error:
        raise Problem(str(error)) from None
    if entry != hashlib.sha256(bench.APPLICATION.read_bytes()).hexdigest():
        raise Problem(
            f"{image} holds another application, and the demo gives orders to the bench's: "
            f"keyferry firmware build --board virtual --app {bench.APPLICATION} -o DIR"
        )
    return application
