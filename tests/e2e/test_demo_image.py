"""The demo from a built image: what was built is exactly what the two devices run."""

import json
import os
import subprocess
import sys
from pathlib import Path

from keyferry_hil import bench

KEYFERRY = [sys.executable, "-m", "keyferry_manager"]


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KEYFERRY, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        timeout=170,
    )


def built(folder: Path, application: Path) -> Path:
    out = folder / "out"
    line = ("firmware", "build", "--board", "virtual", "--no-preflight")
    done = run(folder, *line, "--app", application, "-o", out)
    assert done.returncode == 0, done.stderr
    return out


def test_the_demo_runs_from_the_image(tmp_path: Path) -> None:
    out = built(tmp_path, bench.APPLICATION)
    done = run(tmp_path, "demo", "--json", "--records", 5, "--image", out)
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["held"] is True
    assert result["failed"] == []


def test_an_image_that_is_changed_or_another_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "main.py"
    other.write_text("print('hello')\n")
    out = built(tmp_path, other)
    done = run(tmp_path, "demo", "--json", "--image", out)
    assert done.returncode == 1
    assert "holds another application" in done.stderr
    (out / "rom.img").write_bytes(b"")
    done = run(tmp_path, "demo", "--json", "--image", out)
    assert done.returncode == 1
    assert "rom.img is cut short" in done.stderr
    assert "Traceback" not in done.stderr
