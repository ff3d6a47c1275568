"""Which MicroPython to run: the pinned one from the environment, or ``MICROPYTHON=PATH``."""

import importlib.util
import os
import sys
from pathlib import Path


class InterpreterError(Exception):
    """There is no MicroPython to run; the text says what to do."""


def chosen() -> Path | None:
    """The interpreter that the environment variable MICROPYTHON names, or None."""
    named = os.environ.get("MICROPYTHON", "")
    if not named:
        return None
    path = Path(named).absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise InterpreterError(f"MICROPYTHON={named}: not an executable file")
    return path


def _check_pinned() -> None:
    if importlib.util.find_spec("micropython_unix") is None:
        raise InterpreterError(
            "no MicroPython here: its package serves Linux on x86-64 only; elsewhere build "
            "MicroPython's Unix port (1.29) and name it with MICROPYTHON=PATH"
        )


def command() -> list[str]:
    """The start of a command line that runs MicroPython; its options and a script follow."""
    path = chosen()
    if path is not None:
        return [str(path)]
    _check_pinned()
    return [sys.executable, "-m", "micropython_unix"]


def command_with_rom(image: Path, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """A command line that runs MicroPython with a ROMFS image, and what its environment needs.

    The launcher maps the image for the pinned interpreter; another one gets the path of the image
    (on_device/rom.py says what it makes of it).
    """
    path = chosen()
    if path is not None:
        return [str(path), *arguments], {"KEYFERRY_ROM": str(image)}
    _check_pinned()
    return [sys.executable, "-m", "keyferry_hil.launcher", str(image), *arguments], {}
