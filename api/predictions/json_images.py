"""The images of a JSON body, decoded one by one: as Python's lists, all of them would take up to thirty times as many
bytes as their text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from api.http.errors import InvalidImages
from api.http.requests import from_json
from api.predictions.allowance import MAX_IMAGES
from shared.errors import BadRequest

WHOLE_BYTES = 1 << 16  # up to this size a body is decoded at once; of a larger one, so much may be no image
DEEPEST = 4  # lists in lists: images, channels, rows, pixels
FIELD = re.compile(r'"images"[ \t\n\r]*:[ \t\n\r]*(?=\[)')  # a string in JSON contains no quotation mark: it is a key
MARKS = re.compile(r'[\[\]"{]')
COMMA, SPACE = re.compile(r"[ \t\n\r]*,[ \t\n\r]*"), re.compile(r"[ \t\n\r]*")


class Images:
    """The parts of the list `images` in a JSON text, decoded when they are needed. `rest` is the body with an empty
    list in its place. Raises BadRequest, and InvalidImages for anything but lists of numbers."""

    def __init__(self, text: str, numbers: int) -> None:
        """`numbers`: those of one image."""
        found = FIELD.search(text)
        if found is None:
            raise BadRequest("the body is not a JSON object with a list `images`")
        self.text, self.numbers = text, numbers
        self.spans: list[tuple[int, int]] = []
        end = self._divide(found.end())
        if found.end() + len(text) - end > WHOLE_BYTES:
            raise InvalidImages(f"more than {WHOLE_BYTES} bytes are not of the list `images`")
        self.rest: Any = from_json((text[: found.end()] + "[]" + text[end:]).encode())

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def depth(self) -> int:
        """Lists in lists of the first part: 1 for a row, 2 for rows, 3 for channels or pixels with several numbers."""
        start, end = self.spans[0]
        brackets = re.match(r"(\[[ \t\n\r]*)*", self.text[start:end])
        return brackets[0].count("[") if brackets else 0

    def decoded(self, first: int, last: int) -> Iterator[Any]:
        """The parts from `first` to before `last`. Raises BadRequest, and InvalidImages for one with more numbers than
        an image has."""
        for i, (start, end) in enumerate(self.spans[first:last], start=first):
            lists, commas = self.text.count("[", start, end), self.text.count(",", start, end)
            if commas >= self.numbers or lists > 2 * self.numbers + 2:
                raise InvalidImages(
                    f"image {i} has more numbers than the {self.numbers} of the model's images", "/images"
                )
            try:
                yield from_json(self.text[start:end].encode())
            except BadRequest as error:
                raise BadRequest(f"image {i}: {error.detail}") from error

    def _divide(self, start: int) -> int:
        """Find the parts of the list that begins at `start`; return where it ends."""
        depth, begin, after = 0, 0, start + 1
        for mark in MARKS.finditer(self.text, start):
            at, sign = mark.start(), mark[0]
            if sign == "[":
                depth += 1
                if depth > DEEPEST:
                    raise InvalidImages(f"more than {DEEPEST} lists in one another; an image has at most 3", "/images")
                if depth == 2:
                    self._check_between(after, at, COMMA if self.spans else SPACE)
                    begin = at
            elif sign == "]":
                depth -= 1
                if depth == 1:
                    after = at + 1
                    self.spans.append((begin, after))
                    if len(self.spans) > MAX_IMAGES:
                        raise InvalidImages(
                            f"more than {MAX_IMAGES} images; at most {MAX_IMAGES} are accepted per request"
                        )
                elif depth == 0:
                    self._check_between(after, at, SPACE)
                    return at + 1
            else:
                what = "a text" if sign == '"' else "an object"
                raise InvalidImages(f"images must be numbers, got {what}", "/images")
        raise BadRequest("the body is not JSON: the list `images` has no end")

    def _check_between(self, start: int, end: int, allowed: re.Pattern[str]) -> None:
        if not allowed.fullmatch(self.text, start, end):
            raise InvalidImages("`images` must be a list of lists of numbers, with commas between them", "/images")
