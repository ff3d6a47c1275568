"""What an engineer's application is made of, and what a device gets of it.

A folder with ``main.py`` (or that one file), modules and packages beside it, and any other files,
which the application finds under ``/rom``.
"""

import ast
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from keyferry_firmware import mpy, sources
from keyferry_firmware.problems import FirmwareProblem

_MOST_FILES = 1000
_LARGEST = 4 << 20
# What the application must not bring: the project's own, and the flash's.
_TAKEN = (*sources.PACKAGES, "keyferry_boot", "keyferry_boot.py", "boot.py")


@dataclass(frozen=True)
class Built:
    """The files of a ROMFS image by path, and which sources they came from."""

    files: dict[str, bytes]
    own: tuple[str, ...]  # those of the application
    entry: str  # SHA-256 of main.py as it was written


def collect(place: Path) -> dict[str, bytes]:
    """``{"folder/file": content}`` of an application. Hidden files and caches stay out."""
    if place.is_file() and place.suffix == ".py":
        return {"main.py": place.read_bytes()}
    if not place.is_dir():
        raise FirmwareProblem(f"{place} is neither a folder with main.py nor a .py file.")
    found: dict[str, bytes] = {}
    for path in sorted(place.rglob("*")):
        inside = path.relative_to(place)
        if any(part.startswith(".") or part == "__pycache__" for part in inside.parts):
            continue
        if path.is_symlink():
            raise FirmwareProblem(f"{path} is a link; put the file itself there.")
        if not path.is_file():
            continue
        if inside.parts[0] in _TAKEN:
            raise FirmwareProblem(f"{path}: this name is Keyferry's own; choose another.")
        if len(found) == _MOST_FILES or path.stat().st_size > _LARGEST:
            raise FirmwareProblem(
                f"{place} has more than {_MOST_FILES} files, or {path} more than {_LARGEST} bytes."
            )
        found[inside.as_posix()] = path.read_bytes()
    if "main.py" not in found:
        raise FirmwareProblem(f"{place} has no main.py; the device runs that file.")
    return found


def build(place: Path) -> Built:
    """Core, agent and the application, compiled as devices have them."""
    given = collect(place)
    code = {name: data for name, data in given.items() if name.endswith(".py")}
    with tempfile.TemporaryDirectory(prefix="keyferry-build-") as folder:
        own_paths: dict[str, Path] = {}
        for name, data in code.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_started(name, data))
            own_paths[name] = path
        try:
            paths = sources.modules(own_paths.values()) | own_paths
            files = mpy.compile_all(paths)
        except mpy.CompileError as error:
            raise FirmwareProblem(f"{place}: {error}") from None
        except SyntaxError as error:
            raise FirmwareProblem(f"{place}: {error.msg}, line {error.lineno}.") from None
    own = [name.removesuffix(".py") + ".mpy" for name in code]
    for name in given.keys() - code.keys():
        if name in files:
            raise FirmwareProblem(f"{place / name} and its source are both there; remove one.")
        files[name] = given[name]
        own.append(name)
    entry = hashlib.sha256(given["main.py"]).hexdigest()
    return Built(dict(sorted(files.items())), tuple(sorted(own)), entry)


def _started(name: str, source: bytes) -> bytes:
    """``main.py`` so that its import runs it: a board has no other way to start bytecode."""
    if name != "main.py":
        return source
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise FirmwareProblem(f"main.py: {error.msg}, line {error.lineno}.") from None
    if not any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(tree)):
        return source
    return ast.unparse(ast.fix_missing_locations(_Main().visit(tree))).encode()


class _Main(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id == "__name__" and isinstance(node.ctx, ast.Load):
            return ast.copy_location(ast.Constant("__main__"), node)
        return node
