"""A client generated from the OpenAPI document by a public generator trains a model."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load
from support.postgres import part_missing
from support.service import Service
from support.waiting import wait_for

CONFIG = Path(__file__).parents[2] / "docs" / "openapi-python-client.yml"


@pytest.fixture
def generated(steady: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package that openapi-python-client generates from the service's document, without a warning."""
    if importlib.util.find_spec("openapi_python_client") is None:
        part_missing("openapi-python-client is not installed")
    document = tmp_path / "openapi.json"
    document.write_bytes(steady.http.get("/v1/openapi.json").content)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document), "--meta", "none"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # it formats with ruff
    done = subprocess.run(
        [*command, "--config", str(CONFIG), "--output-path", str(tmp_path / "gradq_client"), "--fail-on-warning"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "warning" not in said.lower(), said
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("gradq_client")
    for name in [name for name in sys.modules if name.partition(".")[0] == "gradq_client"]:
        del sys.modules[name]


def test_a_generated_client_submits_waits_and_downloads(steady: Service, generated: Any) -> None:
    def call(tag: str, name: str) -> Any:
        return importlib.import_module(f"gradq_client.api.{tag}.{name}").sync

    models = importlib.import_module("gradq_client.models")
    client = generated.Client(base_url=str(steady.http.base_url), raise_on_unexpected_status=True)
    net = models.Mlp(hidden=[16])
    spec = models.JobSpec(architecture=net, gradients=models.JobSpecGradients.MANUAL, epochs=2, seed=7)
    job = call("jobs", "submit_job")(client=client, body=spec)
    assert isinstance(job, models.Job)

    def ended() -> Any:
        now = call("jobs", "show_job")(job.id, client=client)
        return now if now.terminal else None

    done = wait_for(ended, 60, "the end of the job")
    assert done.status == models.JobStatus.SUCCEEDED
    assert isinstance(done.result, models.TrainingResult)
    assert done.spec.architecture.hidden == [16]
    assert done.result.gradient_check.passed
    files = call("artifacts", "list_artifacts")(job.id, client=client)
    assert "model.safetensors" in {file.name for file in files.data}
    model = call("artifacts", "download_artifact")(job.id, "model.safetensors", client=client)
    weights = load(model.payload.getvalue())
    assert sum(w.size for w in weights.values()) == done.result.parameters


def test_an_error_is_the_problem_that_the_document_describes(steady: Service, generated: Any) -> None:
    models = importlib.import_module("gradq_client.models")
    submit = importlib.import_module("gradq_client.api.jobs.submit_job")
    client = generated.Client(base_url=str(steady.http.base_url))
    problem = submit.sync(client=client, body=models.JobSpec(lr=-1.0))
    assert isinstance(problem, models.Problem)
    assert (problem.code, problem.errors[0].pointer) == ("invalid_spec", "/lr")
