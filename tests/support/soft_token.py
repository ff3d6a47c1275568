"""A PKCS#11 token in software, for one test: SoftHSM's library on a folder. CPython only."""

import os
import secrets
import subprocess
from pathlib import Path

from support.system_parts import find

LABEL = "keyferry-test"


class SoftToken:
    """A fresh token. SoftHSM finds its folder by SOFTHSM2_CONF, when its library is loaded."""

    def __init__(self, folder: Path) -> None:
        (folder / "tokens").mkdir(parents=True)
        self.configuration = folder / "softhsm2.conf"
        self.configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\n")
        self.environment = {**os.environ, "SOFTHSM2_CONF": str(self.configuration)}
        self.pin = secrets.token_hex(8)
        self.pin_file = folder / "pin"
        self.pin_file.write_text(self.pin + "\n")
        self.pin_file.chmod(0o600)
        self.folder = folder
        self._tool(
            *("--init-token", "--free", "--label", LABEL),
            *("--pin", self.pin, "--so-pin", secrets.token_hex(8)),
        )

    @property
    def module(self) -> str:
        """The library."""
        places = ("/usr/lib/softhsm", "/usr/lib64/pkcs11", "/usr/local/lib/softhsm")
        for place in places:
            if os.path.exists(f"{place}/libsofthsm2.so"):
                return f"{place}/libsofthsm2.so"
        raise FileNotFoundError("libsofthsm2.so, in " + ", ".join(places))

    @property
    def options(self) -> list[str]:
        """Options of ``keyferry init``."""
        return [
            *("--authority", "pkcs11", "--pkcs11-module", self.module),
            *("--pkcs11-token", LABEL, "--pkcs11-pin-file", str(self.pin_file)),
        ]

    def _tool(self, *arguments: str) -> None:
        program = find("softhsm2-util")
        assert program is not None
        subprocess.run(
            [program, *arguments], env=self.environment, check=True, capture_output=True, timeout=60
        )
