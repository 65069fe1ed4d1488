"""The command `gradq`: its verbs in the order in which people meet them. What a verb does stands in its own file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from gradq.commands import (
    audit,
    backup,
    check,
    compare,
    completion,
    datasets,
    demo,
    doctor,
    download,
    logs,
    predict,
    presets,
    ps,
    reproduce,
    service,
    show,
    steer,
    submit,
    tokens,
    wait,
    watch,
    workers,
)
from gradq.commands.errors import Commands
from gradq.commands.verbs import SECTIONS, Verb
from shared.version import VERSION

FIRST, JOBS, RESULTS, DATA, SERVICE = SECTIONS
VERBS: dict[str, tuple[Callable[..., Any], ...]] = {
    FIRST: (service.up, submit.submit, ps.ps, watch.watch, download.download),
    JOBS: (
        *(show.show, logs.logs, wait.wait, steer.cancel, steer.pause, steer.resume),
        *(steer.retry, steer.update, steer.rm),
    ),
    RESULTS: (compare.compare, predict.predict, reproduce.reproduce),
    DATA: (presets.presets, check.check),
    SERVICE: (
        *(doctor.doctor, workers.workers, service.api, service.worker, service.migrate, audit.audit),
        *(backup.backup, backup.restore, completion.completion),
    ),
}

app = typer.Typer(
    name="gradq",
    cls=Commands,
    help="Train small networks as jobs, with gradients by hand or by autograd.",
    epilog="`gradq VERB --help` says more. A service elsewhere: set GRADQ_URL, and GRADQ_TOKEN where it asks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gradq {VERSION}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Train small networks as jobs, with gradients by hand or by autograd."""


for section, verbs in VERBS.items():
    for verb in verbs:
        app.command(cls=Verb, rich_help_panel=section)(verb)
app.add_typer(datasets.app, name="datasets", rich_help_panel=DATA)
app.add_typer(tokens.app, name="token", rich_help_panel=SERVICE)
app.command(hidden=True)(demo.demo)
