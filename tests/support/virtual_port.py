"""A virtual board behind a serial port, in a process of its own, and off at the end."""

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 120


@contextmanager
def virtual_port(place: Path, *, heap: str = "256k") -> Iterator[Path]:
    """The name of its port; ``place`` has its flash, and its image once it has one."""
    port = place / "port"
    line = [sys.executable, "-m", "keyferry_hil.virtual_board", str(place), "--port", str(port)]
    with subprocess.Popen(
        [*line, "--heap", heap],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
            assert ready, "the virtual board does not start"
            assert json.loads(process.stdout.readline())["event"] == "plugged"
            yield port
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
