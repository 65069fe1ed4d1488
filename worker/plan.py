"""What a supervisor hands to a trainer process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.spec.job_spec import JobSpec


@dataclass(frozen=True)
class Plan:
    """All that one attempt needs to run. Plain values: it is pickled; the trainer server has its own environment."""

    spec: dict[str, Any]
    folder: str  # the run folder: checkpoints/ and artifacts/ are written there
    data_dir: str  # datasets in torchvision's layout
    download: bool
    device: str  # cpu or cuda
    gpu_uuid: str | None
    threads: int
    resume: str | None = None  # a checkpoint file
    reported_step: int = -1  # the last step whose metrics the log holds; -1: none
    kind: str = JobSpec.kind
    init_from: str | None = None  # a safetensors file with the initial weights
    dataset: str | None = None  # the folder of an uploaded dataset
    cache_dir: str | None = None  # this host's cache; None: nothing is cached
    cache_bytes: int = 0  # the most that may be in it
