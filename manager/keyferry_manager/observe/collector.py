"""The manager's numbers in Prometheus's format, gathered when somebody asks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from keyferry_manager.observe.measures import Histogram, Measures

if TYPE_CHECKING:
    from keyferry_manager.audit import AuditTrail, BatchWriter
    from keyferry_manager.carriers.tls import TlsListener
    from keyferry_manager.relay import Relay
    from keyferry_manager.store import Store

# Values of one label. All of them are words of this program; the bound is there should one not be.
_MOST_VALUES = 200


class ManagerCollector(Collector):
    """Reads the parts of a running manager. Nothing here waits."""

    def __init__(
        self,
        measures: Measures,
        relay: "Relay",
        trail: "AuditTrail",
        writer: "BatchWriter",
        store: "Store",
        listeners: "Iterable[TlsListener]",
    ) -> None:
        self._measures = measures
        self._relay = relay
        self._trail = trail
        self._writer = writer
        self._store = store
        self._listeners = tuple(listeners)

    def collect(self) -> Iterator[Metric]:
        """Every metric, as of now."""
        yield from self._devices()
        yield from self._connections()
        yield from self._work()
        yield from self._upkeep()

    # inside

    def _devices(self) -> Iterator[Metric]:
        relay = self._relay
        present = [presence for presence in relay.registry if presence.link is not None]
        yield GaugeMetricFamily("keyferry_links", "Devices with a link.", len(present))
        registered = sum(presence.registered for presence in present)
        yield GaugeMetricFamily("keyferry_registered", "Devices that are registered.", registered)
        yield GaugeMetricFamily("keyferry_devices", "Devices known by name.", len(relay.names))
        yield GaugeMetricFamily(
            "keyferry_sessions", "Sessions, open or half open.", len(relay.sessions)
        )

    def _connections(self) -> Iterator[Metric]:
        connections = GaugeMetricFamily(
            "keyferry_connections", "TCP connections, in any state.", labels=["listener"]
        )
        underway = GaugeMetricFamily(
            "keyferry_handshakes_in_progress", "TLS handshakes under way.", labels=["listener"]
        )
        took = HistogramMetricFamily(
            "keyferry_handshake_seconds",
            "From the connection to the verified peer, of handshakes that succeeded.",
            labels=["listener"],
        )
        refused = CounterMetricFamily(
            "keyferry_connections_refused", "Failed handshakes.", labels=["listener", "reason"]
        )
        for listener in self._listeners:
            connections.add_metric([listener.name], listener.connections)
            underway.add_metric([listener.name], listener.handshakes)
            took.add_metric([listener.name], *_sample(listener.handshake_seconds))
            for reason, count in _bounded(listener.refusals):
                refused.add_metric([listener.name, reason], count)
        yield from (connections, underway, took, refused)

    def _work(self) -> Iterator[Metric]:
        relay, measures = self._relay, self._measures
        outcomes = CounterMetricFamily(
            "keyferry_messages",
            "Messages, by what became of them.",
            labels=["outcome"],
        )
        for outcome, count in _bounded(relay.counters):
            outcomes.add_metric([outcome], count)
        yield outcomes
        yield _histogram("keyferry_relay_seconds", "Work on one message.", measures.relay)
        yield _histogram(
            "keyferry_exchange_seconds",
            "From connect to message_3.",
            relay.exchanges,
        )
        events = CounterMetricFamily(
            "keyferry_refusals", "What was refused, as in the audit trail.", labels=["event"]
        )
        for event, count in _bounded(self._trail.refusals):
            events.add_metric([event], count)
        yield events
        enrolments = CounterMetricFamily(
            "keyferry_est_requests", "Requests for enrolment.", labels=["operation", "status"]
        )
        for (operation, status), count in measures.enrolments.items():
            enrolments.add_metric([operation, status], count)
        yield enrolments
        yield _histogram(
            "keyferry_est_seconds", "Time of one request for a certificate.", measures.enrolment
        )
        requests = CounterMetricFamily(
            "keyferry_sip_requests", "Requests of devices on SIP.", labels=["method"]
        )
        for method, count in _bounded(measures.sip_requests):
            requests.add_metric([method], count)
        yield requests
        responses = CounterMetricFamily(
            "keyferry_sip_responses", "Final responses to devices on SIP.", labels=["status"]
        )
        for status, count in _bounded(measures.sip_responses):
            responses.add_metric([status], count)
        yield responses
        yield _histogram(
            "keyferry_revocation_seconds",
            "From an order to revoke to the last closed link and session.",
            measures.revocation,
        )

    def _upkeep(self) -> Iterator[Metric]:
        measures, writer = self._measures, self._writer
        certificates = GaugeMetricFamily(
            "keyferry_device_certificates",
            "Newest certificates of devices, by the time that they still last.",
            labels=["lasts"],
        )
        for lasts, count in measures.expiries.items():
            certificates.add_metric([lasts], count)
        yield certificates
        own = GaugeMetricFamily(
            "keyferry_certificate_expiry_timestamp_seconds",
            "End of the manager's own certificates.",
            labels=["certificate"],
        )
        for which, end in measures.own_expiries.items():
            own.add_metric([which], end)
        yield own
        yield GaugeMetricFamily(
            "keyferry_audit_waiting", "Entries and states not yet written.", writer.waiting
        )
        yield CounterMetricFamily(
            "keyferry_audit_lost", "Entries lost while the database was away.", writer.lost
        )
        yield _histogram("keyferry_audit_write_seconds", "Time of one batch.", writer.seconds)
        errors = CounterMetricFamily(
            "keyferry_database_errors", "What the database refused.", labels=["error"]
        )
        for error, count in _bounded(self._store.errors):
            errors.add_metric([error], count)
        yield errors
        faults = CounterMetricFamily(
            "keyferry_background_failures", "Background work that failed.", labels=["work"]
        )
        for work, count in _bounded(measures.faults):
            faults.add_metric([work], count)
        yield faults


class Metrics:
    """``/metrics`` of one manager, with the process's own numbers."""

    def __init__(self, collector: ManagerCollector) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)


def _sample(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    return histogram.buckets(), histogram.total


def _histogram(name: str, help_: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, help_)
    family.add_metric([], *_sample(histogram))  # type: ignore[arg-type]  # typed too narrowly
    return family


def _bounded(counts: "Counter[str] | Mapping[str, int]") -> list[tuple[str, int]]:
    items = list(counts.items())
    if len(items) <= _MOST_VALUES:
        return items
    rest = sum(count for _, count in items[_MOST_VALUES:])
    return [*items[:_MOST_VALUES], ("other", rest)]
