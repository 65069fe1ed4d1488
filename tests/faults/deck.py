"""Every fault there is, dealt like cards."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from faults import bad_jobs, processes, surroundings
from faults.bad_jobs import BadJob
from faults.fault import Fault
from faults.field import Field
from faults.processes import Stop

FAMILIES = (Stop, BadJob)  # and no faults themselves


def every() -> list[type[Fault]]:
    """The faults that the modules define."""
    return [
        found
        for module in (processes, surroundings, bad_jobs)
        for found in vars(module).values()
        if isinstance(found, type) and found.__module__ == module.__name__ and found not in FAMILIES
    ]


def deal(random: Random, count: int, field: Field) -> Iterator[type[Fault]]:
    """Each kind of fault that fits comes once before any comes again."""
    deck: list[type[Fault]] = []
    for _ in range(count):
        if not deck:
            deck = [fault for fault in every() if fault.fits(field)]
            random.shuffle(deck)
        yield deck.pop()
