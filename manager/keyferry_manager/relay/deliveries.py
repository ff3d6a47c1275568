"""Plain messages that were handed on and not yet reported on, so that each gets one answer.

A report is believed only from the link that the message went to, and only once: whoever comes
first of report, loss of that link and time-out answers the sender, and takes the entry away. All
bounds are counts, so that neither a sender nor a peer that does not answer can fill the table or
a queue at another's expense.
"""

from collections import Counter
from dataclasses import dataclass

from keyferry_core.errors import RemoteError
from keyferry_manager.counting import count_down
from keyferry_manager.registry import Link


@dataclass(slots=True, eq=False)
class Delivery:
    """One message on its way. ``until`` is of the monotonic clock."""

    sender: Link
    peer: Link
    number: int
    until: float


class Deliveries:
    """All of them. ``seconds`` until one that nobody reported on has failed."""

    def __init__(
        self,
        per_sender: int = 64,
        per_pair: int = 16,
        total: int = 20_000,
        seconds: float = 10.0,
    ) -> None:
        self.per_sender = per_sender
        self.per_pair = per_pair
        self.total = total
        self.seconds = seconds
        # Every entry lives as long as any other, so the oldest is the first that is due.
        self._open: dict[tuple[str, int], Delivery] = {}
        self._by_peer: dict[Link, dict[tuple[str, int], Delivery]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self, sender: str, peer: str, number: int) -> None:
        """RemoteError: "too-many" when a bound forbids one more, "malformed" when the sender
        uses this number already. Moves nothing."""
        if (sender, number) in self._open:
            raise RemoteError("malformed", "this id is in use")
        if len(self._open) >= self.total:
            raise RemoteError("too-many", "messages in all")
        if self._counts[sender, peer] >= self.per_pair:
            raise RemoteError("too-many", f"unreported messages from {sender} to {peer}")
        if self._counts[sender, ""] >= self.per_sender:
            raise RemoteError("too-many", f"unreported messages from {sender}")

    def add(self, sender: Link, peer: Link, number: int, now: float) -> None:
        """Await the report. The caller has asked ``check_room``."""
        delivery = Delivery(sender, peer, number, now + self.seconds)
        key = (sender.name, number)
        self._open[key] = delivery
        self._by_peer.setdefault(peer, {})[key] = delivery
        self._counts.update(_pairs(delivery))

    def find(self, sender: str, number: int, peer: Link) -> Delivery | None:
        """The message ``number`` of ``sender`` that went over the link ``peer``."""
        delivery = self._open.get((sender, number))
        return delivery if delivery is not None and delivery.peer is peer else None

    def done(self, delivery: Delivery) -> None:
        """It has its answer."""
        key = (delivery.sender.name, delivery.number)
        if self._open.get(key) is not delivery:
            return
        del self._open[key]
        mine = self._by_peer[delivery.peer]
        del mine[key]
        if not mine:
            del self._by_peer[delivery.peer]
        for pair in _pairs(delivery):
            count_down(self._counts, pair)

    def lost(self, link: Link) -> list[Delivery]:
        """Take away what was sent over ``link``, either way; return what its peers wait for."""
        unanswered = list(self._by_peer.get(link, {}).values())
        mine = []
        if self._counts[link.name, ""]:
            mine = [delivery for delivery in self._open.values() if delivery.sender is link]
        for delivery in unanswered + mine:
            self.done(delivery)
        return unanswered

    def expired(self, now: float) -> list[Delivery]:
        """Take away and return what is due."""
        due = []
        for delivery in self._open.values():
            if delivery.until > now:
                break
            due.append(delivery)
        for delivery in due:
            self.done(delivery)
        return due


def _pairs(delivery: Delivery) -> tuple[tuple[str, str], tuple[str, str]]:
    sender = delivery.sender.name
    return (sender, delivery.peer.name), (sender, "")
