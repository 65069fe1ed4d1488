"""The verb `predict`: label images with a finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.client.problems import ApiError
from gradq.commands.options import AsJson, JobId, Token, Url, print_json
from gradq.commands.plain_console import PlainConsole
from gradq.commands.tables import predictions_table


def predict(
    job_id: JobId,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="PNG, JPEG or npz files.", show_default=False)],
    invert: Annotated[bool, typer.Option("--invert", help="Invert images, for a model of white on black.")] = False,
    white: Annotated[float | None, typer.Option(help="The number that is white in npz files.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Label images with a finished model.

    PNG and JPEG files may have any size; an npz holds an array `images` of the
    model's size.
    """
    with Client(url, token) as client:
        answer = _asked(client, job_id, files, invert, white)
    if as_json:
        print_json(answer)
    else:
        predictions_table(answer, PlainConsole())


def _asked(client: Client, job_id: str, files: list[Path], invert: bool, white: float | None) -> dict[str, Any]:
    try:
        return client.job(job_id, fetch=False).predict(files, invert=invert, white=white).json
    except OSError as error:
        raise typer.BadParameter(f"cannot read {error.filename}: {error.strerror}", param_hint="FILE") from error
    except ApiError as error:
        if not error.errors:
            raise
        # the pointers name parts of the form, which the user did not write; with --json they are in the problem
        detail = "; ".join(wrong["detail"] for wrong in error.errors)
        raise ApiError(error.status, error.code, detail, problem=error.problem) from error
