"""Independent random streams from one seed: each purpose draws from a generator of its own.

A job has one stream for its initial weights, one per epoch for the order of the examples, one per batch for
augmentation, and so on. Each is torch's generator on the CPU (mt19937), whose 624 words of 32 bits are made from the
seed by SHAKE-256, so that streams are the same only if their words are. `torch.Generator.manual_seed` keeps the lower
32 bits of what it is given: of 77 000 streams made by it, two are probably the same.
"""

from __future__ import annotations

import hashlib

import torch

STREAMS = 2  # how streams are made; checkpoints store it, since a resumed run draws as the version that began it
LOW_BITS = 1  # up to release 0.2.0: by `manual_seed`
WORDS = 624  # of mt19937's state


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose: the first 8 bytes of sha256("seed/purpose/numbers…")."""
    return int.from_bytes(hashlib.sha256(_text(seed, purpose, *numbers)).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *numbers: int, streams: int = STREAMS) -> torch.Generator:
    """A CPU generator whose stream is a pure function of its arguments. `streams`: how it is made."""
    if streams == LOW_BITS:
        return torch.Generator().manual_seed(derive(seed, purpose, *numbers))
    words = bytearray(hashlib.shake_256(_text(seed, purpose, *numbers)).digest(4 * WORDS))
    made = torch.Generator()
    state = made.get_state()
    # The words follow a seed that is not used again and three counters, each of them in 8 bytes. The counters of a new
    # generator have it compute the next words before the first number, so the bytes above are never drawn themselves.
    state.view(torch.int64)[3 : 3 + WORDS] = torch.frombuffer(words, dtype=torch.uint32)
    made.set_state(state)
    return made


def _text(*words: object) -> bytes:
    return "/".join(map(str, words)).encode()


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
