"""Counters and histograms that cost next to nothing where messages go by.

Prometheus's own take a lock for each value. Everything here is touched by one thread, so a count is
one addition; it becomes Prometheus's format only when somebody asks (collector.py).
"""

from bisect import bisect_left
from collections import Counter

# Upper bounds in seconds.
FAST = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1)
SLOW = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """How many values there were up to each of ``bounds``, and above the last one."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SLOW) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Bounds and cumulative counts, as Prometheus wants them."""
        found, sum_ = [], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            sum_ += count
            found.append((str(bound), float(sum_)))
        return found


# Of EST and of what stands beside it: the words that a request may be counted under.
_OPERATIONS = (
    "cacerts",
    "csrattrs",
    "simpleenroll",
    "simplereenroll",
    "serverkeygen",
    "fullcmc",
    "crl",
    "ocsp",
)


class Measures:
    """What the parts of one manager count. Keys are words of this program, never of a device."""

    def __init__(self) -> None:
        self.relay = Histogram(FAST)
        self.enrolments: Counter[tuple[str, str]] = Counter()  # operation, status
        self.enrolment = Histogram()
        self.revocation = Histogram()
        # Certificates of devices by the time that they still last, as of the last look.
        self.expiries: dict[str, int] = {}
        # Our own: which, and the Unix time of its end.
        self.own_expiries: dict[str, float] = {}
        self.faults: Counter[str] = Counter()  # background work that failed
        # Of SIP: requests of devices by method, final responses to them by status.
        self.sip_requests: Counter[str] = Counter()
        self.sip_responses: Counter[str] = Counter()

    def count_est(self, path: str, status: int, seconds: float) -> None:
        """Count a request to the EST listener; ``path`` and ``status`` can be anything."""
        parts = path.split("/", 8)
        operation = next((part for part in _OPERATIONS if part in parts), "other")
        self.enrolments[operation, str(status) if 200 <= status < 600 else "none"] += 1
        if operation in ("simpleenroll", "simplereenroll"):
            self.enrolment.observe(seconds)

    def count_certify(self, status: int, seconds: float) -> None:
        """Count a renewal over a link, with the status that EST would have answered."""
        self.enrolments["certify", str(status)] += 1
        self.enrolment.observe(seconds)


# Names and lower bounds, in days, of what a certificate still lasts.
_LASTS = (("later", 30), ("within-30d", 7), ("within-7d", 1), ("within-1d", 0))


def by_expiry(ends: list[int], now: float) -> dict[str, int]:
    """Count certificates by the time that they still last; ``ends`` are Unix seconds."""
    found = {"expired": 0, **{name: 0 for name, _ in _LASTS}}
    for end in ends:
        days = (end - now) / 86400
        name = next((name for name, low in _LASTS if days > low), "expired")
        found[name] += 1
    return found
