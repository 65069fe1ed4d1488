"""Each route's contract, declared where the view stands: what `endpoint` is told is both checked and documented."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from apiflask import APIBlueprint, APIFlask
from apiflask.scaffold import APIScaffold
from flask import Response, send_from_directory
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.exceptions import NotFound

from api import schemas
from api.errors import PROBLEM
from api.requests import LABELS, MAX_KEY, NoQuery, Query, check_headers, check_path, parse_query
from shared.spec import KINDS

View = Callable[..., Any]
REF = "#/components/schemas/{model}"
TEXT_OR_BYTES: dict[str, Any] = {"schema": {"type": "string"}}
JSON, FORM = "application/json", "multipart/form-data"
SHORT_FORMS = ("architecture", "init", "loss", "optimizer", "schedule")  # "mlp" is short for {"type": "mlp"}
SHORT_ITEMS = ("augment",)  # lists of such values


def endpoint(
    answer: type[BaseModel] | None,
    *,
    status: int = 200,
    query: type[Query] = NoQuery,
    body: type[BaseModel] | None = None,
    form: type[BaseModel] | None = None,
    other_bodies: Mapping[str, dict[str, Any]] | None = None,
    media: Sequence[str] = (JSON,),
    other_answers: Mapping[int, type[BaseModel]] = MappingProxyType({}),
    errors: Sequence[int] = (),
) -> Callable[[View], View]:
    """Check path, headers and query before the view runs, and tell the OpenAPI document about all of it.

    A view whose `query` has fields receives it as keyword `query`; any other parameter is a 422. `other_bodies` are
    schemas of what may be sent instead of JSON, by media type.
    """
    content = dict.fromkeys(media, TEXT_OR_BYTES)
    if answer is not None:
        content[JSON] = _reference(answer.__name__)
    responses: dict[int | str, Any] = {str(status): {"description": "what was asked for", "content": content}}
    for code, other in other_answers.items():
        content = {JSON: _reference(other.__name__)}
        responses[str(code)] = {"description": inspect.getdoc(other), "content": content}
    for code in sorted({*errors, 422}):
        responses[str(code)] = {"description": PROBLEMS[code], "content": {PROBLEM: _reference("Problem")}}

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def checked(**path: Any) -> Any:
            check_path(path)
            check_headers()
            parsed = parse_query(query)
            return view(**path) if query is NoQuery else view(**path, query=parsed)

        bodies = {JSON: _reference(body.__name__)} if body is not None else {}
        bodies |= {FORM: _reference(form.__name__)} if form is not None else {}
        bodies |= {kind: {"schema": schema} for kind, schema in (other_bodies or {}).items()}
        checked.gradq_query, checked.gradq_bodies = query, bodies  # type: ignore[attr-defined]
        return APIScaffold().doc(responses=responses)(checked)

    return decorate


def _reference(model: str) -> dict[str, Any]:
    return {"schema": {"$ref": REF.format(model=model)}}


IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
    "description": "a name for this request: sent again within 24 h, it gets the first answer and does nothing twice",
}

PROBLEMS = {
    400: "the body is not JSON",
    403: "this may not be done",
    404: "there is no such job, data set or file",
    406: "only JSON is sent here",
    409: "the job's state does not allow this, as `state` and `allowed` say; or the first request with this "
    "Idempotency-Key is under way",
    412: "it has changed since the ETag that If-Match names",
    413: "the body is too large",
    415: "the body is not sent in the form that this call takes",
    416: "the range lies outside of the file",
    422: "what was sent is not valid; `errors` names every wrong field",
    503: "the database is away; `Retry-After` says when to ask again",
}


# --- the document -----------------------------------------------------------------------------------------------------


def complete(app: APIFlask) -> None:
    """Have APIFlask's document filled with what it cannot know: parameters, bodies, schemas."""

    @app.spec_processor
    def fill(document: dict[Any, Any] | str) -> dict[Any, Any] | str:
        assert isinstance(document, dict), "SPEC_FORMAT is json"
        document.setdefault("components", {})["schemas"] = _schemas()
        for rule in app.url_map.iter_rules():
            view = app.view_functions[rule.endpoint]
            operations = document["paths"].get(_openapi_path(rule.rule), {})
            for method in (rule.methods or set()) & {method.upper() for method in operations}:
                operation = operations[method.lower()]
                operation["operationId"] = rule.endpoint.replace(".", "_")
                operation["parameters"] += _parameters(getattr(view, "gradq_query", NoQuery))
                if method == "POST":
                    operation["parameters"].append(IDEMPOTENCY_KEY)
                if bodies := getattr(view, "gradq_bodies", None):
                    operation["requestBody"] = {"required": True, "content": bodies}
        return document


def _openapi_path(rule: str) -> str:
    return rule.replace("<path:", "{").replace("<", "{").replace(">", "}")


def _schemas() -> dict[str, Any]:
    models = [
        model
        for model in vars(schemas).values()
        if isinstance(model, type) and issubclass(model, schemas.BaseModel) and model not in (BaseModel, schemas.Answer)
    ]
    _, document = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    definitions: dict[str, Any] = document["$defs"]
    for spec in KINDS.values():
        fields = definitions[spec.__name__]["properties"]
        for name in fields.keys() & set(SHORT_FORMS):
            fields[name] = _with_short_form(fields[name], definitions)
        for name in fields.keys() & set(SHORT_ITEMS):
            fields[name]["items"] = _with_short_form(fields[name]["items"], definitions)
    return definitions


def _with_short_form(whole: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The name alone stands for an object that needs nothing but its type."""
    default = {"default": whole.pop("default")} if "default" in whole else {}
    branches = whole["discriminator"]["mapping"].items()
    short = [name for name, branch in branches if not definitions[branch.rpartition("/")[2]].get("required")]
    return {"anyOf": [{"enum": sorted(short)}, whole], **default}


def _parameters(model: type[Query]) -> list[dict[str, Any]]:
    parameters = []
    for name, schema in model.model_json_schema().get("properties", {}).items():
        parameter = {"in": "query", "name": name, "required": False, "schema": schema}
        if description := schema.pop("description", None):
            parameter["description"] = description
        if schema.get("type") == "array":
            parameter |= {"style": "form", "explode": False}  # a,b,c
        if name == LABELS:
            parameter["name"] = LABELS + "KEY"
            parameter["schema"] = {"type": "string", "maxLength": 512}
        parameters.append(parameter)
    return parameters


# --- the pages --------------------------------------------------------------------------------------------------------

bp = APIBlueprint("docs", __name__, enable_openapi=False)

DOCS_CSP = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
FILES = {"swagger-ui.css": "css", "swagger-ui-bundle.js": "js"}
START = 'SwaggerUIBundle({url: "/v1/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null})\n'
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>gradq: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<main id="docs">This page needs JavaScript; the document is at <a href="/v1/openapi.json">/v1/openapi.json</a>.</main>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""


@bp.get("/docs")
def page() -> Response:
    return _docs(Response(PAGE, mimetype="text/html"))


@bp.get("/docs/<name>")
def asset(name: str) -> Response:
    if name == "start.js":
        return _docs(Response(START, mimetype="text/javascript"))
    if name not in FILES:
        raise NotFound
    return _docs(send_from_directory(_swagger_folder() / FILES[name], name, max_age=3600))


def _docs(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = DOCS_CSP
    return response


@functools.cache
def _swagger_folder() -> Path:
    """Where the pip package keeps Swagger UI's files; found without importing it."""
    spec = importlib.util.find_spec("flask_openapi3_swagger")
    if spec is None or spec.origin is None:
        raise NotFound("Swagger UI is not installed")
    return Path(spec.origin).parent / "templates" / "swagger"
