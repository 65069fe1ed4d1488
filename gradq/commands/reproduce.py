"""The verb `reproduce`: run a finished job again and compare the results."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.commands.formatting import summary_line
from gradq.commands.options import AsJson, Exit, JobId, Token, Url, outcome, print_json
from gradq.commands.wait import wait_for


def reproduce(
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the verdict; exit 1 if the two differ.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="With --wait: seconds until exit 124.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Run a finished job again, with the same spec and seed, and compare."""
    with Client(url, token) as client:
        job = client.job(job_id, fetch=False).reproduce()
        if wait:
            [job] = wait_for(client, [job["id"]], timeout)
    if as_json:
        print_json(job)
    else:
        print(summary_line(job))
    if not wait:
        return
    found = (job.get("result") or {}).get("reproduction")
    if found is None:
        raise typer.Exit(outcome([job["status"]]))
    if not as_json:
        print(verdict(found))
    if found["identical"] is None:
        print(f"gradq: nothing was compared: {found['detail']}", file=sys.stderr)
    raise typer.Exit(Exit.SUCCEEDED if found["identical"] else Exit.FAILED)


def verdict(found: dict[str, Any]) -> str:
    """`identical to job_…`, or the first step that differs; then the differences of the two environments."""
    if found["identical"] is None:
        return "not compared"
    if found["identical"]:
        lines = [f"identical to {found['of']}: weights, order of the data, every point of the curve"]
    else:
        first = found["first_difference"]
        there, here = _value(first["expected"]), _value(first["found"])
        lines = [
            f"differs from {found['of']} first at step {first['step']}: {first['metric']} {there} there, {here} here"
        ]
    for name, pair in found["environment_differences"].items():
        lines.append(f"  {name}: {_value(pair['expected'])} there, {_value(pair['found'])} here")
    return "\n".join(lines)


def _value(value: Any) -> str:
    return "nothing" if value is None else str(value)
