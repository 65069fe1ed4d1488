"""Builds the OpenAPI document: the contract of each route, schemas of all models, examples, links between
operations."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.access.auth import COOKIE
from api.http.errors import PROBLEM
from api.http.requests import LABELS, NO_NUL
from api.openapi import problems, schemas
from api.openapi.endpoint import FORM, JSON, Contract, openapi_path
from api.openapi.header_descriptions import REQUEST_HEADERS, RESPONSE_HEADERS
from api.openapi.request_examples import BODIES
from shared.artifacts import MODEL
from shared.plain_text import PLAIN
from shared.spec.job_spec import JOB_ID, KINDS
from shared.version import VERSION

REF = "#/components/schemas/{model}"
RESPONSE_EXAMPLES = Path(__file__).parent / "response_examples"  # responses recorded from a live service, by model
BINARY = {"type": "string", "format": "binary"}
SAFE = ("GET", "HEAD")
SHORT_FORMS = ("architecture", "init", "loss", "optimizer", "schedule")  # "mlp" is short for {"type": "mlp"}
SHORT_ITEMS = ("augment",)  # fields that are lists of such values

DESCRIPTION = """\
Submit training jobs, follow their progress, download their models.

Requests and responses are JSON; times are RFC 3339 in UTC; names of fields contain their units. Unknown fields and
parameters are refused. Errors are `application/problem+json` (RFC 9457): `code` is for programs, `detail` for people,
and `errors` lists all wrong fields. Every response has an `X-Request-Id`, which is also in the service's log.

A token (`Authorization: Bearer …`) is required unless the service listens on a loopback address only. Each operation
lists the scope that it requires: `read`, `submit` or `admin`. Another owner's job or dataset is a 404, except with the
scope `admin`.
"""
TAGS = {
    "Jobs": "Submit, follow and control jobs. A job is a training, a check of manual gradients, or a walk.",
    "Artifacts": "The files of a finished job: weights, curves, tables.",
    "Datasets": "Datasets to train on: built-in and uploaded.",
    "Service": "Workers, queues, presets, the audit log, and the state of the service.",
}
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "a token made by `gradq token create`"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "the same token, for browsers"},
}
BLUEPRINT_TAGS = {
    **dict.fromkeys(("jobs", "bulk", "steering", "events", "metrics", "predictions"), "Jobs"),
    "artifacts": "Artifacts",
    "datasets": "Datasets",
    **dict.fromkeys(("audit", "health", "presets", "prometheus", "queues", "session", "workers"), "Service"),
}
PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "job_id": {"description": "the job's `id`", "schema": {"type": "string", "pattern": JOB_ID}},
    "dataset_id": {"description": "a built-in name, or the `id` of an upload", "schema": {"type": "string"}},
    "name": {"description": "a file name from the list of artifacts", "schema": {"type": "string"}},
}
LINKED: dict[type[BaseModel], dict[str, str]] = {  # path parameters that a response supplies, by its model
    schemas.Job: {"job_id": "$response.body#/id", "name": MODEL},  # every training has this file
    schemas.Dataset: {"dataset_id": "$response.body#/id"},
}


@dataclass(frozen=True)
class Route:
    """A method of a path with its contract. `text` is the view's docstring, whose first line is the summary."""

    method: str
    path: str
    contract: Contract
    tag: str
    text: str


def build(app: Flask) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the app, with each route that has a contract."""
    routes = list(_routes(app))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    for route in routes:
        _link(paths, paths[route.path][route.method.lower()], route.contract)
    models = {model for route in routes for model in _models(route.contract)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gradq",
            "version": VERSION,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "the service that serves this document"}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas({*models, schemas.Problem}),
            "examples": {
                f"{model.__name__}_{name}": {"value": value}
                for model in sorted(models, key=lambda model: model.__name__)
                for name, value in _response_examples(model).items()
            },
            "securitySchemes": SECURITY_SCHEMES,
            "headers": {"X-Request-Id": {**RESPONSE_HEADERS["X-Request-Id"], "required": True}},
        },
    }


def _routes(app: Flask) -> Iterator[Route]:
    """The routes that have a contract, one per method, ordered by path."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: openapi_path(rule.rule)):
        view = app.view_functions[rule.endpoint]
        contract = getattr(view, "contract", None)
        if contract is not None:
            tag = BLUEPRINT_TAGS[rule.endpoint.partition(".")[0]]
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield Route(method, openapi_path(rule.rule), contract, tag, inspect.getdoc(view) or "")


def _operation(route: Route) -> dict[str, Any]:
    method, contract = route.method, route.contract
    summary, _, description = route.text.partition("\n")
    operation: dict[str, Any] = {
        "operationId": operation_id(method, route.path, contract),
        "tags": [route.tag],
        "summary": summary,
        "parameters": [*_path_parameters(route.path), *_query_parameters(contract), *_headers(method, contract)],
        "security": _security(contract),
        "responses": dict(_responses(method, contract)),
    }
    if description.strip():
        operation["description"] = description.strip()
    if contract.takes_body:
        operation["requestBody"] = {"required": True, "content": _bodies(contract)}
    return operation


# --- names ------------------------------------------------------------------------------------------------------------

VERBS = {"POST": "submit", "PATCH": "update", "PUT": "replace", "DELETE": "delete"}


def operation_id(method: str, path: str, contract: Contract) -> str:
    """`GET /v1/jobs`: list_jobs; `POST /v1/jobs/{job_id}/cancel`: cancel_job. Client generators name methods by it."""
    if contract.name is not None:
        return contract.name
    parts = path.removeprefix("/v1").strip("/").split("/")
    nouns = [re.sub(r"\W", "_", part) for part in parts if not part.startswith("{")]
    if method == "GET":
        lists = contract.answer is not None and contract.answer.__name__.endswith("List")
        verb = "list" if lists else "show" if contract.answer is not None else "download"
        return f"{verb}_{_one(nouns[-1]) if parts[-1].startswith('{') else nouns[-1]}"
    if len(nouns) == 1:
        return f"{VERBS[method]}_{_one(nouns[0])}"
    return f"{nouns[-1]}_{_one(nouns[0]) if '{' in path else nouns[0]}"


def _one(noun: str) -> str:
    return noun.removesuffix("s")


def _security(contract: Contract) -> list[dict[str, list[str]]]:
    """The scope that a token needs; the empty alternative: no token is required on a loopback address."""
    if contract.scope is None:
        return []
    return [{}, *({scheme: [str(contract.scope)]} for scheme in SECURITY_SCHEMES)]


# --- parameters and bodies --------------------------------------------------------------------------------------------


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    return [{"in": "path", "name": name, "required": True, **PATH_PARAMETERS[name]} for name in names]


def _query_parameters(contract: Contract) -> list[dict[str, Any]]:
    parameters = []
    for name, schema in contract.query.model_json_schema(ref_template=REF).get("properties", {}).items():
        parameter: dict[str, Any] = {"in": "query", "name": name, "required": False}
        if description := schema.pop("description", None):
            parameter["description"] = description
        parameter["schema"] = schema = _as_text(schema)
        if schema.get("type") == "array":
            parameter |= {"style": "form", "explode": False}  # a,b,c
        if name == LABELS:
            parameter["name"] = LABELS + "KEY"
            parameter["schema"] = {"type": "string", "maxLength": 512, "pattern": PLAIN}
        parameters.append(parameter)
    return parameters


def _as_text(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a query parameter: without null, which cannot be sent, and without its title."""
    if "anyOf" in schema:
        (schema,) = [branch for branch in schema["anyOf"] if branch.get("type") != "null"]
    schema = {key: value for key, value in schema.items() if key not in ("title", "default") or value not in (None, [])}
    if schema.get("type") == "array":
        schema["minItems"] = 1
    if schema.get("type") == "string" and not schema.keys() & {"enum", "pattern", "format"}:
        schema["pattern"] = NO_NUL
    return schema


def _headers(method: str, contract: Contract) -> list[dict[str, Any]]:
    implied = {"If-None-Match": contract.conditional, "Range": contract.ranges, "Idempotency-Key": method == "POST"}
    names = [*contract.takes, *(name for name, holds in implied.items() if holds)]
    return [{"in": "header", "name": name, "required": False, **REQUEST_HEADERS[name]} for name in names]


def _bodies(contract: Contract) -> dict[str, Any]:
    sent: dict[str, type[BaseModel] | dict[str, Any] | None]
    sent = {JSON: contract.body, FORM: contract.form, **contract.other_bodies}
    return {media: _body(what) for media, what in sent.items() if what is not None}


def _body(what: type[BaseModel] | dict[str, Any]) -> dict[str, Any]:
    if isinstance(what, dict):
        return {"schema": what}
    examples = BODIES.get(what)
    return {"schema": _reference(what), **({"examples": examples} if examples else {})}


# --- answers ----------------------------------------------------------------------------------------------------------


def _responses(method: str, contract: Contract) -> Iterator[tuple[str, dict[str, Any]]]:
    """Responses by status: successes first, then problems."""
    content = {media: {"schema": _schema_of(media)} for media in contract.media}
    if contract.answer is not None:
        content[JSON] = _json(contract.answer)
    described = inspect.getdoc(contract.answer) if contract.answer is not None else None
    headers = dict.fromkeys(contract.headers, True) | dict.fromkeys(contract.sometimes, False)
    if contract.conditional:
        headers["ETag"] = True
    if method == "POST":
        headers["Idempotent-Replayed"] = False
    yield _response(contract.status, described or "the file", content, headers)
    if contract.ranges:
        yield _response(206, "the requested range", content, headers | {"Content-Range": True})
    if contract.conditional:
        yield _response(304, "the ETag matches If-None-Match; no body", {}, {"ETag": True})
    for status, other in contract.other_answers.items():
        yield _response(status, inspect.getdoc(other) or "", {JSON: _json(other)}, {})
    asked = () if contract.scope is None else (401, 403, 429, 503)
    always = (*((409,) if method == "POST" else ()), *((413,) if method not in SAFE else ()))
    for status in sorted({*contract.errors, 422, *asked, *always}):
        yield _refusal(method, status, contract)


def _response(
    status: int, description: str, content: dict[str, Any], headers: dict[str, bool]
) -> tuple[str, dict[str, Any]]:
    """Status and response object. `headers`: by name, whether every response has it."""
    described: dict[str, Any] = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    described |= {name: {**RESPONSE_HEADERS[name], "required": always} for name, always in headers.items()}
    return str(status), {"description": description, "headers": described, **({"content": content} if content else {})}


def _refusal(method: str, status: int, contract: Contract) -> tuple[str, dict[str, Any]]:
    own = contract.problems.get(status)
    if status == 403:
        own = problems.SCOPE if method in SAFE else problems.OF_CHANGES
    if own is None and (status in contract.errors or status != 409):
        own = problems.codes_of(status, contract.body is not None, contract.form is not None)
    codes = (*(own or ()), *(problems.IDEMPOTENCY.get(status, ()) if method == "POST" else ()))
    meaning = problems.DESCRIPTIONS[status] if status != 413 else _too_large(contract)
    description = f"{meaning}: {', '.join(f'`{code}`' for code in codes)}"
    schema = {"$ref": REF.format(model="Problem"), "properties": {"code": {"enum": list(codes)}}}
    examples = {code: {"value": problems.example(status, code)} for code in codes}
    return _response(
        status,
        description,
        {PROBLEM: {"schema": schema, "examples": examples}},
        {"WWW-Authenticate": True} if status == 401 else {"Retry-After": True} if status in (429, 503) else {},
    )


def _too_large(contract: Contract) -> str:
    if isinstance(contract.body_bytes, str):
        return f"the body is larger than the setting GRADQ_{contract.body_bytes.upper()}"
    return f"the body is larger than {contract.body_bytes} bytes"


def _schema_of(media: str) -> dict[str, Any]:
    """Schema of a file by its media type: text, bytes, or any JSON."""
    if media == JSON:
        return {}
    return {"type": "string"} if media.startswith("text/") else BINARY


def _json(model: type[BaseModel]) -> dict[str, Any]:
    examples = {name: {"$ref": f"#/components/examples/{model.__name__}_{name}"} for name in _response_examples(model)}
    return {"schema": _reference(model), **({"examples": examples} if examples else {})}


def _response_examples(model: type[BaseModel]) -> dict[str, Any]:
    """Recorded responses of this model, by name; none for the model of a request body."""
    file = RESPONSE_EXAMPLES / f"{model.__name__}.json"
    examples: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return examples


def _link(paths: dict[str, Any], operation: dict[str, Any], contract: Contract) -> None:
    """Add links from a response to each operation whose path parameters it supplies."""
    given = LINKED.get(contract.answer) if contract.answer is not None else None
    if given is None:
        return
    links = {}
    for path, operations in paths.items():
        wanted = set(re.findall(r"{(\w+)}", path))
        if wanted and wanted <= given.keys():
            for other in operations.values():
                parameters = {name: given[name] for name in sorted(wanted)}
                links[other["operationId"]] = {"operationId": other["operationId"], "parameters": parameters}
    operation["responses"][str(contract.status)]["links"] = links


# --- schemas ----------------------------------------------------------------------------------------------------------


def _models(contract: Contract) -> Iterator[type[BaseModel]]:
    for model in (contract.answer, contract.body, contract.form, *contract.other_answers.values()):
        if model is not None:
            yield model


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REF.format(model=model.__name__)}


def _schemas(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    ordered = sorted(models, key=lambda model: model.__name__)
    _, document = models_json_schema([(model, "validation") for model in ordered], ref_template=REF)
    definitions: dict[str, Any] = document["$defs"]
    for spec in KINDS.values():
        fields = definitions[spec.__name__]["properties"]
        for name in fields.keys() & set(SHORT_FORMS):
            fields[name] = _with_short_form(spec, name, fields[name], definitions)
        for name in fields.keys() & set(SHORT_ITEMS):
            fields[name]["items"] = _with_short_form(spec, name, fields[name]["items"], definitions)
        for field in fields.values():
            _describe_default(field)
    return definitions


def _describe_default(field: dict[str, Any]) -> None:
    """Move a default from the schema to the description where it is not usable: an empty text for which the server
    derives a value, and an object as the default of a union, which client generators do not support."""
    if field.get("default") == "" and field.get("minLength"):
        del field["default"]
        _append_description(field, "default: derived from the other fields")
    if ("oneOf" in field or "anyOf" in field) and isinstance(field.get("default"), dict):
        _append_description(field, f"default: {json.dumps(field.pop('default'))}")


def _append_description(field: dict[str, Any], more: str) -> None:
    field["description"] = "; ".join(filter(None, (field.get("description"), more)))


def _with_short_form(
    spec: type[BaseModel], field: str, whole: dict[str, Any], definitions: dict[str, Any]
) -> dict[str, Any]:
    """Allow the type's name alone for an object with no other required fields; the default is the name too.

    Fields with the same names share one enum; a field with other names has an enum of its own.
    """
    described = {"default": whole.pop("default")["type"]} if "default" in whole else {}
    if "description" in whole:
        described["description"] = whole.pop("description")
    branches = whole["discriminator"]["mapping"].items()
    short = [name for name, branch in branches if not definitions[branch.rpartition("/")[2]].get("required")]
    title = f"{field.title()}Name"
    if title in definitions and definitions[title]["enum"] != sorted(short):
        title = spec.__name__.removesuffix("Spec") + title
    definitions[title] = {"title": title, "type": "string", "enum": sorted(short)}
    return {"anyOf": [{"$ref": REF.format(model=title)}, whole], **described}
