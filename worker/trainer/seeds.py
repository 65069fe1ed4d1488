"""Independent random streams from one seed: each purpose draws from a generator of its own.

There are two kinds of streams. torch's generator on the CPU (mt19937) keeps the lower 32 bits of its seed, so that two
of 77 000 such streams are probably the same. The streams that a job has once, or once per epoch (initial weights,
split, order of an epoch, samples of a gradient check), are of this kind, as in every release: a seed keeps its results.
Those that a job has once per batch are of the second kind: numpy's Philox with a key of 128 bits.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

PER_BATCH = 2  # how the streams of batches are made; checkpoints store it. 1: torch's generator, up to release 0.2.0


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose: the first 8 bytes of sha256("seed/purpose/numbers…")."""
    return int.from_bytes(_digest(seed, purpose, *numbers)[:8], "big") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator whose stream is a pure function of its arguments: of the lower 32 bits of `derive`.

    Two of them are the same with a probability of 2⁻³², so this is for streams of which a job has few; for one stream
    per batch see `batch_draws`.
    """
    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))


class Draws(Protocol):
    """Random numbers as CPU tensors."""

    def uniform(self, n: int) -> Tensor:
        """(n) float32 in [0, 1)"""

    def integers(self, low: int, high: int, n: int, columns: int) -> Tensor:
        """(n,columns) int64 from `low` to `high`, both included"""


class PhiloxDraws:
    """Draws from numpy's Philox. Other keys are other streams, so two differ if 128 bits of sha256 do."""

    def __init__(self, key: int) -> None:
        self._random = np.random.Generator(np.random.Philox(key=key))

    def uniform(self, n: int) -> Tensor:
        return torch.from_numpy(self._random.random(n, dtype=np.float32))

    def integers(self, low: int, high: int, n: int, columns: int) -> Tensor:
        return torch.from_numpy(self._random.integers(low, high, (n, columns), endpoint=True))


class TorchDraws:
    """Draws from torch's generator, as release 0.2.0 made them: for runs that resume from its checkpoints."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, n: int) -> Tensor:
        return torch.rand(n, generator=self._generator)

    def integers(self, low: int, high: int, n: int, columns: int) -> Tensor:
        return torch.randint(low, high + 1, (n, columns), generator=self._generator)


def batch_draws(seed: int, purpose: str, epoch: int, batch: int, streams: int = PER_BATCH) -> Draws:
    """The random numbers of one batch, a pure function of the arguments. `streams`: how they are made, 1 or 2."""
    if streams == 1:
        return TorchDraws(generator(seed, purpose, epoch, batch))
    return PhiloxDraws(int.from_bytes(_digest(seed, purpose, epoch, batch)[:16], "big"))


def _digest(*words: object) -> bytes:
    return hashlib.sha256("/".join(map(str, words)).encode()).digest()


class RngState:
    """A snapshot of the global random state; after `restore` the same numbers are drawn again."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
