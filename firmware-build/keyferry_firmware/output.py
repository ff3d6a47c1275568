"""Files of a build, written whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from keyferry_firmware.problems import FirmwareProblem


def write_folder(folder: Path, files: Mapping[str, bytes], *, private: bool = False) -> None:
    """Make ``folder``, which must not exist or be empty, with these files in it.

    They are written beside it under another name, which it takes at the end. ``private``: readable
    by the owner only (folder 0700, files 0600); else 0755 and 0644, whatever the umask.
    """
    folder = folder.absolute()
    check_free(folder)
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(mode=0o700)
        for name, data in files.items():
            path = building / name
            for parent in reversed(path.relative_to(building).parents[:-1]):
                (building / parent).mkdir(mode=0o700, exist_ok=True)
                os.chmod(building / parent, 0o700 if private else 0o755)
            write_new(path, data, 0o600 if private else 0o644)
        os.chmod(building, 0o700 if private else 0o755)
        os.rename(building, folder)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise FirmwareProblem(f"{folder} cannot be written: {error.strerror}.") from None
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def check_free(folder: Path) -> None:
    """FirmwareProblem when something is there already."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise FirmwareProblem(f"{folder} exists already and is not overwritten; choose another.")


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Make a file that must not exist yet, with ``mode`` from its first moment."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the umask may have taken bits away
        file.write(data)
        file.flush()
        os.fsync(descriptor)
