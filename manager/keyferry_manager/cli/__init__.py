"""The ``keyferry`` command.

Each module registers its commands on ``base.app`` when it is imported here: a new command is one
new module and its name in this list.
"""

from keyferry_manager.cli import (
    api,
    approvals,
    audit,
    backup,
    demo,
    device,
    firmware,
    home,
    links,
    policy,
    revocation,
    rules,
    sip,
    trail,
    vectors,
)
from keyferry_manager.cli.base import app

__all__ = [
    "api",
    "app",
    "approvals",
    "audit",
    "backup",
    "demo",
    "device",
    "firmware",
    "home",
    "links",
    "main",
    "policy",
    "revocation",
    "rules",
    "sip",
    "trail",
    "vectors",
]


def main() -> None:
    """Entry point of the ``keyferry`` script."""
    app(prog_name="keyferry")
