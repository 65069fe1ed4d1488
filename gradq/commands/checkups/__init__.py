"""The checks of `gradq doctor`, in the order of the report: this machine, its stores, the service."""

from __future__ import annotations

from collections.abc import Callable

from gradq.commands.checkups import artifact_store, broker, database, datasets, machine, service
from gradq.commands.checkups.finding import Finding, problem
from gradq.commands.checkups.targets import Targets

CHECKS: dict[str, Callable[[Targets], Finding]] = {
    "versions": machine.versions,
    "state folder": machine.state_folder,
    "devices": machine.devices,
    "database": database.database,
    "broker": broker.broker,
    "artifacts": artifact_store.artifacts,
    "datasets": datasets.datasets,
    "api": service.api,
    "token": service.token,
    "storage": service.storage,
    "port": service.port,
    "workers": service.workers,
    "clock": service.clock,
}


def examine(targets: Targets) -> list[Finding]:
    """The finding of every check, without passwords. A check that raises becomes a finding as well."""
    return [_checked(name, check, targets) for name, check in CHECKS.items()]


def _checked(name: str, check: Callable[[Targets], Finding], targets: Targets) -> Finding:
    try:
        found = check(targets)
    except Exception as error:
        words = f"the check itself failed: {type(error).__name__}: {error}"
        found = problem(words, "Report this with `gradq doctor --json`.")
    return found.without(targets.secrets).named(name)
