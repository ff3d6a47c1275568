"""The ``keyferry`` command.

Each module of ``_COMMANDS`` registers its commands on ``base.app`` when it is imported: a new
command is one new module and its line there. Only what the command line asks for is imported, for
some of it takes long; whoever asks for ``app`` gets all.
"""

import importlib
import os
import sys
from typing import Any

# Modules, in the order of the help, and the first words of the commands that each one makes.
_COMMANDS = {
    "api": ("api", "token"),
    "approvals": ("approvals",),
    "audit": ("audit",),
    "backup": ("backup", "restore"),
    "bench": ("bench",),
    "ca": ("ca",),
    "certificates": ("certificate",),
    "demo": ("demo",),
    "device": ("device",),
    "directory": ("directory",),
    "firmware": ("firmware",),
    "flashing": ("firmware",),
    "gateway": ("gateway",),
    "home": ("init", "serve"),
    "links": ("links",),
    "owner": ("owner",),
    "policy": ("policy",),
    "revocation": ("device",),
    "rollover": ("ca",),
    "rules": ("allow",),
    "sip": ("sip",),
    "trail": ("sessions",),
    "vectors": ("vectors",),
}


def load(word: str = "") -> Any:
    """The Typer application with the commands that begin with ``word``, or with all there are."""
    wanted = [module for module, words in _COMMANDS.items() if word in words]
    for module in wanted or _COMMANDS:
        importlib.import_module(f"{__name__}.{module}")
    return importlib.import_module(f"{__name__}.base").app


def main() -> None:
    """Entry point of the ``keyferry`` script."""
    completing = "_KEYFERRY_COMPLETE" in os.environ  # the shell's words stand elsewhere then
    word = sys.argv[1] if len(sys.argv) > 1 and not completing else ""
    load(word)(prog_name="keyferry")


def __getattr__(name: str) -> Any:
    if name == "app":
        return load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
