"""A port for a server that cannot say which one the system gave it.

MicroPython's sockets have no ``getsockname``, and other people's programs want their port told. A
port that the system gave and took back may be somebody else's a second later: it hands out the
same range to every client. So these come from below that range.
"""

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10240
_TRIES = 200


def free_port(udp: bool = False) -> int:
    """A TCP (or UDP) port of 127.0.0.1 that nobody listens on, and that the system gives to nobody.

    OSError when there is none.
    """
    try:
        above = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError):
        above = 32768
    if above <= _LOWEST:
        above = 65536
    choose = random.SystemRandom()
    for _ in range(_TRIES):
        port = choose.randrange(_LOWEST, above)
        with socket.socket(type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")
