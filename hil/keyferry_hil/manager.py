"""A real manager on this computer: ``keyferry init`` and ``keyferry serve`` as processes."""

import http.client
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import Network

REALM = "bench.example"
_SECONDS = 90.0
_STOP_SECONDS = 20.0
_WHO = "manager"


class Manager:
    """A manager for boards. Its home is a temporary folder that only its owner can read."""

    def __init__(self, network: Network, folder: Path) -> None:
        if importlib.util.find_spec("keyferry_manager") is None:
            raise BenchProblem(
                "manager-failed", _WHO, "it is not installed: pip install 'keyferry[manager,hil]'"
            )
        self.network = network
        # Not below ``folder``: a report is shown around, and this has keys.
        self.home = Path(tempfile.mkdtemp(prefix="keyferry-bench-")) / "home"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"manager-{os.getpid()}.log"
        self.ports: dict[str, int] = {}
        self._process: subprocess.Popen[str] | None = None
        self._devices = 0
        self._rules = 0
        self.command(
            *("init", str(self.home), "--realm", REALM, "--host", network.listen),
            *("--mqtt-port", "0", "--est-port", "0"),
            home=False,
        )

    def command(self, *words: str, home: bool = True) -> Any:
        """``keyferry WORDS --json``. BenchProblem("manager-failed") with what it said."""
        line = [sys.executable, "-m", "keyferry_manager", *words, "--json"]
        if home:
            line += ["--home", str(self.home)]
        try:
            done = subprocess.run(
                line, capture_output=True, text=True, timeout=_SECONDS, env=_environment()
            )
        except subprocess.TimeoutExpired:
            raise BenchProblem(
                "manager-failed", _WHO, f"keyferry {words[0]} took more than {_SECONDS:g} s"
            ) from None
        if done.returncode:
            said = " ".join(done.stderr.split())
            raise BenchProblem("manager-failed", _WHO, f"keyferry {' '.join(words)}: {said}")
        return json.loads(done.stdout or "null")

    def start(self) -> None:
        """Serve, on the ports that it had before."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "keyferry_manager", "serve", "--json"),
                    *("--home", str(self.home)),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(),
                start_new_session=True,
            )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self.stop()
            said = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise BenchProblem("manager-failed", _WHO, "it does not start: " + " | ".join(said))
        said = json.loads(line)
        if not self.ports:
            self.ports = {key: said[key] for key in ("mqtt_port", "est_port")}
            settings = self.home / "keyferry.toml"
            text = settings.read_text()
            for key, port in self.ports.items():
                text = text.replace(f"\n{key} = 0\n", f"\n{key} = {port}\n")
            settings.write_text(text)

    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, *, kill: bool = False) -> None:
        """SIGTERM, or ``kill``; the home stays."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def remove(self) -> None:
        """Stop, and remove the home."""
        self.stop()
        shutil.rmtree(self.home.parent, ignore_errors=True)

    # -- devices --

    def add(
        self,
        name: str,
        *,
        factory: bool = False,
        again: bool = False,
        profile: str = "cert",
        mqtt_port: int = 0,
        **settings: int,
    ) -> dict[str, bytes]:
        """A new device, with a token or a factory identity; the files that make a board it.

        ``mqtt_port``: where it links to, when that is not the manager itself. ``again``: it is
        known, and its credentials are lost. ``settings`` are others of ``config.json``.
        """
        self._devices += not again
        mqtt_port = mqtt_port or self.ports["mqtt_port"]
        if factory:
            with tempfile.TemporaryDirectory(dir=self.home.parent) as place:
                files = Path(place, name)
                self.command(
                    *("device", "add", name, "--factory", "--out", str(files)),
                    *("--host", self.network.host, "--mqtt-port", str(mqtt_port)),
                    *("--est-port", str(self.ports["est_port"]), "--profile", profile),
                )
                return {path.name: path.read_bytes() for path in files.iterdir()}
        config = {
            "name": name,
            "realm": REALM,
            "host": self.network.host,
            "mqtt_port": mqtt_port,
            "est_port": self.ports["est_port"],
            "profile": profile,
            **settings,
        }
        token = self.ask("POST", "/v1/devices", {"name": name, "again": again})["token"]
        root = ssl.PEM_cert_to_DER_cert((self.home / "ca" / "root.pem").read_text())
        return {
            "config.json": json.dumps(config).encode(),
            "root.der": root,
            "token": token.encode() + b"\n",
        }

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The admin API, over the socket in the home. BenchProblem("manager-failed")."""
        connection = _OverSocket(self.home)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
        except OSError as error:
            raise BenchProblem("manager-failed", _WHO, f"{method} {path}: {error}") from None
        finally:
            connection.close()
        if answer.status >= 300:
            detail = said[:300].decode(errors="replace")
            raise BenchProblem("manager-failed", _WHO, f"{method} {path}: {detail}")
        return json.loads(said or b"null")

    def allow(self, initiator: str, responder: str) -> None:
        """A rule, in force when this returns."""
        self.ask("PUT", f"/v1/rules/{initiator}/{responder}")
        self._rules += 1
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            for line in reversed(self.log.read_text(errors="replace").splitlines()):
                if '"rules-loaded"' not in line:
                    continue
                entry = json.loads(line)
                if entry["devices"] >= self._devices and entry["rules"] >= self._rules:
                    return
                break
            time.sleep(0.05)
        raise BenchProblem("manager-failed", _WHO, "it did not take over devices and rules")

    def device(self, name: str) -> dict[str, Any]:
        """What the manager knows of a device."""
        return self.ask("GET", f"/v1/devices/{name}")

    def serial(self, name: str) -> str:
        """The serial number of a device's newest certificate, "" before it has one."""
        certificates = self.device(name)["certificates"]
        return certificates[0]["serial"] if certificates else ""

    def wait_online(self, name: str) -> None:
        """Until the manager has the device's link in its list."""
        end = time.monotonic() + _SECONDS
        while not self.device(name)["online"]:
            if time.monotonic() > end:
                raise BenchProblem("manager-failed", _WHO, f"{name} has no link")
            time.sleep(0.05)

    def revoke(self, name: str) -> None:
        """Revoke a device's certificates; its link is closed."""
        self.ask("POST", f"/v1/devices/{name}/revocation", {"reason": "keyCompromise"})


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, home: Path) -> None:
        super().__init__("manager", timeout=_SECONDS)
        self._home = home

    def connect(self) -> None:
        folder = os.open(self._home, os.O_RDONLY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(_SECONDS)
            self.sock.connect(f"/proc/self/fd/{folder}/api.sock")
        finally:
            os.close(folder)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("KEYFERRY")}
