"""The command `gradq`: its verbs in the order in which people meet them. What a verb does stands in its own file."""

from __future__ import annotations

from typing import Annotated

import typer

from gradq import backup, checking, datasets, demo, predicting, presets, repeating, service, steering, submission, watch
from gradq.errors import Commands
from shared.version import VERSION

app = typer.Typer(
    name="gradq",
    cls=Commands,
    help="Train small networks as jobs, with gradients by hand or by autograd.",
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


for verb in (
    service.up,
    submission.submit,
    presets.presets,
    checking.check,
    steering.ps,
    steering.show,
    steering.wait,
    watch.watch,
    steering.cancel,
    steering.pause,
    steering.resume,
    repeating.reproduce,
    steering.download,
    predicting.predict,
    service.api,
    service.worker,
    service.migrate,
    backup.backup,
    backup.restore,
):
    app.command()(verb)
app.add_typer(datasets.app, name="datasets")
app.command(hidden=True)(demo.demo)
