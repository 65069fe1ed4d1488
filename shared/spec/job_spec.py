"""The job spec with all its fields and defaults. It is validated once, in the API; other code relies on that."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from shared.datasets.catalog import DATASETS, DatasetInfo, FindDataset
from shared.errors import FieldError, InvalidSpec
from shared.plain_text import PLAIN, escaped
from shared.spec.elsewhere import field_meant, instead_of
from shared.spec.presets import PRESETS
from shared.validation_errors import closest, did_you_mean, field_errors, path_of

MAX_NAME, MAX_LABELS = 128, 16
MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact
DEFAULT_ATTEMPTS = 3  # of a job, before it fails
JOB_ID = r"^job_[0-9a-f]{32}$"
SMALLEST, LARGEST = 1e-37, 1e30  # limits of numbers that float32 does not round to 0 or infinity
SMALL_IMAGE = 64  # pixels: up to this size a ResNet omits its first two halvings, and other models enlarge the image
DATASET_ID = r"^ds_[0-9a-f]{32}$"


class Model(BaseModel):
    # the text below a field is its description in the OpenAPI document and in the dashboard's form
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def short_form(value: Any) -> Any:
    """Expand a name to an object: `"mlp"` is short for `{"type": "mlp"}`."""
    return {"type": value} if isinstance(value, str) else value


# --- architecture -----------------------------------------------------------------------------------------------------

Activation = Literal["relu", "tanh", "sigmoid", "gelu"]
Width = Annotated[int, Field(ge=1, le=16_384)]
Channels = Annotated[int, Field(ge=1, le=2_048)]
Dropout = Annotated[float, Field(ge=0, lt=1)]  # the probability with which an activation is zeroed
TorchvisionName = Literal[
    "resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_b_16"
]


class Linear(Model):
    """softmax(x W + b)"""

    type: Literal["linear"] = "linear"


class Mlp(Model):
    """Fully connected layers with an activation between them.

    Batch normalization is applied before the activation, dropout after it."""

    type: Literal["mlp"] = "mlp"
    hidden: Annotated[list[Width], Field(min_length=1, max_length=16)] = [30]
    """units of each hidden layer"""
    activation: Activation = "relu"
    """activation function after each hidden layer"""
    dropout: Dropout = 0.0
    """probability that an activation is zeroed in a training step"""
    batch_norm: bool = False
    """normalize the inputs of each activation over the batch"""


class Cnn(Model):
    """For each entry of `channels`: convolution (same size), activation, 2x2 max-pooling; then fully connected layers.

    Batch normalization is applied before each activation, dropout after the activations of fully connected layers."""

    type: Literal["cnn"] = "cnn"
    channels: Annotated[list[Channels], Field(min_length=1, max_length=8)] = [16, 32]
    """output channels of each convolution; the pooling after each one halves the image"""
    kernel: Literal[1, 3, 5, 7] = 3
    """side of the convolution kernels, in pixels"""
    hidden: Annotated[list[Width], Field(max_length=16)] = [64]
    """units of each fully connected hidden layer; if empty, the output layer follows the convolutions"""
    activation: Activation = "relu"
    """activation function after each convolution and each hidden layer"""
    dropout: Dropout = 0.0
    """probability that an activation is zeroed in a training step"""
    batch_norm: bool = False
    """normalize the inputs of each activation over the batch"""


class Torchvision(Model):
    """A torchvision model, untrained, with the first and the last layer adapted to the dataset. Autograd only.

    For images of up to 64 pixels, a ResNet begins with a 3x3 convolution of stride 1 and has no max-pooling after it,
    as is usual for CIFAR. The other models enlarge smaller images to 64 pixels (bilinear), vit_b_16 to squares whose
    side is a multiple of its patch size, 16 pixels."""

    type: Literal["torchvision"] = "torchvision"
    name: TorchvisionName
    """name of the torchvision model"""


Architecture = Annotated[Linear | Mlp | Cnn | Torchvision, Field(discriminator="type"), BeforeValidator(short_form)]
ManualArchitecture = Annotated[Linear | Mlp | Cnn, Field(discriminator="type"), BeforeValidator(short_form)]
WalkArchitecture = Annotated[Linear | Mlp, Field(discriminator="type"), BeforeValidator(short_form)]


# --- init, loss, optimizer --------------------------------------------------------------------------------------------


class PytorchInit(Model):
    type: Literal["pytorch"] = "pytorch"


class NormalInit(Model):
    """Weights and biases from N(0, std²)."""

    type: Literal["normal"] = "normal"
    std: Annotated[float, Field(gt=0, le=LARGEST)] = 1.0
    """standard deviation"""


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
    """over the examples of a batch; with a sum, the step size grows with the batch size"""


class ClampedCrossEntropy(Model):
    """-log(clamp(p, clamp, 1)), where p is the softmax probability of the true class."""

    type: Literal["clamped_cross_entropy"] = "clamped_cross_entropy"
    reduction: Literal["mean", "sum"] = "mean"
    """over the examples of a batch; with a sum, the step size grows with the batch size"""
    clamp: Annotated[float, Field(ge=SMALLEST, lt=1)] = 1e-10
    """lower bound of the probability, applied before the logarithm"""


Loss = Annotated[CrossEntropy | ClampedCrossEntropy, Field(discriminator="type"), BeforeValidator(short_form)]

NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Basic(Model):
    """p -= lr * grad"""

    type: Literal["basic"] = "basic"


class Sgd(Model):
    type: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of the previous step that is added to the next one"""
    nesterov: bool = False
    """use Nesterov momentum"""
    weight_decay: NonNegative = 0.0
    """L2 penalty: weight_decay * p is added to the gradient of p"""


class Adam(Model):
    type: Literal["adam"] = "adam"
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """decay rates of the running means of the gradient and of its square"""
    eps: Annotated[float, Field(ge=SMALLEST, le=LARGEST)] = 1e-8
    """added to the denominator to avoid division by zero"""
    weight_decay: NonNegative = 0.0
    """L2 penalty: weight_decay * p is added to the gradient of p"""


class AdamW(Model):
    type: Literal["adamw"] = "adamw"
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """decay rates of the running means of the gradient and of its square"""
    eps: Annotated[float, Field(ge=SMALLEST, le=LARGEST)] = 1e-8
    """added to the denominator to avoid division by zero"""
    weight_decay: NonNegative = 0.01
    """decoupled weight decay: lr * weight_decay * p is subtracted from p in each step"""


Optimizer = Annotated[Basic | Sgd | Adam | AdamW, Field(discriminator="type"), BeforeValidator(short_form)]


# --- schedule: the learning rate of each step, as a factor of `lr` ----------------------------------------------------


class ConstantSchedule(Model):
    type: Literal["constant"] = "constant"


class CosineSchedule(Model):
    """Linear warm-up from 0 over `warmup_epochs`, then half a cosine down to 0."""

    type: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegative = 0.0
    """length of the warm-up, in epochs"""


class StepSchedule(Model):
    """Multiplies the learning rate by `gamma` after every `every_epochs` epochs."""

    type: Literal["step"] = "step"
    every_epochs: Annotated[int, Field(ge=1)] = 10
    """epochs between two changes"""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """factor of each change"""


class OneCycleSchedule(Model):
    """From lr/25 to `lr` over the first 30 % of the steps, then to lr/250 000, each along half a cosine."""

    type: Literal["onecycle"] = "onecycle"


Schedule = Annotated[
    ConstantSchedule | CosineSchedule | StepSchedule | OneCycleSchedule,
    Field(discriminator="type"),
    BeforeValidator(short_form),
]


# --- augment: random per example and epoch, from a separate generator -------------------------------------------------


class Shift(Model):
    """Shifts the image by up to `pixels` in each direction, along both axes."""

    type: Literal["shift"] = "shift"
    pixels: Annotated[int, Field(ge=1, le=64)] = 2
    """largest shift, in pixels"""


class Rotate(Model):
    """Rotates the image by up to `degrees` in either direction, around its centre."""

    type: Literal["rotate"] = "rotate"
    degrees: Annotated[float, Field(gt=0, le=180)] = 10.0
    """largest angle, in degrees"""


class Flip(Model):
    """Flips the image horizontally with `probability`."""

    type: Literal["flip"] = "flip"
    probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    """probability that an image is flipped"""


class Crop(Model):
    """Pads the image with black by `padding` on each side, then crops a random window of the original size."""

    type: Literal["crop"] = "crop"
    padding: Annotated[int, Field(ge=1, le=64)] = 4
    """width of the padding, in pixels"""


Augmentation = Annotated[Shift | Rotate | Flip | Crop, Field(discriminator="type"), BeforeValidator(short_form)]


# --- validation, checkpoint, early stopping, initial weights, gradient verification -----------------------------------


class Fraction(Model):
    """Hold out a share of the training split, the same of each class."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share that is held out; the seed decides which examples, and each class keeps one to train on"""


Validation = Annotated[
    Annotated[Fraction, Tag("fraction")] | Annotated[Literal["test"], Tag("test")],
    Discriminator(lambda value: "test" if isinstance(value, str) else "fraction"),
]


class Checkpointing(Model):
    every_seconds: Annotated[float, Field(gt=0)] | None = 30.0
    """seconds between two checkpoints, at least 0.1; none is written while the one before is being stored; null: no
    checkpoints by time"""
    every_epochs: Annotated[int, Field(ge=1)] | None = None
    """epochs between two checkpoints, left out where the one before takes longer to store; null: no checkpoints by
    epoch"""
    keep_last: Annotated[int, Field(ge=1, le=100)] = 2
    """number of checkpoints to keep; older ones are deleted"""
    keep_best: bool = True
    """also keep the weights of the best validation result, as best.safetensors"""


class EarlyStopping(Model):
    """Stop when `metric` has not improved by more than `min_delta` for `patience_epochs` epochs."""

    metric: Literal["val_loss", "val_accuracy", "train_loss"] = "val_loss"
    """metric that has to improve"""
    patience_epochs: Annotated[int, Field(ge=1)] = 5
    """epochs without improvement after which training stops"""
    min_delta: NonNegative = 0.0
    """smallest change that counts as an improvement"""


class InitFrom(Model):
    """Start from the final weights of another job."""

    job: Annotated[str, Field(pattern=JOB_ID)]
    """id of a succeeded job with the same architecture"""


class Verify(Model):
    """Compare the manual gradients with autograd's during training, every `every_steps` steps."""

    every_steps: Annotated[int, Field(ge=1)] = 100
    """steps between two comparisons"""


LabelKey = Annotated[str, Field(min_length=1, max_length=64, pattern=PLAIN)]
LabelValue = Annotated[str, Field(max_length=512, pattern=PLAIN)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=PLAIN)]
Priority = Annotated[int, Field(ge=0, le=100)]
DatasetName = Annotated[
    str, Field(examples=[*DATASETS], json_schema_extra={"pattern": f"^({'|'.join(DATASETS)}|ds_[0-9a-f]{{32}})$"})
]


Path = tuple[str, ...]  # names of fields, from the whole to a value

# Yields the errors of one conflict between fields of a spec, or with facts of its dataset. It reads all values that the
# conflict depends on before it yields.
Check = Callable[[Any, Any], Iterator[FieldError]]


class ValueUnknown(Exception):
    """A check has read a field that is wrong, so nothing is known about the conflict."""


class KnownPart:
    """A spec, or the facts of a dataset, of which some values are not known: reading one raises ValueUnknown.

    `unknown` has the paths of these values, as ("optimizer", "momentum"). For `isinstance` it is what it wraps.
    """

    def __init__(self, whole: Any, unknown: Collection[Path] = ()) -> None:
        self._whole, self._unknown = whole, unknown

    @property  # type: ignore[misc]  # object's can be assigned
    def __class__(self) -> Any:
        return type(self._whole)

    def __getattr__(self, name: str) -> Any:
        if self._whole is None or (name,) in self._unknown:
            raise ValueUnknown
        value = getattr(self._whole, name)
        below = [path[1:] for path in self._unknown if path[0] == name]
        return KnownPart(value, below) if below else value


def _in_objects(path: Sequence[str | int]) -> Path:
    """The path to the innermost value that is in no list."""
    return tuple(takewhile(lambda part: isinstance(part, str), path))  # type: ignore[arg-type]


def _without(body: Any, paths: Collection[Path]) -> Any:
    """The body without the values at these paths."""
    if not isinstance(body, dict):  # the short form of an object
        return body
    return {
        name: _without(value, below) if (below := [path[1:] for path in paths if path[0] == name]) else value
        for name, value in body.items()
        if (name,) not in paths
    }


def _may_mean(path: Path, spec: Model) -> Iterator[Path]:
    """Where a value may belong that no field has: a field of a similar name beside it, or in the whole or its parts."""
    *above, name = path
    parts: dict[Path, Model] = {(field,): value for field, value in spec if isinstance(value, Model)}
    beside = parts.get((*above,), spec)
    if name in type(beside).model_fields:
        return
    if above and (similar := closest(name, type(beside).model_fields)):
        yield (*above, similar)
    if similar := closest(name, type(spec).model_fields) or field_meant(name):
        yield (similar,)
    yield from ((*part, name) for part, value in parts.items() if name in type(value).model_fields)


class Work(Model):
    """The fields common to all kinds of jobs."""

    kind: ClassVar[str]
    checks: ClassVar[tuple[Check, ...]] = ()
    instead_of: ClassVar[Callable[[str, Collection[str]], str | None]] = staticmethod(instead_of)

    name: Name = ""
    """display name of the job; by default generated from the other fields"""
    dataset: DatasetName = "digits"
    """name of a built-in dataset, or id of an uploaded one"""
    init: Init = PytorchInit()
    """distribution of the initial weights, drawn from the seed"""
    loss: Loss = CrossEntropy()
    """loss function"""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = Field(default_factory=lambda: secrets.randbelow(MAX_SEED + 1))
    """seed of all random numbers; by default random"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """device to run on; auto: the first that is free"""
    max_seconds: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0
    """time limit of one attempt, in seconds"""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = DEFAULT_ATTEMPTS
    """number of lost attempts after which the job fails"""
    priority: Priority = 50
    """queued jobs with a higher priority start first"""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_LABELS)] = {}
    """key-value pairs by which jobs can be filtered"""

    @classmethod
    def parse(cls, body: Any, find_dataset: FindDataset = DATASETS.get) -> Self:
        """Validate a request body. Raises InvalidSpec, which names every wrong field."""
        if not isinstance(body, dict):
            raise InvalidSpec([FieldError("", "object_type", f"must be a JSON object, got {type(body).__name__}")])
        try:
            spec = cls.model_validate(cls._filled(body))
        except ValidationError as error:
            wrong, others = field_errors(cls, error)
            wrong += cls._unknown_names(body, find_dataset)
            told = {field.pointer for field in wrong}
            if not others:  # else it would cost a search per wrong field, for errors that are not named
                more = cls._conflicts_of_the_rest(body, error, find_dataset)
                wrong += [field for field in more if field.pointer not in told]
            raise InvalidSpec(wrong, others) from error
        info = find_dataset(spec.dataset)
        wrong = [_no_such_dataset(spec.dataset)] if info is None else []
        wrong += spec.conflicts(info)
        if wrong:
            raise InvalidSpec(wrong)
        assert info is not None, "else there is an error"
        return spec if spec.name else spec.model_copy(update={"name": spec.generated_name(info.name)})

    @classmethod
    def stored(cls, spec: dict[str, Any]) -> Self:
        """The spec of a row. Its name and labels are not checked again: they may be older than the rule for them."""
        texts: dict[str, Any] = {field: spec[field] for field in ("name", "labels") if field in spec}
        rest = cls.model_validate({field: value for field, value in spec.items() if field not in texts})
        return rest.model_copy(update=texts)

    @classmethod
    def _filled(cls, body: dict[str, Any]) -> dict[str, Any]:
        return body

    @classmethod
    def _unknown_names(cls, body: dict[str, Any], find_dataset: FindDataset) -> list[FieldError]:
        """Errors for names that do not exist, to be reported together with pydantic's errors."""
        dataset = body.get("dataset")
        return [_no_such_dataset(dataset)] if isinstance(dataset, str) and find_dataset(dataset) is None else []

    @classmethod
    def _conflicts_of_the_rest(
        cls, body: dict[str, Any], error: ValidationError, find_dataset: FindDataset
    ) -> list[FieldError]:
        """Conflicts between fields that are valid, of a body in which others are not."""
        wrong = {_in_objects(path_of(e)) for e in error.errors(include_url=False) if e["loc"]}
        parsed = cls._rest_of(body, wrong) or cls._rest_of(body, {path[:1] for path in wrong})
        if parsed is None:  # a name that is not Unicode text, which pydantic does not name
            return []
        rest, removed = parsed
        unknown = removed | {meant for path in removed for meant in _may_mean(path, rest)}
        info = None if ("dataset",) in unknown else find_dataset(rest.dataset)
        return rest.conflicts(info, unknown)

    @classmethod
    def _rest_of(cls, body: dict[str, Any], wrong: set[Path]) -> tuple[Self, set[Path]] | None:
        """The spec without what is wrong, and what that is; None if the rest is wrong, too."""
        try:
            return cls.model_validate(_without(cls._filled(body), wrong)), wrong
        except ValidationError:
            return None

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def conflicts(self, info: DatasetInfo | None, unknown: Collection[Path] = ()) -> list[FieldError]:
        """Errors of fields that are valid alone, but not in combination or for this dataset, if it is known, apart from
        those that depend on the values at `unknown` paths."""
        found: list[FieldError] = []
        for check in self.checks:
            with suppress(ValueUnknown):
                found += check(KnownPart(self, unknown), info or KnownPart(None))
        return found

    def generated_name(self, dataset: str) -> str:
        """The name of a job without one, from the name of its dataset."""
        ending = self.ending_of_names()
        return escaped(dataset)[: MAX_NAME - len(ending)] + ending

    def ending_of_names(self) -> str:
        """What the generated names of jobs with this spec end with."""
        raise NotImplementedError


class JobSpec(Work):
    """A training job. Equal specs, including the seed, on the same build and thread count give identical weights."""

    kind: ClassVar[str] = "training"

    preset: Annotated[str, Field(json_schema_extra={"enum": [*PRESETS]})] | None = None
    """an experiment of the reference article; fills in the fields that are not given"""
    architecture: Architecture = Mlp()
    """model to train"""
    gradients: Literal["autograd", "manual"] = "autograd"
    """computed by PyTorch's autograd, or by hand-written backward passes (linear, mlp, cnn)"""
    verify: Verify | None = None
    """compare manual gradients with autograd's during training"""
    init_from: InitFrom | None = None
    """start from the final weights of another job"""
    optimizer: Optimizer = Sgd()
    """rule by which gradients update the weights"""
    lr: Annotated[float, Field(gt=0, le=LARGEST)] = 0.1
    """learning rate"""
    schedule: Schedule = ConstantSchedule()
    """how the learning rate changes during training"""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    """passes over the training split"""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """examples per step"""
    validation: Validation = Fraction()
    """validation data: a share of the training split, or the test split, as in many tutorials"""
    augment: Annotated[list[Augmentation], Field(max_length=8)] = []
    """random changes to the training images, applied in this order"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """precision of matrix products and convolutions; bf16 uses autocast"""
    devices: Annotated[int, Field(ge=1, le=64)] = 1
    """number of devices; this version supports 1"""
    deterministic: bool = True
    """use only algorithms that give identical bits on every run"""
    checkpoint: Checkpointing = Checkpointing()
    """when to write checkpoints, from which a stopped job resumes"""
    early_stopping: EarlyStopping | None = None
    """stop before the last epoch when a metric no longer improves"""

    @classmethod
    def _filled(cls, body: dict[str, Any]) -> dict[str, Any]:
        """The body merged over its preset's fields."""
        preset = PRESETS.get(body["preset"]) if isinstance(body.get("preset"), str) else None
        return body if preset is None else {**preset.spec, **body}

    @classmethod
    def _unknown_names(cls, body: dict[str, Any], find_dataset: FindDataset) -> list[FieldError]:
        preset = body.get("preset")
        unknown = [_no_such_preset(preset)] if isinstance(preset, str) and preset not in PRESETS else []
        return super()._unknown_names(body, find_dataset) + unknown

    def ending_of_names(self) -> str:
        return f"-{self.architecture.type}-{self.gradients}-{self.seed % 0x10000:04x}"


class GradientCheckSpec(Work):
    """A gradient check: compares manual gradients with autograd's and with finite differences, in float64, without
    training."""

    kind: ClassVar[str] = "gradient_check"

    architecture: ManualArchitecture = Mlp()
    """model to check"""
    batches: Annotated[int, Field(ge=1, le=1_000)] = 3
    """number of batches to compare"""
    batch_size: Annotated[int, Field(ge=1, le=1_024)] = 8
    """examples per batch"""
    finite_differences: bool = True
    """also compare with finite differences"""
    samples: Annotated[int, Field(ge=1, le=100_000)] = Field(
        25, description="elements of each parameter to compare with finite differences, drawn from the seed"
    )

    def generated_name(self, dataset: str) -> str:
        return super().generated_name(f"gradient-check-{dataset}")

    def ending_of_names(self) -> str:
        return f"-{self.architecture.type}-{self.seed % 0x10000:04x}"


class WalkSpec(Work):
    """A walk: one batch forward and backward through a linear or two-layer network, with all intermediate values.

    Every stage is computed by hand and by PyTorch, in float64, without training."""

    kind: ClassVar[str] = "walk"

    architecture: WalkArchitecture = Field(
        Mlp(), description="an mlp must have one hidden layer, without dropout or batch normalization"
    )
    init_from: InitFrom | None = None
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    batch: Annotated[int, Field(ge=1)] = Field(1, description="number of the batch, from 1, in the seed's order")

    def generated_name(self, dataset: str) -> str:
        return super().generated_name(f"walk-{dataset}")

    def ending_of_names(self) -> str:
        return f"-{self.architecture.type}-{self.seed % 0x10000:04x}"


# --- conflicts: fields that are valid alone, but not in combination or for the dataset --------------------------------


def _images_are_large_enough(spec: Any, info: DatasetInfo) -> Iterator[FieldError]:
    net, smallest = spec.architecture, min(info.shape[1:])
    halvings = len(net.channels) if isinstance(net, Cnn) else 0
    if smallest >> halvings == 0:
        detail = (
            f"each entry halves the image: {info.name} is {smallest} pixels wide and allows "
            f"{int(math.log2(smallest))} entries, got {halvings}"
        )
        yield FieldError("/architecture/channels", "too_long", detail)


def _batches_have_a_variance(spec: Any, info: DatasetInfo) -> Iterator[FieldError]:
    if spec.batch_size == 1 and needs_two_examples(spec.architecture, info):
        detail = "batch normalization needs 2 examples to have a variance; got 1"
        yield FieldError("/batch_size", "conflict", detail)


def _preset_exists_and_continues_a_job(spec: Any, _: DatasetInfo) -> Iterator[FieldError]:
    if spec.preset is None:
        return
    if spec.preset not in PRESETS:
        yield _no_such_preset(spec.preset)
        return
    before = PRESETS[spec.preset].continues
    if before is not None and spec.init_from is None:
        detail = f"this preset continues {before}; give the id of a finished job of that preset"
        yield FieldError("/init_from/job", "missing", detail)


def _nesterov_has_a_momentum(spec: Any, _: DatasetInfo) -> Iterator[FieldError]:
    if isinstance(spec.optimizer, Sgd) and spec.optimizer.nesterov and spec.optimizer.momentum == 0:
        yield FieldError("/optimizer/nesterov", "conflict", "needs a momentum greater than 0")


def _both_splits_have_examples(spec: Any, info: DatasetInfo) -> Iterator[FieldError]:
    if not isinstance(spec.validation, Fraction):
        return
    n = info.train_examples
    if not 1 <= round(n * spec.validation.fraction) <= n - 1:
        detail = f"leaves no example to train on or to validate with ({n} in {spec.dataset})"
        yield FieldError("/validation/fraction", "conflict", detail)


def _one_device(spec: Any, _: DatasetInfo) -> Iterator[FieldError]:
    if spec.devices > 1:
        detail = "this version does not implement training on several devices; set it to 1"
        yield FieldError("/devices", "not_built", detail)


def _manual_gradients_exist(spec: Any, _: DatasetInfo) -> Iterator[FieldError]:
    if spec.gradients == "manual" and isinstance(spec.architecture, Torchvision):
        detail = "torchvision models have no manual backward pass; set gradients to 'autograd'"
        yield FieldError("/gradients", "conflict", detail)


def _manual_gradients_are_fp32(spec: Any, _: DatasetInfo) -> Iterator[FieldError]:
    if spec.gradients == "manual" and spec.precision != "fp32":
        detail = "manual gradients are computed in fp32; set precision to 'fp32', or gradients to 'autograd'"
        yield FieldError("/precision", "conflict", detail)


def _manual_gradients_are_verified(spec: Any, _: DatasetInfo) -> Iterator[FieldError]:
    if spec.verify is not None and spec.gradients != "manual":
        detail = "verifies manual gradients; set gradients to 'manual', or leave verify out"
        yield FieldError("/verify", "conflict", detail)


def _warm_up_ends_in_training(spec: Any, _: DatasetInfo) -> Iterator[FieldError]:
    if isinstance(spec.schedule, CosineSchedule) and spec.schedule.warmup_epochs >= spec.epochs:
        detail = f"must be less than epochs = {spec.epochs}, got {spec.schedule.warmup_epochs:g}"
        yield FieldError("/schedule/warmup_epochs", "conflict", detail)


def _images_are_moved_within_their_size(spec: Any, info: DatasetInfo) -> Iterator[FieldError]:
    for i, step in enumerate(spec.augment):
        moved = step.pixels if isinstance(step, Shift) else step.padding if isinstance(step, Crop) else 0
        if moved and moved >= (size := min(info.shape[1:])):
            field = "pixels" if isinstance(step, Shift) else "padding"
            detail = f"must be less than the image's size: {spec.dataset} is {size} pixels wide, got {moved}"
            yield FieldError(f"/augment/{i}/{field}", "conflict", detail)


def _batch_is_within_the_dataset(spec: Any, info: DatasetInfo) -> Iterator[FieldError]:
    if spec.batch_size > info.train_examples:
        detail = f"{spec.dataset} has {info.train_examples} examples to train on; got {spec.batch_size}"
        yield FieldError("/batch_size", "conflict", detail)


def _batch_exists(spec: Any, info: DatasetInfo) -> Iterator[FieldError]:
    batches = -(-info.train_examples // spec.batch_size)
    if spec.batch > batches and spec.batch_size <= info.train_examples:
        detail = f"{spec.dataset} has {batches} batches of {spec.batch_size}; got {spec.batch}"
        yield FieldError("/batch", "conflict", detail)


def _net_has_two_layers_and_no_more(spec: Any, _: DatasetInfo) -> Iterator[FieldError]:
    net = spec.architecture
    if isinstance(net, Linear):
        return
    if len(net.hidden) > 1:
        detail = f"a walk needs exactly one hidden layer; got {len(net.hidden)}"
        yield FieldError("/architecture/hidden", "conflict", detail)
    if net.dropout:
        detail = f"a walk does not support dropout; leave it out, got {net.dropout:g}"
        yield FieldError("/architecture/dropout", "conflict", detail)
    if net.batch_norm:
        detail = "a walk does not support batch normalization; leave it out"
        yield FieldError("/architecture/batch_norm", "conflict", detail)


JobSpec.checks = (
    *(_images_are_large_enough, _preset_exists_and_continues_a_job, _nesterov_has_a_momentum),
    *(_both_splits_have_examples, _batches_have_a_variance, _one_device, _manual_gradients_exist),
    *(_manual_gradients_are_fp32, _manual_gradients_are_verified, _warm_up_ends_in_training),
    _images_are_moved_within_their_size,
)
GradientCheckSpec.checks = (_images_are_large_enough, _batches_have_a_variance, _batch_is_within_the_dataset)
WalkSpec.checks = (_net_has_two_layers_and_no_more, _batch_is_within_the_dataset, _batch_exists)
KINDS: dict[str, type[Work]] = {model.kind: model for model in (JobSpec, GradientCheckSpec, WalkSpec)}


def needs_two_examples(architecture: Architecture, info: DatasetInfo) -> bool:
    """Whether a batch normalization layer gets a single value per example, which has no variance in a batch of one."""
    if isinstance(architecture, Torchvision):  # other models get images large enough to end as several pixels
        halvings = 3 if max(info.shape[1:]) <= SMALL_IMAGE else 5
        return architecture.name.startswith("resnet") and min(info.shape[1:]) <= 2**halvings
    return not isinstance(architecture, Linear) and architecture.batch_norm and bool(architecture.hidden)


def _no_such_preset(name: str) -> FieldError:
    hint = did_you_mean(name, PRESETS) or f"; there are: {', '.join(PRESETS)}"
    return FieldError("/preset", "not_found", f"unknown preset '{name[:80]}'{hint}")


def _no_such_dataset(name: str) -> FieldError:
    hint = did_you_mean(name, DATASETS) or f"; built in: {', '.join(DATASETS)}"
    return FieldError("/dataset", "not_found", f"unknown dataset '{name[:80]}'{hint}")
