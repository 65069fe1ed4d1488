"""One seed, many streams."""

import hashlib
import random

import numpy as np
import pytest
import torch

from worker.trainer import device
from worker.trainer.seeds import LOW_BITS, STREAMS, derive, generator

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
    """A change here changes the masks of dropout on GPUs, and what resumes from checkpoints of release 0.2.0."""
    assert derive(7, "shuffle", 3) == int(hashlib.sha256(b"7/shuffle/3").hexdigest()[:16], 16) // 2


def test_a_derived_seed_is_one_that_torch_takes():
    for seed in (0, 1, 2**53 - 1):
        assert 0 <= derive(seed, "init") < 2**63
        generator(seed, "init")


def test_drawing_from_a_stream_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    torch.rand(10, generator=generator(7, "init"))
    assert torch.equal(torch.get_rng_state(), before)


# --- all bits of a seed -----------------------------------------------------------------------------------------------

EVERY_USE = [("init",), ("split",), ("shuffle", 4), ("augment", 3, 5), ("samples",), ("torch",)]


def seeds_with_the_same_low_bits(purpose, *numbers):
    """Two seeds of jobs whose derived seeds for one purpose share the lower 32 bits."""
    seen = {}
    seed = 0
    while (low := derive(seed, purpose, *numbers) & LOW) not in seen:
        seen[low] = seed
        seed += 1
    return seen[low], seed


@pytest.mark.parametrize("use", EVERY_USE, ids=lambda use: use[0])
def test_streams_whose_derived_seeds_share_32_bits_are_different(use):
    one, other = seeds_with_the_same_low_bits(*use)
    before = [torch.rand(8, generator=generator(seed, *use, streams=LOW_BITS)) for seed in (one, other)]
    assert torch.equal(*before)  # with the streams of release 0.2.0 they are the same
    now = [generator(seed, *use) for seed in (one, other)]
    assert not torch.equal(*(torch.rand(8, generator=g) for g in now))
    assert not torch.equal(*(torch.randperm(100, generator=g) for g in now))


def test_the_streams_of_all_batches_of_a_long_job_are_different():
    places = [(number // 500 + 1, number % 500) for number in range(30_000)]
    assert len({torch.rand(4, generator=generator(7, "augment", *p)).numpy().tobytes() for p in places}) == 30_000


@pytest.mark.parametrize("streams", [LOW_BITS, STREAMS])
@pytest.mark.parametrize("words", [(7, "augment", 3, 5), (0, "augment", 1, 0), (2**53 - 1, "augment", 10_000, 10**6)])
def test_a_stream_is_uniform_and_a_pure_function_of_its_words(words, streams):
    first = torch.rand(1000, generator=generator(*words, streams=streams))
    torch.rand(5)
    assert torch.equal(torch.rand(1000, generator=generator(*words, streams=streams)), first)
    assert 0 <= first.min() < 0.05 < 0.95 < first.max() < 1
    assert abs(first.mean() - 0.5) < 0.04  # four standard deviations
    seed, purpose, epoch, batch = words
    for others in ((seed + 1, purpose, epoch, batch), (seed, "other", epoch, batch), (seed, purpose, batch + 1, epoch)):
        assert not torch.equal(torch.rand(1000, generator=generator(*others, streams=streams)), first)


def test_the_streams_of_release_0_2_0_are_those_of_manual_seed():
    theirs = torch.Generator().manual_seed(derive(7, "augment", 3, 5))
    ours = generator(7, "augment", 3, 5, streams=LOW_BITS)
    assert torch.equal(torch.rand(6, generator=ours), torch.rand(6, generator=theirs))


@pytest.mark.parametrize("words", [(7, "shuffle", 3), (0, "init"), (2**53 - 1, "augment", 9, 9)])
def test_a_stream_is_that_of_mt19937_with_the_words_of_shake_256(words):
    """A change here changes the result of every seed. numpy has the same algorithm, with a public state."""
    state = np.frombuffer(hashlib.shake_256("/".join(map(str, words)).encode()).digest(4 * 624), "<u4")
    theirs = np.random.MT19937()
    theirs.state = {"bit_generator": "MT19937", "state": {"key": state, "pos": 624}}
    ours = torch.rand(2000, generator=generator(*words), dtype=torch.float32)
    assert (ours * 2**24).int().tolist() == [int(number) & (2**24 - 1) for number in theirs.random_raw(2000)]


@pytest.mark.parametrize("seed", [0, 1, 5489, 2**32 - 1])
def test_the_words_of_a_generator_s_state_are_where_they_are_written(seed):
    state = torch.Generator().manual_seed(seed).get_state()
    assert state.view(torch.int64)[3 : 3 + 624].tolist() == np.random.RandomState(seed).get_state()[1].tolist()


@pytest.mark.parametrize("purpose", ["python", "numpy", "torch"])
def test_global_streams_use_all_bits_of_a_seed(purpose):
    draw = {"python": random.random, "numpy": np.random.random, "torch": lambda: torch.rand(()).item()}[purpose]
    drawn = set()
    for seed in seeds_with_the_same_low_bits(purpose):
        device.set_up(seed, torch.device("cpu"), 1, deterministic=False)
        drawn.add(draw())
    assert len(drawn) == 2
