"""The OpenAPI document: complete and valid, with valid examples and links."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import pytest

from api.openapi import schemas
from api.openapi.document import RESPONSE_EXAMPLES
from api.openapi.endpoint import Contract
from api.openapi.problems import TITLES
from api.openapi.request_examples import BODIES
from shared.errors import TrainingError
from shared.jobs.retry_backoff import OUTAGES, Cause
from shared.jobs.states import TERMINAL
from worker.attempt_outcome import StopReason


@pytest.fixture
def document(client) -> dict[str, Any]:
    """The OpenAPI document, as served."""
    found: dict[str, Any] = client.get("/v1/openapi.json").json
    return found


Operation = tuple[str, str, dict[str, Any]]


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def validator(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


def contents(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The contents of all request and response bodies, each with a name for messages."""
    for method, path, operation in operations(document):
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{method} {path} takes {media}", content
        for status, response in operation["responses"].items():
            for media, content in response.get("content", {}).items():
                yield f"{method} {path} answers {status} {media}", content


def test_every_example_conforms_to_its_schema(document):
    seen = 0
    for where, content in contents(document):
        for name, example in content.get("examples", {}).items():
            if "$ref" in example:
                example = document["components"]["examples"][example["$ref"].rpartition("/")[2]]
            errors = [error.message for error in validator(document, content["schema"]).iter_errors(example["value"])]
            assert not errors, f"{where}, example {name}: {errors}"
            seen += 1
    assert seen > 100


def test_every_json_answer_and_every_json_body_has_an_example(document):
    for where, content in contents(document):
        if "json" in where.rpartition(" ")[2] and content["schema"]:
            assert content.get("examples"), where


def test_every_recorded_answer_is_shown(document):
    stored = {
        f"{path.stem}_{name}" for path in RESPONSE_EXAMPLES.glob("*.json") for name in json.loads(path.read_text())
    }
    assert stored == document["components"]["examples"].keys()


@pytest.mark.parametrize(
    ("model", "path"),
    [("JobSpec", "/v1/jobs"), ("GradientCheckSpec", "/v1/gradient-checks"), ("WalkSpec", "/v1/walks")],
)
def test_every_example_of_a_body_is_accepted(client, model, path):
    (examples,) = [examples for kind, examples in BODIES.items() if kind.__name__ == model]
    for name, example in examples.items():
        answer = client.post(path, json=example["value"])
        assert answer.status_code == 202, (name, answer.text)


def test_names_are_those_that_client_generators_made_methods_of(document):
    names = {f"{method} {path}": operation["operationId"] for method, path, operation in operations(document)}
    assert names["GET /v1/jobs"] == "list_jobs"
    assert names["POST /v1/jobs"] == "submit_job"
    assert names["GET /v1/jobs/{job_id}"] == "show_job"
    assert names["DELETE /v1/jobs/{job_id}"] == "delete_job"
    assert names["POST /v1/jobs/{job_id}/cancel"] == "cancel_job"
    assert names["GET /v1/jobs/{job_id}/events"] == "list_events"
    assert names["GET /v1/jobs/{job_id}/metrics"] == "show_metrics"
    assert names["GET /v1/jobs/{job_id}/artifacts/{name}"] == "download_artifact"
    assert names["POST /v1/datasets"] == "upload_dataset"
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names.values())
    assert len(set(names.values())) == len(names)


def test_every_operation_has_a_tag_that_is_described(document):
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    used = {tag for *_, operation in operations(document) for tag in operation["tags"]}
    assert used == described
    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    assert document["servers"][0]["url"] == "/"


def test_every_refusal_names_its_codes_and_shows_each(document):
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if status < "400":
                continue
            content = response["content"]["application/problem+json"]
            codes = content["schema"]["properties"]["code"]["enum"]
            assert list(content["examples"]) == codes, (method, path, status)
            for code in codes:
                assert content["examples"][code]["value"]["status"] == int(status)
                assert f"`{code}`" in response["description"]


def test_every_answer_carries_its_request_id_and_what_is_for_later_says_when(document):
    for *_, operation in operations(document):
        for status, response in operation["responses"].items():
            assert "X-Request-Id" in response["headers"]
            assert ("Retry-After" in response["headers"]) or status not in ("429", "503")


def test_a_submission_links_to_all_that_can_be_done_with_its_job(document):
    links = document["paths"]["/v1/jobs"]["post"]["responses"]["202"]["links"]
    assert {"show_job", "cancel_job", "list_events", "show_metrics", "list_artifacts", "delete_job"} <= links.keys()
    assert all(link["parameters"]["job_id"] == "$response.body#/id" for link in links.values())
    assert links["download_artifact"]["parameters"]["name"] == "model.safetensors"
    named = {operation["operationId"] for *_, operation in operations(document)}
    for *_, operation in operations(document):
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                assert link["operationId"] in named


def test_no_parameter_can_be_null(document):
    for *_, operation in operations(document):
        for parameter in operation["parameters"]:
            assert "null" not in json.dumps(parameter["schema"])


def test_every_default_is_a_value_that_may_be_sent(document):
    seen = 0
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            if "default" in described:
                errors = [error.message for error in validator(document, described).iter_errors(described["default"])]
                assert not errors, f"{name}.{field}: {errors}"
                seen += 1
    assert seen > 50


def test_the_enums_contain_every_value_that_is_written(document):
    reasons = set(get_args(schemas.StatusReason.model_fields["code"].annotation))
    kinds: list[Any] = _below(TrainingError)
    assert {kind.code for kind in kinds} - {*OUTAGES} <= reasons  # an outage ends attempts, and no job
    outcomes = set(get_args(schemas.Outcome))
    assert {state.value for state in TERMINAL} | {"paused", "drained", *get_args(Cause)} == outcomes
    assert {"drained", "paused"} & {stop.value for stop in StopReason} <= outcomes


def _below(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(narrower for child in kind.__subclasses__() for narrower in _below(child))]


def test_every_code_that_a_route_names_has_a_title(app):
    for view in app.view_functions.values():
        contract: Contract | None = getattr(view, "contract", None)
        for codes in (contract.problems if contract else {}).values():
            assert set(codes) <= TITLES.keys()
