"""Checks of this machine: installed packages, the state folder, CPUs and GPUs. Does not import torch."""

from __future__ import annotations

import os
import platform
import sqlite3
import stat
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gradq.commands.checkups.finding import Finding, ok, problem, warning
from gradq.commands.checkups.targets import Targets
from shared.db.database import NETWORK_FILESYSTEMS, filesystem_of
from shared.version import VERSION

PACKAGES = ("torch", "torchvision", "celery", "redis", "sqlalchemy", "flask", "gunicorn", "numpy")
OTHERS_MAY_ENTER = stat.S_IRWXG | stat.S_IRWXO


def versions(targets: Targets) -> Finding:
    found: dict[str, str] = {"gradq": VERSION, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    missing = []
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
    facts = {**found, "platform": platform.platform()}
    if missing:
        return problem(
            f"not installed: {', '.join(missing)}", "Reinstall gradq: `pip install 'gradq[server]'`.", **facts
        )
    return ok(", ".join(f"{name} {found[name]}" for name in ("gradq", "python", "torch", "sqlite")), **facts)


def state_folder(targets: Targets) -> Finding:
    folder, settings = targets.settings.state_dir, targets.settings
    filesystem = filesystem_of(folder)
    facts: dict[str, Any] = {"path": str(folder), "filesystem": filesystem, "held_by": targets.holder}
    elsewhere = "Set GRADQ_STATE_DIR to a folder that this user owns."
    if not folder.exists():
        around = next(parent for parent in folder.parents if parent.exists())
        if not around.is_dir() or not os.access(around, os.W_OK | os.X_OK):
            return problem(f"{folder} cannot be created in {around}", elsewhere, **facts)
        return ok(f"none yet; `gradq up` creates {folder}", **facts)
    if not folder.is_dir():
        return problem(f"{folder} is not a folder", elsewhere, **facts)
    found = folder.stat()
    facts |= {"owner": found.st_uid, "mode": oct(stat.S_IMODE(found.st_mode))}
    if found.st_uid != os.getuid():
        detail = f"{folder} belongs to user {found.st_uid}, and this is user {os.getuid()}"
        return problem(detail, f"{elsewhere} Or run gradq as the owner.", **facts)
    if not os.access(folder, os.W_OK | os.X_OK):
        return problem(f"{folder} is not writable", f"Run `chmod u+rwx {folder}`, or mount it writable.", **facts)
    if filesystem in NETWORK_FILESYSTEMS and settings.database.startswith("sqlite"):
        mend = "Set GRADQ_STATE_DIR to a local folder, or GRADQ_DATABASE_URL to PostgreSQL."
        return problem(f"{folder} is on {filesystem}, which does not support SQLite's write-ahead log", mend, **facts)
    if found.st_mode & OTHERS_MAY_ENTER:
        detail = f"other users have access to {folder} (mode {facts['mode']})"
        return warning(detail, f"Run `chmod 700 {folder}`.", **facts)
    held = f", used by {targets.holder}" if targets.holder else ""
    return ok(f"{folder} on {filesystem or 'a local disk'}{held}", **facts)


def devices(targets: Targets) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus, why_none = gpus_here()
    here = [row for row in targets.workers.rows if row["host"] == platform.node()] if targets.workers else []
    facts = {"cpu_cores": cores, "gpus": gpus, "nvml": why_none}
    detail = f"{cores} CPU cores, " + (", ".join(gpus) or f"no GPU ({why_none})")
    if not gpus:
        return ok(detail, **facts)
    if "+cpu" in version("torch"):
        mend = "Install the CUDA build of the same version: see docs/operations.md."
        return warning(f"{detail}; torch {version('torch')} is a CPU build", mend, **facts)
    if here and not any("cuda" in row["devices"].get("kinds", ()) for row in here):
        mend = "Restart the worker: it detects GPUs when it starts."
        return warning(f"{detail}; the worker here offers no GPU", mend, **facts)
    return ok(detail, **facts)


def gpus_here() -> tuple[list[str], str | None]:
    """The names of the GPUs that NVML reports, and None; or an empty list, and NVML's error."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"NVML: {error}"
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
        return [name.decode() if isinstance(name, bytes) else name for name in names], None
    except pynvml.NVMLError as error:
        return [], f"NVML: {error}"
    finally:
        pynvml.nvmlShutdown()
