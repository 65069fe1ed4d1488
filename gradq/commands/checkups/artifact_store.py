"""Check of the artifact store. Changes nothing."""

from __future__ import annotations

import shutil
from typing import Any

from gradq.commands.checkups.finding import Finding, ok, problem, warning
from gradq.commands.checkups.targets import Targets
from gradq.commands.formatting import size
from shared.addresses import without_secrets
from shared.artifacts import ArtifactStore
from shared.errors import StoreUnavailable

ANSWER_SECONDS = 10.0
LITTLE_BYTES, TOO_LITTLE_BYTES = 2 << 30, 200 << 20


def artifacts(targets: Targets) -> Finding:
    url = without_secrets(targets.settings.artifacts)
    facts: dict[str, Any] = {"url": url}
    try:
        store = ArtifactStore(targets.settings.artifacts, ANSWER_SECONDS)
    except ImportError as error:
        return problem(f"{url}: {error}", "Run `pip install 'gradq[s3]'`.", **facts)
    except ValueError as error:
        return problem(f"{url}: {error}", "Set GRADQ_ARTIFACTS_URL to file:///folder or s3://bucket/prefix.", **facts)
    folder = store.local_path("")
    if folder is not None and not folder.exists() and not targets.holder:
        return ok(f"none yet; the first job creates {folder}", **facts)
    try:
        store.probe()
    except StoreUnavailable as error:
        mend = "Give this user write access, or set GRADQ_ARTIFACTS_URL to another place."
        return problem(f"{url} cannot be written: {error}", mend, **facts)
    if folder is None:
        return ok(f"{url}, writable", **facts)
    free = shutil.disk_usage(folder).free
    facts |= {"free_bytes": free}
    detail = f"{folder}, writable, {size(free)} free"
    mend = "Delete jobs that are not needed (`gradq rm`), or set GRADQ_ARTIFACTS_URL to a larger disk."
    if free < TOO_LITTLE_BYTES:
        return problem(detail, mend, **facts)
    return warning(detail, mend, **facts) if free < LITTLE_BYTES else ok(detail, **facts)
