"""A model rebuilt from its two files computes what the trained one does."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from gradq.client import rebuild
from shared import inference
from shared.spec import job_spec
from shared.spec.job_spec import JobSpec
from worker.trainer.exports.model_files import describe, plain
from worker.trainer.nets.architectures import build_model, initialize

ROWS = {
    "linear": ("linear", (1, 8, 8)),
    "mlp": ({"type": "mlp", "hidden": [20, 15], "activation": "gelu", "batch_norm": True, "dropout": 0.5}, (1, 8, 8)),
    "cnn": ({"type": "cnn", "channels": [4, 6], "kernel": 5, "hidden": [12], "batch_norm": True}, (3, 9, 11)),
}
ZOO = {"mobilenet_v3_small": (3, 32, 32), "resnet18": (1, 28, 28)}  # images are enlarged; layers are replaced


def stored(folder: Path, architecture: object, shape: tuple[int, int, int]) -> torch.nn.Module:
    """The files of a model with random weights and statistics, and the model in evaluation mode."""
    wanted = JobSpec.parse({"architecture": architecture})
    generator = torch.Generator().manual_seed(3)
    net = build_model(wanted.architecture, shape, 10)
    initialize(net, job_spec.PytorchInit(), generator)
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5, generator=generator)
    scale = SimpleNamespace(mean=[0.2] * shape[0], std=[0.3] * shape[0], white=255.0)
    data = SimpleNamespace(info=SimpleNamespace(shape=shape, classes=list("abcdefghij")), normalization=scale)
    (folder / "model.json").write_text(json.dumps(describe(net, wanted, data)))
    save_file(plain(net.state_dict()), folder / "model.safetensors")
    return net.eval()


def images(shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_layers_comes_back(tmp_path: Path, name):
    architecture, shape = ROWS[name]
    trained = stored(tmp_path, architecture, shape)
    net, x = rebuild.load(tmp_path), images(shape)
    assert not net.training
    with torch.no_grad():
        found = net(net.normalize(x))
        torch.testing.assert_close(found, trained((x - 0.2) / 0.3), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found, torch.from_numpy(inference.load(tmp_path).logits(x.numpy())), rtol=1e-4, atol=1e-5
    )
    assert (net.input_shape, net.classes) == (shape, list("abcdefghij"))


@pytest.mark.parametrize("name", ZOO)
def test_a_net_of_torchvision_comes_back(tmp_path: Path, name):
    shape = ZOO[name]
    trained = stored(tmp_path, {"type": "torchvision", "name": name}, shape)
    net, x = rebuild.load(tmp_path), images(shape)
    with torch.no_grad():
        torch.testing.assert_close(net(net.normalize(x)), trained((x - 0.2) / 0.3), rtol=1e-4, atol=1e-4)
    assert net.state_dict().keys() == trained.state_dict().keys()


def test_a_net_can_be_stored_whole_and_trained_on(tmp_path: Path):
    stored(tmp_path, "mlp", (1, 8, 8))
    net = rebuild.load(tmp_path)
    torch.save(net, tmp_path / "whole.pt")
    again = torch.load(tmp_path / "whole.pt", weights_only=False)
    x = images((1, 8, 8))
    assert torch.equal(net(net.normalize(x)), again(again.normalize(x)))
    net.train()(net.normalize(x)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "gradq-model/2"}, "format 'gradq-model/2'"),
        ({"layers": [{"type": "Upsample", "arguments": {}}]}, "a layer 'Upsample'"),
        ({"layers": [{"type": "__class__", "arguments": {}}]}, "a layer '__class__'"),
    ],
)
def test_what_is_not_known_is_refused_by_name(tmp_path: Path, change, words):
    stored(tmp_path, "mlp", (1, 8, 8))
    file = tmp_path / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=words):
        rebuild.load(tmp_path)
