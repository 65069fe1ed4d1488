"""Converts images to a request's body: arrays, nested lists, files, Pillow images."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradq.client.types import Json

NPZ = "application/octet-stream"
PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


class Predictions(Sequence[Json]):
    """A model's predictions, one entry per image: `label`, `class`, `probabilities`, and the image's `file`, if any."""

    def __init__(self, json: Json) -> None:
        self.json = json

    def __getitem__(self, index: Any) -> Any:
        return self.json["predictions"][index]

    def __len__(self) -> int:
        return len(self.json["predictions"])

    def __iter__(self) -> Iterator[Json]:
        return iter(self.json["predictions"])

    def __repr__(self) -> str:
        return f"<Predictions {[seen['class'] for seen in self[:8]]}{'…' if len(self) > 8 else ''}>"

    @property
    def classes(self) -> list[str]:
        """The names of the classes; a label is an index into it."""
        return list(self.json["classes"])

    @property
    def labels(self) -> list[int]:
        """The index of the likeliest class of each image."""
        return [int(seen["label"]) for seen in self]


def body_of(images: Any, white: float | None = None) -> Mapping[str, Any]:
    """The keyword arguments of a request with these images: a form of files, an npz, or JSON.

    One image or many: a path, a Pillow image, or a list of them; an array (numpy's, or torch's on the CPU); nested
    lists of numbers. `white`: the number that is white in arrays, lists and npz files. Raises TypeError for files mixed
    with arrays, OSError for a file that cannot be read.
    """
    declared = {} if white is None else {"white": white}
    field = {"data": {"white": f"{white:.17g}"}} if white is not None else {}
    if _is_file(images):
        images = [images]
    many = list(images) if isinstance(images, list | tuple) else []
    if any(map(_is_file, many)):
        if other := [image for image in many if not _is_file(image)]:
            kind = type(other[0]).__name__
            raise TypeError(f"cannot mix files or Pillow images with a {kind} in one call")
        return {"files": [("files", _file(image, place)) for place, image in enumerate(many)], **field}
    if hasattr(images, "__array__") or any(hasattr(image, "__array__") for image in many[:1]):
        if field:
            return {"files": [("files", ("images.npz", _npz(images)))], **field}
        return {"content": _npz(images), "media_type": NPZ}
    return {"json": {"images": images, **declared}}


def _is_file(image: Any) -> bool:
    return isinstance(image, str | Path) or _is_picture(image)


def _is_picture(image: Any) -> bool:
    """Pillow images also have __array__. A program that has one has imported Pillow, so this does not import it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _file(image: Any, place: int) -> tuple[str, bytes]:
    if isinstance(image, str | Path):
        return Path(image).name, Path(image).read_bytes()
    out = io.BytesIO()
    same = image if image.mode in PNG_MODES else _in_png_mode(image)
    same.save(out, "PNG", exif=image.info.get("exif", b""))  # a photo's orientation is in its EXIF data
    return f"{place}.png", out.getvalue()


def _in_png_mode(image: Any) -> Any:
    if image.mode.startswith("I"):  # Pillow converts I;16B to I;16 by way of bytes, which clips to 255
        return image.convert("I").convert("I;16")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _npz(images: Any) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.savez(out, images=np.asarray(images) if hasattr(images, "__array__") else np.stack([*map(np.asarray, images)]))
    return out.getvalue()
