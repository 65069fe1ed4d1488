"""The verbs of `gradq datasets`: list, add, rm."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.commands.completion import complete_uploaded
from gradq.commands.each_job import deleted, one_by_one
from gradq.commands.options import AsJson, Token, Url, as_list, print_json
from gradq.commands.plain_console import PlainConsole
from gradq.commands.tables import dataset_line, datasets_table
from gradq.commands.verbs import Verb, Verbs

app = typer.Typer(cls=Verbs, help="List datasets, upload one, delete one.", rich_markup_mode=None, add_completion=False)


@app.callback(invoke_without_command=True)
def index(context: typer.Context, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """List datasets; `add` uploads one, `rm` deletes one."""
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    with Client(url, token) as client:
        found = client.datasets()
    if as_json:
        print_json(as_list(found))
    else:
        datasets_table(found)


def _refuse_options(context: typer.Context) -> None:
    """Raises BadParameter for an option before the sub-command, which would be ignored."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE":
            where = f"gradq datasets {context.invoked_subcommand} {parameter.opts[0]}"
            raise typer.BadParameter(f"must follow the verb: {where} …", param_hint=parameter.opts[0])


@app.command(cls=Verb)
def add(
    file: Annotated[Path, typer.Argument(help="A .npz, a zip of class folders, or the images of an IDX pair.")],
    labels: Annotated[Path | None, typer.Option(help="The labels of an IDX pair.")] = None,
    test_images: Annotated[Path | None, typer.Option(help="IDX images to test on.")] = None,
    test_labels: Annotated[Path | None, typer.Option(help="Their labels.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name. Default: the file's name.")] = None,
    size: Annotated[int | None, typer.Option(help="Resize each image of a zip to SIZE x SIZE.")] = None,
    test_fraction: Annotated[float | None, typer.Option(help="Share to test on if there is no test split.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split.")] = None,
    white: Annotated[float | None, typer.Option(help="The number that is white in arrays.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Upload a dataset and print its id, which a job's `dataset` takes."""
    pair = labels is not None or test_images is not None or test_labels is not None
    paths = {"images" if pair else "file": file, "labels": labels, "test_images": test_images}
    paths["test_labels"] = test_labels
    parts = {part: path for part, path in paths.items() if path is not None}
    fields = {"name": name, "size": size, "test_fraction": test_fraction, "seed": seed, "white": white}
    given = {field: str(value) for field, value in fields.items() if value is not None}
    with ExitStack() as stack:
        files = {part: (path.name, stack.enter_context(_opened(path))) for part, path in parts.items()}
        files = _with_progress(files, parts, stack)
        client = stack.enter_context(Client(url, token))
        dataset = client.add_dataset(files, **given)
    if as_json:
        print_json(dataset)
    else:
        print(dataset_line(dataset))
        for warning in dataset.get("warnings", ()):
            print(f"warning: {warning}", file=sys.stderr)


@app.command(cls=Verb)
def rm(
    dataset_ids: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Ids, ds_…", show_default=False, autocompletion=complete_uploaded),
    ],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Delete uploaded datasets that no job needs any more."""
    with Client(url, token) as client:
        one_by_one(dataset_ids, lambda id: deleted("dataset", id, client.delete_dataset(id)), as_json)


def _opened(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; zip its class folders and add the zip")
    try:
        return path.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from error


def _with_progress(files: dict[str, Any], paths: dict[str, Path], stack: ExitStack) -> dict[str, Any]:
    """The files, with a progress bar each if stderr is a terminal."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        return files
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = stack.enter_context(Progress(*columns, console=console, transient=True))
    return {
        part: (name, progress.wrap_file(file, total=paths[part].stat().st_size, description=name))
        for part, (name, file) in files.items()
    }
