"""The files of a finished run: all that the contract names, and enough to rebuild the model without gradq."""

import csv
import json
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shared import artifacts
from shared.errors import DataError
from shared.spec.job_spec import JobSpec
from worker.trainer.job import run_job
from worker.trainer.run import Run

CONTRACT = {
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
    "model.pt",
    "model.onnx",
    "predict.py",
    "parity.json",
    "confusion_matrix.png",
    "mistakes.png",
    "first_layer.png",
}
ARCHITECTURES = {
    "linear": "linear",
    "mlp": {"type": "mlp", "hidden": [20, 15], "activation": "gelu"},
    "cnn": {"type": "cnn", "channels": [4, 6], "kernel": 5, "hidden": [12], "activation": "tanh"},
}

REBUILD = textwrap.dedent(
    """
    import json, sys
    import torch
    from safetensors.torch import load_file
    from sklearn.datasets import load_digits
    from torch import nn
    model = json.load(open("model.json"))
    net = nn.Sequential(*(getattr(nn, layer["type"])(**layer["arguments"]) for layer in model["layers"]))
    net.load_state_dict(load_file("model.safetensors"))
    digits = load_digits()
    labels = torch.from_numpy(digits.target)
    test = labels.argsort(stable=True)[5::10]
    n = model["normalization"]
    x = torch.from_numpy(digits.images)[test].float().view(-1, *model["input_shape"]) / n["white"]
    x = (x - torch.tensor(n["mean"]).view(-1, 1, 1)) / torch.tensor(n["std"]).view(-1, 1, 1)
    assert not {"worker", "shared", "gradq"} & set(sys.modules), "gradq was here"
    print((net(x).argmax(1) == labels[test]).double().mean().item())
    """
)


def finished(folder: Path, **fields):
    """Runs a job of two epochs and returns its result."""
    spec = JobSpec.parse({"seed": 7, "epochs": 2, "batch_size": 32, **fields})
    return run_job(spec, Run(folder), lambda event: None, data_dir=Path("nowhere"), download=False, threads=1)


@pytest.fixture(scope="module")
def manual(tmp_path_factory):
    """(result, folder of the artifacts) of a job with manual gradients."""
    folder = tmp_path_factory.mktemp("manual")
    return finished(folder, gradients="manual", name="costs $5 or $6"), folder / "artifacts"


def load(folder, name):
    return json.loads((folder / name).read_text())


def test_every_artifact_of_the_contract_is_there(manual, tmp_path):
    _, folder = manual
    assert {path.name for path in folder.iterdir()} == {*CONTRACT, "best.safetensors", "gradient_check.json"}
    finished(tmp_path, checkpoint={"keep_best": False})
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == CONTRACT
    assert {path.name for path in folder.iterdir()} <= set(artifacts.KINDS)  # each has a kind in the store


@pytest.mark.parametrize(
    "architecture", [name if name == "mlp" else pytest.param(name, marks=pytest.mark.long) for name in ARCHITECTURES]
)
def test_two_files_rebuild_the_net_in_plain_torch_with_the_same_accuracy(tmp_path, architecture):
    result = finished(tmp_path / "run", architecture=ARCHITECTURES[architecture])
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("model.json", "model.safetensors"):
        (plain / name).write_bytes((tmp_path / "run" / "artifacts" / name).read_bytes())
    (plain / "rebuild.py").write_text(REBUILD)
    run = subprocess.run([sys.executable, "-P", "rebuild.py"], cwd=plain, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == pytest.approx(result["test_accuracy"], abs=1e-12)
    assert result["test_accuracy"] > 0.3  # two untrained models would agree by guessing


def test_the_model_s_description_is_complete(manual):
    model = load(manual[1], "model.json")
    assert model["architecture"] == {
        **{"type": "mlp", "hidden": [30], "activation": "relu"},
        **{"dropout": 0.0, "batch_norm": False},
    }
    assert model["input_shape"] == [1, 8, 8]
    assert model["classes"] == list("0123456789")
    assert set(model["normalization"]) == {"mean", "std", "white"}
    assert [layer["type"] for layer in model["layers"]] == ["Flatten", "Linear", "ReLU", "Linear"]


def test_the_best_weights_fit_the_same_net(manual):
    _, folder = manual
    last, best = load_file(folder / "model.safetensors"), load_file(folder / "best.safetensors")
    assert {name: t.shape for name, t in last.items()} == {name: t.shape for name, t in best.items()}


def test_tables_and_result_tell_the_same(manual):
    result, folder = manual
    series = load(folder, "metrics.json")["series"]
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    for name in ("train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy"):
        assert series[name][-1][2] == result[name]
        assert [float(row[name]) for row in rows if row[name]] == [value for _, _, value in series[name]]
    assert [p[0] for p in series["train_loss"]] == [46, 92]
    assert [p[0] for p in series["batch_loss"]] == [50]


def test_the_confusion_matrix_counts_every_test_image(manual):
    result, folder = manual
    table = load(folder, "confusion_matrix.json")
    matrix = torch.tensor(table["matrix"])
    assert matrix.shape == (10, 10)
    assert matrix.sum() == 180
    assert matrix.sum(1).tolist() == table["support"]
    assert (matrix.diagonal().sum() / 180).item() == pytest.approx(result["test_accuracy"], abs=1e-6)
    for i in range(10):
        assert table["recall"][i] == pytest.approx(matrix[i, i].item() / matrix[i].sum().item())
        assert table["precision"][i] == pytest.approx(matrix[i, i].item() / max(1, matrix[:, i].sum().item()))
        precision, recall = table["precision"][i], table["recall"][i]
        assert table["f1"][i] == pytest.approx(2 * precision * recall / max(1e-12, precision + recall))


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")  # whole
    return struct.unpack(">II", content[16:24])


def test_the_pictures_are_whole_pngs_of_a_size_to_look_at(manual):
    _, folder = manual
    for name in ("predictions.png", "loss_curve.png", "mistakes.png", "confusion_matrix.png", "first_layer.png"):
        width, height = png_size(folder / name)
        assert 600 < width < 2000
        assert 150 < height < 2000  # the mistakes of a good model fill one row


def test_spec_environment_and_check_are_those_of_the_run(manual):
    result, folder = manual
    assert load(folder, "environment.json") == result["environment"]
    assert load(folder, "gradient_check.json") == result["gradient_check"]
    assert load(folder, "gradient_check.json")["passed"] is True
    assert JobSpec.parse(load(folder, "spec.json")).name == "costs $5 or $6"


def test_the_result_has_every_figure_of_the_contract_and_is_plain_json(manual):
    result, _ = manual
    assert set(result) >= {
        *("parameters", "train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "normalization"),
        *("training_seconds", "examples_per_second", "device", "pinned_memory", "weights_sha256"),
        *("data_order_sha256", "gradient_check", "environment"),
    }
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["parameters"] == 64 * 30 + 30 + 30 * 10 + 10
    assert (result["device"], result["pinned_memory"]) == ("cpu", False)
    assert result["training_seconds"] > 0
    assert result["examples_per_second"] > 0


def test_a_run_over_one_that_was_there_leaves_its_own_files(tmp_path):
    finished(tmp_path, seed=1)
    first = (tmp_path / "artifacts" / "model.safetensors").read_bytes()
    finished(tmp_path, seed=2)
    assert (tmp_path / "artifacts" / "model.safetensors").read_bytes() != first


def test_the_same_job_leaves_the_same_files(tmp_path):
    """All but those that contain the duration of a run."""
    for name in ("a", "b"):
        finished(tmp_path / name, name="same")
    for name in sorted(CONTRACT - {"metrics.csv", "metrics.json"}):
        assert (tmp_path / "a/artifacts" / name).read_bytes() == (tmp_path / "b/artifacts" / name).read_bytes(), name


def test_a_run_without_its_data_leaves_no_artifact(tmp_path):
    with pytest.raises(DataError):
        finished(tmp_path, dataset="mnist")
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.long
def test_a_spec_is_trained_from_the_command_line_too(tmp_path, command_line, capsys):
    (tmp_path / "spec.json").write_text(json.dumps({"epochs": 1, "seed": 7, "gradients": "manual"}))
    command = [
        sys.executable,
        "-m",
        "worker.trainer",
        tmp_path / "spec.json",
        "--out",
        tmp_path / "out",
        "--threads",
        "1",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr
    assert "epoch 1 train_loss" in run.stdout
    assert "test accuracy" in run.stdout
    assert {path.name for path in (tmp_path / "out" / "artifacts").iterdir()} >= CONTRACT
    (tmp_path / "spec.json").write_text('{"lr": -1}')
    assert command_line(tmp_path / "spec.json") == 2
    assert capsys.readouterr().err == "/lr: must be greater than 0, got -1\n"
