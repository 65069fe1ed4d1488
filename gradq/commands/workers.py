"""The verb `workers`: list live workers and queues."""

from __future__ import annotations

from typing import Any

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.client.problems import NotFound
from gradq.commands.options import AsJson, Token, Url, print_json
from gradq.commands.plain_console import PlainConsole
from gradq.commands.tables import queues_table, workers_table


def workers(url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """List live workers and queues: devices, slots, running and waiting jobs."""
    with Client(url, token) as client:
        found, queues = client.workers(), _queues(client)
    if as_json:
        print_json({"object": "list", "data": found, "queues": queues})
        return
    console = PlainConsole()
    if found:
        workers_table(found, console)
    else:
        print("no worker is alive; `gradq up` starts one, or `gradq worker` on another machine")
    if queues:
        print()
        queues_table(queues, console)


def _queues(client: Client) -> list[dict[str, Any]]:
    try:
        return client.queues()
    except NotFound:  # a service of version 0.1 has no such route
        return []
