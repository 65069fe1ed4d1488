"""Names of datasets for pages: a spec has the id of an uploaded one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.access.auth import owner_filter
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.tables import DatasetRow


class DatasetNames(dict[str, str]):
    """By id. The name of a built-in dataset is its id; that of a deleted one is unknown, and its id is returned."""

    def __missing__(self, dataset: str) -> str:
        return dataset


def dataset_names(session: Session, specs: Iterable[dict[str, Any]]) -> DatasetNames:
    """The names of the datasets of these specs, as the caller sees them; one query, none without uploaded ones.

    The spec of a job of an unknown kind may have no dataset.
    """
    ids = {spec["dataset"] for spec in specs if "dataset" in spec} - DATASETS.keys()
    rows = session.scalars(select(DatasetRow).where(DatasetRow.id.in_(ids))) if ids else ()
    return DatasetNames({row.id: dataset_store.as_owned(row, owner_filter()).name for row in rows})
