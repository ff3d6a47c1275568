"""What the bench's devices run, and how their processes are kept from outliving it."""

import ctypes
import signal
import sys
from pathlib import Path

# The application that does what its console says; see its docstring for the commands.
APPLICATION = Path(__file__).parent / "on_device" / "bench_app.py"
# A gateway, a device behind one, and the heap that each needs (docs/gateway.md).
GATEWAY = APPLICATION.with_name("gateway_app.py"), "256k"
DESTINATION = APPLICATION.with_name("destination_app.py"), "160k"

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it ends, however it ends."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
