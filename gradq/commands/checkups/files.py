"""Checks of files: the artifact store, and the built-in and uploaded datasets. Changes nothing."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from gradq.commands.checkups.finding import Finding, ok, problem, warning, worst
from gradq.commands.checkups.targets import Targets
from gradq.commands.formatting import size
from shared.addresses import without_secrets
from shared.artifacts import ArtifactStore
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.database import Database
from shared.errors import GradqError

LITTLE_BYTES, TOO_LITTLE_BYTES = 2 << 30, 200 << 20


def artifacts(targets: Targets) -> Finding:
    url = without_secrets(targets.settings.artifacts)
    facts: dict[str, Any] = {"url": url}
    try:
        store = ArtifactStore(targets.settings.artifacts)
    except ImportError as error:
        return problem(f"{url}: {error}", "Run `pip install 'gradq[s3]'`.", **facts)
    except ValueError as error:
        return problem(f"{url}: {error}", "Set GRADQ_ARTIFACTS_URL to file:///folder or s3://bucket/prefix.", **facts)
    folder = store.local_path("")
    if folder is not None and not folder.exists() and not targets.holder:
        return ok(f"none yet; the first job creates {folder}", **facts)
    try:
        _write_and_remove(store)
    except Exception as error:  # each kind of store raises its own errors
        mend = "Give this user write access, or set GRADQ_ARTIFACTS_URL to another place."
        return problem(f"{url} cannot be written: {type(error).__name__}: {error}", mend, **facts)
    if folder is None:
        return ok(f"{url}, writable", **facts)
    free = shutil.disk_usage(folder).free
    facts |= {"free_bytes": free}
    detail = f"{folder}, writable, {size(free)} free"
    mend = "Delete jobs that are not needed (`gradq rm`), or set GRADQ_ARTIFACTS_URL to a larger disk."
    if free < TOO_LITTLE_BYTES:
        return problem(detail, mend, **facts)
    return warning(detail, mend, **facts) if free < LITTLE_BYTES else ok(detail, **facts)


def _write_and_remove(store: ArtifactStore) -> None:
    key = f"doctor-{secrets.token_hex(6)}"
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe"
        probe.write_bytes(b"gradq doctor")
        store.put(f"{key}/probe", probe)
    store.remove_folder(key)


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
        missing = {row.id: [name for name in row.files if not store.has(f"{row.folder}/{name}")] for row in rows}
        return {name: files for name, files in missing.items() if files}
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
