"""GET /metrics: the metrics after changes of jobs, workers and requests."""

from __future__ import annotations

import re
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from support.promtool import ROOT, check, samples, value

from api.access import token_uses
from api.app import create_app
from api.monitoring import service_stats
from api.services import EXTENSION
from shared import tokens
from shared.config import Settings
from shared.jobs.states import JobState

MEMORY = [
    {"device": "cpu", "used_bytes": 5, "total_bytes": 9},
    {"device": "cuda:0 X", "used_bytes": 1, "total_bytes": 2},
]
DEVICES = {"kinds": ["cpu"], "slots": [{"kind": "cpu", "name": "cpu", "uuid": None}], "memory": MEMORY}

BROKER = {"ok": False, "detail": "READONLY: …", "errors": 7, "rejected": 3}


@pytest.fixture
def scrape(client):
    def scrape() -> str:
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
        return answer.text

    return scrape


def test_promtool_accepts_the_text(client, hands, scrape, results):
    hands.submit()
    hands.beat("w1", devices=DEVICES)
    hands.finish(hands.start(), result=results["succeeded"])
    hands.submit()
    scrape()
    check("metrics", text=scrape())


def test_jobs_by_state_and_requested_device(hands, scrape):
    assert value(scrape(), "gradq_jobs", state="queued", device="cuda") == 0
    hands.submit()
    hands.submit(device="cpu")
    hands.submit(device="cuda")
    hands.start()
    text = scrape()
    assert value(text, "gradq_jobs", state="running", device="auto") == 1
    assert value(text, "gradq_jobs", state="queued", device="auto") == 0
    assert value(text, "gradq_jobs", state="queued", device="cuda") == 1
    assert value(text, "gradq_queue_oldest_seconds", device="auto") == 0
    assert value(text, "gradq_queue_oldest_seconds", device="cpu") > 0


def test_ends_are_counted_by_reason_and_stay_when_the_jobs_are_deleted(client, hands, scrape, results):
    job = hands.submit()
    hands.finish(hands.start(), result={**results["succeeded"], "training_seconds": 2.5})
    hands.submit()
    hands.finish(hands.start(), JobState.FAILED, reason={"code": "diverged", "detail": "nan"})
    client.post(f"{hands.submit()['links']['self']}/cancel")
    before = scrape()
    assert value(before, "gradq_jobs_ended_total", state="succeeded", reason="") == 1
    assert value(before, "gradq_jobs_ended_total", state="failed", reason="diverged") == 1
    assert value(before, "gradq_jobs_ended_total", state="cancelled", reason="cancelled_by_user") == 1
    assert value(before, "gradq_job_training_seconds_bucket", le="1.0") == 0
    assert value(before, "gradq_job_training_seconds_bucket", le="3.0") == 1
    assert value(before, "gradq_job_training_seconds_bucket", le="+Inf") == 1
    assert value(before, "gradq_job_training_seconds_sum") == 2.5
    assert value(before, "gradq_job_queue_seconds_count") == 2
    assert client.delete(job["links"]["self"]).status_code == 200
    counters = samples(before, ("counter", "histogram"))
    after = samples(scrape(), ("counter", "histogram"))
    assert all(after[key] >= count for key, count in counters.items())


def test_the_connection_of_each_worker_to_the_broker(hands, scrape):
    hands.beat("w1", devices={**DEVICES, "broker": BROKER})
    hands.beat("w2", devices={**DEVICES, "broker": {**BROKER, "ok": True, "detail": None}})
    hands.beat("old", devices=DEVICES)
    text = scrape()
    assert value(text, "gradq_worker_broker_ok", worker="w1") == 0
    assert value(text, "gradq_worker_broker_ok", worker="w2") == 1
    assert value(text, "gradq_worker_broker_errors_total", worker="w1") == 7
    assert value(text, "gradq_worker_broker_rejected_messages_total", worker="w1") == 3
    assert 'gradq_worker_broker_ok{worker="old"}' not in text


def test_the_throughput_of_running_jobs(hands, scrape):
    hands.submit(batch_size=32)
    lease = hands.start()
    assert value(scrape(), "gradq_running_examples_per_second") == 0
    hands.progress(lease, epoch=1, epochs=5, step=50, total_steps=100, examples_per_second=640.0)
    text = scrape()
    assert value(text, "gradq_running_examples_per_second") == 640
    assert value(text, "gradq_running_steps_per_second") == 20


def test_live_workers_with_their_slots_and_the_memory_of_their_devices(client, hands, scrape, conforms):
    hands.beat("w1", devices=DEVICES, slots=3, free_slots=2)
    hands.beat("w2", draining=True)
    text = scrape()
    assert value(text, "gradq_workers") == 2
    assert value(text, "gradq_worker_slots", worker="w1") == 3
    assert value(text, "gradq_worker_free_slots", worker="w1") == 2
    assert value(text, "gradq_worker_draining", worker="w2") == 1
    assert value(text, "gradq_device_memory_used_bytes", worker="w1", device="cpu") == 5
    assert value(text, "gradq_device_memory_total_bytes", worker="w1", device="cuda:0 X") == 2
    body = client.get("/v1/workers").json
    conforms(body, "WorkerList")
    assert body["data"][0]["devices"]["memory"] == MEMORY


def test_bytes_in_the_store(client, hands, scrape):
    job = hands.submit()
    lease = hands.start()
    hands.finish(lease, files=[hands.store(lease, "model.json", b"x" * 70)])
    assert value(scrape(), "gradq_stored_bytes", kind="artifacts") == 70
    client.delete(job["links"]["self"])
    assert value(scrape(), "gradq_stored_bytes", kind="artifacts") == 0


def test_requests_by_method_route_and_status_with_few_labels(client, scrape):
    def requests(**labels: str) -> float:
        return samples(scrape()).get(("gradq_http_requests_total", tuple(sorted(labels.items()))), 0)

    shown = {"method": "GET", "route": "/v1/jobs/{job_id}", "status": "404"}
    before, odd = requests(**shown), requests(method="other", route="none", status="404")
    for path in ("/v1/jobs/job_0", "/v1/jobs/job_1"):
        client.get(path)
    client.open("/nothing/here", method="BREW")
    assert requests(**shown) == before + 2
    assert requests(method="other", route="none", status="404") == odd + 1
    seconds = samples(scrape())["gradq_http_request_seconds_count", tuple(sorted(shown.items()))]
    assert seconds == before + 2


def test_a_scrape_asks_few_questions_however_much_there_is(app, hands, scrape):
    for _ in range(5):
        hands.submit()
        hands.finish(hands.start())
    hands.submit()
    asked = []
    engine = app.extensions[EXTENSION].database.engine
    event.listen(engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    scrape()
    assert len([statement for statement in asked if statement.lstrip().startswith("SELECT")]) == 4, asked


def test_promtool_accepts_the_alerting_rules_and_their_metrics_exist(hands, scrape, results):
    rules = ROOT / "docs" / "prometheus-alerts.yml"
    check("rules", str(rules))
    hands.submit()
    hands.beat(devices={**DEVICES, "broker": BROKER})
    hands.finish(hands.start(), result=results["succeeded"])
    scrape()
    known = {name for name, _ in samples(scrape())}
    spoken = set(re.findall(r"gradq_\w+", rules.read_text()))
    assert len(spoken) > 8
    assert spoken <= known


def test_every_metric_is_in_the_manual(hands, scrape, results):
    hands.beat(devices={**DEVICES, "broker": BROKER})
    manual = (ROOT / "docs" / "operations.md").read_text()
    described = set(re.findall(r"`(gradq_\w+)[{`]", manual))
    scrape()
    families = {line.split()[2] for line in scrape().splitlines() if line.startswith("# TYPE")}
    assert families == described


def test_without_a_database_requests_are_still_counted(tmp_path):
    client = create_app(Settings(state_dir=tmp_path / "new", allow_anonymous=True)).test_client()
    text = client.get("/metrics").text
    assert value(text, "gradq_database_up") == 0
    assert "gradq_build_info" in text
    assert "gradq_workers" not in text
    check("metrics", text=text)


# --- with a token, while the database is away -------------------------------------------------------------------------


@pytest.fixture
def away(services, settings):
    """A folder is in the place of the database's file until the end of the block."""

    @contextmanager
    def away():
        services.database.close()
        file = settings.state_dir / "gradq.db"
        file.rename(settings.state_dir / "elsewhere")
        file.mkdir()
        yield
        file.rmdir()
        (settings.state_dir / "elsewhere").rename(file)

    return away


@pytest.fixture
def of_token(client, services):
    """of_token(): headers with a new token of the scope `read`, as for Prometheus."""

    def of_token(name: str = "prometheus") -> dict[str, str]:
        with services.database.write() as session:
            _, text = tokens.create(session, name, "ops", "read", None)
        return {"Authorization": f"Bearer {text}"}

    return of_token


def test_while_the_database_is_away_a_token_that_was_used_here_gets_database_up_0(client, of_token, away, monkeypatch):
    """Else the alert GradqDatabaseAway could not fire, and the API would count as down."""
    headers = of_token()
    assert value(client.get("/metrics", headers=headers).text, "gradq_database_up") == 1
    asked = []
    monkeypatch.setattr(service_stats, "take", lambda *_: asked.append(1))
    with away():
        for _ in range(2):
            answer = client.get("/metrics", headers=headers)
            assert answer.status_code == 200
            assert value(answer.text, "gradq_database_up") == 0
            assert "gradq_http_requests" in answer.text
        assert client.get("/v1/jobs", headers=headers).status_code == 503, "on no other route"
        assert client.get("/v1/whoami", headers=headers).status_code == 503
    assert asked == [], "a database that hangs is not waited for twice"
    monkeypatch.undo()
    assert value(client.get("/metrics", headers=headers).text, "gradq_database_up") == 1


def test_while_the_database_is_away_no_other_token_is_accepted(client, of_token, away, services, monkeypatch):
    used, elsewhere, revoked = of_token(), of_token("elsewhere"), of_token("revoked")
    for headers in (used, revoked):
        assert client.get("/metrics", headers=headers).status_code == 200
    assert client.get("/v1/jobs", headers=elsewhere).status_code == 200
    with services.database.write() as session:
        tokens.revoke(session, "revoked")
    assert client.get("/metrics", headers=revoked).status_code == 401
    never = of_token("never")
    wrong = {"Authorization": used["Authorization"] + "x"}
    with away():
        for headers in (elsewhere, revoked, never, wrong, {"Authorization": "Bearer gq_a_b"}):
            assert client.get("/metrics", headers=headers).status_code == 503
        assert client.get("/metrics", headers=used).status_code == 200
        monkeypatch.setattr(token_uses, "RECENT_SECONDS", -1.0)  # as if an hour had passed
        assert client.get("/metrics", headers=used).status_code == 503
