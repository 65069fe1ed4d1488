"""The walk: every stage of both networks is correct and equal in both ways, and the file is small."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.problems import problem
from torch import nn

from shared.errors import Diverged, TrainingError
from shared.events import Log, Progress
from shared.spec import job_spec
from shared.spec.job_spec import Linear, Mlp, WalkSpec
from worker.trainer import device
from worker.trainer.data import datasets
from worker.trainer.nets import layers
from worker.trainer.nets.losses import build_loss
from worker.trainer.run import Run, StopRequested
from worker.trainer.walk.formulas import formulas_of
from worker.trainer.walk.stages import by_autograd, by_hand, weights
from worker.trainer.walk.walk import numbers, run_walk

LINEAR = ["logits", "softmax", "losses", "loss", "dlogits", "dW", "db"]
TWO_LAYER = [
    *("hidden", "activation", "logits", "softmax", "losses", "loss"),
    *("dlogits", "dW2", "db2", "dactivation", "dhidden", "dW1", "db1"),
]
ACTIVATIONS = ["relu", "tanh", "sigmoid", "gelu"]
NETS = [Linear(), *(Mlp(hidden=[7], activation=activation) for activation in ACTIVATIONS)]
LOSSES = [
    *(job_spec.CrossEntropy(reduction=reduction) for reduction in ("mean", "sum")),
    *(job_spec.ClampedCrossEntropy(reduction=reduction, clamp=0.2) for reduction in ("mean", "sum")),
]


def walked(folder: Path, events: list | None = None, origin: Path | None = None, stop=lambda: False, **fields):
    """The result of a walk on digits, and the content of its file."""
    wanted = WalkSpec.parse({"seed": 7, "device": "cpu", **fields})
    run = Run(folder, stop_requested=stop, init_from=origin)
    report = (events if events is not None else []).append
    result = run_walk(wanted, run, report, data_dir=Path("nowhere"), download=False, threads=1)
    return result, json.loads((folder / "artifacts" / "walk.json").read_text())


def picture(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png)))


# --- the stages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS, ids=lambda net: getattr(net, "activation", "linear"))
@pytest.mark.parametrize("wanted", LOSSES, ids=lambda loss: f"{loss.type}-{loss.reduction}")
def test_every_stage_by_hand_is_the_stage_by_autograd(net, wanted):
    model, x, labels = problem(net)
    loss = build_loss(wanted)
    manual, autograd = by_hand(model, loss, x, labels), by_autograd(model, loss, x, labels)
    assert list(manual) == list(autograd) == ["x", *(LINEAR if isinstance(net, Linear) else TWO_LAYER)]
    for name, tensor in manual.items():
        torch.testing.assert_close(
            tensor, autograd[name], rtol=1e-12, atol=1e-14, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_stages_of_the_linear_net_are_those_of_its_formulas():
    model, x, labels = problem(Linear())
    found = by_hand(model, build_loss(job_spec.CrossEntropy()), x, labels)
    W, b = (p.detach() for p in weights(model).values())
    x = x.flatten(1)
    p = torch.softmax(x @ W.T + b, 1)
    dz = (p - nn.functional.one_hot(labels, 5)) / len(labels)
    losses = -p[range(len(labels)), labels].log()
    expected = dict(zip(LINEAR, (x @ W.T + b, p, losses, losses.mean(), dz, dz.T @ x, dz.sum(0)), strict=True))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def test_the_way_back_of_the_two_layer_net_is_that_of_its_formulas():
    model, x, labels = problem(Mlp(hidden=[7]))
    found = by_hand(model, build_loss(job_spec.CrossEntropy()), x, labels)
    W2 = weights(model)["W2"].detach()
    dz, h, a = found["dlogits"], found["activation"], found["hidden"]
    assert (a < 0).any()
    torch.testing.assert_close(h, a.clamp(min=0))
    torch.testing.assert_close(found["dW2"], dz.T @ h)
    torch.testing.assert_close(found["dactivation"], dz @ W2)
    torch.testing.assert_close(found["dhidden"], (dz @ W2) * (a > 0))
    torch.testing.assert_close(found["dW1"], found["dhidden"].T @ x.flatten(1))
    torch.testing.assert_close(found["db1"], found["dhidden"].sum(0))


@pytest.mark.parametrize("net", NETS, ids=lambda net: getattr(net, "activation", "linear"))
def test_every_stage_has_a_formula_that_follows_net_and_loss(net):
    said = [formulas_of(WalkSpec(architecture=net, loss=loss)) for loss in LOSSES]
    assert all(list(formulas) == ["x", *(LINEAR if isinstance(net, Linear) else TWO_LAYER)] for formulas in said)
    assert len({formulas["dlogits"] for formulas in said}) == len(LOSSES)
    others = [formulas_of(WalkSpec(architecture=other)) for other in NETS[1:] if other != net]
    assert all(said[0] != other for other in others)


# --- what is written down ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "names"), [("linear", LINEAR), ("mlp", TWO_LAYER)])
def test_a_walk_writes_each_stage_down_with_its_numbers(tmp_path, net, names):
    events = []
    result, page = walked(tmp_path, events, architecture=net)
    assert [stage["name"] for stage in page["stages"]] == names
    assert (result["agrees"], result["stages"]) == (page["agrees"], len(names)) == (True, len(names))
    assert result["loss"] == page["loss"] == next(s for s in page["stages"] if s["name"] == "loss")["manual"]["corner"]
    assert 0 < result["max_relative_difference"] < 1e-12
    for stage in page["stages"]:
        assert stage["shape"] == stage["manual"]["shape"] == stage["autograd"]["shape"]
        assert len(stage["axes"]) == len(stage["shape"])
        ways = (np.array(stage[way]["corner"]) for way in ("manual", "autograd"))
        assert np.abs(np.subtract(*ways)).max() <= stage["max_absolute_difference"] < 1e-12
    assert {weight["name"] for weight in page["weights"]} == {name[1:] for name in names if name[:2] in ("dW", "db")}
    assert [event.step for event in events if isinstance(event, Progress)] == [1]


def test_the_batch_is_the_one_that_a_training_with_this_seed_learns_from(tmp_path):
    wanted = WalkSpec.parse({"seed": 7, "batch_size": 5, "batch": 3})
    _, page = walked(tmp_path, batch_size=5, batch=3)
    device.set_up(wanted.seed, torch.device("cpu"), 1)
    prepared = datasets.prepare(wanted, Path("nowhere"), False, torch.device("cpu"))
    batches = [(x.clone(), labels.clone()) for x, labels in prepared.train.epoch(1)]
    x, labels = batches[2]
    assert page["batch"]["labels"] == labels.tolist()
    assert page["x"]["corner"] == x.flatten(1).double()[:, :10].tolist()
    tiles = [picture(png) for png in page["batch"]["images"]]
    assert [tile.size for tile in tiles] == [(8, 8)] * 5
    pixels = (x * prepared.normalization.std[0] + prepared.normalization.mean[0])[0, 0] * 255
    np.testing.assert_allclose(np.asarray(tiles[0])[..., 0], pixels.numpy(), atol=0.6)


def test_a_walk_is_a_function_of_its_spec(tmp_path):
    pages = [walked(tmp_path, **fields)[1] for fields in ({}, {}, {"batch": 2}, {"seed": 8}, {"init": "xavier"})]
    first, again, *others = [json.dumps([page["batch"]["labels"], page["stages"]]) for page in pages]
    assert first == again
    assert first not in others
    assert len(set(others)) == 3
    assert pages[2]["weights"] == pages[0]["weights"]


def test_large_tensors_are_told_by_a_corner_and_four_figures():
    values = torch.arange(60.0 * 50).view(60, 50)
    told = numbers(values)
    assert told["corner"] == values[:10, :10].tolist()
    assert (told["shape"], told["min"], told["max"], told["mean"]) == ([60, 50], 0, 2999, 1499.5)
    assert told["std"] == pytest.approx(np.arange(3000).std())
    assert numbers(torch.tensor(2.5))["corner"] == 2.5


def test_the_file_stays_small_for_a_wide_net_and_the_article_s_batch(tmp_path):
    walked(tmp_path, architecture={"type": "mlp", "hidden": [2000]}, batch_size=64)
    assert (tmp_path / "artifacts" / "walk.json").stat().st_size < 300_000


def test_weights_over_pixels_are_shown_as_pictures(tmp_path):
    _, page = walked(tmp_path)
    shown = {part["name"]: part["tiles"] for part in [*page["weights"], *page["stages"]] if "tiles" in part}
    assert {name: len(tiles) for name, tiles in shown.items()} == {"W1": 16, "dW1": 16}
    weight = np.array(next(w for w in page["weights"] if w["name"] == "W1")["corner"])[0, :8]  # of the tile the top row
    red, _, blue = np.asarray(picture(shown["W1"][0]))[0].astype(int).T
    assert all((red > blue) == (weight > 0))


# --- weights, faults, ends --------------------------------------------------------------------------------------------


def test_a_walk_begins_with_the_weights_that_it_is_given(tmp_path):
    given = {"1.weight": torch.randn(10, 64), "1.bias": torch.randn(10)}
    save_file(given, tmp_path / "origin.safetensors")
    events = []
    _, page = walked(tmp_path, events, origin=tmp_path / "origin.safetensors", architecture="linear")
    W, b = page["weights"]
    assert W["corner"] == given["1.weight"].double()[:10, :10].tolist()
    assert b["corner"] == given["1.bias"].double().tolist()
    assert any("weights of another job" in event.message for event in events if isinstance(event, Log))
    with pytest.raises(TrainingError, match="do not fit"):
        walked(tmp_path, origin=tmp_path / "origin.safetensors", architecture="mlp")


def test_a_fault_in_a_hand_written_gradient_shows_at_its_stage_and_below(tmp_path, monkeypatch):
    def drop_the_bias_sum(layer, dout, x, needs_dx=True):
        dx = layers.linear_backward(layer, dout, x, needs_dx)
        layer.bias.grad = dout[0].clone()
        return dx

    monkeypatch.setitem(layers.PAIRS, layers.Linear, (layers.linear_forward, drop_the_bias_sum))
    result, page = walked(tmp_path)
    apart = {stage["name"] for stage in page["stages"] if stage["max_relative_difference"] > page["tolerance"]}
    assert apart == {"db1", "db2"}
    assert (result["agrees"], page["agrees"]) == (False, False)
    assert result["max_relative_difference"] > 0.01


def test_what_is_not_finite_is_named_and_ends_the_walk(tmp_path):
    save_file({"1.weight": torch.full((10, 64), torch.inf), "1.bias": torch.zeros(10)}, tmp_path / "w.safetensors")
    with pytest.raises(Diverged, match="logits is not finite"):
        walked(tmp_path, origin=tmp_path / "w.safetensors", architecture="linear")


def test_a_walk_that_is_to_stop_does_not_set_out(tmp_path):
    with pytest.raises(StopRequested):
        walked(tmp_path, stop=lambda: True)
    assert not (tmp_path / "artifacts").exists()
