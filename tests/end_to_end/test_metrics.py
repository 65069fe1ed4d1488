"""Several server processes count as one: no counter decreases, whichever process responds and whichever dies."""

from __future__ import annotations

from pathlib import Path

import httpx2
import psutil
import pytest
from support.promtool import check, samples
from support.service import Service
from support.waiting import wait_for

HEALTHZ = ("gradq_http_requests_total", (("method", "GET"), ("route", "/healthz"), ("status", "200")))


def folder_of(server: psutil.Process) -> Path | None:
    """The folder in which this server process keeps its counts; None if there is none yet."""
    maps = [Path(found.path) for found in server.memory_maps() if found.path.endswith(".db")]
    return maps[0].parent if maps else None


@pytest.mark.long
def test_two_processes_scraped_in_turn_never_go_backwards(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.migrate()
    api = service.start_api(processes=2)

    def get(path: str) -> httpx2.Response:
        """GET on a new connection, which either process may accept."""
        return httpx2.get(f"{str(service.http.base_url).rstrip('/')}{path}")

    def servers() -> list[psutil.Process]:
        return psutil.Process(api.process.pid).children()

    try:
        folder = next(filter(None, map(folder_of, servers())))  # of the one that has responded
        counts = samples(get("/metrics").text, ("counter", "histogram"))
        already = counts.get(HEALTHZ, 0)
        victim = servers()[0]
        for i in range(40):
            assert get("/healthz").status_code == 200
            if i == 20:
                victim.kill()
                wait_for(lambda: victim not in servers() and len(servers()) == 2, 20, "another server process")
            text = get("/metrics").text
            now = samples(text, ("counter", "histogram"))
            assert all(now[key] >= count for key, count in counts.items())
            counts = now
        assert counts[HEALTHZ] == already + 40
        check("metrics", text=text)
        of_servers = {path.name for path in folder.glob("counter_*.db")} - {f"counter_{api.process.pid}.db"}
        assert len(of_servers) >= 2, "one process answered every request"
    finally:
        service.close()
    assert not folder.exists()


def test_a_worker_reports_the_memory_of_its_devices_and_its_jobs_are_counted(steady: Service) -> None:
    before = samples(steady.http.get("/metrics").text)
    steady.wait(steady.submit(epochs=1)["id"])
    text = steady.http.get("/metrics").text
    now = samples(text)
    succeeded = ("gradq_jobs_ended_total", (("reason", ""), ("state", "succeeded")))
    assert now[succeeded] == before.get(succeeded, 0) + 1
    assert now["gradq_job_training_seconds_count", ()] == before["gradq_job_training_seconds_count", ()] + 1
    (worker,) = steady.live_workers()
    host = next(memory for memory in worker["devices"]["memory"] if memory["device"] == "cpu")
    assert host["total_bytes"] == psutil.virtual_memory().total
    assert 0 < host["used_bytes"] < host["total_bytes"]
    check("metrics", text=text)
