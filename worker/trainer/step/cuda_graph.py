"""A training step as a CUDA graph: all its kernels launched by one call. For CUDA what tape.py is for the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Graph:
    """A captured step; `replay` runs it on what now lies in its tensors."""

    def __init__(self, step: Callable[[], Tensor]) -> None:
        """Capture `step` without running it. Raises RuntimeError where it does something that no graph can hold."""
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: what a DataLoader's pinning thread asks of the device meanwhile is not the capture's business
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = step()

    def replay(self) -> Tensor:
        """Run the step again; the loss () is overwritten by the next repeat."""
        self._graph.replay()
        return self._result
