"""Loss and accuracy of a split, on the scale of the training loss."""

import pytest
import torch
from torch import nn

from shared.spec import job_spec
from worker.trainer import evaluate as module
from worker.trainer.evaluate import evaluate
from worker.trainer.nets.losses import build_loss


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator)
    return model, torch.randn(10, 1, 3, 3, generator=generator), torch.randint(0, 4, (10,), generator=generator)


@pytest.mark.parametrize(("reduction", "batches"), [("mean", 10), ("sum", 3)])
def test_loss_is_the_mean_over_examples_or_over_the_batches_of_a_summed_loss(split, reduction, batches):
    model, images, labels = split
    loss = build_loss(job_spec.CrossEntropy(reduction=reduction))
    expected = sum(
        loss(model(images[i : i + 4]), labels[i : i + 4]) * (len(labels[i : i + 4]) if reduction == "mean" else 1)
        for i in (0, 4, 8)
    )
    assert evaluate(model, loss, images, labels, batch_size=4).loss == pytest.approx(expected.item() / batches)


def test_chunks_do_not_change_the_figures(split, monkeypatch):
    model, images, labels = split
    loss = build_loss(job_spec.CrossEntropy())
    whole = evaluate(model, loss, images, labels, 4)
    monkeypatch.setattr(module, "CHUNK", 3)
    chunked = evaluate(model, loss, images, labels, 4)
    assert chunked.loss == pytest.approx(whole.loss, rel=1e-6)
    assert chunked.accuracy == whole.accuracy == (model(images).argmax(1) == labels).double().mean().item()
    torch.testing.assert_close(chunked.logits, whole.logits)


def test_evaluating_leaves_no_graph_and_no_gradient(split):
    model, images, labels = split
    assert not evaluate(model, build_loss(job_spec.CrossEntropy()), images, labels, 4).logits.requires_grad
    assert all(p.grad is None for p in model.parameters())
