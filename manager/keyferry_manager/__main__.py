"""``python -m keyferry_manager`` is the ``keyferry`` command."""

from keyferry_manager.cli import main

main()
