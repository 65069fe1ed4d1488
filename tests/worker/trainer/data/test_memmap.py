"""Uploaded datasets: the same batches and bits from memory and from memory maps; no loader worker is left over."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from support.images import folders, npz, pixels, small, zipped
from support.waiting import wait_for

from api.uploads.fields import UploadFields
from api.uploads.ingest import ingest
from shared.datasets.catalog import ARRAYS, DatasetInfo
from shared.errors import DataError
from shared.events import Finished, Metric
from shared.spec.job_spec import JobSpec
from worker.launcher import Launcher
from worker.plan import Plan
from worker.trainer.data import datasets, memmap, normalization
from worker.trainer.data.memmap import MappedBatches
from worker.trainer.job import run_job
from worker.trainer.run import Run

CPU = torch.device("cpu")
NAME = "ds_" + "1" * 32


def uploaded(folder: Path, content: bytes, **fields: Any) -> tuple[Path, DatasetInfo]:
    path, target = folder / "upload", folder / "dataset"
    path.write_bytes(content)
    info, _ = ingest({"file": path}, UploadFields(**fields), "pets", target, 1 << 30)
    return target, info


def spec_for(info: DatasetInfo, **fields: Any) -> JobSpec:
    body = {"seed": 7, "epochs": 2, "batch_size": 16, "dataset": NAME, **fields}
    return JobSpec.parse(body, lambda _: info)


def prepare(folder: Path, spec: JobSpec) -> datasets.Data:
    return datasets.prepare(spec, Path("nowhere"), False, CPU, folder)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dataset counts as too large for memory."""
    monkeypatch.setattr(memmap, "SHARE_OF_MEMORY", 0.0)


CONTENTS = {
    "grey bytes": npz(**small(200)),
    "floats": npz(**small(200, x=pixels(200, 6, 6).astype(np.float32) / 300)),
    "colour": npz(**small(200, x=pixels(200, 5, 7, 3))),
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("fields", [{}, {"validation": "test"}], ids=str)
def test_mapped_and_in_memory_give_the_same_bits(
    tmp_path: Path, monkeypatch, kind: str, fields: dict[str, Any]
) -> None:
    folder, info = uploaded(tmp_path, CONTENTS[kind])
    spec = spec_for(info, **fields)
    memory = prepare(folder, spec)
    assert not isinstance(memory.train, MappedBatches)
    monkeypatch.setattr(memmap, "SHARE_OF_MEMORY", 0.0)
    disk = prepare(folder, spec)
    assert isinstance(disk.train, MappedBatches)
    assert memory.normalization == disk.normalization
    assert memory.info == disk.info == info
    for epoch in (1, 2):
        for (x, labels), (x2, labels2) in zip(memory.train.epoch(epoch), disk.train.epoch(epoch), strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(labels, labels2)
        assert memory.train.order.sha256(epoch, "") == disk.train.order.sha256(epoch, "")
    for split in ("val", "test"):
        one, other = getattr(memory, f"{split}_images"), getattr(disk, f"{split}_images")
        assert torch.equal(one[:], other[:])
        assert torch.equal(torch.cat(list(other.split(7))), other[:])
        assert torch.equal(getattr(memory, f"{split}_labels"), getattr(disk, f"{split}_labels"))


def test_a_training_ends_with_the_same_weights_either_way(tmp_path: Path, monkeypatch) -> None:
    folder, info = uploaded(tmp_path, zipped(folders(60, shape=(12, 12))))
    spec = spec_for(info, architecture="cnn", gradients="manual")
    results = []
    for share in (0.25, 0.0):
        monkeypatch.setattr(memmap, "SHARE_OF_MEMORY", share)
        run = Run(tmp_path / f"run {share}")
        where = {"data_dir": Path("nowhere"), "download": False, "threads": 1}
        results.append(run_job(spec, run, lambda event: None, **where, uploaded=folder))
        model = json.loads((run.folder / "artifacts" / "model.json").read_text())
        assert (model["classes"], model["dataset"], model["input_shape"]) == (["cats", "dogs"], NAME, [1, 12, 12])
        assert (run.folder / "artifacts" / "predictions.png").stat().st_size > 1000
    one, other = results
    for key in ("weights_sha256", "data_order_sha256", "normalization", "train_loss", "val_loss", "test_loss"):
        assert one[key] == other[key], key


def test_an_epoch_taken_up_in_the_middle_after_a_broken_off_one_is_the_rest_of_it(tmp_path: Path, on_disk) -> None:
    folder, info = uploaded(tmp_path, CONTENTS["grey bytes"])
    train = prepare(folder, spec_for(info)).train
    whole = list(train.epoch(2))
    broken_off = train.epoch(1)
    next(broken_off)
    rest = list(train.epoch(2, first_batch=3))
    assert len(rest) == len(whole) - 3
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(rest, whole[3:], strict=True))


def test_what_crosses_to_a_worker_is_a_path_and_not_the_pixels(tmp_path: Path) -> None:
    folder, info = uploaded(tmp_path, npz(**small(2000)))
    images, _ = memmap.images(folder, info)
    assert images[:1].shape == (1, 1, 6, 6)  # the map is open by now
    assert len(pickle.dumps(images)) < 1000
    assert torch.equal(pickle.loads(pickle.dumps(images))[:5], images[:5])


def test_figures_in_chunks_are_those_of_the_whole(tmp_path: Path, monkeypatch) -> None:
    for kind in ("grey bytes", "floats", "colour"):
        (tmp_path / kind).mkdir()
        folder, info = uploaded(tmp_path / kind, CONTENTS[kind])
        images, _ = memmap.images(folder, info)
        whole = normalization.measure(images[:], info.white)
        monkeypatch.setattr(normalization, "CHUNK_VALUES", 500)
        chunked = normalization.measure(images, info.white)
        assert chunked.mean == pytest.approx(whole.mean, rel=1e-12)
        assert chunked.std == pytest.approx(whole.std, rel=1e-12)
        pixels = images[:].double() / info.white
        assert chunked.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), rel=1e-9)
        assert chunked.std == pytest.approx(pixels.std((0, 2, 3), unbiased=False).tolist(), rel=1e-9)


@pytest.mark.parametrize(
    ("limit", "text", "large"), [(1 << 30, "max\n", False), (1 << 30, "4000\n", True), (4000, None, True)]
)
def test_a_container_s_limit_counts_as_the_machine_s_memory(tmp_path: Path, monkeypatch, limit, text, large) -> None:
    _, info = uploaded(tmp_path, CONTENTS["grey bytes"])
    file = tmp_path / "memory.max"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(memmap, "CGROUP_LIMITS", (str(file),))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": limit}))
    assert memmap.too_large(info) is large


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("damage", ["gone", "cut", "pickle", "another shape"])
def test_a_broken_file_is_a_data_error(tmp_path: Path, name: str, damage: str) -> None:
    folder, info = uploaded(tmp_path, CONTENTS["grey bytes"])
    path = folder / name
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "pickle":
        np.save(path, np.array([{}], dtype=object))
    else:
        np.save(path, np.load(path)[1:])
    with pytest.raises(DataError, match=name):
        prepare(folder, spec_for(info))


def test_a_folder_without_facts_and_a_spec_without_a_folder_are_data_errors(tmp_path: Path) -> None:
    _, info = uploaded(tmp_path, CONTENTS["grey bytes"])
    with pytest.raises(DataError, match="holds no dataset"):
        prepare(tmp_path, spec_for(info))
    with pytest.raises(DataError, match=NAME):
        datasets.prepare(spec_for(info), tmp_path, False, CPU)


def test_the_trainer_runs_alone_on_an_uploaded_data_set(
    tmp_path: Path, command_line: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = uploaded(tmp_path, CONTENTS["grey bytes"])
    (tmp_path / "spec.json").write_text(json.dumps({"dataset": NAME, "epochs": 1, "seed": 1}))
    arguments = [tmp_path / "spec.json", "--out", tmp_path / "run", "--threads", 1]
    assert command_line(*arguments) == 2
    assert "unknown dataset" in capsys.readouterr().err
    assert command_line(*arguments, "--dataset", folder) == 0
    assert (tmp_path / "run" / "artifacts" / "model.safetensors").is_file()


TRAIN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import torch
    from shared.spec.job_spec import JobSpec
    from worker.trainer.data import datasets, memmap
    if __name__ == "__main__":
        memmap.SHARE_OF_MEMORY = 0.0
        torch.set_num_threads(1)
        folder = Path(sys.argv[1])
        spec = JobSpec.parse({"dataset": "ds_" + "1" * 32, "batch_size": 1}, lambda _: memmap.read_info(folder))
        loaded = datasets.prepare(spec, Path("x"), False, torch.device("cpu"), Path(sys.argv[1]))
        for x, labels in loaded.train.epoch(1):
            break
        print("ready", flush=True)
        sys.stdin.readline()
    """
)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_workers_end_with_a_trainer_that_was_killed(tmp_path: Path) -> None:
    folder, _ = uploaded(tmp_path, CONTENTS["grey bytes"])
    (tmp_path / "train.py").write_text(TRAIN)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    command = [sys.executable, str(tmp_path / "train.py"), str(folder)]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "ready\n"
        family = psutil.Process(trainer.pid).children(recursive=True)
        assert len(family) >= 2  # the fork server, and a worker below it
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    wait_for(lambda: not [p for p in family if p.is_running() and p.status() != "zombie"], 20, "the workers to end")


FORCED = """
from worker.plan import Plan
from worker.trainer import process
from worker.trainer.data import memmap
memmap.SHARE_OF_MEMORY = 0.0
process.run(pipe, Plan(**plan))
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("end", ["done", "killed"])
def test_a_trainer_of_the_service_takes_its_workers_along(tmp_path: Path, end: str) -> None:
    folder, info = uploaded(tmp_path, CONTENTS["grey bytes"])
    epochs = 2 if end == "done" else 10_000
    plan = Plan(
        spec=spec_for(info, epochs=epochs, batch_size=1).to_json(),
        folder=str(tmp_path / "run"),
        data_dir="nowhere",
        download=False,
        device="cpu",
        gpu_uuid=None,
        threads=1,
        dataset=str(folder),
    )
    launcher = Launcher()
    launcher.warm_up()
    ours, theirs = launcher._context.Pipe(duplex=False)
    trainer = launcher._context.Process(target=exec, args=(FORCED, {"pipe": theirs, "plan": asdict(plan)}))
    trainer.start()
    theirs.close()
    try:
        events: list[Any] = []
        with contextlib.suppress(EOFError):
            while not (end == "killed" and any(isinstance(event, Metric) for event in events)) and ours.poll(60):
                events.append(ours.recv())
        if end == "done":
            assert isinstance(events[-1], Finished), events[-1]
            return
        family = psutil.Process(trainer.pid).children(recursive=True)
        assert len(family) >= 2  # a fork server of its own, and a worker
    finally:
        trainer.kill()  # the process alone: its workers must notice
        trainer.join(20)
        ours.close()
    wait_for(lambda: not [p for p in family if p.is_running() and p.status() != "zombie"], 20, "the workers to end")
