"""The manual losses against autograd and against values computed on paper."""

import math

import pytest
import torch

from shared.spec import job_spec
from worker.trainer.nets.losses import build_loss

LOSSES = [
    *[job_spec.CrossEntropy(reduction=r) for r in ("mean", "sum")],
    *[job_spec.ClampedCrossEntropy(reduction=r, clamp=c) for r in ("mean", "sum") for c in (1e-10, 0.2)],
]
each_loss = pytest.mark.parametrize("wanted", LOSSES, ids=lambda loss: "-".join(map(str, loss.model_dump().values())))


def batch(n: int = 6, k: int = 4, scale: float = 1.0):
    generator = torch.Generator().manual_seed(11)
    logits = scale * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, k, (n,), generator=generator)


def autograd(loss, logits, labels):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, labels)
    value.backward()
    return value.detach(), leaf.grad


@each_loss
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_loss_by_hand_equals_autograd(wanted, n, scale):
    loss, (logits, labels) = build_loss(wanted), batch(n, scale=scale)
    value, cache = loss.forward(logits, labels)
    expected_value, expected_gradient = autograd(loss, logits, labels)
    torch.testing.assert_close(value, expected_value)
    torch.testing.assert_close(loss.backward(cache), expected_gradient)


@each_loss
def test_total_is_the_sum_over_the_examples(wanted):
    loss, (logits, labels) = build_loss(wanted), batch()
    one_by_one = sum(loss(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels)))
    torch.testing.assert_close(loss.total(logits, labels), one_by_one)
    n = len(labels) if wanted.reduction == "mean" else 1
    torch.testing.assert_close(loss(logits, labels) * n, one_by_one)


@pytest.mark.parametrize(("p", "expected"), [((0.8, 0.2, 0.2), 0.2231), ((0.2, 0.6, 0.2), 1.6094)])
def test_article_worked_values(p, expected):
    """-log p of the true class 0. The article's first p sums to 1.2, so the other two share the remaining 0.2."""
    p0 = p[0]
    rest = (1 - p0) / 2
    logits, label = torch.tensor([[p0, rest, rest]]).log(), torch.tensor([0])
    for wanted in LOSSES:
        loss = build_loss(wanted)
        assert loss.forward(logits, label)[0].item() == pytest.approx(expected, abs=5e-5)
        assert loss(logits, label).item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_right_at_logits_of_ten_thousand(dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype)
    loss = build_loss(job_spec.CrossEntropy(reduction="sum"))
    value, cache = loss.forward(logits, torch.tensor([0, 1]))
    assert value.item() == 20_000
    assert loss.backward(cache).tolist() == [[0, 0, 0], [1, -1, 0]]


def test_clamped_cross_entropy_is_right_at_logits_of_ten_thousand():
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]])
    loss = build_loss(job_spec.ClampedCrossEntropy(reduction="sum", clamp=1e-10))
    value, cache = loss.forward(logits, torch.tensor([0, 1]))
    assert value.item() == pytest.approx(-math.log(1e-10))
    assert not loss.backward(cache).any()  # the first is learnt, the second below the clamp: no gradient


def test_clamp_passes_no_gradient_below_and_all_of_it_above():
    p_label = torch.tensor([0.1, 0.3], dtype=torch.float64)
    logits = torch.stack([p_label, 1 - p_label], 1).log()
    labels = torch.zeros(2, dtype=torch.int64)
    loss = build_loss(job_spec.ClampedCrossEntropy(reduction="sum", clamp=0.2))
    dlogits = loss.backward(loss.forward(logits, labels)[1])
    torch.testing.assert_close(dlogits, torch.tensor([[0, 0], [-0.7, 0.7]], dtype=torch.float64))


def test_clamp_passes_the_gradient_exactly_at_the_clamp():
    logits, labels = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([2])  # p = 1/4 in every place, exactly
    loss = build_loss(job_spec.ClampedCrossEntropy(reduction="sum", clamp=0.25))
    dlogits = loss.backward(loss.forward(logits, labels)[1])
    assert dlogits.tolist() == [[0.25, 0.25, -0.75, 0.25]]
    torch.testing.assert_close(dlogits, autograd(loss, logits, labels)[1])


def test_mean_is_the_sum_divided_by_the_batch():
    logits, labels = batch()
    mean, total = (build_loss(job_spec.CrossEntropy(reduction=r)) for r in ("mean", "sum"))
    a, b = mean.backward(mean.forward(logits, labels)[1]), total.backward(total.forward(logits, labels)[1])
    torch.testing.assert_close(a * len(labels), b)


@each_loss
def test_backward_can_be_asked_twice(wanted):
    loss, (logits, labels) = build_loss(wanted), batch()
    _, cache = loss.forward(logits, labels)
    assert torch.equal(loss.backward(cache), loss.backward(cache))
