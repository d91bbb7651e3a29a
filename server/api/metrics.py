"""Prometheus metrics: requests counted in this process, jobs and devices read from the database on demand."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from server.wire import DeviceState, JobKind, JobStatus


class Metrics:
    """The request counter of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "elasticvit_requests", "HTTP requests answered", ["method", "route", "status"], registry=self.registry
        )
        # Looking one up by its labels takes longer than counting.
        self._children: dict[tuple[str, str, int], Counter] = {}

    def count(self, method: str, route: str, status: int) -> None:
        key = (method, route, status)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._requests.labels(method, route, str(status))
        child.inc()

    def text(self, jobs: dict[tuple[str, str], int], devices: dict[str, int]) -> bytes:
        """All metrics in Prometheus' text format; label values without a row are 0, not missing."""
        stored = CollectorRegistry()
        stored.register(_Stored(jobs, devices))
        return generate_latest(self.registry) + generate_latest(stored)


class _Stored(Collector):
    def __init__(self, jobs: dict[tuple[str, str], int], devices: dict[str, int]) -> None:
        self._jobs = jobs
        self._devices = devices

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("elasticvit_jobs", "Jobs by kind and status", labels=["kind", "status"])
        for kind in JobKind:
            for status in JobStatus:
                jobs.add_metric([kind.value, status.value], self._jobs.get((kind.value, status.value), 0))
        yield jobs
        devices = GaugeMetricFamily("elasticvit_devices", "Devices by state", labels=["state"])
        for state in DeviceState:
            devices.add_metric([state.value], self._devices.get(state.value, 0))
        yield devices
