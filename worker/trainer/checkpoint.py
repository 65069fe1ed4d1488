"""When to save, and how to save so that a file of this name is always whole. What is saved stands in state.py."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from shared.errors import TrainingError
from shared.events import CheckpointSaved, Log, Report
from shared.spec.job_spec import Checkpointing
from worker.disks import disk_is_full
from worker.trainer.step.state import State

FORMAT = 1


def save(path: Path, state: State, spec: dict[str, Any]) -> None:
    """Write to another name, flush to the disk, rename, read back: a torn file never carries this name."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, "spec": spec, **state.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        load(temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is ever executed. Raises TrainingError when it is torn or of another format."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TrainingError(f"the checkpoint {path.name} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path.name} is not a checkpoint of format {FORMAT}, the one that this version reads")
    return state


class Checkpointer:
    """Saves when the spec says so. Two names in turn: the file before stays until the new one has been read back."""

    def __init__(self, requested: Checkpointing, spec: dict[str, Any], folder: Path, report: Report) -> None:
        self.requested, self.spec, self.folder, self.report = requested, spec, folder, report
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether `every_seconds` have gone by."""
        every = self.requested.every_seconds
        return every is not None and time.monotonic() - self.saved_at >= every

    def due_after_epoch(self, epoch: int) -> bool:
        every = self.requested.every_epochs
        return (every is not None and epoch % every == 0) or self.due()

    def save(self, state: State) -> None:
        """A full disk costs no training: the log says that this checkpoint is missing."""
        path = self.folder / f"{state.step}.pt"
        self.saved_at = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save(path, state, self.spec)
        except Exception as error:
            if not disk_is_full(error):
                raise
            message = f"the checkpoint at step {state.step} could not be written: the disk is full"
            self.report(Log(message=message, data={"step": state.step}, level="warning"))
        else:
            self.report(CheckpointSaved(path=str(path), step=state.step, epoch=state.epoch))
