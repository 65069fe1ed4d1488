"""The verb `download`: download a job's files to a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.commands.completion import complete_file
from gradq.commands.options import AsJson, Exit, JobId, Token, Url, as_list, print_json
from gradq.commands.tables import file_line


def download(
    job_id: JobId,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Files. Default: all.", autocompletion=complete_file),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="Default: a folder named like the id.")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Download a job's files: model, curves, metrics, each checked by its sha256."""
    with Client(url, token) as client:
        job = client.job(job_id, fetch=False)
        artifacts = job.artifacts()
        there = [artifact["name"] for artifact in artifacts]
        if missing := [name for name in names or [] if name not in there]:
            known = ", ".join(there) or "none yet"
            raise typer.BadParameter(f"{job_id} has no file {', '.join(missing)}; its files: {known}")
        wanted = [artifact for artifact in artifacts if not names or artifact["name"] in names]
        files = job.download(output or Path(job_id), [artifact["name"] for artifact in wanted])
    if as_json:
        print_json(as_list([{**artifact, "path": str(path)} for artifact, path in zip(wanted, files, strict=True)]))
        return
    for artifact, path in zip(wanted, files, strict=True):
        print(file_line(artifact, path))
    if not files:
        print(f"gradq: {job_id} has no files yet; it gets them when it succeeds", file=sys.stderr)
        raise typer.Exit(Exit.FAILED)
