"""The job spec: what a client may ask for, with every default. Parsed at the border; behind it nobody checks again."""

from __future__ import annotations

import difflib
import json
import math
import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import ErrorDetails

from shared.datasets import DATASETS
from shared.errors import FieldError, InvalidSpec

MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact

# Fields, and values of fields, that the contract names and this version does not build: refused by name, never ignored.
NOT_BUILT_FIELDS = ("schedule", "augment", "precision", "devices", "early_stopping", "preset", "init_from", "verify")
NOT_BUILT_VALUES = {
    "dataset": ("fashion_mnist", "kmnist", "cifar10"),
    "architecture": ("torchvision",),
}


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def short_form(value: Any) -> Any:
    """`"mlp"` is short for `{"type": "mlp"}`."""
    return {"type": value} if isinstance(value, str) else value


# --- architecture -----------------------------------------------------------------------------------------------------

Activation = Literal["relu", "tanh", "sigmoid", "gelu"]
Width = Annotated[int, Field(ge=1, le=16_384)]
Channels = Annotated[int, Field(ge=1, le=2_048)]


class Linear(Model):
    """softmax(x W + b)"""

    type: Literal["linear"] = "linear"


class Mlp(Model):
    """Fully connected layers with an activation between them."""

    type: Literal["mlp"] = "mlp"
    hidden: Annotated[list[Width], Field(min_length=1, max_length=16)] = [30]
    activation: Activation = "relu"


class Cnn(Model):
    """Per entry of `channels`: convolution (same size), activation, 2x2 max-pooling; then fully connected layers."""

    type: Literal["cnn"] = "cnn"
    channels: Annotated[list[Channels], Field(min_length=1, max_length=8)] = [16, 32]
    kernel: Literal[1, 3, 5, 7] = 3
    hidden: Annotated[list[Width], Field(max_length=16)] = [64]
    activation: Activation = "relu"


Architecture = Annotated[Linear | Mlp | Cnn, Field(discriminator="type"), BeforeValidator(short_form)]


# --- init, loss, optimizer --------------------------------------------------------------------------------------------


class PytorchInit(Model):
    type: Literal["pytorch"] = "pytorch"


class NormalInit(Model):
    """Weights and biases from N(0, std²)."""

    type: Literal["normal"] = "normal"
    std: Annotated[float, Field(gt=0)] = 1.0


class KaimingInit(Model):
    type: Literal["kaiming"] = "kaiming"


class XavierInit(Model):
    type: Literal["xavier"] = "xavier"


Init = Annotated[
    PytorchInit | NormalInit | KaimingInit | XavierInit, Field(discriminator="type"), BeforeValidator(short_form)
]


class CrossEntropy(Model):
    type: Literal["cross_entropy"] = "cross_entropy"
    reduction: Literal["mean", "sum"] = "mean"


class ClampedCrossEntropy(Model):
    """-log(clamp(p, clamp, 1)) of the true class, on the softmax's probabilities."""

    type: Literal["clamped_cross_entropy"] = "clamped_cross_entropy"
    reduction: Literal["mean", "sum"] = "mean"
    clamp: Annotated[float, Field(gt=0, lt=1)] = 1e-10


Loss = Annotated[CrossEntropy | ClampedCrossEntropy, Field(discriminator="type"), BeforeValidator(short_form)]

NonNegative = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Basic(Model):
    """p -= lr * grad, by hand."""

    type: Literal["basic"] = "basic"


class Sgd(Model):
    type: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0


class Adam(Model):
    type: Literal["adam"] = "adam"
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: NonNegative = 0.0


class AdamW(Model):
    type: Literal["adamw"] = "adamw"
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: NonNegative = 0.01


Optimizer = Annotated[Basic | Sgd | Adam | AdamW, Field(discriminator="type"), BeforeValidator(short_form)]


# --- validation, checkpoint -------------------------------------------------------------------------------------------


class Fraction(Model):
    """This share of the training split is held out."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1


Validation = Annotated[
    Annotated[Fraction, Tag("fraction")] | Annotated[Literal["test"], Tag("test")],
    Discriminator(lambda value: "test" if isinstance(value, str) else "fraction"),
]


class Checkpointing(Model):
    every_seconds: Annotated[float, Field(gt=0)] | None = 30.0
    every_epochs: Annotated[int, Field(ge=1)] | None = None
    keep_last: Annotated[int, Field(ge=1, le=100)] = 2
    keep_best: bool = True


NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"  # PostgreSQL stores no NUL, and a terminal should survive a list of names
LabelKey = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROLS)]
LabelValue = Annotated[str, Field(max_length=512, pattern=NO_CONTROLS)]


class JobSpec(Model):
    """One training job. Two equal specs (seed included) on one build and thread count end with the same weights."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=NO_CONTROLS)] = ""
    dataset: Literal["digits", "mnist"] = "digits"
    architecture: Architecture = Mlp()
    init: Init = PytorchInit()
    gradients: Literal["autograd", "manual"] = "autograd"
    loss: Loss = CrossEntropy()
    optimizer: Optimizer = Sgd()
    lr: Annotated[float, Field(gt=0)] = 0.1
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    validation: Validation = Fraction()
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = Field(default_factory=lambda: secrets.randbelow(MAX_SEED + 1))
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = True
    checkpoint: Checkpointing = Checkpointing()
    max_seconds: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    priority: Annotated[int, Field(ge=0, le=100)] = 50
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = {}

    @classmethod
    def parse(cls, body: Any) -> JobSpec:
        """Check a request body; raise InvalidSpec with every wrong field at once."""
        if not isinstance(body, dict):
            raise InvalidSpec([FieldError("", "object_type", f"must be a JSON object, got {type(body).__name__}")])
        try:
            spec = cls.model_validate(body)
        except ValidationError as error:
            raise InvalidSpec([_field_error(e) for e in error.errors(include_url=False)]) from error
        if conflicts := _conflicts(spec):
            raise InvalidSpec(conflicts)
        return spec if spec.name else spec.model_copy(update={"name": _generated_name(spec)})

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one example."""
        return DATASETS[self.dataset].shape

    @property
    def n_classes(self) -> int:
        return len(DATASETS[self.dataset].classes)


def _generated_name(spec: JobSpec) -> str:
    return f"{spec.dataset}-{spec.architecture.type}-{spec.gradients}-{spec.seed % 0x10000:04x}"


def _conflicts(spec: JobSpec) -> list[FieldError]:
    """What is right field by field and wrong together."""
    errors = []
    if isinstance(spec.optimizer, Sgd) and spec.optimizer.nesterov and spec.optimizer.momentum == 0:
        errors.append(FieldError("/optimizer/nesterov", "conflict", "needs a momentum greater than 0"))
    if isinstance(spec.architecture, Cnn):
        smallest, halvings = min(spec.input_shape[1:]), len(spec.architecture.channels)
        if smallest >> halvings == 0:
            detail = (
                f"each entry halves the image: {spec.dataset} is {smallest} pixels wide and allows "
                f"{int(math.log2(smallest))} entries, got {halvings}"
            )
            errors.append(FieldError("/architecture/channels", "too_long", detail))
    if isinstance(spec.validation, Fraction):
        n = DATASETS[spec.dataset].train_examples
        if not 1 <= round(n * spec.validation.fraction) <= n - 1:
            detail = f"leaves no example to train on or to validate with ({n} in {spec.dataset})"
            errors.append(FieldError("/validation/fraction", "conflict", detail))
    return errors


# --- errors in the words of the contract ------------------------------------------------------------------------------

UNION_FIELDS = ("architecture", "init", "loss", "optimizer", "validation")


def _field_error(error: ErrorDetails) -> FieldError:
    path = list(error["loc"])
    if len(path) > 1 and path[0] in UNION_FIELDS:
        del path[1]  # pydantic names the branch of the union here, the client's document has no such level
    if path and path[-1] == "[key]":
        path.pop()
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
    code, detail = error["type"], _detail(error, path)
    if _not_built(error, path):
        code = "not_built"
    return FieldError(pointer, code, detail)


def _not_built(error: ErrorDetails, path: list[Any]) -> bool:
    if len(path) != 1:
        return False
    if error["type"] == "extra_forbidden":
        return path[0] in NOT_BUILT_FIELDS
    return isinstance(path[0], str) and _chosen(error["input"]) in NOT_BUILT_VALUES.get(path[0], ())


def _chosen(value: Any) -> Any:
    chosen = value.get("type") if isinstance(value, dict) else value
    return chosen if isinstance(chosen, str) else None


def _detail(error: ErrorDetails, path: list[Any]) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if _not_built(error, path):
        what = f"'{path[0]}'" if kind == "extra_forbidden" else f"'{_chosen(value)}'"
        return f"{what} is in the contract, but this version does not build it"
    if kind == "extra_forbidden":
        known = _known_fields(path)
        if path[-1] in known:
            return "does not belong to this type"
        guess = difflib.get_close_matches(str(path[-1]), known, n=1)
        return "unknown field" + (f"; did you mean '{guess[0]}'?" if guess else "")
    if kind == "union_tag_invalid":
        expected = context["expected_tags"]
        guess = difflib.get_close_matches(str(context["tag"]), expected.replace("'", "").split(", "), n=1)
        hint = f"; did you mean '{guess[0]}'?" if guess else ""
        return f"must be one of {expected}, got '{context['tag']}'{hint}"
    if kind == "union_tag_not_found":
        return "must be a name or an object with a 'type'"
    if kind == "string_pattern_mismatch":
        return f"must not hold control characters, got {_short(value)}"
    text = error["msg"].replace("Input should be", "must be").replace("String should have", "must have")
    return f"{text}, got {_short(value)}"


def _known_fields(path: list[Any]) -> list[str]:
    """The fields that may stand where the unknown one stood."""
    if len(path) == 1:
        return list(JobSpec.model_fields)
    nested: dict[str, tuple[type[Model], ...]] = {
        "architecture": (Linear, Mlp, Cnn),
        "init": (NormalInit,),
        "loss": (CrossEntropy, ClampedCrossEntropy),
        "optimizer": (Sgd, Adam, AdamW),
        "validation": (Fraction,),
        "checkpoint": (Checkpointing,),
    }
    return sorted({name for model in nested.get(str(path[0]), ()) for name in model.model_fields})


def _short(value: Any, limit: int = 80) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"
