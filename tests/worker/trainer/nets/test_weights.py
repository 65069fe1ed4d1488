"""Weights of another run: loaded to the bit, or refused with the name of the tensor that does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import TrainingError
from shared.spec.job_spec import Cnn, Mlp
from worker.trainer.nets.architectures import build_model
from worker.trainer.nets.weights import load_weights


def net(**fields: object) -> torch.nn.Module:
    return build_model(Mlp(**{"hidden": [5], **fields}), (1, 8, 8), 10)


@pytest.mark.parametrize("architecture", [Mlp(batch_norm=True), Cnn(batch_norm=True)], ids=lambda a: a.type)
def test_every_parameter_and_buffer_comes_back_to_the_bit(tmp_path: Path, architecture: Mlp | Cnn) -> None:
    one, other = (build_model(architecture, (1, 8, 8), 10) for _ in range(2))
    one(torch.randn(4, 1, 8, 8))  # moves the running statistics
    save_file(one.state_dict(), tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (net(hidden=[6]), r"1\.weight is \[6, 64\] there and \[5, 64\] here"),
        (net(hidden=[5, 5]), r"3\.weight is \[5, 5\] there and \[10, 5\] here"),
        (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)), r"3\.weight is missing"),
        (torch.nn.Sequential(*net(), torch.nn.Linear(10, 10)), r"this model has no 4\.bias"),
    ],
)
def test_the_tensor_that_does_not_fit_is_named(tmp_path: Path, saved: torch.nn.Module, words: str) -> None:
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TrainingError, match=words):
        load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_file_that_cannot_be_read_is_a_training_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match=r"w\.safetensors cannot be read"):
        load_weights(net(), tmp_path / "w.safetensors")


def test_without_a_service_the_weights_are_a_file_that_the_command_line_names(
    tmp_path: Path, command_line: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {"epochs": 1, "lr": 1e-9, "architecture": {"type": "mlp", "hidden": [5]}}
    save_file(net().state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "spec.json").write_text(json.dumps({**spec, "init_from": {"job": "job_" + "0" * 32}}))
    arguments = [tmp_path / "spec.json", "--out", tmp_path / "run", "--threads", 1]
    assert command_line(*arguments) == 2
    assert "--init-from" in capsys.readouterr().err
    assert command_line(*arguments, "--init-from", tmp_path / "w.safetensors") == 0
    begun, ended = (load_file(tmp_path / name) for name in ("w.safetensors", "run/artifacts/model.safetensors"))
    torch.testing.assert_close(begun, ended)
