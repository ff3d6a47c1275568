"""The admin API against its own OpenAPI document, by schemathesis: each operation with examples,
with values at the edges, with wrong ones, without a token, and in sequences.

The manager is a process of its own, with data in it. That it still answers, and stops in
good order, after all that is asserted too.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from keyferry_manager.admin.scopes import SCOPES
from support.manager_kit import Home

SECONDS = 40
PROGRAM = [sys.executable, "-c", "from keyferry_manager.cli import main; main()"]


def filled(folder: Path) -> Home:
    """A home where each operation finds something."""
    home = Home(folder, api_listen="127.0.0.1:0")
    for number in range(3):
        home.device(f"pump-{number}")
    home.add("valve-1")
    home.allow("pump-0", "pump-1")
    for number in range(3):
        ask = ("valve-1", f"{number:064x}", "token", "192.0.2.1:1", time.time())
        assert home.store(lambda store, ask=ask: store.approvals.ask(*ask))
    return home


@pytest.mark.timeout(400)
def test_every_operation_keeps_to_the_document(tmp_path: Path):
    home = filled(tmp_path / "home")
    arguments = [*PROGRAM, "serve", "--json", "--home", str(home.folder)]
    log = (tmp_path / "log").open("w")
    with log, subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True) as manager:
        try:
            assert manager.stdout is not None
            ready = json.loads(manager.stdout.readline())
            secret = make_token(home)
            report = explore(tmp_path, f"http://127.0.0.1:{ready['api_port']}", secret)
            # It is as well as before: the socket answers, and it stops in good order.
            assert ask(home, "GET", "/v1/realm")["realm"] == "plant.example"
            manager.send_signal(signal.SIGTERM)
            assert manager.wait(60) == 0
        finally:
            manager.kill()
    said = (tmp_path / "log").read_text()
    assert "api-failed" not in said
    assert "Traceback" not in said
    assert secret not in said
    assert report.returncode == 0, report.stdout[-8000:]
    assert "30/30" in report.stdout


def ask(home: Home, method: str, path: str, **arguments: Any) -> Any:
    transport = httpx.HTTPTransport(uds=str(home.folder / "api.sock"))
    with httpx.Client(transport=transport, base_url="http://manager", timeout=60) as client:
        return client.request(method, path, **arguments).raise_for_status().json()


def make_token(home: Home) -> str:
    wanted = {"name": "explorer", "scopes": list(SCOPES)}
    return str(ask(home, "POST", "/v1/tokens", json=wanted)["token"])


def explore(folder: Path, url: str, secret: str) -> subprocess.CompletedProcess[str]:
    # What a schema cannot say is refused with 422: a policy that breaks its own tests, a cursor
    # that no list gave.
    (folder / "schemathesis.toml").write_text(
        f"""
headers = {{ Authorization = "Bearer {secret}" }}

[checks.positive_data_acceptance]
expected-statuses = ["2xx", 404, 409, 422]
"""
    )
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(folder / "schemathesis.toml")),
        *("run", f"{url}/v1/openapi.json"),
        *("--max-examples", "10", "--max-time", str(SECONDS), "--seed", "1"),
        *("--phases", "examples,coverage,fuzzing,stateful"),
        *("--request-timeout", "60", "--generation-database", "none", "--no-color"),
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
