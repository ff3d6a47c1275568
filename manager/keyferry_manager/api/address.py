"""Where the socket of a home is, and how to name it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

SOCKET_NAME = "api.sock"
# Bytes of a socket's path in sockaddr_un, with its last zero.
_MAX_PATH = 108


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """``path`` of a socket, or another way to it where it is too long for the system's structure:
    through a descriptor of its folder. OSError when there is no such folder."""
    if len(os.fsencode(path)) < _MAX_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
