"""One seed, many streams."""

import hashlib

import numpy as np
import pytest
import torch

from worker.trainer.seeds import batch_draws, derive, generator

LOW = 2**32 - 1  # the bits of a seed that torch's generator on the CPU keeps


def test_a_stream_is_a_function_of_its_words_alone():
    torch.manual_seed(1)
    first = torch.rand(4, generator=generator(7, "shuffle", 3))
    torch.manual_seed(2)
    torch.rand(5)
    assert torch.equal(torch.rand(4, generator=generator(7, "shuffle", 3)), first)


def test_streams_of_other_words_are_other_streams():
    words = [(7, "init"), (8, "init"), (7, "split"), (7, "shuffle", 1), (7, "shuffle", 2), (7, "shuffle", 1, 2)]
    words += [(71, "shuffle"), (7, "shuffle", 12)]
    assert len({derive(*w) for w in words}) == len(words)


def test_a_derived_seed_is_the_one_of_every_release():
    """A change here changes the result of every seed that was ever published."""
    assert derive(7, "shuffle", 3) == int(hashlib.sha256(b"7/shuffle/3").hexdigest()[:16], 16) // 2


def test_a_derived_seed_is_one_that_torch_takes():
    for seed in (0, 1, 2**53 - 1):
        assert 0 <= derive(seed, "init") < 2**63
        generator(seed, "init")


def test_drawing_from_a_stream_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    torch.rand(10, generator=generator(7, "init"))
    assert torch.equal(torch.get_rng_state(), before)


# --- one stream per batch ---------------------------------------------------------------------------------------------


def batches_with_the_same_low_bits(seed, n):
    """The first `n` pairs of batches of a job (200 per epoch) whose derived seeds share the lower 32 bits."""
    seen, pairs, number = {}, [], 0
    while len(pairs) < n:
        place = (number // 200 + 1, number % 200)
        low = derive(seed, "augment", *place) & LOW
        if low in seen:
            pairs.append((seen[low], place))
        seen[low] = place
        number += 1
    return pairs


@pytest.mark.parametrize("seed", [0, 1, 7, 2**32, 2**53 - 1])
def test_two_batches_of_a_long_job_do_not_share_their_draws(seed):
    ((one, other),) = batches_with_the_same_low_bits(seed, 1)
    before = [torch.rand(8, generator=generator(seed, "augment", *place)) for place in (one, other)]
    assert torch.equal(*before)  # with torch's generator they are the same
    now = [batch_draws(seed, "augment", *place) for place in (one, other)]
    assert not torch.equal(*(draws.uniform(8) for draws in now))
    assert not torch.equal(*(draws.integers(-9, 9, 8, 2) for draws in now))


def test_the_draws_of_all_batches_of_a_long_job_are_different():
    firsts = {
        batch_draws(7, "augment", number // 500 + 1, number % 500).uniform(4).numpy().tobytes()
        for number in range(30_000)
    }
    assert len(firsts) == 30_000


@pytest.mark.parametrize("words", [(7, "augment", 3, 5), (0, "augment", 1, 0), (2**53 - 1, "augment", 10_000, 10**6)])
@pytest.mark.parametrize("streams", [1, 2])
def test_the_draws_of_a_batch_are_a_pure_function_of_its_words(words, streams):
    first = batch_draws(*words, streams=streams).integers(-3, 3, 50, 2)
    torch.rand(5)
    again = batch_draws(*words, streams=streams)
    assert torch.equal(again.integers(-3, 3, 50, 2), first)
    assert (first.dtype, first.shape, first.min(), first.max()) == (torch.int64, (50, 2), -3, 3)
    shares = again.uniform(1000)
    assert (shares.dtype, shares.shape) == (torch.float32, (1000,))
    assert 0 <= shares.min() < 0.05 < 0.95 < shares.max() < 1
    seed, purpose, epoch, batch = words
    for others in ((seed + 1, purpose, epoch, batch), (seed, "other", epoch, batch), (seed, purpose, batch + 1, epoch)):
        assert not torch.equal(
            batch_draws(*others, streams=streams).uniform(8), batch_draws(*words, streams=streams).uniform(8)
        )


def test_the_streams_of_release_0_2_0_are_those_of_torch_s_generator():
    draws, theirs = batch_draws(7, "augment", 3, 5, streams=1), generator(7, "augment", 3, 5)
    assert torch.equal(draws.integers(-2, 2, 6, 2), torch.randint(-2, 3, (6, 2), generator=theirs))
    assert torch.equal(draws.uniform(6), torch.rand(6, generator=theirs))


def test_the_streams_of_this_release_are_those_of_philox():
    """A change here changes the result of every job with augmentation."""
    key = int.from_bytes(hashlib.sha256(b"7/augment/3/5").digest()[:16], "big")
    expected = np.random.Generator(np.random.Philox(key=key)).random(6, dtype=np.float32)
    assert batch_draws(7, "augment", 3, 5).uniform(6).tolist() == expected.tolist()
