"""A step that is repeated from its tape leaves the bits that the step itself would have left."""

import pytest
import torch
from torch import nn

from worker.trainer.gradients.manual_and_autograd import GRADIENTS
from worker.trainer.nets.layers import Linear
from worker.trainer.nets.losses import ClampedCrossEntropyLoss, CrossEntropyLoss
from worker.trainer.step import tape

LOSSES = {"plain": CrossEntropyLoss("mean"), "clamped": ClampedCrossEntropyLoss("sum")}
OPTIMIZERS = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr, 0.9, fused=True),
    "adam": lambda p, lr: torch.optim.Adam(p, lr, fused=True),
}


class Problem:
    """A small net, fixed tensors for the batch, and the step on them."""

    def __init__(self, gradients="autograd", loss="plain", optimizer="sgd", activation=nn.Tanh):
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Flatten(), Linear(9, 7), activation(), Linear(7, 4))
        self.lr = torch.tensor(0.05)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters(), self.lr)
        self.x, self.labels = torch.empty(6, 1, 3, 3), torch.empty(6, dtype=torch.long)
        self.fill, self.loss = GRADIENTS[gradients], LOSSES[loss]
        self.draws = torch.Generator().manual_seed(5)

    def draw(self):
        self.x.copy_(torch.randn(6, 1, 3, 3, generator=self.draws))
        self.labels.copy_(torch.randint(0, 4, (6,), generator=self.draws))

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.fill(self.model, self.loss, self.x, self.labels)
        self.optimizer.step()
        return loss

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def trained(taped, rates=(0.05,), **options):
    problem, losses, made = Problem(**options), [], None
    for i in range(12):
        problem.draw()
        problem.lr.fill_(rates[i % len(rates)])
        if taped and i == 2:
            made, loss, obstacle = tape.record(problem.step)
            assert made is not None, obstacle
        else:
            loss = made.replay() if made else problem.step()
        losses.append(loss.item())
    return problem.weights(), losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gradients", sorted(GRADIENTS))
def test_a_repeated_step_leaves_the_same_bits(gradients, loss, optimizer):
    options = {"gradients": gradients, "loss": loss, "optimizer": optimizer}
    (weights, losses), (expected, wanted) = trained(True, **options), trained(False, **options)
    assert torch.equal(weights, expected)
    assert losses == wanted
    assert len(set(losses)) == 12  # each batch was really looked at


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.GELU])
def test_every_activation_is_repeated(activation):
    assert torch.equal(trained(True, activation=activation)[0], trained(False, activation=activation)[0])


def test_a_new_learning_rate_is_read_by_a_repeated_step():
    rates = (0.05, 0.5, 0.001)
    assert torch.equal(trained(True, rates)[0], trained(False, rates)[0])
    assert not torch.equal(trained(True, rates)[0], trained(True)[0])


def test_dropout_draws_anew_in_a_repeated_step_and_as_the_step_itself_would():
    ends = []
    for taped in (True, False):
        problem = Problem()
        problem.model.insert(3, nn.Dropout(0.5))
        torch.manual_seed(11)
        for _ in range(2):
            problem.draw()
            problem.step()
        made = None
        losses = []
        problem.draw()  # one batch again and again: only the dropout can make the loss differ
        problem.lr.fill_(0.0)
        for i in range(6):
            if taped and i == 0:
                made, loss, obstacle = tape.record(problem.step)
                assert made is not None, obstacle
            else:
                loss = made.replay() if made else problem.step()
            losses.append(loss.item())
        ends.append(losses)
    assert ends[0] == ends[1]
    assert len(set(ends[0])) == 6


def test_recording_draws_no_more_random_numbers_than_the_step():
    states = []
    for taped in (True, False):
        problem = Problem()
        problem.model.insert(3, nn.Dropout(0.5))
        torch.manual_seed(11)
        problem.draw()
        if taped:
            made, _, obstacle = tape.record(problem.step)
            assert made is not None, obstacle
        else:
            problem.step()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_recording_runs_the_step_once():
    recorded, plain = Problem(), Problem()
    for problem in (recorded, plain):
        problem.draw()
        problem.step()
        problem.draw()
    made, loss, _ = tape.record(recorded.step)
    assert made is not None
    assert loss.item() == plain.step().item()
    assert torch.equal(recorded.weights(), plain.weights())


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (lambda loss: loss.item(), "reads a value back"),
        (lambda loss: nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2)), "outweigh the calls"),
        (lambda loss: [loss + i for i in range(300)], "more than 200 operations"),
    ],
    ids=["item", "convolution", "long"],
)
def test_a_step_that_a_tape_cannot_hold_runs_and_the_reason_is_told(extra, reason):
    problem, twin = Problem(), Problem()
    problem.draw()
    twin.draw()

    def step():
        loss = problem.step()
        extra(loss)
        return loss

    made, loss, obstacle = tape.record(step)
    assert made is None
    assert reason in obstacle
    assert loss.item() == twin.step().item()
    assert torch.equal(problem.weights(), twin.weights())
