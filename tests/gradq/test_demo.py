"""The demo's closing figures."""

from __future__ import annotations

import pytest

from gradq.commands.comparison import largest_difference
from gradq.commands.demo import fresh_state
from gradq.local.instance import AlreadyRunning, only_one


def test_the_largest_difference_is_over_all_losses_and_shared_steps():
    one = {"train_loss": [[10, 1, 1.0], [20, 2, 0.5]], "batch_loss": [[50, 3, 0.4]], "val_accuracy": [[10, 1, 0.1]]}
    other = {"train_loss": [[10, 1, 1.25], [20, 2, None]], "batch_loss": [[50, 3, 0.9]], "val_accuracy": [[10, 1, 0.9]]}
    assert largest_difference(one, other) == pytest.approx(0.5)
    assert largest_difference(one, {}) is None
    assert largest_difference(one, one) == 0


def test_a_demo_starts_with_an_empty_state_unless_another_one_runs(tmp_path):
    state = fresh_state(tmp_path)
    (state / "old").touch()
    assert list(fresh_state(tmp_path).iterdir()) == []
    with only_one(state, "here"), pytest.raises(AlreadyRunning):
        fresh_state(tmp_path)
