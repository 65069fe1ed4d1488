"""Rows of uploaded datasets on both databases: inserted once, kept while jobs need them, shared by owners."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from shared.artifacts import StoredFile, dataset_folder
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS, DatasetInfo
from shared.db.database import Database
from shared.errors import DatasetInUse, InvalidSpec, NotFound
from shared.jobs import jobs, queue
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec

PETS = "ds_" + "1" * 32
INFO = DatasetInfo(
    name="pets",
    description="6x5 colour images, 2 classes (22 train, 2 test)",
    shape=(3, 5, 6),
    classes=("cats", "dogs"),
    train_examples=22,
    test_examples=2,
    dtype="float32",
    white=1.0,
    source="upload",
)


def add(database: Database, dataset_id: str = PETS, folder: str = "datasets/x/y") -> bool:
    files = [StoredFile(name, "file", "x/y", 10, "0" * 64, f"{folder}/{name}") for name in ("a.npy", "b.npy")]
    with database.write() as session:
        return dataset_store.add(session, dataset_id, INFO, "f" * 64, {"format": "npz"}, folder, files)


def remove(database: Database, dataset_id: str = PETS) -> Any:
    with database.write() as session:
        return dataset_store.remove(session, dataset_id)


def submit(database: Database) -> str:
    spec = JobSpec.parse({"dataset": PETS}, dataset_store.finder(database, None))
    with database.write() as session:
        dataset_store.lock_for_job(session, spec.dataset, None)
        return jobs.create(session, spec).id


def test_what_is_recorded_comes_back_as_it_was(database: Database) -> None:
    assert add(database)
    with database.read() as session:
        row = dataset_store.get(session, PETS, None)
        assert [r.id for r in dataset_store.list_visible(session)] == [PETS]
        assert dataset_store.known_among(session, [PETS, "ds_2"]) == {PETS}
    assert dataset_store.info_of(row) == INFO == dataset_store.finder(database, None)(PETS)
    assert (row.size_bytes, row.files["a.npy"]) == (20, {"size_bytes": 10, "sha256": "0" * 64})


def test_of_two_with_the_same_id_the_first_stays(database: Database) -> None:
    assert add(database, folder="datasets/x/first")
    assert not add(database, folder="datasets/x/second")
    with database.read() as session:
        assert dataset_store.get(session, PETS, None).folder == "datasets/x/first"


def test_the_finder_knows_built_in_ones_without_a_database() -> None:
    find = dataset_store.finder(Database("postgresql+psycopg://nobody@127.0.0.1:1/none"), None)
    assert find("mnist") is DATASETS["mnist"]
    assert find("pets") is None
    assert find("ds_\x00") is find("ds_\ud800") is None  # without a query, which the drivers would reject


@pytest.mark.parametrize("end", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_a_dataset_is_in_use_until_its_jobs_have_ended(database: Database, end: JobState) -> None:
    add(database)
    job_id = submit(database)
    with pytest.raises(DatasetInUse, match=job_id):
        remove(database)
    with database.write() as session:
        job = queue.claim(session, "w1", "cpu", {"auto"}, 60)
        assert job is not None
        lease = queue.lease_of(job)
    with pytest.raises(DatasetInUse) as error:
        remove(database)
    assert error.value.extra["jobs"] == [job_id]
    with database.write() as session:
        queue.finish(session, lease, end, "over", {"code": "x", "detail": ""})
    assert remove(database).folder == "datasets/x/y"
    with pytest.raises(NotFound):
        remove(database)


def test_a_job_on_another_dataset_does_not_prevent_removal(database: Database) -> None:
    add(database)
    with database.write() as session:
        jobs.create(session, JobSpec.parse({}))
    remove(database)


def test_a_job_and_a_deletion_at_the_same_moment_exclude_each_other(database: Database) -> None:
    for _ in range(10):
        add(database)
        barrier, outcomes = threading.Barrier(2), {}

        def attempt(name: str, change: Any, barrier=barrier, outcomes=outcomes) -> None:
            spec = JobSpec.parse({"dataset": PETS}, dataset_store.finder(database, None))
            barrier.wait()
            try:
                outcomes[name] = change(spec)
            except (InvalidSpec, DatasetInUse) as error:
                outcomes[name] = type(error)

        def create(spec: JobSpec) -> str:
            with database.write() as session:
                dataset_store.lock_for_job(session, spec.dataset, None)
                return jobs.create(session, spec).id

        threads = [
            threading.Thread(target=attempt, args=("submit", create)),
            threading.Thread(target=attempt, args=("remove", lambda _: remove(database).id)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (outcomes["submit"] is InvalidSpec) != (outcomes["remove"] is DatasetInUse), outcomes
        if outcomes["remove"] is DatasetInUse:
            with database.write() as session:
                jobs.request_cancel(session, outcomes["submit"])
            remove(database)


def test_a_folder_is_new_each_time() -> None:
    assert len({dataset_folder(PETS) for _ in range(20)}) == 20
    assert dataset_folder(PETS).startswith(f"datasets/{PETS}/")


def test_facts_survive_json() -> None:
    assert DatasetInfo.from_json(json.loads(json.dumps(INFO.to_json()))) == INFO
