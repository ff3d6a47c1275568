"""A page of the documentation, run command by command: it must do what it says. CPython only."""

import os
import re
import subprocess
import sys
from pathlib import Path

_MARK = "@@ block "


def run_page(page: str, folder: Path) -> None:
    """Run each ``sh`` block of a page, in order, in one shell in ``folder``.

    What a block writes must be what the ``text`` block below it says, where ``…`` is anything.
    A manager that the page starts is in ``$manager``, its log in ``serve.log``.
    """
    parts = _blocks(page)
    program = folder / "bin" / "keyferry"
    program.parent.mkdir()
    command = "from keyferry_manager.cli import main; main()"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{command}' \"$@\"\n")
    program.chmod(0o755)
    script = "set -eu -o pipefail\ntrap 'kill ${manager:-} 2> /dev/null || true' EXIT\n"
    for number, (commands, _) in enumerate(parts):
        script += f"echo '{_MARK}{number}'\n{commands}\n"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("KEYFERRY")},
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    log = folder / "serve.log"
    everything = done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    assert done.returncode == 0, everything
    shown = re.split(rf"^{_MARK}\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(shown) == len(parts)
    for (commands, expected), output in zip(parts, shown, strict=True):
        if expected or output:
            assert _matches(_trimmed(output), _trimmed(expected)), (
                f"{commands}\n--- gave\n{output}\n--- not\n{expected}"
            )
    assert "Traceback" not in everything


def _blocks(page: str) -> list[tuple[str, str]]:
    """Each block of commands, with the output that stands below it (empty: none is expected)."""
    found = re.findall(r"```sh\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", page, re.DOTALL)
    assert len(found) == page.count("```sh")
    assert sum(bool(output) for _, output in found) == page.count("```text")
    return found


def _trimmed(text: str) -> str:
    """Tables are filled up with spaces, and openssl writes some too."""
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def _matches(shown: str, expected: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, shown) is not None
