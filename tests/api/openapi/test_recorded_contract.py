"""The contract that scripts rely on, compared with a recording: error codes, exit codes, states, and the OpenAPI
document without its prose. Changes of wording pass; a change of the contract has to be recorded:

    GRADQ_RECORD=1 .venv/bin/python -m pytest tests/api/openapi/test_recorded_contract.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

from api.http.errors import CODES
from gradq.commands.options import Exit
from shared.errors import UPLOAD_CODES, GradqError
from shared.jobs.retry_backoff import Cause
from shared.jobs.states import ALLOWED_ACTIONS, ALLOWED_MOVES, JobState
from worker.attempt_outcome import StopReason

RECORDED = Path(__file__).parent / "recorded"
PROSE = {"description", "summary", "title", "version"}
# recorded responses and problems, which tests/api/openapi/test_document.py validates
EXAMPLES = {"example", "examples"}


def hold_against_recording(name: str, now: Any) -> None:
    path = RECORDED / f"{name}.json"
    text = json.dumps(now, indent=1) + "\n"
    if os.environ.get("GRADQ_RECORD") == "1":
        path.write_text(text)
    assert json.loads(path.read_text()) == json.loads(text)


def without_prose(value: Any) -> Any:
    """The JSON value without examples and prose. A property named `title` is an object and is kept."""
    if isinstance(value, dict):
        kept = {key: v for key, v in value.items() if key not in EXAMPLES and not (key in PROSE and isinstance(v, str))}
        return {key: without_prose(v) for key, v in kept.items()}
    return [without_prose(v) for v in value] if isinstance(value, list) else value


def errors_below(kind: type[GradqError]) -> dict[str, int]:
    found = {kind.code: kind.status}
    for narrower in kind.__subclasses__():
        if narrower.__module__ == GradqError.__module__:
            found |= errors_below(narrower)
    return found


def test_error_codes_and_their_statuses_are_the_recorded_ones():
    by_status = {str(status): code for status, code in CODES.items()}
    recorded = {"errors": errors_below(GradqError), "uploads": list(UPLOAD_CODES), "of_http_statuses": by_status}
    hold_against_recording("error_codes", recorded)


def test_states_and_the_moves_between_them_are_the_recorded_ones():
    moves = {state.value: sorted(ALLOWED_MOVES[state]) for state in JobState}
    actions = {status: list(allowed) for status, allowed in ALLOWED_ACTIONS.items()}
    recorded = {
        "moves": moves,
        "actions": actions,
        "causes": list(get_args(Cause)),
        "stops": [s.value for s in StopReason],
    }
    hold_against_recording("states", recorded)


def test_exit_codes_are_the_recorded_ones():
    hold_against_recording("exit_codes", {code.name: code.value for code in Exit})


def test_the_openapi_document_differs_in_its_prose_alone(client):
    hold_against_recording("openapi", without_prose(client.get("/v1/openapi.json").json))
