"""How often something may happen to one address, or to one credential."""

from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

# Addresses whose failures are remembered; the one that was quiet longest is forgotten first.
_MAX_ADDRESSES = 10_000
_WINDOW = 60.0


class RateLimit:
    """Events per ``window`` seconds (a minute) and address, or other text. IPv6 counts by /64: one
    host has all of it."""

    def __init__(self, most: int, clock: Callable[[], float], window: float = _WINDOW) -> None:
        self._most = most
        self._clock = clock
        self._window = window
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, host: str) -> int:
        """Seconds until this address may try again, 0 when it may now."""
        times = self._recent(_network(host))
        if times is None or len(times) < self._most:
            return 0
        return int(times[0] + self._window - self._clock()) + 1

    def bound(self, most: int) -> None:
        """Another bound, from now on."""
        if most != self._most:
            self._most = most
            for key, times in self._failures.items():
                self._failures[key] = deque(times, maxlen=most)

    def count(self, host: str) -> None:
        """Count an event."""
        key = _network(host)
        times = self._recent(key)
        if times is None:
            times = self._failures[key] = deque(maxlen=self._most)
        times.append(self._clock())
        self._failures.move_to_end(key)
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def _recent(self, key: str) -> deque[float] | None:
        times = self._failures.get(key)
        if times is None:
            return None
        while times and times[0] + self._window <= self._clock():
            times.popleft()
        if not times:
            del self._failures[key]
            return None
        return times


def _network(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return address.exploded[:19]  # the first four groups of four digits
    return str(address)
