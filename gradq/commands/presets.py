"""The verb `presets`: list the reference article's experiments."""

from __future__ import annotations

from gradq.client.blocking import DEFAULT_URL, Client
from gradq.commands.formatting import architecture_of
from gradq.commands.options import AsJson, Token, Url, as_list, print_json


def presets(url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """List the reference article's experiments; `submit --preset` runs one."""
    with Client(url, token) as client:
        found = client.presets()
    if as_json:
        print_json(as_list(found))
        return
    for preset in found:
        spec = preset["spec"]
        facts = f"{architecture_of(spec)}, {spec['optimizer']['type']} lr {spec['lr']:g}, {spec['epochs']} epochs"
        print(f"{preset['name']}\n  {preset['description']}\n  {facts}")
        if preset["continues"]:
            print(f"  needs --init-from ID, the id of a finished {preset['continues']}")
