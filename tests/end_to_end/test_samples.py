"""The examples in the OpenAPI document are responses of this service. GRADQ_RECORD=1 records them again."""

from __future__ import annotations

import json
import os

from support.recording import record, shape
from support.service import Service

from api.openapi.document import RESPONSE_EXAMPLES


def test_the_documents_examples_are_what_the_service_answers(steady: Service) -> None:
    found = record(steady)
    if os.environ.get("GRADQ_RECORD"):
        for model, samples in found.items():
            (RESPONSE_EXAMPLES / f"{model}.json").write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n")
    stored = {path.stem: json.loads(path.read_text()) for path in RESPONSE_EXAMPLES.glob("*.json")}
    assert found.keys() == stored.keys()
    for model, samples in found.items():
        for name, answer in samples.items():
            assert shape(answer) == shape(stored[model][name]), f"{model}, {name}"
