"""``keyferry`` as processes, for tests that look at more than one of them. CPython only."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = [sys.executable, "-m", "keyferry_manager"]
LOCAL = ("--host", "127.0.0.1", "--mqtt-port", "0", "--est-port", "0")
_SECONDS = 60


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without what the tester has set for himself."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KEYFERRY")}
    return {**kept, **(more or {})}


def keyferry(*arguments: object, code: int = 0, more: Mapping[str, str] | None = None) -> str:
    """Run a command; its output, or what it said on standard error when it must fail."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=environment(more),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else " ".join(done.stderr.split())


def answer(*arguments: object) -> Any:
    """What a command says with --json."""
    return json.loads(keyferry(*arguments, "--json"))


class Served:
    """A process that runs until it is stopped: ``serve``, ``ca serve`` …, with ``--json``."""

    def __init__(self, home: Path, *command: str, more: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by stop
        self.process = subprocess.Popen(
            [*PROGRAM, *command, "--json", "--home", str(home)],
            env=environment(more),
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(_SECONDS)
            said = self.said()
            self.stop()
            raise AssertionError(said)
        self.ready: dict[str, Any] = json.loads(line)

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """Its log, so far."""
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def open_files(self) -> list[str]:
        """What its file descriptors lead to now."""
        found = []
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(os.readlink(link))
            except FileNotFoundError:
                continue  # closed meanwhile
        return found

    def command_line(self) -> str:
        """What a process list shows of it."""
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            print(self.said()[-4000:])
        self.stop()


def keep_ports(home: Path, **ports: int) -> None:
    """Write the ports that a process got into its settings, so that it has them again."""
    path = home / "keyferry.toml"
    text = path.read_text()
    for key, port in ports.items():
        assert f"\n{key} = 0\n" in text
        text = text.replace(f"\n{key} = 0\n", f"\n{key} = {port}\n")
    path.write_text(text)
