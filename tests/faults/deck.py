"""All kinds of faults, drawn like cards from a deck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from faults import bad_jobs, clients, processes, store, surroundings
from faults.bad_jobs import BadJob
from faults.clients import Connections
from faults.fault import Fault
from faults.field import Field
from faults.processes import LoseOutput, Stop
from faults.store import StoreFault
from faults.surroundings import BrokerFault

FAMILIES = (BadJob, BrokerFault, Connections, LoseOutput, Stop, StoreFault)  # base classes, not faults


def every() -> list[type[Fault]]:
    """The classes of faults that the modules define."""
    return [
        found
        for module in (processes, surroundings, store, clients, bad_jobs)
        for found in vars(module).values()
        if isinstance(found, type) and found.__module__ == module.__name__ and found not in FAMILIES
    ]


def fitting(field: Field, only: Sequence[str] = ()) -> list[type[Fault]]:
    """The kinds of faults that this field allows. `only`: the names of their classes; empty: all."""
    found = [fault for fault in every() if fault.fits(field) and (not only or fault.__name__ in only)]
    assert found, f"none of {', '.join(only)} fits here"
    return found


def deal(random: Random, count: int, field: Field, only: Sequence[str] = ()) -> Iterator[type[Fault]]:
    """Draw `count` kinds of faults: each that fits once, before any is repeated."""
    deck: list[type[Fault]] = []
    for _ in range(count):
        if not deck:
            deck = fitting(field, only)
            random.shuffle(deck)
        yield deck.pop()
