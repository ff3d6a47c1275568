"""Which modules a device carries, by their path on it."""

import importlib.util
from pathlib import Path

PACKAGES = ("keyferry_core", "keyferry_agent")
# The manager's backend, which needs CPython's 'cryptography', and the fake of a board's.
CPYTHON_ONLY = ("keyferry_core/suite_cryptography.py", "keyferry_core/suite_slots.py")


def package_folder(package: str) -> Path:
    """The folder of an import package, wherever it is installed. ValueError when it is not."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(package + ": not installed")
    return Path(found.origin).parent


def modules() -> dict[str, Path]:
    """``{"keyferry_core/cbor.py": source file}`` for every module of the core and the agent."""
    found = {}
    for package in PACKAGES:
        folder = package_folder(package)
        for path in sorted(folder.rglob("*.py")):
            name = f"{package}/{path.relative_to(folder).as_posix()}"
            if name not in CPYTHON_ONLY:
                found[name] = path
    return found
