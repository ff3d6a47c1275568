"""The serial port as others see it: a pseudo-terminal under a name that stays."""

import os
import pty
import tty
from pathlib import Path


class OuterPort:
    """Open for as long as the board is plugged in, whether anybody has opened it or not."""

    def __init__(self, name: Path) -> None:
        self.fd, self._end = pty.openpty()
        tty.setraw(self._end)
        os.set_blocking(self.fd, False)
        self._name = name
        # A new link in the place of the old one, so that the name is never missing.
        link = name.with_name(name.name + f".{os.getpid()}")
        name.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(self._end))
        os.replace(link, name)

    def close(self) -> None:
        """Unplugged: who has it open gets an error, and the name is gone."""
        try:
            if self._name.readlink() == Path(os.ttyname(self._end)):
                self._name.unlink()
        except OSError:
            pass  # somebody else's name by now
        os.close(self._end)
        os.close(self.fd)
