"""``keyferry bench``: boards on serial ports, real and virtual."""

import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from keyferry_manager.cli.base import (
    JsonOption,
    WatchOption,
    app,
    ending_quietly,
    printable,
    report,
    write,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_hil.doctor import Finding
    from keyferry_hil.problems import BenchProblem
    from keyferry_hil.resources import Rig

bench = typer.Typer(
    help="Exercise boards through serial ports: see docs/hil.md.", no_args_is_help=True
)
app.add_typer(bench, name="bench")

_PROBLEM, _USAGE = 1, 2
# Seconds between two looks at what is plugged in.
_WATCH_SECONDS = 0.5
DEFAULT_RIG = "virtual-4"

RigOption = Annotated[
    str,
    typer.Option(
        "--rig",
        envvar="KEYFERRY_RIG",
        metavar="FILE",
        help="The bench's file, or the name of one that ships.",
    ),
]
PortOption = Annotated[
    list[str] | None,
    typer.Option(
        "--port", metavar="PATH", help="A board at this port, without a rig file; repeatable."
    ),
]
BaudOption = Annotated[int, typer.Option(min=300, max=4_000_000, help="With --port: its speed.")]


def _rig(rig: str, ports: list[str] | None, baud: int) -> "Rig":
    from keyferry_hil import rigs
    from keyferry_hil.problems import BenchProblem

    try:
        return rigs.only_ports(ports, baud) if ports else rigs.load(rigs.find(rig))
    except BenchProblem as problem:
        _report(problem)
        raise typer.Exit(_USAGE) from None


def _report(problem: "BenchProblem") -> None:
    report(f"{printable(problem.who)}: {problem.name}: {printable(problem.detail)}.")
    report(f"What to do: {printable(problem.remedy)}.")


def _needed() -> None:
    """The extra 'hil', or a sentence that names it."""
    try:
        import mpremote  # noqa: F401
        import serial  # noqa: F401
        import tlslite  # noqa: F401
    except ImportError as error:
        report(f"{error.name} is missing; install the extra: pip install 'keyferry[hil]'.")
        raise typer.Exit(_USAGE) from None


@bench.command("list")
def list_boards(
    rig: RigOption = DEFAULT_RIG,
    port: PortOption = None,
    baud: BaudOption = 115200,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """Show the boards of a rig: what is plugged in, what answers, and with what.

    FIRMWARE is the hash of the application's files on the board (/rom and /lib), MICROPYTHON the
    version that it runs. A board that runs something is interrupted, and not reset; a board that
    somebody has leased is left alone. Virtual boards that do not run are started for the look.
    With --watch it looks again when a board is plugged in or out, and leaves them alone meanwhile.

    Exit code 0: every board answers. 1: some do not; `keyferry bench doctor` says how to mend it.

    Examples:

        keyferry bench list --rig hil/rigs/virtual-4.toml

        keyferry bench list --port /dev/ttyACM0 --json
    """
    _needed()
    from keyferry_hil import doctor

    known = _rig(rig, port, baud)
    if not watch:
        if not _show(known, not port, write_json if as_json else None):
            raise typer.Exit(_PROBLEM)
        return
    with ending_quietly():
        before: tuple[str, ...] | None = None
        while True:
            now = doctor.places(known)
            if now != before:
                before = now
                _show(known, not port, write_line if as_json else None)
                sys.stdout.flush()
            time.sleep(_WATCH_SECONDS)


def _show(known: "Rig", unlisted: bool, write_value: "Callable[[object], None] | None") -> bool:
    """Look at the boards, and show what was seen: as JSON with ``write_value``, or as tables.
    False when one has a problem."""
    from keyferry_hil import doctor

    found = doctor.examine(known)
    others = doctor.unlisted(known) if unlisted else []
    if write_value is not None:
        write_value(_as_json(known, found, others))
    else:
        write_table(
            ("BOARD", "TYPE", "STATE", "MICROPYTHON", "FIRMWARE", "FREE HEAP", "CHIP", "PORT"),
            [_row(item) for item in found],
            "",
        )
        if others:
            write()
            write(Text("Plugged in, and not in the rig:"))
            write_table(
                ("SERIAL NUMBER", "PORT", "WHAT"),
                [(item.serial_number, item.path, item.description) for item in others],
                "",
            )
    return not any(item.problem for item in found)


@bench.command("doctor")
def look_after(
    rig: RigOption = DEFAULT_RIG,
    port: PortOption = None,
    baud: BaudOption = 115200,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with a bench, and how to mend it.

    Each board is looked at by itself and within 60 seconds: whether it is there, once, and may be
    opened; who else has it open; whether it comes to MicroPython's prompt; and when it does not,
    whether it is silent, speaks at another speed, or starts again and again. What is wrong has a
    name that stays, for scripts (--json): not-found, same-serial, no-permission, port-in-use,
    port-lost, no-answer, garbage, boot-loop, wrong-firmware, lease-held.

    Exit code 0: nothing is wrong. 1: something is.

    Examples:

        keyferry bench doctor --rig my-bench.toml

        keyferry bench doctor --port /dev/serial/by-id/usb-Espressif_USB_JTAG-if00
    """
    _needed()
    from keyferry_hil import doctor

    known = _rig(rig, port, baud)
    found = doctor.examine(known)
    if as_json:
        write_json(_as_json(known, found, []))
    for item in found if not as_json else ():
        if item.problem is None and item.seen is not None:
            text = Text("ok     ", style="green")
            text.append(
                f"{item.board}: MicroPython {printable(item.seen.version)},"
                f" {item.seen.free // 1024} KiB of heap free, {item.seconds:.1f} s",
                style="default",
            )
            write(text)
        elif item.problem is not None:
            text = Text("wrong  ", style="bold red")
            text.append(
                f"{item.board}: {item.problem.name}: {printable(item.problem.detail)}",
                style="default",
            )
            write(text)
            write(Text(f"       {printable(item.problem.remedy)}."))
    wrong = sum(item.problem is not None for item in found)
    if not as_json:
        write(Text(f"{len(found) - wrong} of {len(found)} boards are well."))
    if wrong:
        raise typer.Exit(_PROBLEM)


@bench.command("virtual")
def virtual_boards(
    rig: RigOption = DEFAULT_RIG,
    as_json: JsonOption = False,
) -> None:
    """Plug in a rig's virtual boards, until Ctrl-C.

    Each is a real MicroPython with a flash that stays between runs. Its port can be opened by
    anything that opens a serial port: mpremote, a terminal, `keyferry bench`.

    Example:

        keyferry bench virtual --rig virtual-4
    """
    _needed()
    from keyferry_hil.drivers.virtual import VirtualBoardProcess
    from keyferry_hil.problems import BenchProblem

    known = _rig(rig, None, 0)
    boards: list[VirtualBoardProcess] = []

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        for spec in known.boards:
            if spec.virtual is not None:
                boards.append(VirtualBoardProcess(spec))
                if as_json:
                    write_line({"board": spec.name, "port": spec.port.path})
        if not boards:
            report(f"{known.name} has no virtual boards.")
            raise typer.Exit(_PROBLEM)
        if not as_json:
            virtual = [spec for spec in known.boards if spec.virtual is not None]
            write_table(("BOARD", "PORT"), [(item.name, item.port.path) for item in virtual], "")
            write(Text("Ctrl-C unplugs them."))
        signal.pause()
    except KeyboardInterrupt:
        pass
    except BenchProblem as problem:
        _report(problem)
        raise typer.Exit(_PROBLEM) from None
    finally:
        for board in boards:
            board.stop()


@bench.command("proxy")
def carry_link(
    port: Annotated[str, typer.Option(metavar="PATH", help="The board's serial port.")],
    host: Annotated[str, typer.Option(help="The manager's address.")],
    allow: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=65535, help="A port of the manager that the board may reach; repeatable."
        ),
    ] = None,
    baud: Annotated[int, typer.Option(min=300, max=4_000_000, help="The line's speed.")] = 115200,
) -> None:
    """Hold the TLS link of a board that has a serial line and no network, until Ctrl-C.

    The board runs the agent with keyferry_agent.uart (docs/hil.md). Its private key stays on it
    and signs each handshake; what is in its sessions is ciphertext here. What else the board says
    goes to standard output, and what is done for it to standard error. Without --allow it may
    reach 8883, 8443 and 5061.

    Exit code 1: the port cannot be opened, or went away.

    Example:

        keyferry bench proxy --port /dev/ttyACM0 --host 192.0.2.1
    """
    _needed()
    from keyferry_hil.drivers.line import SerialLine
    from keyferry_hil.drivers.serial_log import SerialLog
    from keyferry_hil.problems import BenchProblem
    from keyferry_hil.uart.proxy import Proxy

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    line = proxy = None
    try:
        line = SerialLine(port, port, baud, SerialLog())
        line.log.framed(True)
        proxy = Proxy(
            line, host, set(allow or (8883, 8443, 5061)), note=lambda text: report(printable(text))
        )
        while True:
            sys.stdout.buffer.write(proxy.read_some(1.0))
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    except BenchProblem as problem:
        _report(problem)
        raise typer.Exit(_PROBLEM) from None
    finally:
        if proxy is not None:
            proxy.close()
        if line is not None:
            line.close()


@bench.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_suites(
    context: typer.Context,
    rig: RigOption = DEFAULT_RIG,
    port: PortOption = None,
    baud: BaudOption = 115200,
) -> None:
    """Flash, exercise and report: run the suites that ship on the boards of a rig.

    Whatever else is given goes to pytest: `-k link`, `-n 4`, a test file of your own. The HTML
    report, JUnit's XML and the serial logs go to --bench-report DIR (build/hil).

    Examples:

        keyferry bench run --rig my-bench.toml -n 4

        keyferry bench run --port /dev/ttyACM0 -k vectors

        keyferry bench run --rig my-bench.toml --soak 8h -k soak
    """
    _needed()
    from keyferry_hil import suites

    words = [*context.args]
    if port:
        words += [word for path in port for word in ("--port", path)]
        words += ["--baud", str(baud)]
    else:
        words += ["--rig", rig]
    raise typer.Exit(suites.run(words))


def _row(item: "Finding") -> tuple[str, ...]:
    seen = item.seen
    state = "answers" if item.problem is None else item.problem.name
    if seen is None:
        return (item.board, item.type, state, "", "", "", "", item.port)
    return (
        item.board,
        item.type,
        state,
        seen.version,
        seen.firmware[:12] or "none",
        f"{seen.free // 1024} KiB",
        seen.chip,
        item.port,
    )


def _as_json(rig: "Rig", found: "list[Finding]", others: list) -> dict[str, Any]:
    return {
        "rig": rig.name,
        "boards": [item.as_json() for item in found],
        "others": [
            {"port": item.path, "serial_number": item.serial_number, "what": item.description}
            for item in others
        ],
    }
