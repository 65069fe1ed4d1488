"""What is said beside the files of an upload, and the id: the same bytes read in the same way are the same dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import FieldError, InvalidUpload
from shared.spec.job_spec import MAX_SEED, NO_CONTROLS
from shared.validation_errors import field_error

FORMAT = "gradq-dataset/1"  # another way of decoding would be another dataset
MAX_SIDE = 224


class UploadFields(BaseModel):
    """Text in, as forms are; numbers are read out of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=NO_CONTROLS)] | None = Field(
        None, description="what people call it; default: the name of the file"
    )
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of each class that becomes the test split, where the upload brings none"
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = Field(0, description="draws that share")
    size: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = Field(
        None, description="resize each image of a zip of folders to size x size"
    )

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Self:
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            raise InvalidUpload([field_error(cls, e) for e in error.errors(include_url=False)]) from error

    def refuse(self, names: tuple[str, ...], why: str) -> None:
        """Refuse those of the fields that were sent: nothing that a client says is ignored."""
        wrong = [FieldError(f"/{name}", "conflict", why) for name in names if name in self.model_fields_set]
        if wrong:
            raise InvalidUpload(wrong)


def digest_of(parts: Mapping[str, str]) -> str:
    """The sha256 of a single file; of several, over their names and sha256s."""
    if list(parts) == ["file"]:
        return parts["file"]
    lines = [f"{name} {sha256}\n" for name, sha256 in sorted(parts.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def id_of(sha256: str, fields: UploadFields) -> str:
    told = json.dumps([FORMAT, sha256, fields.model_dump(exclude={"name"})], sort_keys=True)
    return f"ds_{hashlib.sha256(told.encode()).hexdigest()[:32]}"
