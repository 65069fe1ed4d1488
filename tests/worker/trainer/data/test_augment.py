"""Each example has its own draw, a function of (seed, epoch, batch); the area beyond the image's edges is black."""

import pytest
import torch

from shared.spec.job_spec import JobSpec
from worker.trainer.data.augment import Augmenter

BLACK = torch.tensor([-0.5, 0.25]).view(1, 2, 1, 1)


def augmenter(*steps, seed=7, black=BLACK):
    return Augmenter(JobSpec.parse({"augment": list(steps)}).augment, seed, black * torch.ones(1, 2, 1, 1))


def images(n=64, height=6, width=6):
    """Two black channels with one bright pixel near the middle."""
    x = BLACK.expand(n, 2, height, width).clone()
    x[:, :, 2, 3] = 2.0
    return x


def bright(x):
    """(N,2): row and column of the brightest pixel of the first channel."""
    places = x[:, 0].flatten(1).argmax(1)
    return torch.stack([places // x.shape[3], places % x.shape[3]], 1)


def test_a_shift_moves_by_whole_pixels_up_to_its_size_and_fills_with_black():
    moved = augmenter({"type": "shift", "pixels": 1})(images(500), 1, 0)
    offsets = bright(moved) - torch.tensor([2, 3])
    assert {tuple(o) for o in offsets.tolist()} == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert set(moved[:, 0].unique().tolist()) == {-0.5, 2.0}
    assert set(moved[:, 1].unique().tolist()) == {0.25, 2.0}


def test_what_is_shifted_out_of_sight_is_gone():
    x = images(400)
    moved = augmenter({"type": "shift", "pixels": 4})(x, 1, 0)
    kept = (moved[:, 0] == 2.0).flatten(1).sum(1)
    assert set(kept.tolist()) == {0, 1}


def test_a_crop_is_a_window_of_the_padded_image():
    moved = augmenter({"type": "crop", "padding": 2})(images(500), 1, 0)
    offsets = bright(moved) - torch.tensor([2, 3])
    assert offsets.abs().max() == 2
    assert len({tuple(o) for o in offsets.tolist()}) == 25


def test_a_flip_swaps_left_and_right_with_its_probability():
    moved = augmenter({"type": "flip", "probability": 0.25})(images(1000), 1, 0)
    columns = bright(moved)[:, 1]
    assert set(columns.tolist()) == {2, 3}
    assert 0.2 < (columns == 2).float().mean() < 0.3
    assert torch.equal(augmenter({"type": "flip", "probability": 1.0})(images(), 1, 0), images().flip(3))


def test_a_rotation_keeps_what_lies_in_the_middle_and_turns_the_rest():
    x = torch.zeros(200, 2, 9, 9)
    x[:, :, 4, 4], x[:, :, 4, 7] = 3.0, 2.0
    turn = Augmenter(
        JobSpec.parse({"augment": [{"type": "rotate", "degrees": 90}]}).augment, 7, torch.zeros(1, 2, 1, 1)
    )
    turned = turn(x, 1, 0)
    torch.testing.assert_close(turned[:, :, 4, 4], torch.full((200, 2), 3.0), atol=1e-4, rtol=0)
    centre = torch.arange(9.0) - 4
    mass = turned[:, 0].clone()
    mass[:, 3:6, 3:6] = 0  # the pixel in the middle, and its part that the rotated grid samples at its neighbours
    rows, columns = (mass * centre.view(1, -1, 1)).sum((1, 2)), (mass * centre).sum((1, 2))
    angles = torch.atan2(rows, columns).rad2deg()
    assert angles.abs().max() < 91
    assert angles.std() > 30
    distance = (rows.square() + columns.square()).sqrt() / mass.sum((1, 2))
    torch.testing.assert_close(distance, torch.full((200,), 3.0), atol=0.2, rtol=0)


def test_a_rotation_of_an_image_that_is_not_square_does_not_shear_it():
    x = torch.zeros(1, 2, 21, 41)
    x[:, :, 10, 20:36] = 1.0  # a line of 15 pixels to the right of the middle
    turn = Augmenter(
        JobSpec.parse({"augment": [{"type": "rotate", "degrees": 30}]}).augment, 3, torch.zeros(1, 2, 1, 1)
    )
    for epoch in range(20):
        turned = turn(x, epoch, 0)[0, 0]
        rows, columns = torch.meshgrid(torch.arange(21.0) - 10, torch.arange(41.0) - 20, indexing="ij")
        distance = (rows.square() + columns.square()).sqrt()
        assert distance[turned > 0.5].max() == pytest.approx(15, abs=1.2)


def test_the_draws_are_a_pure_function_of_seed_epoch_and_batch():
    x, step = images(), {"type": "shift", "pixels": 2}
    first = augmenter(step)(x, 3, 5)
    torch.rand(17)  # the global random state has no effect
    assert torch.equal(first, augmenter(step)(x, 3, 5))
    others = [augmenter(step)(x, 4, 5), augmenter(step)(x, 3, 6), augmenter(step, seed=8)(x, 3, 5)]
    assert not any(torch.equal(first, other) for other in others)


def test_steps_are_composed_in_their_order():
    x = images()
    flip, shift = {"type": "flip", "probability": 1.0}, {"type": "shift", "pixels": 2}
    assert torch.equal(augmenter(flip, flip)(x, 1, 0), x)
    both = bright(augmenter(flip, shift)(x, 1, 0))
    assert (both - torch.tensor([2, 2])).abs().max() <= 2


def test_training_sees_augmented_images_and_evaluation_does_not(training):
    plain, moved = training(epochs=1), training(epochs=1, augment=[{"type": "shift", "pixels": 1}])
    plain.prepare()
    moved.prepare()
    x, labels = next(plain.data.train.epoch(1))
    x, labels = x.clone(), labels.clone()
    y, same = next(moved.data.train.epoch(1))
    assert torch.equal(labels, same)
    assert not torch.equal(x, y)
    assert torch.equal(plain.data.val_images, moved.data.val_images)
    assert torch.equal(plain.data.test_images, moved.data.test_images)
