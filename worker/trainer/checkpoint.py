"""When to save a checkpoint, and how to save it so that the file is always complete; step/state.py has its content."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from shared.disks import disk_error, disk_is_unusable, disk_outage
from shared.errors import TrainingError
from shared.events import CheckpointSaved, Log, Report
from shared.spec.job_spec import Checkpointing
from worker.trainer import seeds
from worker.trainer.step.state import State

FORMAT = 1
LEAST_SECONDS = 0.1  # between two checkpoints by time
STORING_SECONDS = 1.0  # that a checkpoint by epoch waits for the one before


def save(path: Path, state: State, spec: dict[str, Any]) -> None:
    """Write the checkpoint atomically: to a temporary file, fsync, read it back, rename.

    Raises OSError if the file cannot be written, TrainingError if it cannot be read back.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            content = {"format": FORMAT, "spec": spec, **state.state_dict()}
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        load(temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint without executing any code in it.

    Returns `format`, `spec` and the keys of `State.state_dict`, with tensors on the CPU; `mmap` leaves these in the
    file until they are used. Raises TrainingError if the file is damaged or of another format.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise TrainingError(f"the checkpoint {path.name} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path.name} is not a checkpoint of format {FORMAT}, which this version reads")
    return state


def streams_of(path: Path) -> int:
    """The version of the random streams of this checkpoint's run. A resumed run must draw as it did: else it would
    train on examples that were held out before. Raises TrainingError as `load` does, and for a version of later
    releases."""
    streams: int = load(path, mmap=True).get("streams", seeds.LOW_BITS)  # not in files of versions up to 0.2.0
    if streams not in (seeds.LOW_BITS, seeds.STREAMS):
        raise TrainingError(f"{path.name} has random streams of version {streams}, which this version cannot draw from")
    return streams


class Checkpointer:
    """Saves when the spec says so, each checkpoint in a file named after its step.

    With `stored`, a supervisor stores each file once `CheckpointSaved` was reported, and deletes it here. No further
    checkpoint is due while it does: they never queue up, however slow the store is.
    """

    def __init__(
        self, requested: Checkpointing, spec: dict[str, Any], folder: Path, report: Report, stored: bool = False
    ) -> None:
        self.requested, self.spec, self.folder, self.report = requested, spec, folder, report
        self.saved_at = time.monotonic()
        self.stored = stored
        self._last: Path | None = None
        self._waited_for: Path | None = None

    def due(self) -> bool:
        """Whether `every_seconds` have passed since the last save, at least LEAST_SECONDS."""
        every = self.requested.every_seconds
        if every is None:
            return False
        least = max(every, LEAST_SECONDS) if self.stored else every
        return time.monotonic() - self.saved_at >= least and not self._is_being_stored()

    def due_after_epoch(self, epoch: int) -> bool:
        """Whether a checkpoint is due after this epoch (from 1), by `every_epochs` or by `every_seconds`.

        Waits up to STORING_SECONDS for the checkpoint before to be stored; after that, this one is left out.
        """
        every = self.requested.every_epochs
        if every is None or epoch % every != 0:
            return self.due()
        # once for each checkpoint that takes long, not in each epoch that it takes
        waits = self._last != self._waited_for
        self._waited_for = self._last
        deadline = time.monotonic() + (STORING_SECONDS if waits else 0.0)
        while self._is_being_stored() and time.monotonic() < deadline:
            time.sleep(0.002)
        return not self._is_being_stored()

    def _is_being_stored(self) -> bool:
        if not self.stored or self._last is None:
            return False
        try:
            return self._last.exists()
        except OSError:
            return True  # a disk that is gone takes no other checkpoint either

    def save(self, state: State) -> None:
        """Save and report the checkpoint. A disk that cannot be used does not fail the training: a warning is logged
        instead."""
        path = self.folder / f"{state.step}.pt"
        self.saved_at = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save(path, state, self.spec)
        except Exception as error:
            if not disk_is_unusable(error):
                raise
            why = disk_outage(disk_error(error, path))
            message = f"the checkpoint at step {state.step} could not be written: {why}"
            self.report(Log(message=message, data={"step": state.step}, level="warning"))
        else:
            self._last = path
            self.report(CheckpointSaved(path=str(path), step=state.step, epoch=state.epoch))
