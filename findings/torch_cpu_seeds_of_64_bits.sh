#!/bin/sh
# On the CPU, torch's generator uses the lower 32 bits of a seed, though it takes and reports 64.
#
# Guess:      torch.Generator().manual_seed(n) takes 64 bits, so seeds that are derived by a hash of 8 bytes, one for each
#             epoch or batch, give streams of their own: among 100 000 of them a pair has a probability of 3e-10.
# Behaviour:  seeds that are equal in the lower 32 bits give the same stream, and nothing is said: initial_seed() returns
#             all 64 bits. Of 100 000 derived seeds some pairs are expected (n²/2^33 = 1.2), and these epochs have the same
#             order of data. NumPy's default_rng uses all bits of the same seeds.
# Versions:   torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11.
# Date:       2026-11-30
# Output:     epochs 13348 and 60552:
#               seeds differ: True; initial_seed() gives all bits: True
#               torch's orders of 60 000 are equal: True
#               numpy's orders of 60 000 are equal: False
#             and the same for epochs 4347 and 96913
#
# Exits with 1 when the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/seeds.py" <<'PYTHON'
from hashlib import blake2b

import numpy
import torch


def derived(epoch: int) -> int:
    """A seed of 64 bits."""
    return int.from_bytes(blake2b(f"order of epoch {epoch}".encode(), digest_size=8).digest(), "big")


def order(seed: int) -> torch.Tensor:
    return torch.randperm(60_000, generator=torch.Generator().manual_seed(seed))


first: dict[int, int] = {}
for epoch in range(100_000):
    other = first.setdefault(derived(epoch) % 2**32, epoch)
    if other != epoch:
        one, two = derived(other), derived(epoch)
        print(f"epochs {other} and {epoch}:")
        print(f"  seeds differ: {one != two}; initial_seed() gives all bits:", end=" ")
        print([torch.Generator().manual_seed(seed).initial_seed() for seed in (one, two)] == [one, two])
        print(f"  torch's orders of 60 000 are equal: {torch.equal(order(one), order(two))}")
        orders = [numpy.random.default_rng(seed).permutation(60_000) for seed in (one, two)]
        print(f"  numpy's orders of 60 000 are equal: {numpy.array_equal(*orders)}")
PYTHON
"$folder/venv/bin/python" "$folder/seeds.py" | tee "$folder/output"
for epochs in '13348 and 60552' '4347 and 96913'; do
    printf 'epochs %s:\n' "$epochs"
    printf '  seeds differ: True; initial_seed() gives all bits: True\n'
    printf "  torch's orders of 60 000 are equal: True\n"
    printf "  numpy's orders of 60 000 are equal: False\n"
done | cmp - "$folder/output"
