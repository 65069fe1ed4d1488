"""GET /metrics for Prometheus: requests as this API counts them, everything else as the database has it.

All server processes of one API count requests in shared files, whose folder api/monitoring/request_counts.py makes; a
lone process, as in tests, counts in memory.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator

import structlog
from flask import Blueprint, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from sqlalchemy.exc import SQLAlchemyError

from api.monitoring import service_stats
from api.monitoring.service_stats import LIVING, ServiceStats
from api.openapi.endpoint import endpoint, openapi_path
from api.services import Services, services
from shared.errors import DatabaseAway
from shared.jobs import counters
from shared.version import VERSION

REQUESTED_DEVICES = ("auto", "cpu", "cuda")
METHODS = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS")
LABELS = ("method", "route", "status")
LATENCIES = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
MEDIA = CONTENT_TYPE_PLAIN_0_0_4.partition(";")[0]

bp = Blueprint("prometheus", __name__)
log = structlog.get_logger()

disable_created_metrics()  # a second series for each, which shared files do not have anyway
_own = CollectorRegistry()
REQUESTS = Counter("gradq_http_requests", "Requests answered.", LABELS, registry=_own)
SECONDS = Histogram(
    "gradq_http_request_seconds", "From request to answer's head.", LABELS, buckets=LATENCIES, registry=_own
)


@bp.get("/metrics")
@endpoint(None, scope="read", media=(MEDIA,), name="scrape_metrics")
def metrics() -> Response:
    """What Prometheus scrapes

    Text format 0.0.4. While the database is away `gradq_database_up` is 0, and what is read from it is left out.
    """
    registry = CollectorRegistry()
    registry.register(ServiceCollector(services()))
    text = generate_latest(registry) + generate_latest(_requests())
    return Response(text, content_type=CONTENT_TYPE_PLAIN_0_0_4)


def count(response: Response) -> None:
    """Called once for each answer. Routes, not paths, and only known methods: labels must stay few."""
    route = openapi_path(request.url_rule.rule) if request.url_rule is not None else "none"
    method = request.method if request.method in METHODS else "other"
    labels = (method, route, str(response.status_code))
    REQUESTS.labels(*labels).inc()
    SECONDS.labels(*labels).observe(time.perf_counter() - g.began)


def _requests() -> CollectorRegistry:
    """Of all server processes together, those that ended included."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return _own
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry


# --- what the database knows ------------------------------------------------------------------------------------------


class ServiceCollector(Collector):
    def __init__(self, services: Services) -> None:
        self.services = services

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "gradq_build", "Which gradq this is.", {"version": VERSION, "python": platform.python_version()}
        )
        try:
            with self.services.database.read() as session:
                found = service_stats.take(session, self.services.settings.lease_seconds)
        except (DatabaseAway, SQLAlchemyError) as error:  # the second: it answers, but holds no tables yet
            log.warning("scraped without a database", error=str(error))
            yield GaugeMetricFamily("gradq_database_up", "1 while the database answers.", 0)
            return
        yield GaugeMetricFamily("gradq_database_up", "1 while the database answers.", 1)
        yield from _of_jobs(found)
        yield from _of_workers(found)
        yield from _of_counters(found.counters)


def _of_jobs(found: ServiceStats) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("gradq_jobs", "Jobs that have not ended.", labels=["state", "device"])
    oldest = GaugeMetricFamily(
        "gradq_queue_oldest_seconds", "Since the oldest queued job was submitted; 0: none waits.", labels=["device"]
    )
    for device in REQUESTED_DEVICES:
        oldest.add_metric([device], found.oldest_seconds.get(device, 0.0))
        for state in LIVING:
            jobs.add_metric([state.value, device], found.jobs.get((state.value, device), 0))
    yield jobs
    yield oldest
    yield GaugeMetricFamily(
        "gradq_running_examples_per_second", "Of all running jobs together.", found.examples_per_second
    )
    yield GaugeMetricFamily("gradq_running_steps_per_second", "Of all running jobs together.", found.steps_per_second)


def _of_workers(found: ServiceStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("gradq_workers", "Live workers.", len(found.workers))
    slots = GaugeMetricFamily("gradq_worker_slots", "Places for jobs.", labels=["worker"])
    free = GaugeMetricFamily("gradq_worker_free_slots", "Places that no job has.", labels=["worker"])
    draining = GaugeMetricFamily("gradq_worker_draining", "1: it takes no more jobs.", labels=["worker"])
    used, total = (
        GaugeMetricFamily(f"gradq_device_memory_{name}_bytes", text, labels=["worker", "device"])
        for name, text in (("used", "Memory in use; of the CPU the host's."), ("total", "Memory that there is."))
    )
    for worker in found.workers:
        slots.add_metric([worker.id], worker.slots)
        free.add_metric([worker.id], worker.free_slots)
        draining.add_metric([worker.id], worker.draining)
        for device in worker.devices.get("memory", ()):
            used.add_metric([worker.id, device["device"]], device["used_bytes"])
            total.add_metric([worker.id, device["device"]], device["total_bytes"])
    yield from (slots, free, draining, used, total)


def _of_counters(found: dict[str, dict[str, counters.Sum]]) -> Iterator[Metric]:
    ended = CounterMetricFamily("gradq_jobs_ended", "Jobs that ended.", labels=["state", "reason"])
    for label, ends in sorted(found.get(counters.ENDED, {}).items()):
        ended.add_metric(label.split("/"), ends.count)
    yield ended
    trained, waited = (found.get(name, {}) for name in (counters.TRAINED, counters.WAITED))
    yield _histogram("gradq_job_training_seconds", "In training steps, of jobs that succeeded.", trained)
    yield _histogram("gradq_job_queue_seconds", "From submission to the first attempt.", waited)
    stored = GaugeMetricFamily("gradq_stored_bytes", "Bytes in the artifact store.", labels=["kind"])
    for kind in ("artifacts", "checkpoints", "datasets"):
        stored.add_metric([kind], found.get(counters.STORED, {}).get(kind, counters.Sum(0, 0.0)).total)
    yield stored


def _histogram(name: str, text: str, sums: dict[str, counters.Sum]) -> Metric:
    buckets, so_far = [], 0
    for bound in (*(f"{bound:g}" for bound in counters.BOUNDS), counters.OVER):
        so_far += sums[bound].count if bound in sums else 0
        buckets.append((floatToGoString(bound), float(so_far)))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=sum(s.total for s in sums.values()))
