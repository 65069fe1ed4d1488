"""The exported forms of a model (numpy, ONNX, a PyTorch state dict) predict as the trained model."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.disk import SmallDisk, why_no_disks
from torch import Tensor, nn

from shared import inference
from shared.datasets.catalog import DATASETS
from shared.disks import disk_is_full
from shared.events import Event, Log
from shared.spec.job_spec import JobSpec
from worker.trainer.data.batches import PixelBatches, ResidentBatches
from worker.trainer.data.datasets import Data, prepare
from worker.trainer.data.normalization import Normalization, to_pixels
from worker.trainer.exports import model_files, onnx_export, parity
from worker.trainer.nets.architectures import build_model, initialize

CPU = torch.device("cpu")
PAGE = 4096  # bytes, of a tmpfs
ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu")
NETS: dict[str, Any] = {"linear": {"type": "linear"}}
for activation in ACTIVATIONS:
    NETS[f"mlp-{activation}"] = {"type": "mlp", "hidden": [20, 15], "activation": activation}
    NETS[f"cnn-{activation}"] = {
        "type": "cnn",
        "channels": [4, 6],
        "kernel": 5,
        "hidden": [12],
        "activation": activation,
    }
for kind, sizes in (("mlp", {"hidden": [20, 15]}), ("cnn", {"channels": [4, 6], "kernel": 3, "hidden": [12]})):
    NETS[f"{kind}-norm-dropout"] = {"type": kind, **sizes, "batch_norm": True, "dropout": 0.4}
    NETS[f"{kind}-dropout"] = {"type": kind, **sizes, "dropout": 0.4}


class Exported:
    """A small model after some steps of training, and its files."""

    def __init__(self, folder: Path, data: Data, spec: JobSpec, model: nn.Module) -> None:
        self.folder, self.data, self.spec, self.model = folder, data, spec, model.eval()
        self.events: list[Event] = []
        with torch.no_grad():
            self.logits = torch.cat([model(x) for x in data.test_images.split(1000)])
        self.outcome: Any = SimpleNamespace(
            state=SimpleNamespace(model=model, training_seconds=0.0, best=SimpleNamespace(weights={})),
            test=SimpleNamespace(logits=self.logits),
        )
        model_files.write(folder, spec, data, self.outcome.state, self.events.append)
        onnx_export.write(folder, model, data, self.events.append)

    @property
    def probabilities(self) -> np.ndarray:
        return torch.softmax(self.logits, 1).numpy()

    @property
    def pixels(self) -> np.ndarray:
        return to_pixels(self.data.test_images, self.data.normalization).numpy()

    def parity(self) -> dict[str, Any]:
        return parity.measure(self.folder, self.spec, self.data, self.outcome)

    def assert_agrees(self, probabilities: np.ndarray) -> None:
        np.testing.assert_allclose(probabilities, self.probabilities, atol=1e-5)
        np.testing.assert_array_equal(probabilities.argmax(1), self.probabilities.argmax(1))


def trained(model: nn.Module, images: Tensor, labels: Tensor, steps: int, lr: float = 0.05) -> nn.Module:
    """Also fills the running statistics of batch normalization."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for step in range(steps):
        chosen = torch.arange(step * 64, (step + 1) * 64) % len(labels)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return model


def training_tensors(data: Data) -> tuple[Tensor, Tensor]:
    assert isinstance(data.train, ResidentBatches | PixelBatches)
    order = data.train.order.order(1)
    images, labels = data.train.images[order], data.train.labels[order]
    return images if isinstance(data.train, ResidentBatches) else data.normalization.apply(images), labels


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Exported]:
    """exported("mlp", dataset=…, steps=…): a model on digits, or on the real MNIST."""

    def make(
        architecture: Any, dataset: str = "digits", data_dir: Path = Path("nowhere"), steps: int = 40, seed: int = 7
    ) -> Exported:
        spec = JobSpec.parse({"architecture": architecture, "dataset": dataset, "seed": seed})
        data = prepare(spec, data_dir, False, CPU)
        model = build_model(spec.architecture, data.info.shape, len(data.info.classes))
        generator = torch.Generator().manual_seed(seed)
        initialize(model, spec.init, generator)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            trained(model, *training_tensors(data), steps)
        return Exported(tmp_path, data, spec, model)

    return make


def by_numpy(folder: Path, pixels: np.ndarray) -> np.ndarray:
    return inference.softmax(inference.load(folder).logits(pixels))


def by_onnx(folder: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    probabilities: np.ndarray = session.run(["probabilities"], {"images": pixels})[0]
    return probabilities


@pytest.mark.parametrize("net", NETS)
def test_every_form_of_every_net_answers_as_torch_does(exported, net):
    made = exported(NETS[net])
    proto = onnx.load(made.folder / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    used = {name for node in proto.graph.node for name in node.input}
    assert {constant.name for constant in proto.graph.initializer} <= used  # runtimes warn about others at every load
    made.assert_agrees(by_numpy(made.folder, made.pixels))
    made.assert_agrees(by_onnx(made.folder, made.pixels))
    measured = made.parity()
    assert (measured["examples"], measured["test_examples"]) == (180, 180)
    assert len(measured["forms"]) == 3
    for form in measured["forms"].values():
        assert form["checked"] is True
        assert form["max_probability_difference"] < 1e-5
        assert form["differing_labels"] == 0
    assert measured["forms"]["model.pt"]["max_probability_difference"] == 0


def label_of(made: Exported, picture: str) -> str:
    """The class that numpy gives a picture in docs/."""
    model = inference.load(made.folder)
    content = (Path(__file__).parents[4] / "docs" / picture).read_bytes()
    label: str = model.answer(inference.fitted(inference.read_png(content), model.shape)[None])[0]["class"]
    return label


@pytest.mark.parametrize("net", ["linear", "mlp"])
def test_the_picture_of_the_readme_is_a_seven_for_a_model_of_digits(exported, net):
    assert label_of(exported(net, steps=200), "seven.png") == "7"


@pytest.mark.mnist
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_the_other_picture_of_the_readme_is_a_seven_even_for_a_hardly_trained_model_of_mnist(exported, mnist_dir, seed):
    assert label_of(exported("mlp", "mnist", mnist_dir, steps=300, seed=seed), "seven-mnist.png") == "7"


@pytest.mark.mnist
@pytest.mark.parametrize("net", ["mlp", pytest.param("cnn", marks=pytest.mark.long)])
def test_every_form_labels_all_of_mnist_as_torch_does(exported, mnist_dir, net):
    made = exported(net, dataset="mnist", data_dir=mnist_dir, steps=300)
    assert (made.logits.argmax(1) == made.data.test_labels).float().mean() > 0.9
    made.assert_agrees(by_numpy(made.folder, made.pixels))
    made.assert_agrees(by_onnx(made.folder, made.pixels))
    assert label_of(made, "seven-mnist.png") == "7"
    measured = made.parity()
    assert measured["test_examples"] == 10_000
    assert measured["examples"] == 200  # of a short training


def test_pixels_of_the_data_set_are_labelled_as_the_job_labelled_them(exported):
    from worker.trainer.data.built_in import load_digits

    made = exported("mlp")
    model = inference.load(made.folder)
    whole = load_digits().test_images.numpy().astype(int)
    for images in (whole, whole / 16):  # integers up to white, or fractions of it
        answers = model.predict(images)
        assert [answer["label"] for answer in answers] == made.logits.argmax(1).tolist()
        np.testing.assert_allclose([answer["probabilities"] for answer in answers], made.probabilities, atol=1e-5)


def test_whichever_file_finds_the_disk_full_says_so(exported, tmp_path):
    if (why := why_no_disks()) is not None:
        pytest.skip(f"no small disk: {why}")
    made = exported("mlp")
    disk = SmallDisk(tmp_path / "disk", 1)
    (folder := disk.path / "files").mkdir()
    found: list[int] = []  # how many files there were when the disk was full
    try:
        for pages in range(100):
            disk.leave(pages * PAGE)
            try:
                model_files.write(folder, made.spec, made.data, made.outcome.state, made.events.append)
                onnx_export.write(folder, made.model, made.data, made.events.append)
                break
            except Exception as error:
                assert disk_is_full(error), repr(error)
                found.append(len(list(folder.iterdir())))
            shutil.rmtree(folder)
            disk.free()
            folder.mkdir()
    finally:
        disk.unmount()
    assert {max(count, 1) for count in found} == {1, 2, 3, 4, 5}, "each file has met the full disk"


def test_the_torch_file_loads_without_code(exported):
    made = exported("mlp")
    weights = torch.load(made.folder / "model.pt", weights_only=True)
    made.model.load_state_dict(weights)
    assert {type(value) for value in weights.values()} == {Tensor}


def test_the_onnx_file_says_what_it_takes_and_gives(exported):
    made = exported("cnn")
    session = onnxruntime.InferenceSession(made.folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [("images", ["N", 1, 8, 8], "tensor(float)")]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("probabilities", ["N", 10]), ("logits", ["N", 10])]
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == list("0123456789")
    assert json.loads(said["normalization"])["mean"] == made.data.normalization.mean
    assert said["gradq_version"]
    for n in (1, 7):
        assert session.run(["logits"], {"images": made.pixels[:n]})[0].shape == (n, 10)


def test_a_form_that_strays_is_found(exported):
    made = exported("mlp")
    other = copy.deepcopy(made.model)
    with torch.no_grad():
        other[1].weight.neg_()
    torch.save(other.state_dict(), made.folder / "model.pt")
    form = made.parity()["forms"]["model.pt"]
    assert form["max_probability_difference"] > 0.1
    assert form["differing_labels"] > 10


def test_without_the_extra_the_log_says_so_once_and_nothing_fails(exported, monkeypatch):
    missing = onnx_export.importlib.util.find_spec
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None if name == "onnx" else missing(name))
    made = exported("mlp")
    (line,) = made.events
    assert isinstance(line, Log)
    assert (line.level, "gradq[onnx]" in line.message) == ("info", True)
    assert not (made.folder / "model.onnx").exists()
    form = made.parity()["forms"]["model.onnx"]
    assert form == {"checked": False, "why": "there is no model.onnx; the job's log says why"}


def test_weights_that_no_onnx_file_can_hold_are_left_out_by_name(exported, monkeypatch):
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 1000)
    made = exported("mlp")
    assert "do not fit into one file" in made.events[0].message
    assert not (made.folder / "model.onnx").exists()


class TestAForeignNet:
    """A model that is not an nn.Sequential, as those of torchvision."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.side, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 1), nn.Linear(4, 10)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.norm(self.stem(x)) + self.side(x)).relu().mean((2, 3)))

    @pytest.fixture
    def made(self, tmp_path: Path) -> Exported:
        spec = JobSpec.parse({"seed": 7})
        data = prepare(spec, Path("nowhere"), False, CPU)
        torch.manual_seed(7)
        model = trained(self.Branching(), *training_tensors(data), steps=20)
        zoo = spec.model_copy(
            update={
                "architecture": SimpleNamespace(
                    type="torchvision",
                    name="branching",
                    model_dump=lambda mode: {"type": "torchvision", "name": "branching"},
                )
            }
        )
        return Exported(tmp_path, data, zoo, model)

    def test_it_is_exported_whole_and_what_it_lacks_is_named(self, made):
        described = json.loads((made.folder / "model.json").read_text())
        assert described["layers"] is None
        assert described["architecture"] == {"type": "torchvision", "name": "branching"}
        assert not (made.folder / "predict.py").exists()
        (line,) = made.events
        assert "no predict.py: numpy does not compute branching" in line.message
        made.assert_agrees(by_onnx(made.folder, made.pixels))
        forms = made.parity()["forms"]
        assert forms["model.safetensors with predict.py"]["checked"] is False
        assert "branching" in forms["model.safetensors with predict.py"]["why"]
        assert forms["model.onnx"]["max_probability_difference"] < 1e-5
        assert forms["model.pt"]["max_probability_difference"] == 0

    def test_its_onnx_file_takes_any_number_of_images(self, made):
        for n in (1, 5):
            assert by_onnx(made.folder, made.pixels[:n]).shape == (n, 10)

    def test_an_exporter_that_fails_costs_the_file_and_not_the_job(self, made, monkeypatch):
        monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: 1 / 0)
        events: list[Log] = []
        onnx_export.write(made.folder, made.model, made.data, events.append)
        assert [(e.level, "division by zero" in e.message) for e in events] == [("warning", True)]


def test_three_channels_are_normalized_each_by_its_own():
    """No built-in dataset has colours: numpy and ONNX against torch on a model with random weights."""
    info = replace(DATASETS["digits"], shape=(3, 8, 6))
    normalization = Normalization([0.2, 0.5, 0.7], [0.1, 0.3, 0.2], 255.0)
    pixels = torch.rand(9, 3, 8, 6, generator=torch.Generator().manual_seed(1))
    data: Any = SimpleNamespace(info=info, normalization=normalization, test_images=normalization.apply(pixels * 255))
    spec = JobSpec.parse({"architecture": {"type": "cnn", "channels": [5], "kernel": 7, "hidden": []}})
    model = build_model(spec.architecture, info.shape, 10).eval()
    with torch.no_grad():
        expected = torch.softmax(model(data.test_images), 1).numpy()
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    net = inference.Model(model_files.describe(model, spec, data), weights)
    np.testing.assert_allclose(inference.softmax(net.logits(pixels.numpy())), expected, atol=1e-6)
    session = onnxruntime.InferenceSession(onnx_export.graph_of(model, data).SerializeToString())
    np.testing.assert_allclose(session.run(["probabilities"], {"images": pixels.numpy()})[0], expected, atol=1e-6)
    back = to_pixels(data.test_images, normalization)
    torch.testing.assert_close(back, pixels)
