"""Which modules a device carries, by their path on it."""

import ast
import importlib.util
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("keyferry_core", "keyferry_agent")
# CPython's backend, TLS and command, and the fake of a board's backend.
CPYTHON_ONLY = (
    "keyferry_agent/__main__.py",
    "keyferry_agent/link_cpython.py",
    "keyferry_core/suite_cryptography.py",
    "keyferry_core/suite_slots.py",
)

# What a device carries only when its application imports it: a gateway, with the library's module
# that it is built on, or what a device behind one needs.
_GATEWAY = "keyferry_agent/gateway/"
_BEHIND = tuple(_GATEWAY + name for name in ("__init__.py", "exchange.py", "destination.py"))
_MICRODOT = "microdot/microdot.py"


def package_folder(package: str) -> Path:
    """The folder of an import package, wherever it is installed. ValueError when it is not."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(package + ": not installed")
    return Path(found.origin).parent


def modules(mains: Iterable[Path] = ()) -> dict[str, Path]:
    """``{"keyferry_core/cbor.py": source file}`` for what every device carries of core and agent,
    and of the gateway what the files ``mains`` import.
    """
    found = everything()
    imported = "\n".join(_imports(path) for path in mains)
    if "keyferry_agent.gateway.gateway" in imported:
        found[_MICRODOT] = package_folder("microdot").parent / _MICRODOT
        return found
    wanted = _BEHIND if "keyferry_agent.gateway" in imported else ()
    return {
        name: path
        for name, path in found.items()
        if name in wanted or not name.startswith(_GATEWAY)
    }


def _imports(path: Path) -> str:
    """The dotted names that a Python file imports, a line each."""
    lines = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            lines += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            lines += [alias.name for alias in node.names]
    return "\n".join(lines)


def everything() -> dict[str, Path]:
    """The same with all of the gateway, but without libraries: our own code."""
    found = {}
    for package in PACKAGES:
        folder = package_folder(package)
        for path in sorted(folder.rglob("*.py")):
            name = f"{package}/{path.relative_to(folder).as_posix()}"
            if name not in CPYTHON_ONLY:
                found[name] = path
    return found
