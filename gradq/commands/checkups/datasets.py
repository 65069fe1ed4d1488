"""Check of the built-in and the uploaded datasets. Changes nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from gradq.commands.checkups.finding import Finding, ok, warning, worst
from gradq.commands.checkups.targets import Targets
from shared.artifacts import ArtifactStore
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.database import Database
from shared.errors import GradqError


def datasets(targets: Targets) -> Finding:
    """Built-in datasets, here or at a service elsewhere: which are complete, and which files the others lack."""
    folder = targets.settings.datasets_dir
    here = {
        name: [path.relative_to(folder).as_posix() for path in info.missing_files(folder)]
        for name, info in DATASETS.items()
    }
    facts: dict[str, Any] = {"folder": str(folder), "missing": {name: files for name, files in here.items() if files}}
    findings = _incomplete(here, str(folder), targets.settings.download)
    whole = f"complete here: {', '.join(name for name, files in here.items() if not files)}"
    if targets.datasets is not None and not targets.holder:
        there = {row["id"]: row["missing_files"] for row in targets.datasets.rows}
        facts |= {"missing_at_the_service": {name: files for name, files in there.items() if files}}
        findings = _incomplete(there, f"the data folder of {targets.url}", download=True)
        whole = f"complete at {targets.url}: {', '.join(name for name, files in there.items() if not files)}"
    lost = lost_uploads(targets)
    facts |= {"lost_uploads": lost}
    again = "Delete it (`gradq datasets rm`) and upload it again, or restore a backup of the store."
    findings += [
        warning(f"{name} has lost {', '.join(files)} in the artifact store", again) for name, files in lost.items()
    ]
    return worst(findings, ok(whole, **facts))


def lost_uploads(targets: Targets) -> dict[str, list[str]]:
    """Id -> missing files of uploaded datasets; {} if the database or the store does not answer."""
    if not targets.has_database:
        return {}
    with suppress(GradqError, SQLAlchemyError, OSError, ImportError, ValueError):  # other checks report these
        database, store = Database(targets.settings.database), ArtifactStore(targets.settings.artifacts)
        try:
            with database.read() as session:
                rows = dataset_store.list_visible(session)
        finally:
            database.close()
        found = {row.id: store.missing(row.folder, (f"{row.folder}/{name}" for name in row.files)) for row in rows}
        return {name: [key.rpartition("/")[2] for key in keys] for name, keys in found.items() if keys}
    return {}


def _incomplete(missing: dict[str, list[str]], folder: str, download: bool) -> list[Finding]:
    """Warnings for incomplete datasets. One without any files is fine if it can be downloaded."""
    put = "Put the files there, uncompressed or gzipped" + (
        ", or remove the dataset's folder so that it is downloaded again."
        if download
        else ", or set GRADQ_DOWNLOAD=true."
    )
    partly = {name: files for name, files in missing.items() if 0 < len(files) < len(DATASETS[name].files)}
    absent = [name for name, files in missing.items() if files and name not in partly]
    findings = [warning(f"{name} lacks {', '.join(files)} in {folder}", put) for name, files in partly.items()]
    if absent and download:
        findings.append(ok(f"downloaded for the first job that uses it: {', '.join(absent)}"))
    elif absent:
        findings.append(warning(f"not in {folder}: {', '.join(absent)}", put))
    return findings
