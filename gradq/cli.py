"""The command `gradq`: its verbs in the order in which people meet them. What a verb does is in a file of its
own, which is imported when the verb is called: the table says where it is, and what the help text says of it."""

from __future__ import annotations

from typing import Annotated

import typer

from gradq.commands.errors import Commands
from gradq.commands.verbs import SECTIONS, Line
from gradq.version import VERSION

FIRST, JOBS, RESULTS, DATA, SERVICE = SECTIONS
VERBS = (  # help: the first paragraph of the verb's docstring; a test compares the two
    Line(FIRST, "up", "up:up", "Run everything on this machine: broker, API and one worker."),
    Line(FIRST, "submit", "submit:submit", "Queue a training job. What you leave out, the service fills in."),
    Line(FIRST, "ps", "ps:ps", "List jobs, newest first."),
    Line(FIRST, "watch", "watch:watch", "Follow one job with its loss curve; exits like `gradq wait`."),
    Line(
        FIRST,
        "download",
        "download:download",
        "Fetch a job's files: model, curves, metrics, each whole or not at all.",
    ),
    Line(JOBS, "show", "show:show", "Show one job: state, why it waits, progress, attempts, result, files."),
    Line(JOBS, "logs", "logs:logs", "Print a job's event log; -f follows it until the end."),
    Line(JOBS, "wait", "wait:wait", "Wait until jobs have ended; a paused one has not."),
    Line(JOBS, "cancel", "cancel:cancel", "Cancel jobs; one that runs ends after its checkpoint is written."),
    Line(JOBS, "pause", "pause:pause", "Pause running jobs: checkpoint, free the slot, wait for `resume`."),
    Line(JOBS, "resume", "resume:resume", "Queue paused jobs again; they go on from their checkpoints."),
    Line(JOBS, "retry", "retry:retry", "Queue failed or cancelled jobs again, under their own ids."),
    Line(JOBS, "update", "update:update", "Change jobs' priority, name or labels."),
    Line(JOBS, "rm", "rm:rm", "Delete ended jobs, with their log, curve and files."),
    Line(RESULTS, "compare", "compare:compare", "Hold jobs side by side: specs, results, curves, weights."),
    Line(RESULTS, "predict", "predict:predict", "Let a finished model label images."),
    Line(
        RESULTS,
        "reproduce",
        "reproduce:reproduce",
        "Run a finished job again, with the same spec and seed, and compare.",
    ),
    Line(DATA, "presets", "presets:presets", "List the reference article's experiments; `submit --preset` runs one."),
    Line(DATA, "check", "check:check", "Queue a gradient check: by hand against autograd, in float64."),
    Line(DATA, "datasets", "datasets:app", "List datasets, upload one, delete one."),
    Line(SERVICE, "doctor", "doctor:doctor", "Find what is wrong with gradq here, and say how to mend it."),
    Line(SERVICE, "workers", "workers:workers", "List live workers and queues: devices, slots, what runs, what waits."),
    Line(SERVICE, "api", "api:api", "Serve the HTTP API alone, with gunicorn."),
    Line(SERVICE, "worker", "worker:worker", "Run one Celery worker, which trains jobs until SIGTERM."),
    Line(SERVICE, "migrate", "migrate:migrate", "Bring the database to the newest schema; safe to run again."),
    Line(SERVICE, "audit", "audit:audit", "List who did what, newest first: changes, and calls that were refused."),
    Line(
        SERVICE,
        "backup",
        "backup:backup",
        "Save jobs, models, checkpoints and datasets to one file, while the service runs.",
    ),
    Line(SERVICE, "restore", "backup:restore", "Bring back what `gradq backup` saved, into an empty place."),
    Line(SERVICE, "completion", "completion:completion", "Print the shell's completion script."),
    Line(SERVICE, "token", "tokens:app", "Make tokens, list them, revoke one."),
    Line(
        SERVICE,
        "demo",
        "demo:demo",
        "Show gradq: two trainings of the same seed, gradients by hand and by autograd.",
        hidden=True,
    ),
)


class Gradq(Commands):
    table = VERBS


app = typer.Typer(
    name="gradq",
    cls=Gradq,
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
