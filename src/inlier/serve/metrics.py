"""What Prometheus asks for."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from inlier.serve.store import Row

if TYPE_CHECKING:
    from inlier.serve.plant import Plant

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counted since the start of the process."""

    def __init__(self, plant: "Plant"):
        self.plant, self.registry = plant, CollectorRegistry()
        labels = ["station"]
        self.inspections = Counter(
            "inlier_inspections", "Records, by verdict", [*labels, "verdict"], registry=self.registry
        )
        self.latency = Histogram(
            "inlier_latency_seconds",
            "From a picture's arrival to its verdict",
            labels,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("inlier_waiting", "Pictures that wait for their verdict", labels, registry=self.registry)
        self.drift = Gauge(
            "inlier_drift_evidence", "log10 of the evidence that parts have changed", labels, registry=self.registry
        )
        self.unsent = Gauge("inlier_unsent", "Messages that a sink has not taken", ["sink"], registry=self.registry)

    def count(self, rows: list[Row]) -> None:
        for row in rows:
            verdict = "error" if row["error"] is not None else row["verdict"] or "none"
            self.inspections.labels(row["station"], verdict).inc()
            self.latency.labels(row["station"]).observe(row["latency"] / 1000)

    def text(self) -> bytes:
        for station in self.plant.stations.values():
            self.waiting.labels(station.name).set(station.waiting)
            if stream := station.drift.stream:
                self.drift.labels(station.name).set(stream.strongest.evidence)
        for sink, count in self.plant.unsent.items():
            self.unsent.labels(sink).set(count)
        return generate_latest(self.registry)
