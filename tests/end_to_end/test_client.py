"""The client with a real service and worker: its page of documentation, and a job from submit to the rebuilt model."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.faults import shaky
from support.service import Service

from gradq import Client, Job
from gradq.client import sender

PAGE = Path(__file__).parents[2] / "docs/client.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def client(steady: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADQ_URL", str(steady.http.base_url))
    with Client() as client:
        yield client


def test_every_example_of_the_page_runs(client: Client, monkeypatch, tmp_path: Path, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    examples = EXAMPLE.findall(PAGE.read_text())
    assert len(examples) == PAGE.read_text().count("```") / 2
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert said.startswith("succeeded 0.")
    assert "['model.json', 'model.safetensors']" in said
    assert "/lr must be greater than 0, got -1" in said
    assert "succeeded ['" in said


@pytest.fixture(scope="module")
def watched(steady: Service) -> tuple[Job, list[int]]:
    """A job that was followed from the first line of its log to the last."""
    with Client(str(steady.http.base_url)) as client:
        job = client.submit(architecture={"type": "mlp", "hidden": [20], "batch_norm": True}, epochs=4, seed=5)
        return job, [event.seq for event in job.watch()]


def test_each_line_of_a_job_s_log_is_seen_once_and_in_order(client: Client, watched):
    job, seen = watched
    assert job.succeeded
    assert seen == [event.seq for event in client.job(job.id).events()] == list(range(1, len(seen) + 1))


def test_a_connection_that_breaks_at_random_loses_and_duplicates_nothing(client: Client, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(sender, "FIRST_PAUSE_SECONDS", 0.02)
    lengths = random.Random(11)
    with shaky(client.url, lambda: lengths.randrange(300, 20_000)) as proxy, Client(proxy.url, retries=20) as far:
        job = far.submit(epochs=6, seed=5, checkpoint={"every_seconds": 0.2})
        seen = [event.seq for event in job.watch()]
        files = job.download(tmp_path)
    assert job.succeeded
    assert seen == list(range(1, len(seen) + 1))
    assert len(files) == len(client.job(job.id).artifacts())  # the client compared each with its sha256
    assert proxy.cuts > 10


def test_the_rebuilt_model_predicts_as_the_service(client: Client, watched):
    from sklearn.datasets import load_digits

    job = client.job(watched[0].id)
    digits = load_digits()
    pixels = digits.images[:300].astype(np.int64)  # 0 to 16
    net = job.model()
    with torch.no_grad():
        found = net(net.normalize(torch.from_numpy(pixels / 16).float()[:, None])).softmax(1)
    seen = job.predict(pixels)
    assert found.argmax(1).tolist() == seen.labels
    assert np.abs(found.numpy() - [entry["probabilities"] for entry in seen]).max() < 1e-5
    assert (np.array(seen.labels) == digits.target[:300]).mean() > 0.9


def test_the_rebuilt_model_has_the_job_s_test_accuracy(client: Client, watched):
    """On the test images of which predictions.png shows some."""
    from sklearn.datasets import load_digits

    job = client.job(watched[0].id)
    digits = load_digits()
    labels = torch.from_numpy(digits.target)
    test = labels.argsort(stable=True)[5::10]
    net = job.model()
    with torch.no_grad():
        found = net(net.normalize(torch.from_numpy(digits.images).float()[test][:, None] / 16)).argmax(1)
    assert job.result is not None
    assert (found == labels[test]).double().mean().item() == pytest.approx(job.result["test_accuracy"], abs=1e-12)


def test_all_files_are_downloaded_one_by_one_and_as_a_zip(client: Client, watched, tmp_path: Path):
    job = client.job(watched[0].id)
    files = {path.name for path in job.download(tmp_path / "files")}
    assert files == {artifact["name"] for artifact in job.artifacts()} >= {"model.safetensors", "loss_curve.png"}
    assert job.download_zip(tmp_path / "all.zip").stat().st_size > 0
    curve = job.curve("train_loss", "batch_loss")
    assert len(curve["train_loss"].dropna()) == 4
    assert 'src="data:image/svg+xml;base64,' in job._repr_html_()
