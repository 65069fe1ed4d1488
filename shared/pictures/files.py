"""The picture files of a job, drawn from what its trainer has stored."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

from shared.jobs import curves
from shared.pictures import sheets
from shared.pictures.drawing import Drawing

CURVE = "loss_curve"
FORMATS = ("png", "svg")
COMPRESSION = 1  # of 9: a quarter of the time for a few kilobytes more

_one_at_a_time = threading.Lock()  # fonts and figures are reused, and not thread-safe


def draw(source: Path, folder: Path) -> list[Path]:
    """Draw the pictures of the `Drawing` in `source` into the folder. Raises OSError; ValueError if that cannot be."""
    drawing = Drawing.load(source)
    paths = []
    with _one_at_a_time, _errors_of_libraries():
        for name, content in _pictures(drawing):
            paths.append(folder / name)
            paths[-1].write_bytes(content)
    return paths


@contextlib.contextmanager
def _errors_of_libraries() -> Iterator[None]:
    """Raises ValueError for what numpy, Pillow or matplotlib raise, as for a drawing with a label that has no class."""
    try:
        yield
    except (OSError, MemoryError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _pictures(drawing: Drawing) -> Iterator[tuple[str, bytes]]:
    for format, content in zip(FORMATS, curves.draw(drawing.series, drawing.title, FORMATS), strict=True):
        yield f"{CURVE}.{format}", content
    yield "confusion_matrix.png", _png(sheets.confusion_matrix(drawing.matrix, drawing.classes))
    yield "predictions.png", _png(sheets.predictions(drawing))
    yield "mistakes.png", _png(sheets.mistakes(drawing))
    if drawing.first_layer is not None:
        yield "first_layer.png", _png(sheets.first_layer(drawing.first_layer, drawing.classes))


def _png(picture: sheets.Picture) -> bytes:
    out = io.BytesIO()
    picture.save(out, "png", compress_level=COMPRESSION)
    return out.getvalue()
