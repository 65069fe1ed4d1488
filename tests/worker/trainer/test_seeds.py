"""One seed, many streams."""

import hashlib

import torch

from worker.trainer.seeds import derive, generator


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
