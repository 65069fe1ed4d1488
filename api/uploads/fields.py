"""The form fields of an upload, and the dataset id: the same files with the same fields are the same dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import FieldError, InvalidUpload
from shared.plain_text import PLAIN
from shared.spec.job_spec import MAX_SEED
from shared.validation_errors import field_errors

FORMAT = "gradq-dataset/2"  # part of the id: change it when the decoding changes
MAX_SIDE = 224
HIGHEST = 65_535  # white at 16 bits, the deepest that image formats have


class UploadFields(BaseModel):
    """The form fields of an upload; numbers are parsed from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=PLAIN)] | None = Field(
        None, description="display name; default: the name of the file"
    )
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of each class for the test split, if the upload has none"
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = Field(0, description="seed for drawing the test split")
    size: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = Field(
        None, description="resize each image of a zip of folders to size x size"
    )
    white: Annotated[float, Field(gt=0, le=HIGHEST)] | None = Field(
        None,
        description="the number that is white in arrays, such as 16, 255 or 4095; default: by the highest pixel",
    )

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Self:
        """Raises InvalidUpload with all wrong fields."""
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            raise InvalidUpload(*field_errors(cls, error)) from error

    def refuse(self, names: tuple[str, ...], why: str) -> None:
        """Raise InvalidUpload if any of these fields was sent: fields that do not apply are not ignored."""
        wrong = [FieldError(f"/{name}", "conflict", why) for name in names if name in self.model_fields_set]
        if wrong:
            raise InvalidUpload(wrong)


def digest_of(parts: Mapping[str, str]) -> str:
    """The SHA-256 of an upload, in hex: of the single `file`, or of the names and SHA-256s of several parts."""
    if list(parts) == ["file"]:
        return parts["file"]
    lines = [f"{name} {sha256}\n" for name, sha256 in sorted(parts.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def id_of(sha256: str, fields: UploadFields) -> str:
    content = json.dumps([FORMAT, sha256, fields.model_dump(exclude={"name"})], sort_keys=True)
    return f"ds_{hashlib.sha256(content.encode()).hexdigest()[:32]}"
