"""A training step as a CUDA graph, which launches all its kernels by one call; tape.py is the CPU's counterpart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Graph:
    """A captured step; `replay` runs it on the current values of its tensors."""

    def __init__(self, step: Callable[[], Tensor]) -> None:
        """Capture `step` without running it. Raises RuntimeError if a CUDA graph cannot hold one of its operations."""
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: a DataLoader's pinning thread may use the device meanwhile without failing the capture
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = step()

    def replay(self) -> Tensor:
        """Run the step again and return its loss (), which the next replay overwrites."""
        self._graph.replay()
        return self._result
