"""GET /metrics for Prometheus: requests are counted by the server processes, all other metrics come from the database.

The server processes of one API count requests in shared files, in a folder that api/monitoring/request_counts.py makes;
a single process, as in tests, counts in memory.
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

from api.access.auth import accept_recent_tokens, without_database
from api.monitoring import service_stats
from api.monitoring.service_stats import UNFINISHED, ServiceStats
from api.openapi.endpoint import endpoint, openapi_path
from api.services import Services, services
from shared.errors import DatabaseAway
from shared.jobs import counters
from shared.log_stream import newly_dropped
from shared.version import VERSION
from shared.workers import broker_of

REQUESTED_DEVICES = ("auto", "cpu", "cuda")
METHODS = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS")
LABELS = ("method", "route", "status")
LATENCIES = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
MEDIA = CONTENT_TYPE_PLAIN_0_0_4.partition(";")[0]
UP = "1 while the database is reachable, else 0."

bp = Blueprint("prometheus", __name__)
log = structlog.get_logger()

disable_created_metrics()  # no `_created` series: multiprocess mode does not have them
_own = CollectorRegistry()
REQUESTS = Counter("gradq_http_requests", "HTTP requests answered.", LABELS, registry=_own)
SECONDS = Histogram(
    "gradq_http_request_seconds",
    "Time from the request to the headers of its response.",
    LABELS,
    buckets=LATENCIES,
    registry=_own,
)
DROPPED = Counter(
    "gradq_log_lines_dropped", "Lines of the API's log that could not be written, as on a full disk.", registry=_own
)


@bp.get("/metrics")
@accept_recent_tokens
@endpoint(None, scope="read", media=(MEDIA,), name="scrape_metrics")
def metrics() -> Response:
    """Export metrics for Prometheus

    Text format 0.0.4. While the database is unreachable, `gradq_database_up` is 0 and the metrics that are read from it
    are left out. A token that this call has seen within the last hour is accepted then.
    """
    registry = CollectorRegistry()
    registry.register(ServiceCollector(None if without_database() else services()))
    text = generate_latest(registry) + generate_latest(_requests())
    return Response(text, content_type=CONTENT_TYPE_PLAIN_0_0_4)


def count(response: Response) -> None:
    """Count a response. The labels are the route and a known method, not the path, to limit the number of series."""
    route = openapi_path(request.url_rule.rule) if request.url_rule is not None else "none"
    method = request.method if request.method in METHODS else "other"
    labels = (method, route, str(response.status_code))
    REQUESTS.labels(*labels).inc()
    SECONDS.labels(*labels).observe(time.perf_counter() - g.began)
    if lost := newly_dropped():
        DROPPED.inc(lost)


def _requests() -> CollectorRegistry:
    """The counts of all server processes together, including those that have ended."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return _own
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry


# --- metrics from the database ----------------------------------------------------------------------------------------


class ServiceCollector(Collector):
    """`services`: None if the database is known to be away. It is not asked again then: that may take longer than a
    scrape may."""

    def __init__(self, services: Services | None) -> None:
        self.services = services

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "gradq_build", "Version of gradq and of Python.", {"version": VERSION, "python": platform.python_version()}
        )
        try:
            if self.services is None:
                raise DatabaseAway("the token could not be looked up")
            with self.services.database.read() as session:
                found = service_stats.take(session, self.services.settings.lease_seconds)
        except (DatabaseAway, SQLAlchemyError) as error:  # SQLAlchemyError: reachable, but without tables yet
            log.warning("metrics exported without the database", error=str(error))
            yield GaugeMetricFamily("gradq_database_up", UP, 0)
            return
        yield GaugeMetricFamily("gradq_database_up", UP, 1)
        yield from _of_jobs(found)
        yield from _of_workers(found)
        yield from _of_counters(found.counters)


def _of_jobs(found: ServiceStats) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("gradq_jobs", "Jobs that have not ended.", labels=["state", "device"])
    oldest = GaugeMetricFamily(
        "gradq_queue_oldest_seconds", "Age of the oldest queued job; 0 if none is queued.", labels=["device"]
    )
    for device in REQUESTED_DEVICES:
        oldest.add_metric([device], found.oldest_seconds.get(device, 0.0))
        for state in UNFINISHED:
            jobs.add_metric([state.value, device], found.jobs.get((state.value, device), 0))
    yield jobs
    yield oldest
    yield GaugeMetricFamily(
        "gradq_running_examples_per_second",
        "Training examples per second, of all running jobs.",
        found.examples_per_second,
    )
    yield GaugeMetricFamily(
        "gradq_running_steps_per_second", "Training steps per second, of all running jobs.", found.steps_per_second
    )


def _of_workers(found: ServiceStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("gradq_workers", "Live workers.", len(found.workers))
    slots = GaugeMetricFamily("gradq_worker_slots", "Slots of the worker, each for one job.", labels=["worker"])
    free = GaugeMetricFamily("gradq_worker_free_slots", "Slots without a job.", labels=["worker"])
    draining = GaugeMetricFamily("gradq_worker_draining", "1 while the worker takes no new jobs.", labels=["worker"])
    outage = GaugeMetricFamily(
        "gradq_worker_outage",
        "1 while the worker claims no job: the store or its disk takes no files.",
        labels=["worker"],
    )
    broker = GaugeMetricFamily(
        "gradq_worker_broker_ok", "1 while the worker receives messages about queued jobs, else 0.", labels=["worker"]
    )
    errors, rejected = (
        CounterMetricFamily(f"gradq_worker_broker_{name}", text, labels=["worker"])
        for name, text in (
            ("errors", "Errors of the broker, and of the connection to it."),
            ("rejected_messages", "Elements of the broker's queue that were not gradq's."),
        )
    )
    used, total = (
        GaugeMetricFamily(f"gradq_device_memory_{name}_bytes", text, labels=["worker", "device"])
        for name, text in (("used", "Memory in use; for the CPU, the host's."), ("total", "Total memory."))
    )
    for worker in found.workers:
        slots.add_metric([worker.id], worker.slots)
        free.add_metric([worker.id], worker.free_slots)
        draining.add_metric([worker.id], worker.draining)
        outage.add_metric([worker.id], worker.outage is not None)
        if (state := broker_of(worker)) is not None:
            broker.add_metric([worker.id], state["ok"])
            errors.add_metric([worker.id], state["errors"])
            rejected.add_metric([worker.id], state["rejected"])
        for device in worker.devices.get("memory", ()):
            used.add_metric([worker.id, device["device"]], device["used_bytes"])
            total.add_metric([worker.id, device["device"]], device["total_bytes"])
    yield from (slots, free, draining, outage, broker, errors, rejected, used, total)


def _of_counters(found: dict[str, dict[str, counters.Sum]]) -> Iterator[Metric]:
    ended = CounterMetricFamily("gradq_jobs_ended", "Jobs that have ended.", labels=["state", "reason"])
    for label, ends in sorted(found.get(counters.ENDED, {}).items()):
        ended.add_metric(label.split("/"), ends.count)
    yield ended
    trained, waited = (found.get(name, {}) for name in (counters.TRAINED, counters.WAITED))
    yield _histogram("gradq_job_training_seconds", "Seconds in training steps, of jobs that succeeded.", trained)
    yield _histogram("gradq_job_queue_seconds", "Seconds from submission to the first attempt.", waited)
    stored = GaugeMetricFamily("gradq_stored_bytes", "Bytes in the artifact store.", labels=["kind"])
    for kind in ("artifacts", "checkpoints", "datasets"):
        stored.add_metric([kind], found.get(counters.STORED, {}).get(kind, counters.Sum(0, 0.0)).total)
    yield stored
    removed = found.get(counters.ORPHANS, {}).get("", counters.Sum(0, 0.0)).count
    yield CounterMetricFamily("gradq_orphaned_files_removed", "Files in the store that no row named.", removed)


def _histogram(name: str, text: str, sums: dict[str, counters.Sum]) -> Metric:
    buckets, so_far = [], 0
    for bound in (*(f"{bound:g}" for bound in counters.BOUNDS), counters.OVER):
        so_far += sums[bound].count if bound in sums else 0
        buckets.append((floatToGoString(bound), float(so_far)))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=sum(s.total for s in sums.values()))
