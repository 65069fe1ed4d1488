"""A job's whole curve as CSV, read and written in pieces, so that a curve of a million points needs the memory of a few
thousand."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from operator import itemgetter

from sqlalchemy.orm import Session

from shared.db.database import Database
from shared.errors import NotFound
from shared.jobs import curve_blocks
from shared.jobs.curve_blocks import Outline, Stretches

LINES = 5000  # per piece
Values = dict[str, float]
Row = tuple[tuple[int, int], Values]  # ((step, epoch), the metrics there)

_place = itemgetter(0)


@dataclass(frozen=True)
class WholeCurve:
    """The curve that a job has at one moment: what its series have, and the names of the metrics to write."""

    outlines: Sequence[Outline]
    names: Sequence[str]

    @classmethod
    def of(cls, session: Session, job_id: str) -> WholeCurve:
        outlines = curve_blocks.outlines(session, job_id)
        return cls(outlines, sorted({name for each in outlines for name in curve_blocks.names_of(session, each)}))

    @property
    def points(self) -> int:
        """Of all series."""
        return sum(outline.points for outline in self.outlines)

    def only(self, names: Sequence[str]) -> WholeCurve:
        return replace(self, names=sorted(set(names)))

    def csv(self, database: Database) -> Iterator[str]:
        """The text that `curves.to_csv` returns for these metrics. No session is open while a piece is sent.

        Raises NotFound if the job is deleted meanwhile, and DatabaseAway: the client sees that its response is
        incomplete.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "epoch", *self.names])
        rows = _merged([_rows(database, outline, set(self.names)) for outline in self.outlines])
        while True:
            lines = [
                [*place, *["" if (value := values.get(name)) is None else repr(value) for name in self.names]]
                for place, values in islice(rows, LINES)
            ]
            writer.writerows(lines)
            yield out.getvalue()
            if len(lines) < LINES:
                return
            out.seek(0)
            out.truncate()


def _merged(series: Sequence[Iterator[Row]]) -> Iterator[Row]:
    """The rows of all series by step; those of one step and epoch are one."""
    for place, rows in groupby(heapq.merge(*series, key=_place), key=_place):
        values: Values = {}
        for _, more in rows:
            values |= more
        yield place, values


def _rows(database: Database, outline: Outline, names: set[str]) -> Iterator[Row]:
    for first in range(0, outline.blocks, curve_blocks.READ_BLOCKS):
        with database.read() as session:
            found = curve_blocks.blocks_of(session, outline, first)
        if found is None:
            raise NotFound(f"job {outline.job_id} has been deleted")
        yield from _table(found, names)
    yield from _table(outline.tail, names)


def _table(found: Stretches, names: set[str]) -> list[Row]:
    table: dict[tuple[int, int], Values] = {}
    for name in names & found.keys():
        for step, epoch, value in found[name].points:
            table.setdefault((step, epoch), {})[name] = value
    return sorted(table.items(), key=_place)
