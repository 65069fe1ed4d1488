"""The command `gradq`: the table of its verbs, in the order of the help text. Each verb is in gradq/commands, in a file
of its name, which is imported when the verb is called."""

from __future__ import annotations

from typing import Annotated

import typer

from gradq.commands.errors import Commands
from gradq.commands.verbs import SECTIONS, Line
from gradq.version import VERSION

FIRST, JOBS, RESULTS, DATA, SERVICE = SECTIONS
VERBS = (  # section, name, module:function, help: the first paragraph of its docstring; a test compares the two
    Line(FIRST, "up", "up:up", "Run everything on this machine: broker, API and one worker."),
    Line(FIRST, "submit", "submit:submit", "Queue a training job; the service fills in the defaults."),
    Line(FIRST, "ps", "ps:ps", "List jobs, newest first."),
    Line(FIRST, "watch", "watch:watch", "Follow one job with its loss curve; exits like `gradq wait`."),
    Line(
        FIRST,
        "download",
        "download:download",
        "Download a job's files: model, curves, metrics, each checked by its sha256.",
    ),
    Line(JOBS, "show", "show:show", "Show one job: state, why it waits, progress, attempts, result, files."),
    Line(JOBS, "logs", "logs:logs", "Print a job's event log; -f follows it until the end."),
    Line(JOBS, "wait", "wait:wait", "Wait until jobs have ended; a paused one has not."),
    Line(JOBS, "cancel", "cancel:cancel", "Cancel jobs; a running one ends once its checkpoint is written."),
    Line(JOBS, "pause", "pause:pause", "Pause running jobs: checkpoint, free the slot, wait for `resume`."),
    Line(JOBS, "resume", "resume:resume", "Queue paused jobs again; they resume from their checkpoints."),
    Line(JOBS, "retry", "retry:retry", "Queue failed or cancelled jobs again, under their own ids."),
    Line(JOBS, "update", "update:update", "Change jobs' priority, name or labels."),
    Line(JOBS, "rm", "rm:rm", "Delete ended jobs, with their log, curve and files."),
    Line(RESULTS, "compare", "compare:compare", "Compare jobs side by side: specs, results, curves, weights."),
    Line(RESULTS, "predict", "predict:predict", "Label images with a finished model."),
    Line(
        RESULTS,
        "reproduce",
        "reproduce:reproduce",
        "Run a finished job again, with the same spec and seed, and compare.",
    ),
    Line(DATA, "presets", "presets:presets", "List the reference article's experiments; `submit --preset` runs one."),
    Line(DATA, "check", "check:check", "Queue a gradient check: manual gradients against autograd's, in float64."),
    Line(DATA, "datasets", "datasets:app", "List datasets, upload one, delete one."),
    Line(SERVICE, "doctor", "doctor:doctor", "Find what is wrong with gradq here, and how to fix it."),
    Line(
        SERVICE, "workers", "workers:workers", "List live workers and queues: devices, slots, running and waiting jobs."
    ),
    Line(SERVICE, "api", "api:api", "Serve the HTTP API alone, with gunicorn."),
    Line(SERVICE, "worker", "worker:worker", "Run one Celery worker, which trains jobs until SIGTERM."),
    Line(SERVICE, "migrate", "migrate:migrate", "Migrate the database to the newest schema; safe to run again."),
    Line(SERVICE, "audit", "audit:audit", "List the audit log, newest first: changes, and calls that were refused."),
    Line(
        SERVICE,
        "backup",
        "backup:backup",
        "Save jobs, models, checkpoints and datasets to one file, while the service runs.",
    ),
    Line(SERVICE, "restore", "backup:restore", "Restore a backup into an empty state folder, database and store."),
    Line(SERVICE, "completion", "completion:completion", "Print the shell's completion script."),
    Line(SERVICE, "token", "tokens:app", "Create tokens, list them, revoke one."),
    Line(
        SERVICE,
        "demo",
        "demo:demo",
        "Show gradq: two trainings with the same seed, manual and autograd gradients.",
        hidden=True,
    ),
)


class Gradq(Commands):
    table = VERBS


app = typer.Typer(
    name="gradq",
    cls=Gradq,
    help="Train small networks as jobs, with manual or autograd gradients.",
    epilog="`gradq VERB --help` lists a verb's options. For a service elsewhere set GRADQ_URL and GRADQ_TOKEN.",
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train small networks as jobs, with manual or autograd gradients."""
