"""The service as a whole: health, workers, datasets, the OpenAPI document, the docs page, and errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from structlog.testing import capture_logs

from api.app import create_app
from api.openapi.endpoint import openapi_path
from api.services import EXTENSION
from shared.config import Settings
from shared.db.database import Database
from shared.jobs import jobs
from shared.spec.job_spec import JobSpec

ROOT = Path(__file__).parents[2]
FOREIGN = re.compile(r"(?:https?:)?//[a-z]", re.IGNORECASE)


@pytest.fixture
def client_without_database(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    (folder / "gradq.db").mkdir()  # a folder in place of the file: SQLite cannot open it
    return create_app(
        Settings(state_dir=folder, redis_url=f"redis+socket://{tmp_path}/nobody.sock", allow_anonymous=True)
    ).test_client()


class TestHealth:
    def test_alive_needs_no_database(self, client_without_database, conforms):
        answer = client_without_database.get("/healthz")
        assert answer.status_code == 200
        conforms(answer.json, "Health")

    def test_ready_while_the_broker_is_away(self, client, hands, conforms):
        hands.beat()
        body = client.get("/readyz").json
        conforms(body, "Readiness")
        expected = {"ready": True, "database": "ok", "broker": "away", "broker_detail": "Redis cannot be reached"}
        assert body == {**expected, "workers": 1, "workers_without_broker": 0}

    def test_workers_that_receive_no_messages_are_counted(self, client, hands, conforms):
        state = {"ok": True, "detail": None, "errors": 0, "rejected": 0}
        devices = {"kinds": ["cpu"], "slots": []}
        hands.beat("old", devices=devices)
        hands.beat("well", devices={**devices, "broker": state})
        hands.beat("without", devices={**devices, "broker": {**state, "ok": False, "detail": "READONLY: …"}})
        body = client.get("/readyz").json
        conforms(body, "Readiness")
        assert (body["ready"], body["workers"], body["workers_without_broker"]) == (True, 3, 1)
        found = client.get("/v1/workers").json
        conforms(found, "WorkerList")
        assert [row["broker"] and row["broker"]["ok"] for row in found["data"]] == [None, True, False]
        assert all(set(row["devices"]) == {"kinds", "slots"} for row in found["data"])

    def test_not_ready_without_a_database(self, client_without_database, problem):
        answer = client_without_database.get("/readyz")
        body = problem(answer, 503, "database_away")
        assert (body["ready"], body["database"], body["broker"]) == (False, "away", "away")
        assert int(answer.headers["Retry-After"]) > 0

    def test_not_ready_before_the_tables_are_made(self, tmp_path, problem):
        client = create_app(Settings(state_dir=tmp_path / "new", allow_anonymous=True)).test_client()
        assert problem(client.get("/readyz"), 503, "database_away")["ready"] is False

    def test_version_names_the_api(self, client, conforms):
        body = client.get("/v1/version").json
        conforms(body, "Version")
        assert body["api"] == "v1"


def test_workers_show_what_runs_on_them(client, hands, conforms):
    job = hands.submit()
    hands.start("w1")
    hands.beat("w1")
    hands.beat("w2", draining=True)
    body = client.get("/v1/workers").json
    conforms(body, "WorkerList")
    assert [(worker["id"], worker["running"]) for worker in body["data"]] == [("w1", [job["id"]]), ("w2", [])]
    assert body["data"][0]["devices"]["slots"] == [{"kind": "cpu", "name": "cpu", "uuid": None}]


def test_a_dataset_lists_its_missing_files(client, settings, conforms):
    digits, mnist, *_ = client.get("/v1/datasets").json["data"]
    assert (digits["available"], digits["missing_files"]) == (True, [])
    assert mnist["available"] is False
    folder = settings.datasets_dir / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in mnist["missing_files"][1:]:
        (settings.datasets_dir / f"{name}.gz").touch()
    body = client.get("/v1/datasets").json
    conforms(body, "DatasetList")
    assert body["data"][1]["missing_files"] == ["MNIST/raw/train-images-idx3-ubyte"]


def test_the_example_of_every_architecture_is_accepted(client, hands, conforms):
    body = client.get("/v1/architectures").json
    conforms(body, "ArchitectureList")
    assert [architecture["type"] for architecture in body["data"]] == ["linear", "mlp", "cnn", "torchvision"]
    for architecture in body["data"]:
        assert set(architecture["fields"]) == set(architecture["example"]) - {"type"}
        for gradients in architecture["gradients"]:
            JobSpec.parse({"architecture": architecture["example"], "gradients": gradients})


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("GET", "/nothing", 404, "not_found"),
            ("GET", "/v1/jobs/", 404, "not_found"),
            ("GET", "/v1/jobs/%00", 404, "not_found"),
            ("GET", "/docs/nothing.js", 404, "not_found"),
            ("GET", "/static/nothing.js", 404, "not_found"),
            ("POST", "/v1/jobs/job_0/pause", 404, "not_found"),
            ("POST", "/v1/jobs/job_0/retry", 404, "not_found"),
            ("PUT", "/v1/jobs/job_0", 405, "method_not_allowed"),
            ("PUT", "/v1/jobs", 405, "method_not_allowed"),
            ("POST", "/healthz", 405, "method_not_allowed"),
            ("GET", "/v1/jobs/bulk", 405, "method_not_allowed"),
            ("PATCH", "/v1/jobs/bulk", 405, "method_not_allowed"),
        ],
    )
    def test_unknown_paths_are_a_problem_too(self, client, problem, method, path, status, code):
        problem(client.open(path, method=method), status, code)

    @pytest.mark.parametrize("path", ["/v1/jobs/%00", "/v1/jobs/job_0/artifacts/a%00b", "/jobs/a%00b"])
    def test_a_nul_never_reaches_the_database_where_postgresql_would_refuse_it(
        self, client_without_database, problem, path
    ):
        problem(client_without_database.get(path), 404, "not_found")  # not 503: the database was not queried

    def test_405_says_what_is_allowed(self, client):
        allowed = client.put("/v1/jobs").headers["Allow"]
        assert {"GET", "POST"} <= set(allowed.split(", "))

    @pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/job_0", "/v1/workers", "/v1/jobs/job_0/events"])
    def test_a_database_that_is_away_is_a_503_without_a_word_of_the_driver(
        self, client_without_database, problem, path
    ):
        answer = client_without_database.get(path)
        body = problem(answer, 503, "database_away")
        assert int(answer.headers["Retry-After"]) > 0
        assert "unable to open" not in answer.text
        assert "gradq.db" not in body["detail"]

    def test_a_submission_without_a_database_is_a_503(self, client_without_database, problem):
        problem(client_without_database.post("/v1/jobs", json={}), 503, "database_away")

    def test_an_unexpected_error_is_a_500_with_details_in_the_log_only(self, client, problem, monkeypatch):
        def fail(*_):
            raise RuntimeError("the secret is swordfish")

        monkeypatch.setattr(jobs, "get", fail)
        with capture_logs() as lines:
            answer = client.get("/v1/jobs/job_0/events")
        body = problem(answer, 500, "internal_error")
        assert "swordfish" not in answer.text
        (line,) = [line for line in lines if line["event"] == "request failed"]
        assert str(line["exc_info"]) == "the secret is swordfish"
        assert line["request_id"] == body["request_id"]

    def test_every_call_without_parameters_refuses_them(self, client, problem):
        for path in ("/healthz", "/readyz", "/v1/version", "/v1/workers", "/v1/datasets", "/v1/jobs/job_0"):
            problem(client.get(f"{path}?surprise=1"), 422, "invalid_query")


class TestRequestId:
    def test_a_given_request_id_is_in_the_response_and_in_the_log(self, client):
        with capture_logs() as lines:
            answer = client.get("/healthz", headers={"X-Request-Id": "abc-1"})
        assert answer.headers["X-Request-Id"] == "abc-1"
        (line,) = [line for line in lines if line["event"] == "request"]
        assert (line["request_id"], line["path"], line["status"]) == ("abc-1", "/healthz", 200)

    @pytest.mark.parametrize("given", ["", "a b", "x" * 200, '"><script>'])
    def test_a_malformed_request_id_is_replaced(self, client, given):
        made = client.get("/healthz", headers={"X-Request-Id": given}).headers["X-Request-Id"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)


class TestDocument:
    def test_every_route_is_documented(self, app, client):
        paths = client.get("/v1/openapi.json").json["paths"]
        documented = {(path, method.upper()) for path, methods in paths.items() for method in methods}
        served = {
            (openapi_path(rule.rule), method)
            for rule in app.url_map.iter_rules()
            for method in rule.methods - {"HEAD", "OPTIONS"}
            if not rule.endpoint.startswith(("docs.", "dashboard.", "assets.")) and rule.rule != "/session"
        }
        assert documented == served
        assert len(served) == 36

    def test_every_reference_resolves_and_every_operation_is_complete(self, client):
        answer = client.get("/v1/openapi.json")
        document = answer.json
        assert document["openapi"].startswith("3.1")
        for name in re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', answer.text):
            assert name in document["components"]["schemas"]
        operations = [op for methods in document["paths"].values() for op in methods.values()]
        assert len({op["operationId"] for op in operations}) == len(operations)
        for op in operations:
            assert op["summary"]
            assert any(status.startswith("2") for status in op["responses"])
            for status, response in op["responses"].items():
                if status >= "4":
                    assert list(response["content"]) == ["application/problem+json"]

    def test_submitting_is_described_with_its_short_forms(self, client, conforms):
        document = client.get("/v1/openapi.json").json
        body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body == {"$ref": "#/components/schemas/JobSpec"}
        conforms({"architecture": "mlp", "lr": 0.1, "epochs": 5, "gradients": "manual"}, "JobSpec")
        with pytest.raises(Exception, match="optimiser"):
            conforms({"optimiser": "sgd"}, "JobSpec")

    def test_short_forms_are_for_objects_that_require_only_their_type(self, client, conforms):
        conforms({"schedule": "cosine", "augment": ["flip", {"type": "crop", "padding": 2}]}, "JobSpec")
        conforms({"architecture": {"type": "torchvision", "name": "resnet18"}, "init_from": None}, "JobSpec")
        conforms({"architecture": "cnn", "batches": 2}, "GradientCheckSpec")
        conforms({"architecture": "mlp", "batch": 2}, "WalkSpec")
        for body in (
            {"architecture": "torchvision"},
            {"schedule": "cosin"},
            {"augment": ["blur"]},
            {"augment": "flip"},
        ):
            with pytest.raises(jsonschema.ValidationError):
                conforms(body, "JobSpec")
        with pytest.raises(jsonschema.ValidationError):
            conforms({"architecture": {"type": "torchvision", "name": "resnet18"}}, "GradientCheckSpec")
        with pytest.raises(jsonschema.ValidationError):
            conforms({"architecture": "cnn"}, "WalkSpec")

    def test_both_answers_of_a_submission_are_described(self, client):
        responses = client.get("/v1/openapi.json").json["paths"]["/v1/jobs"]["post"]["responses"]
        schemas = {s: responses[s]["content"]["application/json"]["schema"]["$ref"] for s in ("200", "202")}
        assert schemas == {"200": "#/components/schemas/DryRun", "202": "#/components/schemas/Job"}

    def test_the_parameters_of_the_list_are_named(self, client):
        listing = client.get("/v1/openapi.json").json["paths"]["/v1/jobs"]["get"]
        names = [parameter["name"] for parameter in listing["parameters"]]
        assert names == ["status", "name", "owner", "label.KEY", "created_after", "created_before", "after", "limit"]


class TestDocs:
    def test_the_page_loads_files_from_this_service_only(self, client):
        page = client.get("/docs")
        assert page.status_code == 200
        assert not FOREIGN.search(page.text)
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
        sources = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
        assert len(sources) == 4
        for source in sources:
            assert client.get(source).status_code == 200
        assert not FOREIGN.search(client.get("/docs/start.js").text)


EVERY_ROUTE = """
import sys
from pathlib import Path
import api.app
assert "matplotlib" not in sys.modules, "matplotlib is imported with the module"
from shared.config import Settings
app = api.app.create_app()
assert not Path(sys.argv[1]).joinpath("gradq.db").exists(), "the database was opened before the first request"
app.extensions["gradq"].database.migrate()
client = app.test_client()
job = client.post("/v1/jobs", json={}).json["id"]
for rule in app.url_map.iter_rules():
    path = rule.rule.replace("<job:", "<").replace("<job_id>", job).replace("<name>", "start.js")
    path = path.replace("<version>/<path:name>", "x/gradq.css")
    for method in ("GET", "POST"):
        if method in rule.methods:
            status = client.open(path, method=method).status_code
            assert status < 500, (path, status)
from safetensors.numpy import save
from shared.jobs import queue
from shared.artifacts import artifact_key
from shared.jobs.states import JobState
import json, numpy
services = app.extensions["gradq"]
layers = [{"type": "Flatten", "arguments": {}}, {"type": "Linear", "arguments": {}}]
scale = {"mean": [0], "std": [1], "white": 1}
about = {"layers": layers, "input_shape": [1, 1, 1], "classes": ["a", "b"], "normalization": scale}
weights = {"1.weight": numpy.array([[1], [-1]], "f4"), "1.bias": numpy.zeros(2, "f4")}
client.post("/v1/jobs", json={})
with services.database.write() as session:
    lease = queue.lease_of(queue.claim(session, "w", "cpu", ["auto", "cpu"], 30))
    files = []
    for name, content in (("model.json", json.dumps(about).encode()), ("model.safetensors", save(weights))):
        path = Path(sys.argv[1]) / name
        path.write_bytes(content)
        files.append(services.store.put(artifact_key(lease.job_id, 1, name), path))
    queue.finish(session, lease, JobState.SUCCEEDED, "done", files=files)
answer = client.post(f"/v1/jobs/{lease.job_id}/predict", json={"images": [[1]]})
assert answer.json["predictions"][0]["class"] == "a", answer.text
heavy = {"torch", "torchvision", "sklearn", "worker", "gradq", "matplotlib.pyplot"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.slow
def test_a_process_that_served_every_route_has_imported_neither_torch_nor_the_worker(tmp_path):
    settings = {"GRADQ_STATE_DIR": str(tmp_path), "GRADQ_ALLOW_ANONYMOUS": "true"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", EVERY_ROUTE, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_apps_in_one_process_do_not_share_their_rows(tmp_path):
    apps = [create_app(Settings(state_dir=tmp_path / name, allow_anonymous=True)) for name in "ab"]
    for app in apps:
        app.extensions[EXTENSION].database.migrate()
    apps[0].test_client().post("/v1/jobs", json={})
    assert [len(app.test_client().get("/v1/jobs").json["data"]) for app in apps] == [1, 0]
    assert isinstance(apps[0].extensions[EXTENSION].database, Database)


@pytest.mark.parametrize(
    "path", ["/" + "x" * 8000, "/v1/jobs/" + "ü" * 4000, "/v1/jobs?" + "x" * 8000, "/healthz/" + "%00" * 2000]
)
@pytest.mark.parametrize("token", [None, "gq_" + "x" * 4000])
def test_a_request_without_a_valid_token_costs_few_bytes_of_the_log(settings, new_sqlite, path, token) -> None:
    new_sqlite(settings.database).close()
    client = create_app(settings.model_copy(update={"allow_anonymous": False})).test_client()
    headers = {"X-Request-Id": "r" * 4000, "User-Agent": "u" * 4000, "Referer": "http://h/" + "r" * 4000}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    with capture_logs() as lines:
        assert client.get(path, headers=headers).status_code in (400, 401, 404)
    assert lines
    assert sum(len(json.dumps(line)) for line in lines) < 2000
