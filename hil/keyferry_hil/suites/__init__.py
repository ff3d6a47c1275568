"""The suites that ship: what every board must do. ``run`` is how all commands run them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent


def run(words: Sequence[str]) -> int:
    """pytest with the bench's plugin, on these suites unless ``words`` name tests."""
    # A folder after an option is that option's.
    named = any(
        word.split("::")[0].endswith(".py") or (Path(word).is_dir() and not before.startswith("-"))
        for before, word in zip(["", *words], words, strict=False)
    )
    line = [sys.executable, "-m", "pytest", "-p", "keyferry_hil.plugin", "-c", os.devnull]
    line += ["--rootdir", str(Path.cwd()), "--import-mode=importlib", *words]
    return subprocess.run([*line, *([] if named else [str(FOLDER)])]).returncode
