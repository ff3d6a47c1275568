"""Core, agent and the measuring modules as a device would have them: compiled, whole."""

from pathlib import Path

from keyferry_firmware import images, mpy, sources

ON_BOTH = Path(__file__).parent / "on_both"
CPYTHON_ONLY = ("peer_cases.py",)


def modules(*extra: Path) -> dict[str, bytes]:
    """``{path: bytecode}`` of core and agent, of ``on_both`` and of the files in ``extra``."""
    chosen = sources.modules()
    for path in [*sorted(ON_BOTH.glob("*.py")), *extra]:
        if path.name not in CPYTHON_ONLY:
            chosen[path.name] = path
    return mpy.compile_all(chosen)


def write(files: dict[str, bytes], folder: Path) -> Path:
    """Write compiled modules under ``folder`` and return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_rom(files: dict[str, bytes], image: Path) -> Path:
    """Write compiled modules as a ROMFS image and return its path."""
    image.write_bytes(images.romfs(files))
    return image
