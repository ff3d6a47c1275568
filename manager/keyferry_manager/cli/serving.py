"""What every command that serves has: the log, the signals that end it, and the ready line."""

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from keyferry_manager import logs
from keyferry_manager.config import Config

ServeJsonOption = Annotated[
    bool, typer.Option("--json", help="Write the ready line and the log as JSON.")
]


def configured(home: Path, as_json: bool) -> Config:
    """The configuration of ``home``; from now on the log goes to standard error as it says."""
    config = Config.load(home)
    logs.configure(sys.stderr, as_json, logging.getLevelName(config.log_level.upper()))
    return config


def until_stopped() -> asyncio.Event:
    """An event that SIGTERM and Ctrl-C set, from now on."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


def say_ready(line: str, as_json: bool, **fields: Any) -> None:
    """One line on standard output: ``line``, or ``fields`` and the process's number as JSON."""
    ready = {"event": "ready", **fields, "pid": os.getpid()}
    print(json.dumps(ready) if as_json else f"ready: {line}", flush=True)
