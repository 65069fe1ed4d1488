"""On a GPU: manual and autograd gradients agree, an interrupted run ends alike, batches come from pinned memory."""

from pathlib import Path

import pytest
import torch

from shared.events import Log
from shared.spec.job_spec import JobSpec
from worker.trainer import device
from worker.trainer.data import batches, datasets
from worker.trainer.job import run_job
from worker.trainer.loop import train
from worker.trainer.run import Run, StopRequested
from worker.trainer.step import step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def kernels_as_before():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, False


def spec_of(**fields):
    return JobSpec.parse({"seed": 7, "epochs": 2, "batch_size": 32, "device": "cuda", **fields})


def run(spec, folder, resume=None, stop_at=None, said=None):
    """One attempt on the GPU; returns its final weights. `said` receives the lines of the log."""
    cuda, events, asked = device.choose(spec.device), [], [0]
    device.set_up(spec.seed, cuda, 1, spec.deterministic)

    def stop():
        asked[0] += 1
        return stop_at is not None and asked[0] >= stop_at

    prepared = datasets.prepare(spec, Path("nowhere"), False, cuda)
    outcome = train(spec, prepared, events.append, Run(folder, resume, stop_requested=stop))
    if said is not None:
        said += [event.message for event in events if isinstance(event, Log)]
    return {name: tensor.cpu() for name, tensor in outcome.state.model.state_dict().items()}


def test_a_gpu_is_what_auto_means():
    assert device.choose("auto") == device.choose("cuda") == torch.device("cuda", 0)
    assert device.choose("cpu") == torch.device("cpu")


@pytest.mark.parametrize("architecture", ["linear", "mlp", "cnn"])
def test_a_job_learns_from_pinned_memory(tmp_path, architecture):
    spec = spec_of(architecture=architecture, epochs=10, gradients="manual")
    result = run_job(spec, Run(tmp_path), lambda event: None, data_dir=Path("nowhere"), download=False, threads=1)
    assert result["pinned_memory"] is True
    assert result["device"].startswith("cuda")
    assert result["environment"]["gpu"] == torch.cuda.get_device_name(0)
    assert result["gradient_check"]["passed"] is True
    assert result["test_accuracy"] > 0.9


def staged(spec, monkeypatch):
    """The training split as it is read if it does not fit on the GPU."""
    monkeypatch.setattr(batches, "DEVICE_SHARE", 0.0)
    prepared = datasets.prepare(spec, Path("nowhere"), False, torch.device("cuda", 0))
    assert isinstance(prepared.train, batches.StagedBatches)
    return prepared.train


@pytest.mark.parametrize("first_batch", [0, 5])
def test_batches_through_pinned_buffers_are_those_of_data_on_the_device(monkeypatch, first_batch):
    resident = datasets.prepare(spec_of(), Path("nowhere"), False, torch.device("cuda", 0)).train
    assert isinstance(resident, batches.ResidentBatches)
    expected = [(x.clone(), labels.clone()) for x, labels in resident.epoch(2, first_batch)]
    found = list(staged(spec_of(), monkeypatch).epoch(2, first_batch))
    assert len(found) == len(expected)
    for (x, labels), (y, others) in zip(found, expected, strict=True):
        assert x.is_cuda
        assert torch.equal(x, y)
        assert torch.equal(labels, others)


@pytest.mark.parametrize("gradients", ["manual", "autograd"])
@pytest.mark.parametrize("fields", [{}, {"optimizer": "adamw", "schedule": "onecycle", "lr": 0.01}], ids=str)
def test_steps_from_a_cuda_graph_leave_the_bits_of_single_steps(tmp_path, monkeypatch, gradients, fields):
    architecture = {"type": "mlp", "hidden": [30], "dropout": 0.2}
    spec = spec_of(architecture=architecture, gradients=gradients, epochs=4, **fields)
    said = []
    from_graph = run(spec, tmp_path, said=said)
    assert any("CUDA graph" in message for message in said), said
    monkeypatch.setattr(step, "WORTHWHILE", 10**9)
    one_by_one = run(spec, tmp_path)
    for name, tensor in from_graph.items():
        assert torch.equal(tensor, one_by_one[name]), name


def test_bf16_learns_and_keeps_its_weights_in_fp32(tmp_path):
    weights = run(spec_of(architecture="cnn", precision="bf16", epochs=3), tmp_path)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())


@pytest.mark.parametrize("optimizer", ["basic", "sgd", "adam", "adamw"])
@pytest.mark.parametrize("architecture", ["linear", "mlp", "cnn"])
def test_both_ways_to_the_gradient_agree(tmp_path, architecture, optimizer):
    fields = {"architecture": architecture, "optimizer": optimizer, "lr": 0.01}
    manual = run(spec_of(**fields, gradients="manual"), tmp_path)
    autograd = run(spec_of(**fields, gradients="autograd"), tmp_path)
    for name, tensor in manual.items():
        torch.testing.assert_close(
            tensor, autograd[name], rtol=1e-3, atol=1e-4, msg=lambda t, name=name: f"{name}: {t}"
        )


@pytest.mark.parametrize("gradients", ["manual", "autograd"])
@pytest.mark.parametrize("architecture", ["linear", "mlp", "cnn"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, architecture, gradients):
    fields = {"optimizer": "adam", "lr": 0.003, "epochs": 4, "augment": ["shift"]}  # 184 steps: enough for a CUDA graph
    spec = spec_of(architecture=architecture, gradients=gradients, **fields)
    expected = run(spec, tmp_path / "unbroken")
    for place in (2, 46, 130):
        folder = tmp_path / f"broken-{place}"
        with pytest.raises(StopRequested) as stopped:
            run(spec, folder, stop_at=place)
        weights = run(spec, folder, resume=folder / "checkpoints" / f"{stopped.value.step}.pt")
        for name, tensor in expected.items():
            assert torch.equal(weights[name], tensor), f"{name}, stopped at {place}"


def test_the_order_of_the_examples_is_that_of_the_cpu():
    on_gpu, on_cpu = (datasets.prepare(spec_of(), Path("nowhere"), False, torch.device(d)) for d in ("cuda", "cpu"))
    for (x, labels), (y, others) in zip(on_gpu.train.epoch(2), on_cpu.train.epoch(2), strict=True):
        assert torch.equal(x.cpu(), y)
        assert torch.equal(labels.cpu(), others)
