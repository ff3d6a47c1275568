"""The application that boards under test run, compiled once for all processes of a bench."""

import fcntl
import hashlib
import json
import os
from base64 import b64decode, b64encode
from pathlib import Path

from keyferry_firmware import mpy, sources

_ON_DEVICE = Path(__file__).parent / "on_device"
_MODULES = ("hil_app.py", "bench_app.py")
START = "import hil_app\nhil_app.run()"
# Without a network: its link goes over the console's own line.
START_SERIAL = "import hil_app\nhil_app.run(True)"


def compiled(state: Path) -> dict[str, bytes]:
    """``{"package/module.mpy": bytecode}``, from ``state`` when the sources are as they were."""
    paths = {**sources.modules(), **{name: _ON_DEVICE / name for name in _MODULES}}
    known = hashlib.sha256()
    for tool in sorted(Path(mpy.__file__).parent.glob("*.py")):
        known.update(tool.read_bytes())
    for name, path in sorted(paths.items()):
        known.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = state / f"application-{known.hexdigest()[:16]}.json"
    with (state / "application.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one compiles, the others wait for it
        if place.is_file():
            return {name: b64decode(code) for name, code in json.loads(place.read_text()).items()}
        files = mpy.compile_all(paths)
        for old in state.glob("application-*.json"):
            old.unlink()
        temporary = place.with_suffix(".new")
        temporary.write_text(json.dumps({k: b64encode(v).decode() for k, v in files.items()}))
        os.replace(temporary, place)
    return files
