"""What every device's file system begins with: the boot code, and the files that start it."""

from pathlib import Path

from keyferry_firmware import mpy
from keyferry_firmware.boards import Board

SOURCE = Path(__file__).parent / "on_device" / "keyferry_boot.py"
XIP = 0x10000000  # where RP2040 and RP2350 show their flash
BOOT_FILES = ("boot.py", "keyferry_boot.mpy", "main.py")
_MAIN = b"import keyferry_boot\nkeyferry_boot.run()\n"


def boot_files(board: Board) -> dict[str, bytes]:
    """``boot.py``, ``main.py`` and the boot code, for where this board has its image."""
    if board.family == "rp2":
        place = f'"xip", {XIP + board.rom.offset:#x}, {board.rom.size:#x}'
    else:
        place = '"partition"' if board.family == "esp32" else '"process"'
    # The flash leaves the path again in start(): only this import is from there.
    boot = f'import sys\nsys.path[:] = ["/"]\nimport keyferry_boot\nkeyferry_boot.start({place})\n'
    code = mpy.compile_source(SOURCE.read_bytes(), "keyferry_boot")
    return {"boot.py": boot.encode(), "keyferry_boot.mpy": code, "main.py": _MAIN}
