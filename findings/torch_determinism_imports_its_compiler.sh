#!/bin/sh
# torch.use_deterministic_algorithms(True), or the first optimizer, imports torch's compiler and sympy.
#
# Guess:      after `import torch`, setting a flag or constructing SGD over one parameter takes microseconds and imports
#             nothing; the compiler is imported by torch.compile().
# Behaviour:  the first of the two imports torch._dynamo, torch._inductor and sympy, over 700 modules: some 1.1 s of CPU
#             time where `import torch` takes 1.4 s. The second then takes less than a millisecond. A program that forks
#             trainers pays for this in each of them, unless its parent has called one of the two or imported them.
# Versions:   torch 2.13.0 (CPU), sympy as torch requires it, Python 3.11.
# Date:       2026-11-30
# Output:     import torch: compiler False, sympy False
#             use_deterministic_algorithms: compiler True, sympy True, over 700 modules more: True
#             import torch: compiler False, sympy False
#             SGD: compiler True, sympy True, over 700 modules more: True
#
# Exits with 1 when the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/imports.py" <<'PYTHON'
import sys

import torch


def imported() -> str:
    return f"compiler {'torch._dynamo' in sys.modules}, sympy {'sympy' in sys.modules}"


print("import torch:", imported())
before = len(sys.modules)
if sys.argv[1] == "SGD":
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
else:
    torch.use_deterministic_algorithms(True)
print(f"{sys.argv[1]}: {imported()}, over 700 modules more: {len(sys.modules) - before > 700}")
PYTHON
for call in use_deterministic_algorithms SGD; do
    "$folder/venv/bin/python" "$folder/imports.py" "$call"
done | tee "$folder/output"
for call in use_deterministic_algorithms SGD; do
    printf 'import torch: compiler False, sympy False\n'
    printf '%s: compiler True, sympy True, over 700 modules more: True\n' "$call"
done | cmp - "$folder/output"
