"""A warning where the weights of `init_from` have seen the images that a job validates or tests with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.config import Settings
from shared.datasets import dataset_store
from shared.datasets.catalog import DatasetInfo
from shared.db.database import Database
from shared.db.tables import Job
from shared.jobs import jobs
from shared.spec.job_spec import GradientCheckSpec, JobSpec
from worker.leakage import warnings_about

REPEAT, OTHERWISE = "use the same validation and seed as that job", "set validation to 'test'"
TENTH, FIFTH = {"fraction": 0.1}, {"fraction": 0.2}


@pytest.fixture
def database(settings: Settings, new_sqlite: Callable[[str], Database]) -> Iterator[Database]:
    settings.make_state_dir()
    database = new_sqlite(settings.database)
    yield database
    database.close()


@pytest.fixture
def trained(database: Database) -> Callable[..., str]:
    """trained(**fields): the id of a finished job with this spec."""

    def add(split: str | None = "stratified", **fields: Any) -> str:
        with database.write() as session:
            job = jobs.create(session, spec_of(**fields), None)
            session.get_one(Job, job.id).result = {} if split is None else {"validation_split": split}
            return job.id

    return add


@pytest.fixture
def warnings(database: Database) -> Callable[..., list[str]]:
    def of(**fields: Any) -> list[str]:
        with database.read() as session:
            return warnings_about(session, spec_of(**fields).to_json())

    return of


def spec_of(dataset: str = "digits", **fields: Any) -> JobSpec:
    info = DatasetInfo(dataset, "", (1, 8, 8), tuple("0123456789"), 1617, 180, source="upload")
    if "init_from" in fields:
        fields["init_from"] = {"job": fields["init_from"]}
    return JobSpec.parse({"seed": 7, "dataset": dataset, **fields}, lambda _: info)


def upload(database: Database, dataset_id: str, sha256: str = "a" * 64, **options: Any) -> str:
    info = DatasetInfo("pets", "", (1, 8, 8), tuple("0123456789"), 1617, 180, source="upload")
    with database.write() as session:
        dataset_store.add(session, dataset_id, info, sha256, {"format": "npz", **options}, dataset_id, [])
    return dataset_id


PETS, SAME, OTHER = ("ds_" + sign * 32 for sign in "123")


@pytest.mark.parametrize(
    ("before", "now", "how_much", "action"),
    [
        ({"validation": "test"}, {"validation": TENTH}, "all", OTHERWISE),
        ({"seed": 8}, {}, "most", REPEAT),
        ({"validation": FIFTH}, {"validation": TENTH}, "most", REPEAT),
        ({"validation": {"fraction": 0.9}}, {}, "some", REPEAT),
        ({"split": None}, {}, "most", OTHERWISE),  # of a version that drew the same share at random
        ({"split": "random"}, {}, "most", OTHERWISE),
    ],
    ids=str,
)
def test_a_validation_split_that_was_trained_on_is_told(trained, warnings, before, now, how_much, action) -> None:
    origin = trained(**before)
    (warning,) = warnings(init_from=origin, **now)
    assert f"{origin} was trained on {how_much} of the images that this job holds out" in warning
    assert f"test_accuracy is not affected; {action}" in warning


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {}),
        ({"validation": FIFTH}, {"validation": FIFTH, "lr": 0.5, "epochs": 3}),
        ({"validation": "test"}, {"validation": "test"}),
        ({"seed": 8}, {"validation": "test"}),  # which no job trains on
        ({"dataset": "mnist", "seed": 8}, {}),
    ],
    ids=str,
)
def test_nothing_is_said_where_no_held_out_image_was_trained_on(trained, warnings, before, now) -> None:
    assert warnings(init_from=trained(**before), **now) == []


def test_the_jobs_before_the_one_that_init_from_names_count_too(trained, warnings) -> None:
    first = trained(validation="test")
    second = trained(init_from=first)
    third = trained(init_from=second)
    (warning,) = warnings(init_from=third)
    assert f"{first} was trained on all" in warning


def test_a_job_that_was_deleted_ends_the_search(trained, warnings, database) -> None:
    first = trained(validation="test")
    second = trained(init_from=first)
    with database.write() as session:
        session.delete(session.get_one(Job, first))
    assert warnings(init_from=second) == []


def test_a_job_of_another_kind_has_not_been_trained(database, warnings) -> None:
    with database.write() as session:
        check = jobs.create(session, GradientCheckSpec.parse({}), None).id
    assert warnings(init_from=check) == []


def test_the_same_upload_with_another_test_split_has_seen_the_test_images(trained, warnings, database) -> None:
    upload(database, PETS, test_fraction=0.1, seed=0)
    upload(database, OTHER, test_fraction=0.1, seed=1)
    (warning,) = warnings(init_from=trained(dataset=PETS, validation="test"), dataset=OTHER)
    assert f"trained on {PETS}, the same upload with another test split" in warning


def test_the_same_upload_in_another_size_is_the_same_data(trained, warnings, database) -> None:
    upload(database, PETS, test_fraction=0.1, seed=0, size=8)
    upload(database, SAME, test_fraction=0.1, seed=0, size=16)
    assert warnings(init_from=trained(dataset=PETS), dataset=SAME) == []
    (warning,) = warnings(init_from=trained(dataset=PETS, validation="test"), dataset=SAME)
    assert "trained on all" in warning


def test_another_upload_is_other_data(trained, warnings, database) -> None:
    upload(database, PETS, test_fraction=0.1, seed=0)
    upload(database, OTHER, sha256="b" * 64, test_fraction=0.1, seed=0)
    assert warnings(init_from=trained(dataset=PETS, validation="test"), dataset=OTHER) == []
