"""The main path: a spec is posted over HTTP; result, curve and model are returned."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from support.service import Service, assert_whole_curve

ARTIFACTS = {
    "model.safetensors",
    "model.json",
    "loss_curve.png",
    "loss_curve.svg",
    "metrics.csv",
    "metrics.json",
    "spec.json",
    "environment.json",
    "confusion_matrix.json",
    "predictions.png",
    "gradient_check.json",
    "model.pt",
    "predict.py",
    "parity.json",
    "confusion_matrix.png",
    "mistakes.png",
    "first_layer.png",
}

REBUILD = textwrap.dedent(
    """
    import json, sys
    import torch
    from safetensors.torch import load_file
    from sklearn.datasets import load_digits
    from torch import nn
    folder = sys.argv[1]
    model = json.load(open(f"{folder}/model.json"))
    net = nn.Sequential(*(getattr(nn, layer["type"])(**layer["arguments"]) for layer in model["layers"]))
    net.load_state_dict(load_file(f"{folder}/model.safetensors"))
    digits = load_digits()
    labels = torch.from_numpy(digits.target)
    test = labels.argsort(stable=True)[5::10]
    n = model["normalization"]
    x = torch.from_numpy(digits.images)[test].float().unsqueeze(1) / n["white"]
    x = (x - torch.tensor(n["mean"]).view(-1, 1, 1)) / torch.tensor(n["std"]).view(-1, 1, 1)
    print((net(x).argmax(1) == labels[test]).double().mean().item())
    assert "worker" not in sys.modules and "shared" not in sys.modules
    """
)


def test_an_empty_body_trains_and_returns_everything(steady: Service, tmp_path: Path) -> None:
    body = '{"architecture":"mlp","lr":0.1,"epochs":5,"gradients":"manual"}'
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d sends
    job = steady.http.post("/v1/jobs", content=body, headers=form).json()
    ended = steady.wait(job["id"])
    assert ended["status"] == "succeeded"
    result = ended["result"]
    assert result["test_accuracy"] > 0.90
    assert result["gradient_check"]["passed"] is True
    assert result["parameters"] == 64 * 30 + 30 + 30 * 10 + 10
    assert result["pinned_memory"] is (result["device"] != "cpu")
    assert_whole_curve(steady, ended)
    assert set(steady.artifacts(job["id"])) >= ARTIFACTS
    assert rebuilt_accuracy(steady, ended, tmp_path) == pytest.approx(result["test_accuracy"], abs=1e-12)


def rebuilt_accuracy(service: Service, job: dict[str, Any], folder: Path) -> float:
    """Download the two model files and rebuild the model in a plain torch script, outside the repository."""
    for name in ("model.safetensors", "model.json"):
        (folder / name).write_bytes(service.http.get(f"/v1/jobs/{job['id']}/artifacts/{name}").content)
    script = folder / "rebuild.py"
    script.write_text(REBUILD)
    run = subprocess.run([sys.executable, "-P", script, folder], cwd=folder, capture_output=True, text=True, check=True)
    return float(run.stdout)


def test_the_service_labels_images_as_the_job_s_own_figures_say(steady: Service) -> None:
    ended = steady.wait(steady.submit(epochs=3)["id"])
    digits = load_digits()
    test = np.argsort(digits.target, kind="stable")[5::10]
    body = {"images": digits.images[test].astype(int).tolist()}
    answer = steady.http.post(f"/v1/jobs/{ended['id']}/predict", json=body).json()
    labels = np.array([prediction["label"] for prediction in answer["predictions"]])
    assert (labels == digits.target[test]).mean() == pytest.approx(ended["result"]["test_accuracy"], abs=1e-12)


def test_manual_and_autograd_with_one_seed_end_with_the_same_weights(steady: Service) -> None:
    manual, autograd = (
        steady.wait(steady.submit(gradients=gradients, seed=11, epochs=3)["id"]) for gradients in ("manual", "autograd")
    )
    assert manual["result"]["weights_sha256"] == autograd["result"]["weights_sha256"]
    assert autograd["result"]["gradient_check"] is None
    assert "gradient_check.json" not in steady.artifacts(autograd["id"])


def test_the_trainer_starts_warm_and_alone_in_its_process(steady: Service) -> None:
    job = steady.wait(steady.submit(epochs=1)["id"])
    started = next(e for e in steady.events(job["id"], "log") if e["message"] == "trainer started")
    assert started["data"]["threads_at_entry"] == 1


@pytest.fixture(scope="module")
def with_mnist(mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    environment = {"GRADQ_DATA_DIR": str(mnist_dir), "GRADQ_THREADS_PER_SLOT": "2"}
    service = Service(tmp_path_factory.mktemp("mnist"), environment).start()
    yield service
    service.close()


@pytest.mark.mnist
def test_mnist_mlp_by_hand_and_by_autograd(with_mnist: Service) -> None:
    service = with_mnist
    spec = {"dataset": "mnist", "architecture": "mlp", "epochs": 5, "lr": 0.1, "batch_size": 64, "seed": 1}
    manual, autograd = (service.submit(**spec, gradients=gradients) for gradients in ("manual", "autograd"))
    manual, autograd = service.wait(manual["id"], 150), service.wait(autograd["id"], 150)
    assert manual["result"]["test_accuracy"] >= 0.96
    assert abs(manual["result"]["test_accuracy"] - autograd["result"]["test_accuracy"]) <= 0.002
    by_hand, by_autograd = (service.series(job["id"])["train_loss"] for job in (manual, autograd))
    for (_, _, a), (_, _, b) in zip(by_hand, by_autograd, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.long
@pytest.mark.mnist
@pytest.mark.timeout(420)
def test_mnist_cnn_in_two_epochs(with_mnist: Service) -> None:
    job = with_mnist.submit(dataset="mnist", architecture="cnn", epochs=2, seed=1)
    assert with_mnist.wait(job["id"], 400)["result"]["test_accuracy"] >= 0.975


def test_missing_mnist_fails_the_job_and_names_the_file(steady: Service) -> None:
    ended = steady.wait(steady.submit(dataset="mnist")["id"])
    assert ended["status"] == "failed"
    assert ended["status_reason"]["code"] == "data_error"
    assert "train-images-idx3-ubyte" in ended["status_reason"]["detail"]
    assert "GRADQ_DATA_DIR" in ended["status_reason"]["detail"]
