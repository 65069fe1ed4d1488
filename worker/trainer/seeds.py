"""Independent random streams from one seed: init, shuffle and split each draw from their own generator."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose: the first 8 bytes of sha256("seed/purpose/numbers…")."""
    text = "/".join(map(str, (seed, purpose, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator whose stream is a pure function of its arguments."""
    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))


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
