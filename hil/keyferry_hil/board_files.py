"""Files on a board, over mpremote's transport."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpremote.transport import Transport


def lacks(transport: "Transport", path: str, data: bytes) -> bool:
    """Whether the board has no file ``path`` with these bytes; the folder for it is there then."""
    try:
        if transport.fs_hashfile(path, "sha256") == hashlib.sha256(data).digest():
            return False
    except OSError:
        pass  # it is not there
    folder = ""
    for name in path.strip("/").split("/")[:-1]:
        folder += "/" + name
        if not transport.fs_exists(folder):
            transport.fs_mkdir(folder)
    return True
