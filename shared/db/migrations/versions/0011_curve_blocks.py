"""curve blocks: a job's curve beside its log, in blocks and thinned levels

The blocks of curves that exist are made here, as shared/jobs/curve_blocks.py made them at this revision.

Revision: 0011, after 0010
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SIZE, FACTOR = 500, 5
LONG = "SELECT job_id, series FROM events WHERE series IS NOT NULL GROUP BY job_id, series HAVING count(*) >= :size"
POINTS = """
SELECT step, CAST(data AS TEXT) FROM events
WHERE job_id = :job_id AND series = :series AND step > :after ORDER BY step LIMIT :size
"""
BLOCKS = """
SELECT curves FROM curve_blocks
WHERE job_id = :job_id AND series = :series AND level = :level AND number >= :first ORDER BY number
"""
BLOCK = """
INSERT INTO curve_blocks (job_id, series, level, number, last_step, curves)
VALUES (:job_id, :series, :level, :number, :last_step, :curves)
"""


def upgrade() -> None:
    op.create_table(
        "curve_blocks",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("series", sa.String(length=8), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("curves", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "series", "level", "number"),
    )
    for job_id, series in _run(LONG, size=SIZE).all():
        _make_blocks({"job_id": job_id, "series": series})


def downgrade() -> None:
    op.drop_table("curve_blocks")


def _make_blocks(key: dict[str, str]) -> None:
    after, number = -1, 0
    while len(rows := _run(POINTS, **key, after=after, size=SIZE).all()) == SIZE:
        after = rows[-1][0]
        found: dict[str, list[tuple[int, int, float]]] = {}
        for point in (json.loads(text) for _, text in rows):
            for name, value in point["metrics"].items():
                found.setdefault(name, []).append((point["step"], point.get("epoch", 0), value))
        _store(key, 0, number, after, {name: (len(some), some[0], some[-1], some) for name, some in found.items()})
        number += 1


def _store(key: dict[str, str], level: int, number: int, last_step: int, found: dict[str, tuple]) -> None:
    columns = {name: [*rest, *map(list, zip(*points, strict=True))] for name, (*rest, points) in found.items()}
    curves = json.dumps(columns, separators=(",", ":"))
    _run(BLOCK, **key, level=level, number=number, last_step=last_step, curves=curves)
    if (number + 1) % FACTOR == 0:
        blocks = _run(BLOCKS, **key, level=level, first=number + 1 - FACTOR).scalars()
        _store(key, level + 1, number // FACTOR, last_step, _next_level([json.loads(text) for text in blocks]))


def _next_level(blocks: list[dict]) -> dict[str, tuple]:
    found = {}
    for name in {name: None for block in blocks for name in block}:
        parts = [block[name] for block in blocks if name in block]
        points = [point for part in parts for point in zip(*part[3:], strict=True)]
        width = 2 * FACTOR
        reduced = [kept for start in range(0, len(points), width) for kept in _extremes(points[start : start + width])]
        found[name] = (sum(part[0] for part in parts), parts[0][1], parts[-1][2], reduced)
    return found


def _extremes(points: list[tuple]) -> list[tuple]:
    """The minimum and the maximum, in order; of equal ones the first and the last. A NaN is neither."""
    if len(points) <= 2:
        return points
    end = len(points) - 1
    values = [(point[2], i) for i, point in enumerate(points) if point[2] == point[2]]
    if not values:
        return [points[0], points[end]]
    low = min(values)[1]
    high = max(values)[1]
    if low == high:
        high = end if low != end else 0
    return [points[min(low, high)], points[max(low, high)]]


def _run(text: str, **values: object) -> sa.CursorResult:
    return op.get_bind().execute(sa.text(text), values)
