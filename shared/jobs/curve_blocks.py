"""A job's curve in blocks beside its log, and thinned levels of it, so that a long curve is not read point by point.

The points of a series (epoch, batch, final), in the order of their steps, are stored in blocks of SIZE as soon as so
many are in the log, in the transaction that appends them. Five blocks of a level make one of the next, which has the
minimum and the maximum of each 10 points (`curves.next_level`). The points after the last block are read from the log,
so a curve is complete whatever part of it has blocks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import Integer, Text, and_, bindparam, cast, delete, func, insert, or_, select
from sqlalchemy.orm import Session

from shared import events
from shared.db.tables import CurveBlock, EventRow
from shared.jobs import curves
from shared.jobs.curves import FACTOR, Point, Series

SIZE = 500  # points of a series in a block; a multiple of 2 * FACTOR, so that levels do not depend on where blocks end
SERIES = get_args(events.Series)
READ_BLOCKS = 20  # at once, of a whole curve
READ_POINTS = 5000  # of the log, in one query

_of_series = (EventRow.job_id == bindparam("job_id"), EventRow.series == bindparam("series"))
_newest = (
    select(CurveBlock.number, CurveBlock.last_step)
    .where(CurveBlock.job_id == bindparam("job_id"), CurveBlock.series == bindparam("series"), CurveBlock.level == 0)
    .order_by(CurveBlock.number.desc())
    .limit(1)
)
_some = (
    select(EventRow.step, cast(EventRow.data, Text).label("data"))
    .where(*_of_series, EventRow.step > bindparam("after"))
    .order_by(EventRow.step)
    .limit(bindparam("most", type_=Integer))
    .subquery()
)
# the database joins the JSON of many points into one text: reading them row by row takes three times as long
_after = select(func.max(_some.c.step), func.count(), func.aggregate_strings(_some.c.data, ","))
_count = select(func.count()).where(*_of_series, EventRow.step > bindparam("after"), EventRow.step <= bindparam("last"))


@dataclass
class Stretch:
    """A part of one curve, reduced to a level: how many points it has in full, the first and the last of these, and the
    points of the level."""

    count: int
    first: Point
    last: Point
    points: list[Point]

    def reduced(self) -> Stretch:
        return Stretch(self.count, self.first, self.last, curves.next_level(self.points))


Stretches = dict[str, Stretch]  # by the name of the metric


@dataclass(frozen=True)
class Outline:
    """What one series has at one moment: its whole blocks, and the points after these."""

    job_id: str
    series: str
    blocks: int
    tail: Stretches
    points: int  # in blocks and tail


# --- writing ----------------------------------------------------------------------------------------------------------


def extend(session: Session, job_id: str, lowest: Mapping[str, int]) -> None:
    """Store the blocks that the log has become long enough for. `lowest`: for each series whose points were appended in
    this transaction, which holds the lock of the job's row, the lowest of their steps."""
    for series, step in lowest.items():
        blocks, last = _newest_block(session, job_id, series)
        if step <= last and _lacks_points(session, job_id, series, step):
            blocks, last = _newest_block(session, job_id, series)
        key = {"job_id": job_id, "series": series}
        while True:
            text = _points_after(session, key, last, SIZE)
            if text.count < SIZE:
                break
            last = text.last_step
            _store(session, key, 0, blocks, last, text.stretches())
            blocks += 1


def _store(session: Session, key: dict[str, str], level: int, number: int, last: int, found: Stretches) -> None:
    """Store a block, and the one of the next level if this was the last that it needs."""
    row = {**key, "level": level, "number": number, "last_step": last, "curves": _dumped(found)}
    session.execute(insert(CurveBlock), [row])
    if (number + 1) % FACTOR == 0:
        whole = _joined(_blocks(session, key, {level: range(number + 1 - FACTOR, number + 1)})[level])
        _store(session, key, level + 1, number // FACTOR, last, _reduced(whole))


def _newest_block(session: Session, job_id: str, series: str) -> tuple[int, int]:
    """How many blocks of level 0 there are, and the last step in them, -1 without one."""
    row = session.execute(_newest, {"job_id": job_id, "series": series}).one_or_none()
    return (0, -1) if row is None else (row[0] + 1, row[1])


def _lacks_points(session: Session, job_id: str, series: str, step: int) -> bool:
    """Whether the log has points, from `step` on, that were inserted among those in blocks; removes these blocks.

    A resumed run reports again what the log has, and these points change nothing. That it reports other steps below
    the last one is not expected, but a curve must not lack them.
    """
    here = (CurveBlock.job_id == job_id, CurveBlock.series == series)
    raw = select(CurveBlock.number, CurveBlock.last_step).where(*here, CurveBlock.level == 0)
    later = session.execute(raw.where(CurveBlock.last_step >= step).order_by(CurveBlock.number)).all()
    first = later[0].number
    before = session.scalar(
        select(CurveBlock.last_step).where(*here, CurveBlock.level == 0, CurveBlock.number == first - 1)
    )
    place = {"job_id": job_id, "series": series, "after": -1 if before is None else before, "last": later[-1].last_step}
    if session.scalar(_count, place) == SIZE * len(later):
        return False
    session.execute(delete(CurveBlock).where(*here, CurveBlock.last_step >= step))
    return True


# --- reading ----------------------------------------------------------------------------------------------------------


def thinned(session: Session, job_id: str, max_points: int, names: Iterable[str] = ()) -> Series:
    """Each metric of `names` (empty: all), as `curves.thin` thins it. At most five times `max_points` points are
    read of a level, besides up to four blocks of each lower one and the points of the log after the last block.

    `thin` chooses the same points, unless a series has points without this metric.
    """
    found: Series = {}
    for series in SERIES:
        for name, points in _thinned(session, outline(session, job_id, series), max_points, set(names)).items():
            found[name] = curves.thin(sorted([*found[name], *points]), max_points) if name in found else points
    return found


def outlines(session: Session, job_id: str) -> list[Outline]:
    """What each series of the job has."""
    return [outline(session, job_id, series) for series in SERIES]


def outline(session: Session, job_id: str, series: str) -> Outline:
    blocks, last = _newest_block(session, job_id, series)
    tail: list[Stretches] = []
    key, count = {"job_id": job_id, "series": series}, SIZE * blocks
    while True:
        text = _points_after(session, key, last, READ_POINTS)
        if text.count:
            tail.append(text.stretches())
        count, last = count + text.count, text.last_step
        if text.count < READ_POINTS:
            return Outline(job_id, series, blocks, _joined(tail), count)


def names_of(session: Session, of: Outline) -> list[str]:
    """The names of all metrics of the series."""
    covered = _cover(of.blocks, len(str(of.blocks)))
    key = {"job_id": of.job_id, "series": of.series}
    rows = _blocks(session, key, covered)
    return sorted({*of.tail, *(name for level in rows.values() for block in level for name in block)})


def blocks_of(session: Session, of: Outline, first: int) -> Stretches | None:
    """All points in the next `READ_BLOCKS` blocks from number `first` on; None if they have been removed meanwhile."""
    wanted = range(first, min(first + READ_BLOCKS, of.blocks))
    rows = _blocks(session, {"job_id": of.job_id, "series": of.series}, {0: wanted})[0]
    return _joined(rows) if len(rows) == len(wanted) else None


def _thinned(session: Session, of: Outline, max_points: int, names: set[str]) -> Series:
    level = curves.level_of(of.points, max_points)
    found = _at_level(session, of, level, names)
    # metrics that only some points of the series have
    sparse = {name for name, stretch in found.items() if curves.level_of(stretch.count, max_points) < level}
    if sparse:
        lower = curves.level_of(min(found[name].count for name in sparse), max_points)
        found |= _at_level(session, of, lower, sparse)
    return {
        name: curves.spread(stretch.first, stretch.points, stretch.last, max_points)
        if stretch.count > max_points
        else stretch.points
        for name, stretch in found.items()
    }


def _at_level(session: Session, of: Outline, level: int, names: set[str]) -> Stretches:
    """The whole series at a level. What is too short for a block there is reduced from the blocks below."""
    rows = _blocks(session, {"job_id": of.job_id, "series": of.series}, _cover(of.blocks, level), names)
    rest = {name: stretch for name, stretch in of.tail.items() if not names or name in names}
    for each in range(level + 1):
        rest = _joined([*rows[each], rest])
        if each < level:
            rest = _reduced(rest)
    return rest


def _cover(blocks: int, level: int) -> dict[int, range]:
    """For each level up to `level` the numbers of its blocks that no block of a higher one covers."""
    counts = [blocks // FACTOR**each for each in range(level + 1)]
    return {each: range(0 if each == level else FACTOR * counts[each + 1], count) for each, count in enumerate(counts)}


def _blocks(
    session: Session, key: dict[str, str], wanted: dict[int, range], names: set[str] | None = None
) -> dict[int, list[Stretches]]:
    """By level, the blocks with these numbers, in order."""
    found: dict[int, list[Stretches]] = {level: [] for level in wanted}
    ranges = [
        and_(CurveBlock.level == level, CurveBlock.number >= numbers.start, CurveBlock.number < numbers.stop)
        for level, numbers in wanted.items()
        if numbers
    ]
    if ranges:
        query = select(CurveBlock.level, CurveBlock.curves)
        query = query.where(CurveBlock.job_id == key["job_id"], CurveBlock.series == key["series"], or_(*ranges))
        for level, text in session.execute(query.order_by(CurveBlock.level, CurveBlock.number)):
            found[level].append(_loaded(text, names))
    return found


@dataclass(frozen=True)
class _Points:
    """Points of one series from the log, as text."""

    count: int
    last_step: int
    text: str | None

    def stretches(self) -> Stretches:
        rows = json.loads(f"[{self.text}]")
        series = curves.to_series((row["step"], row["epoch"], row["metrics"]) for row in rows)
        return {name: Stretch(len(points), points[0], points[-1], points) for name, points in series.items()}


def _points_after(session: Session, key: dict[str, str], step: int, most: int) -> _Points:
    """The first `most` points of the series after `step`."""
    last, count, text = session.execute(_after, {**key, "after": step, "most": most}).one()
    return _Points(count, step if last is None else last, text)


def _joined(pieces: Iterable[Stretches]) -> Stretches:
    parts: dict[str, list[Stretch]] = {}
    for piece in pieces:
        for name, stretch in piece.items():
            parts.setdefault(name, []).append(stretch)
    return {
        name: Stretch(
            sum(part.count for part in some), some[0].first, some[-1].last, [p for part in some for p in part.points]
        )
        for name, some in parts.items()
    }


def _reduced(found: Stretches) -> Stretches:
    return {name: stretch.reduced() for name, stretch in found.items()}


def _dumped(found: Stretches) -> str:
    """As JSON: for each name its columns."""
    columns = {name: [s.count, s.first, s.last, *map(list, zip(*s.points, strict=True))] for name, s in found.items()}
    return json.dumps(columns, separators=(",", ":"))


def _loaded(text: str, names: set[str] | None) -> Stretches:
    return {
        name: Stretch(count, _point(first), _point(last), list(zip(steps, epochs, values, strict=True)))
        for name, (count, first, last, steps, epochs, values) in json.loads(text).items()
        if not names or name in names
    }


def _point(values: list[Any]) -> Point:
    step, epoch, value = values
    return step, epoch, value
