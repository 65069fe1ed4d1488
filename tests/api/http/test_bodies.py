"""What a body may cost before it is refused: its size by route, the check for duplicate keys, the answer's length."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from flask import Flask
from support.costs import cpu_seconds
from werkzeug.test import TestResponse

from api.http.requests import from_json
from api.openapi.endpoint import NO_BODY_BYTES, SPEC_BYTES, Contract
from shared.errors import MOST_ERRORS, BadRequest, InvalidSpec
from shared.spec.job_spec import JobSpec

SUBMISSIONS = ("/v1/jobs", "/v1/jobs?dry_run=true", "/v1/gradient-checks", "/v1/walks")
KEY = {"Idempotency-Key": "k"}


def fields(count: int) -> str:
    return ",".join(f'"k{i}":0' for i in range(count))


def an_object(*parts: str) -> str:
    return "{" + ",".join(parts) + "}"


# --- duplicate keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        an_object(fields(20_000), '"k19999":0'),
        an_object('"first":0', fields(20_000), '"k0":1'),
        '{"labels":' + an_object(fields(20_000), '"k19999":0') + "}",
        "[" + an_object(fields(20_000), '"\\u006b19999":0') + "]",
        '{"a":[{"b":' + an_object(fields(20_000), '"k10000":0') + "}]}",
    ],
    ids=["last", "first", "nested", "escaped", "deep"],
)
def test_the_search_for_a_duplicate_key_takes_linear_time(body: str) -> None:
    def read() -> None:
        with pytest.raises(BadRequest, match=r'duplicate key "k\d+" in an object'):
            from_json(body.encode())

    assert cpu_seconds(read) < 1  # 0.02 s; a search that is quadratic takes 4 to 20


def test_the_first_name_that_is_repeated_is_named_and_cut() -> None:
    with pytest.raises(BadRequest, match='duplicate key "b"'):
        from_json(b'{"a":1,"b":1,"b":2,"a":2}')
    with pytest.raises(BadRequest) as refused:
        from_json(f'{{"{"x" * 100_000}":1,"{"x" * 100_000}":2}}'.encode())
    assert len(refused.value.detail) < 200


def test_a_sign_in_with_many_keys_is_refused_by_its_size(client, problem) -> None:
    body = an_object(fields(2000))
    answer = problem(client.post("/session", data=body, content_type="application/json"), 413, "payload_too_large")
    assert answer["limit_bytes"] == 8192


# --- limits by route --------------------------------------------------------------------------------------------------


def changing(app: Flask) -> list[tuple[str, str, Any]]:
    """Method, path and view of each route that changes something."""
    ids = {"<job_id>": "job_0", "<job:job_id>": "job_0", "<dataset_id>": "ds_0"}
    found = []
    for rule in app.url_map.iter_rules():
        path = rule.rule
        for name, value in ids.items():
            path = path.replace(name, value)
        for method in sorted(set(rule.methods or ()) - {"GET", "HEAD", "OPTIONS"}):
            found.append((method, path, app.view_functions[rule.endpoint]))
    return found


def limit_of(app: Flask, view: Any) -> int:
    contract: Contract | None = getattr(view, "contract", None)
    if contract is None:
        return int(view.body_bytes)
    with app.app_context():
        return contract.most_body_bytes


def test_every_route_that_changes_something_refuses_a_body_above_its_limit(app, client, problem) -> None:
    routes = changing(app)
    assert len(routes) >= 16
    for method, path, view in routes:
        limit = limit_of(app, view)
        if limit > 1 << 24:  # an upload, which tests/end_to_end/test_upload_limits.py sends
            continue
        answer = client.open(path, method=method, data=b"x" * (limit + 1), content_type="application/json")
        assert problem(answer, 413, "payload_too_large")["limit_bytes"] == limit, path


def test_no_limit_of_a_route_is_larger_than_what_its_body_needs(app) -> None:
    limits = {f"{method} {path}": limit_of(app, view) for method, path, view in changing(app)}
    assert limits["POST /session"] == 8192
    assert limits["POST /v1/jobs"] == limits["POST /v1/walks"] == limits["PATCH /v1/jobs/job_0"] == SPEC_BYTES
    assert limits["POST /v1/jobs/job_0/cancel"] == limits["DELETE /v1/jobs/job_0"] == NO_BODY_BYTES
    assert limits["POST /v1/jobs/job_0/predict"] == 16 << 20  # GRADQ_PREDICT_BYTES


def test_a_chunked_body_is_counted_while_it_is_read(client, problem) -> None:
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    for path, limit in (("/session", 8192), ("/v1/jobs", SPEC_BYTES), ("/v1/walks", SPEC_BYTES)):
        body = io.BytesIO(b" " * 2 * limit)
        answer = client.post(path, input_stream=body, content_type="application/json", environ_overrides=chunked)
        assert problem(answer, 413, "payload_too_large")["limit_bytes"] == limit
        assert body.tell() <= limit + 1


def test_the_longest_labels_and_a_thousand_ids_are_within_the_limits(client) -> None:
    labels = {f"{i:02d}" + "\U0001f40c" * 62: "\U0001f40c" * 512 for i in range(16)}
    assert len(json.dumps({"labels": labels})) < SPEC_BYTES
    assert client.post("/v1/jobs", json={"labels": labels}).status_code == 202
    ids = {"action": "cancel", "ids": ["\U0001f40c" * 30] * 1000}
    answer = client.post("/v1/jobs/bulk", json=ids)
    assert (answer.status_code, answer.json["failed"]) == (200, 1000)


def test_the_document_names_the_limit_of_each_route(client) -> None:
    paths = client.get("/v1/openapi.json").json["paths"]
    told = {
        path: methods["post"]["responses"]["413"]["description"] for path, methods in paths.items() if "post" in methods
    }
    assert f"larger than {SPEC_BYTES} bytes" in told["/v1/jobs"]
    assert f"larger than {NO_BODY_BYTES} bytes" in told["/v1/jobs/{job_id}/pause"]
    assert "GRADQ_PREDICT_BYTES" in told["/v1/jobs/{job_id}/predict"]
    assert "GRADQ_MAX_UPLOAD_BYTES" in told["/v1/datasets"]


# --- the length of an answer ------------------------------------------------------------------------------------------


def errors_of(answer: TestResponse) -> tuple[int, int]:
    """How many errors the answer names, and how many it counts beyond those."""
    return len(answer.json["errors"]), answer.json["more_errors"]


@pytest.mark.parametrize("path", SUBMISSIONS)
def test_many_unknown_fields_are_counted_and_a_hundred_are_named(client, problem, path) -> None:
    answer = client.post(path, json={f"k{i}": 0 for i in range(5000)}, headers=KEY)
    problem(answer, 422, "invalid_spec")
    assert errors_of(answer) == (MOST_ERRORS, 4900)
    assert answer.json["detail"] == "5000 fields are wrong"
    assert len(answer.data) < 40_000


def test_many_errors_of_other_bodies_are_counted_too(client, hands, problem) -> None:
    job = hands.submit()["links"]["self"]
    labels = {f"k{i}": 0 for i in range(500)}
    unknown = {f"k{i}": 0 for i in range(500)}
    for send, path, body in (
        (client.post, "/session", unknown),
        (client.post, "/v1/jobs/bulk", {"action": "cancel", "filter": {"labels": labels}}),
        (client.post, "/v1/jobs/bulk", {"action": "cancel", "ids": [0] * 500}),
        (client.patch, job, {"labels": labels}),
        (client.patch, job, unknown),
    ):
        answer = send(path, json=body)
        assert answer.status_code == 422
        assert len(answer.json["errors"]) <= MOST_ERRORS
        assert len(answer.data) < 40_000


@pytest.mark.parametrize(
    "body",
    [
        {"x" * 100_000: 0},
        {"labels": {"x" * 100_000: 0}},
        {"name": "x" * 100_000},
        {"dataset": "x" * 100_000},
        {"architecture": "x" * 100_000},
        {"architecture": {"type": "mlp", "x" * 100_000: 0}},
        {"\U0001f40c" * 10_000: 0},
    ],
    ids=["field", "label", "name", "dataset", "type", "part", "wide"],
)
def test_an_answer_does_not_repeat_a_long_text(client, body) -> None:
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert len(answer.data) < 10_000


def test_the_errors_of_many_unknown_fields_take_linear_time() -> None:
    def refused(count: int) -> float:
        body = {"labels": {f"k{i}": (0 if i % 2 else "") for i in range(count)}}

        def parse() -> None:
            with pytest.raises(InvalidSpec):
                JobSpec.parse(body)

        return cpu_seconds(parse)

    assert refused(16_000) < 1  # 0.03 s; with a search per field, 6


def test_few_errors_are_as_they_were(client) -> None:
    answer = client.post("/v1/jobs", json={"lr": -1, "epohcs": 3}).json
    assert "more_errors" not in answer
    assert [e["pointer"] for e in answer["errors"]] == ["/lr", "/epohcs"]
