"""One response of every kind from a running service, shortened: the examples of the OpenAPI document."""

from __future__ import annotations

import json
import platform
import socket
from typing import Any

from support.images import npz, small
from support.service import Service

from api.openapi.request_examples import ONE as NOBODY
from api.openapi.request_examples import ZERO

HOST, PLATFORM = "trainer-1", "Linux-6.1.0-x86_64-with-glibc2.36"
Samples = dict[str, dict[str, Any]]  # by model, then by name


def record(service: Service) -> Samples:
    """Record the samples. Its jobs and dataset are deleted afterwards."""
    http = service.http
    body = {"name": "first", "architecture": "mlp", "lr": 0.1, "epochs": 2, "gradients": "manual", "seed": 7}
    waits = service.submit(device="cuda")  # no worker of a test has one
    queued = service.submit(**body, labels={"team": "vision"})
    path = queued["links"]["self"]
    check = http.post("/v1/gradient-checks", json={"architecture": "linear", "samples": 5, "seed": 7}).json()
    walk = http.post("/v1/walks", json={"architecture": "linear", "batch_size": 4, "seed": 7}).json()
    done, checked, walked = (service.wait(job["id"]) for job in (queued, check, walk))
    dataset = http.post("/v1/datasets", files={"file": ("squares.npz", npz(**small()))}).json()

    def get(path: str) -> Any:
        return http.get(path).json()

    samples: Samples = {
        "Job": {"queued": queued, "succeeded": done, "gradient_check": checked, "walk": walked},
        "JobList": {"page": _cut(get("/v1/jobs?name=first&limit=1"), 1)},
        "DryRun": {"mlp": http.post("/v1/jobs?dry_run=true", json=body).json()},
        "EventList": {"beginning": get(f"{path}/events?limit=4")},
        "Metrics": {"curve": get(f"{path}/metrics")},
        "ArtifactList": {"beginning": _cut(get(f"{path}/artifacts"), 3)},
        "Predictions": {"digit": http.post(f"{path}/predict", json={"images": [ZERO]}).json()},
        "WorkerList": {"one": _cut(get("/v1/workers"), 1)},
        "Dataset": {"builtin": get("/v1/datasets/digits"), "upload": dataset},
        "DatasetList": {"beginning": _cut(get("/v1/datasets"), 1)},
        "DeletedDataset": {"deleted": http.delete(dataset["links"]["self"]).json()},
        "ArchitectureList": {"beginning": _cut(get("/v1/architectures"), 2)},
        "PresetList": {"beginning": _cut(get("/v1/presets"), 1)},
        "Health": {"alive": get("/healthz")},
        "Readiness": {"ready": get("/readyz")},
        "Version": {"this": get("/v1/version")},
        "WhoAmI": {"anybody": get("/v1/whoami")},
        "QueueList": {"one_waits": get("/v1/queues")},
        "AuditList": {"one": _cut(get("/v1/audit?action=jobs.submit"), 1)},
        "BulkAnswer": {"one_of_two": _bulk(service)},
        "DeletedJob": {"deleted": http.delete(path).json()},
    }
    http.delete(checked["links"]["self"])
    http.delete(walked["links"]["self"])
    service.cancel(waits["id"])
    http.delete(waits["links"]["self"])
    return _anonymous(samples)


def _bulk(service: Service) -> Any:
    """The response for one job that exists and one that does not."""
    job = service.submit(device="cuda")
    answer = service.http.post("/v1/jobs/bulk", json={"action": "cancel", "ids": [job["id"], NOBODY]}).json()
    service.http.delete(job["links"]["self"])
    return answer


def _cut(answer: dict[str, Any], n: int) -> dict[str, Any]:
    return {**answer, "data": answer["data"][:n]}


def _anonymous(samples: Samples) -> Samples:
    text = json.dumps(samples, ensure_ascii=False)
    for here, anywhere in ((socket.gethostname(), HOST), (platform.platform(), PLATFORM)):
        text = text.replace(here, anywhere)
    cleaned: Samples = json.loads(text)
    return cleaned


def shape(value: Any, path: str = "") -> set[str]:
    """JSON pointers of all fields in `value`; of a list, those of its first item."""
    if isinstance(value, dict):
        return {path}.union(*(shape(inner, f"{path}/{key}") for key, inner in value.items()))
    if isinstance(value, list) and value:
        return {path} | shape(value[0], f"{path}/0")
    return {path}
