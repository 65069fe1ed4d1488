"""Presets: the article's experiments as specs, beside the figures that it printed."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from api.http.render import whole_list
from api.openapi import schemas
from api.openapi.endpoint import endpoint
from shared.spec.job_spec import JobSpec
from shared.spec.presets import PRESETS, Preset

bp = Blueprint("presets", __name__)


@bp.get("/v1/presets")
@endpoint(schemas.PresetList, scope="read")
def index() -> Response:
    """List the presets, each with its whole spec and the article's figures"""
    return jsonify(whole_list([_preset(preset) for preset in PRESETS.values()]))


def _preset(preset: Preset) -> dict[str, Any]:
    spec = JobSpec.model_validate({"preset": preset.name, **preset.spec})
    return {
        "object": "preset",
        "name": preset.name,
        "description": preset.description,
        "spec": spec.model_dump(mode="json", exclude={"name", "seed"}),
        "article": preset.article,
        "continues": preset.continues,
    }
