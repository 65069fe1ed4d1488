"""What one request for predictions may cost: images, multiplications, memory, and bytes of its response."""

from __future__ import annotations

import json

from api.http.errors import InvalidImages, NotBuilt
from shared.errors import FieldError
from shared.inference import Model

MAX_IMAGES = 10_000
MAX_MULTIPLICATIONS = 200_000_000_000  # of all images of a request: about half a minute of one core
MAX_FLOATS = 1 << 26  # held at once to compute one image: 256 MiB
FLOAT_BYTES = 4
MAX_ANSWER_BYTES = 16 << 20
PROBABILITY_BYTES = 12  # `1.234567e-05,` is the longest; all others have at most 10
IMAGE_BYTES = 80  # of an image's part of the response, apart from probabilities and names
LONGEST_FILE_NAME = 255  # characters; the response repeats the name for each image of the file


def check_model(model: Model) -> None:
    """Raises NotBuilt for a model of which one image would already cost more than a request may."""
    each, floats = model.cost.multiplications, model.cost.floats_alone
    if each > MAX_MULTIPLICATIONS:
        detail = f"one image takes {each} multiplications in this model; at most {MAX_MULTIPLICATIONS} are computed"
    elif floats > MAX_FLOATS:
        detail = f"one image takes {FLOAT_BYTES * floats} bytes of memory in this model, beside its weights"
        detail += f"; at most {FLOAT_BYTES * MAX_FLOATS} are used"
    else:
        return
    raise NotBuilt([FieldError("", "model_too_large", f"{detail} for a request; run its model.onnx or predict.py")])


class Allowance:
    """Counts the images of one request before they are computed."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.images = 0
        longest = max((_json_bytes(name) for name in model.classes), default=0)
        self._image_bytes = IMAGE_BYTES + longest + PROBABILITY_BYTES * len(model.classes)
        self._bytes_left = MAX_ANSWER_BYTES - sum(_json_bytes(name) for name in model.classes) - 1024

    def spend(self, n: int, file: str | None = None) -> None:
        """Count `n` more images, of the file with this name. Raises InvalidImages, with the number that may be sent."""
        self.images += n
        if self.images > MAX_IMAGES:
            raise InvalidImages(f"{self.images} images; at most {MAX_IMAGES} are accepted per request")
        each = self.model.cost.multiplications
        if self.images > (most := MAX_MULTIPLICATIONS // max(1, each)):
            detail = f"{self.images} images, of {each} multiplications each in this model"
            raise InvalidImages(f"{detail}; send at most {most} per request, or run its model.onnx")
        each = self._image_bytes + (0 if file is None else _json_bytes(file))
        most = self.images - n + max(0, self._bytes_left // each)
        self._bytes_left -= n * each
        if self._bytes_left < 0:
            detail = f"the response for {self.images} images, with {len(self.model.classes)} probabilities each, would"
            more = f"have more than {MAX_ANSWER_BYTES} bytes; send at most {most} images per request"
            raise InvalidImages(f"{detail} {more}")


def check_file_name(name: str, pointer: str) -> None:
    """Raises InvalidImages for a name that is too long to be repeated for each image of its file."""
    if len(name) > LONGEST_FILE_NAME:
        raise InvalidImages(f"a file name of {len(name)} characters; at most {LONGEST_FILE_NAME} are accepted", pointer)


def _json_bytes(text: str) -> int:
    return len(json.dumps(text))
