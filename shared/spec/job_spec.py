"""The job spec: what a client may ask for, with every default. Parsed at the border; behind it nobody checks again."""

from __future__ import annotations

import difflib
import math
import secrets
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from shared.datasets.catalog import DATASETS, DatasetInfo, FindDataset
from shared.errors import FieldError, InvalidSpec
from shared.spec.presets import PRESETS
from shared.validation_errors import field_error

MAX_NAME, MAX_LABELS = 128, 16
MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact
JOB_ID = r"^job_[0-9a-f]{32}$"
SMALLEST, LARGEST = 1e-37, 1e30  # what is told of numbers that float32 takes for 0, or for infinity, would mislead
SMALL_IMAGE = 64  # pixels: up to here a ResNet leaves its first two halvings out, and others enlarge the image
DATASET_ID = r"^ds_[0-9a-f]{32}$"


class Model(BaseModel):
    # the text below a field is its description: in the OpenAPI document, and in the dashboard's form
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def short_form(value: Any) -> Any:
    """`"mlp"` is short for `{"type": "mlp"}`."""
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

    Batch normalization stands between a layer's sum and its activation, dropout behind the activation."""

    type: Literal["mlp"] = "mlp"
    hidden: Annotated[list[Width], Field(min_length=1, max_length=16)] = [30]
    """units of each hidden layer"""
    activation: Activation = "relu"
    """what stands behind each hidden layer"""
    dropout: Dropout = 0.0
    """share of activations that is zeroed at each step of training"""
    batch_norm: bool = False
    """normalize each layer's sums over the batch"""


class Cnn(Model):
    """Per entry of `channels`: convolution (same size), activation, 2x2 max-pooling; then fully connected layers.

    Batch normalization stands between a layer's sum and its activation, dropout behind the activation of each fully
    connected layer."""

    type: Literal["cnn"] = "cnn"
    channels: Annotated[list[Channels], Field(min_length=1, max_length=8)] = [16, 32]
    """of each convolution; each one halves the image"""
    kernel: Literal[1, 3, 5, 7] = 3
    """side of the convolutions' windows, in pixels"""
    hidden: Annotated[list[Width], Field(max_length=16)] = [64]
    """units of each fully connected hidden layer; none: straight to the classes"""
    activation: Activation = "relu"
    """what stands behind each hidden layer"""
    dropout: Dropout = 0.0
    """share of activations that is zeroed at each step of training"""
    batch_norm: bool = False
    """normalize each layer's sums over the batch"""


class Torchvision(Model):
    """A network of torchvision's model zoo, untrained; first layer and head fitted to the dataset. Autograd only.

    Small images: up to 64 pixels, a resnet begins as is usual for CIFAR, with a 3x3 convolution of stride 1 and without
    the max-pooling after it. The other nets see smaller images enlarged to 64 pixels (bilinear), vit_b_16 in squares
    whose side is a multiple of its patches' 16 pixels."""

    type: Literal["torchvision"] = "torchvision"
    name: TorchvisionName
    """which of torchvision's nets"""


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
    """of the weights"""


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
    """over the examples of a batch; a sum takes steps that grow with the batch"""


class ClampedCrossEntropy(Model):
    """-log(clamp(p, clamp, 1)) of the true class, on the softmax's probabilities."""

    type: Literal["clamped_cross_entropy"] = "clamped_cross_entropy"
    reduction: Literal["mean", "sum"] = "mean"
    """over the examples of a batch; a sum takes steps that grow with the batch"""
    clamp: Annotated[float, Field(ge=SMALLEST, lt=1)] = 1e-10
    """lowest probability that the logarithm is taken of"""


Loss = Annotated[CrossEntropy | ClampedCrossEntropy, Field(discriminator="type"), BeforeValidator(short_form)]

NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Basic(Model):
    """p -= lr * grad, by hand."""

    type: Literal["basic"] = "basic"


class Sgd(Model):
    type: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of the last step that the next one keeps"""
    nesterov: bool = False
    """look ahead by the momentum before each step"""
    weight_decay: NonNegative = 0.0
    """pull of every weight towards 0"""


class Adam(Model):
    type: Literal["adam"] = "adam"
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """how slowly the means of gradient and squared gradient follow"""
    eps: Annotated[float, Field(ge=SMALLEST, le=LARGEST)] = 1e-8
    """added to the divisor, against division by 0"""
    weight_decay: NonNegative = 0.0
    """pull of every weight towards 0"""


class AdamW(Model):
    type: Literal["adamw"] = "adamw"
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """how slowly the means of gradient and squared gradient follow"""
    eps: Annotated[float, Field(ge=SMALLEST, le=LARGEST)] = 1e-8
    """added to the divisor, against division by 0"""
    weight_decay: NonNegative = 0.01
    """pull of every weight towards 0, apart from the gradient"""


Optimizer = Annotated[Basic | Sgd | Adam | AdamW, Field(discriminator="type"), BeforeValidator(short_form)]


# --- schedule: the learning rate of each step, as a factor of `lr` ----------------------------------------------------


class ConstantSchedule(Model):
    type: Literal["constant"] = "constant"


class CosineSchedule(Model):
    """Up from 0 in a line over `warmup_epochs`, then down to 0 along half a cosine."""

    type: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegative = 0.0
    """epochs of the way up"""


class StepSchedule(Model):
    """Times `gamma` after every `every_epochs` epochs."""

    type: Literal["step"] = "step"
    every_epochs: Annotated[int, Field(ge=1)] = 10
    """epochs between two steps"""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """factor of each step"""


class OneCycleSchedule(Model):
    """lr/25 up to `lr` over the first 30 % of the steps, then down to lr/250 000, both along half a cosine."""

    type: Literal["onecycle"] = "onecycle"


Schedule = Annotated[
    ConstantSchedule | CosineSchedule | StepSchedule | OneCycleSchedule,
    Field(discriminator="type"),
    BeforeValidator(short_form),
]


# --- augment: drawn anew for each example of each epoch, from a generator of its own ----------------------------------


class Shift(Model):
    """Moved by up to `pixels` to each side, along both axes."""

    type: Literal["shift"] = "shift"
    pixels: Annotated[int, Field(ge=1, le=64)] = 2
    """furthest way"""


class Rotate(Model):
    """Turned by up to `degrees` either way, around the middle."""

    type: Literal["rotate"] = "rotate"
    degrees: Annotated[float, Field(gt=0, le=180)] = 10.0
    """furthest turn"""


class Flip(Model):
    """Left and right swapped, with `probability`."""

    type: Literal["flip"] = "flip"
    probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    """share of the images"""


class Crop(Model):
    """Padded with black by `padding` on each side, then a window of the image's own size cut out anywhere."""

    type: Literal["crop"] = "crop"
    padding: Annotated[int, Field(ge=1, le=64)] = 4
    """pixels"""


Augmentation = Annotated[Shift | Rotate | Flip | Crop, Field(discriminator="type"), BeforeValidator(short_form)]


# --- validation, checkpoint, early stopping, checks in flight ---------------------------------------------------------


class Fraction(Model):
    """This share of the training split is held out."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share that is held out, drawn from the seed"""


Validation = Annotated[
    Annotated[Fraction, Tag("fraction")] | Annotated[Literal["test"], Tag("test")],
    Discriminator(lambda value: "test" if isinstance(value, str) else "fraction"),
]


class Checkpointing(Model):
    every_seconds: Annotated[float, Field(gt=0)] | None = 30.0
    """seconds between two; left out, the clock does not count"""
    every_epochs: Annotated[int, Field(ge=1)] | None = None
    """epochs between two; left out, epochs do not count"""
    keep_last: Annotated[int, Field(ge=1, le=100)] = 2
    """how many; older ones are removed"""
    keep_best: bool = True
    """also keep the weights of the best validation, as best.safetensors"""


class EarlyStopping(Model):
    """Stop when `metric` has not improved by more than `min_delta` for `patience_epochs` epochs."""

    metric: Literal["val_loss", "val_accuracy", "train_loss"] = "val_loss"
    """what has to improve"""
    patience_epochs: Annotated[int, Field(ge=1)] = 5
    """epochs without improvement before the end"""
    min_delta: NonNegative = 0.0
    """least change that counts"""


class InitFrom(Model):
    """Begin with the weights that another job ended with."""

    job: Annotated[str, Field(pattern=JOB_ID)]
    """id of a job that has succeeded, with the same net"""


class Verify(Model):
    """Hold the hand-written gradients against autograd every so many steps of the training itself."""

    every_steps: Annotated[int, Field(ge=1)] = 100
    """steps between two checks"""


NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"  # PostgreSQL stores no NUL, and a terminal should survive a list of names
LabelKey = Annotated[str, Field(min_length=1, max_length=64, pattern=NO_CONTROLS)]
LabelValue = Annotated[str, Field(max_length=512, pattern=NO_CONTROLS)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=NO_CONTROLS)]
Priority = Annotated[int, Field(ge=0, le=100)]
DatasetName = Annotated[
    str, Field(examples=[*DATASETS], json_schema_extra={"pattern": f"^({'|'.join(DATASETS)}|ds_[0-9a-f]{{32}})$"})
]


class Work(Model):
    """What every job says, whatever it does: on which data, with which net, from which seed, where, how urgently."""

    kind: ClassVar[str]

    name: Name = ""
    """what people call the job; left out, it is made of the other fields"""
    dataset: DatasetName = "digits"
    """what is trained on: a built-in dataset, or the id of an uploaded one"""
    init: Init = PytorchInit()
    """where the weights begin, drawn from the seed"""
    loss: Loss = CrossEntropy()
    """what training makes small"""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = Field(default_factory=lambda: secrets.randbelow(MAX_SEED + 1))
    """where all chance comes from; left out, it is drawn"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """what the job runs on; auto: on whatever is free first"""
    max_seconds: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0
    """longest time of one attempt"""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """attempts before the job is given up when workers are lost"""
    priority: Priority = 50
    """who waits with a higher one goes first"""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_LABELS)] = {}
    """pairs to find the job by"""

    @classmethod
    def parse(cls, body: Any, find_dataset: FindDataset = DATASETS.get) -> Self:
        """Check a request body; raise InvalidSpec with every wrong field at once."""
        if not isinstance(body, dict):
            raise InvalidSpec([FieldError("", "object_type", f"must be a JSON object, got {type(body).__name__}")])
        try:
            spec = cls.model_validate(cls._filled(body))
        except ValidationError as error:
            wrong = [field_error(cls, e) for e in error.errors(include_url=False)]
            wrong += cls._unknown_names(body, find_dataset)
            raise InvalidSpec(wrong) from error
        info = find_dataset(spec.dataset)
        conflicts = [_no_such_dataset(spec.dataset)] if info is None else spec.conflicts(info)
        if conflicts:
            raise InvalidSpec(conflicts)
        return spec if spec.name else spec.model_copy(update={"name": spec.generated_name()})

    @classmethod
    def _filled(cls, body: dict[str, Any]) -> dict[str, Any]:
        return body

    @classmethod
    def _unknown_names(cls, body: dict[str, Any], find_dataset: FindDataset) -> list[FieldError]:
        """Named beside what else is wrong: names that are text, and of nothing that is there."""
        dataset = body.get("dataset")
        return [_no_such_dataset(dataset)] if isinstance(dataset, str) and find_dataset(dataset) is None else []

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def conflicts(self, info: DatasetInfo) -> list[FieldError]:
        """What is right field by field and wrong together, or wrong for this dataset."""
        raise NotImplementedError

    def generated_name(self) -> str:
        raise NotImplementedError


class JobSpec(Work):
    """One training job. Two equal specs (seed included) on one build and thread count end with the same weights."""

    kind: ClassVar[str] = "training"

    preset: Annotated[str, Field(json_schema_extra={"enum": [*PRESETS]})] | None = None
    """an experiment of the article: it fills the fields that are left out"""
    architecture: Architecture = Mlp()
    """which net is trained"""
    gradients: Literal["autograd", "manual"] = "autograd"
    """by PyTorch, or by the chain rule written out by hand (linear, mlp, cnn)"""
    verify: Verify | None = None
    """hold gradients by hand against autograd's during the training"""
    init_from: InitFrom | None = None
    """begin with the weights of another job"""
    optimizer: Optimizer = Sgd()
    """how gradients become steps"""
    lr: Annotated[float, Field(gt=0, le=LARGEST)] = 0.1
    """learning rate: how far each step goes along the gradient"""
    schedule: Schedule = ConstantSchedule()
    """how the learning rate moves during the training"""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    """passes over the training split"""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """examples of one step"""
    validation: Validation = Fraction()
    """what is held out to validate on: a share of the training split, or the test split, as tutorials do"""
    augment: Annotated[list[Augmentation], Field(max_length=8)] = []
    """changes to the training images, drawn anew each epoch, in this order"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the products; bf16 takes half the bits, by autocast"""
    devices: Annotated[int, Field(ge=1, le=64)] = 1
    """how many of them; this version takes 1"""
    deterministic: bool = True
    """only algorithms that give the same bits each time"""
    checkpoint: Checkpointing = Checkpointing()
    """where a stopped job goes on from"""
    early_stopping: EarlyStopping | None = None
    """end when nothing improves any more"""

    @classmethod
    def _filled(cls, body: dict[str, Any]) -> dict[str, Any]:
        """The body over its preset's fields: a preset is nothing but a set of values that need not be typed."""
        preset = PRESETS.get(body["preset"]) if isinstance(body.get("preset"), str) else None
        return body if preset is None else {**preset.spec, **body}

    @classmethod
    def _unknown_names(cls, body: dict[str, Any], find_dataset: FindDataset) -> list[FieldError]:
        preset = body.get("preset")
        unknown = [_no_such_preset(preset)] if isinstance(preset, str) and preset not in PRESETS else []
        return super()._unknown_names(body, find_dataset) + unknown

    def conflicts(self, info: DatasetInfo) -> list[FieldError]:
        wrong = architecture_conflicts(self.architecture, info)
        if self.preset is not None:
            wrong += self._preset_conflicts(self.preset)
        if isinstance(self.optimizer, Sgd) and self.optimizer.nesterov and self.optimizer.momentum == 0:
            wrong.append(FieldError("/optimizer/nesterov", "conflict", "needs a momentum greater than 0"))
        if isinstance(self.validation, Fraction):
            n = info.train_examples
            if not 1 <= round(n * self.validation.fraction) <= n - 1:
                detail = f"leaves no example to train on or to validate with ({n} in {self.dataset})"
                wrong.append(FieldError("/validation/fraction", "conflict", detail))
        if needs_two_examples(self.architecture, info) and self.batch_size == 1:
            detail = "batch normalization needs 2 examples to have a variance; got 1"
            wrong.append(FieldError("/batch_size", "conflict", detail))
        if self.devices > 1:
            detail = "one job over several devices is in the contract, but this version does not build it; set it to 1"
            wrong.append(FieldError("/devices", "not_built", detail))
        if self.gradients == "manual":
            wrong += self._manual_conflicts()
        elif self.verify is not None:
            detail = "checks hand-written gradients; set gradients to 'manual', or leave verify out"
            wrong.append(FieldError("/verify", "conflict", detail))
        if isinstance(self.schedule, CosineSchedule) and self.schedule.warmup_epochs >= self.epochs:
            detail = f"must be less than epochs = {self.epochs}, got {self.schedule.warmup_epochs:g}"
            wrong.append(FieldError("/schedule/warmup_epochs", "conflict", detail))
        size = min(info.shape[1:])
        for i, step in enumerate(self.augment):
            moved = step.pixels if isinstance(step, Shift) else step.padding if isinstance(step, Crop) else 0
            if moved >= size:
                field = "pixels" if isinstance(step, Shift) else "padding"
                detail = f"moves the image out of sight: {self.dataset} is {size} pixels wide, got {moved}"
                wrong.append(FieldError(f"/augment/{i}/{field}", "conflict", detail))
        return wrong

    def _preset_conflicts(self, name: str) -> list[FieldError]:
        if name not in PRESETS:
            return [_no_such_preset(name)]
        before = PRESETS[name].continues
        if before is None or self.init_from is not None:
            return []
        detail = f"this preset goes on from {before}; name a finished job of it"
        return [FieldError("/init_from/job", "missing", detail)]

    def _manual_conflicts(self) -> list[FieldError]:
        wrong = []
        if isinstance(self.architecture, Torchvision):
            detail = "torchvision nets have no hand-written backward pass; set gradients to 'autograd'"
            wrong.append(FieldError("/gradients", "conflict", detail))
        if self.precision != "fp32":
            detail = "gradients by hand are computed in fp32; set precision to 'fp32', or gradients to 'autograd'"
            wrong.append(FieldError("/precision", "conflict", detail))
        return wrong

    def generated_name(self) -> str:
        return f"{self.dataset}-{self.architecture.type}-{self.gradients}-{self.seed % 0x10000:04x}"


class GradientCheckSpec(Work):
    """A job that trains nothing: gradients by hand against autograd's and finite differences, in float64."""

    kind: ClassVar[str] = "gradient_check"

    architecture: ManualArchitecture = Mlp()
    """which net is looked at"""
    batches: Annotated[int, Field(ge=1, le=1_000)] = 3
    """batches that are compared"""
    batch_size: Annotated[int, Field(ge=1, le=1_024)] = 8
    """examples of each"""
    finite_differences: bool = True
    """also compare with the slope between two nearby points"""
    samples: Annotated[int, Field(ge=1, le=100_000)] = Field(
        25, description="elements of each parameter that finite differences are taken at, drawn from the seed"
    )

    def conflicts(self, info: DatasetInfo) -> list[FieldError]:
        wrong = architecture_conflicts(self.architecture, info)
        if needs_two_examples(self.architecture, info) and self.batch_size == 1:
            detail = "batch normalization needs 2 examples to have a variance; got 1"
            wrong.append(FieldError("/batch_size", "conflict", detail))
        if self.batch_size > info.train_examples:
            detail = f"{self.dataset} has {info.train_examples} examples to train on; got {self.batch_size}"
            wrong.append(FieldError("/batch_size", "conflict", detail))
        return wrong

    def generated_name(self) -> str:
        return f"gradient-check-{self.dataset}-{self.architecture.type}-{self.seed % 0x10000:04x}"


class WalkSpec(Work):
    """A job that trains nothing: one batch on its way through a linear or two-layer net and back, number by number.

    Every stage is computed by hand and by PyTorch, in float64."""

    kind: ClassVar[str] = "walk"

    architecture: WalkArchitecture = Field(Mlp(), description="an mlp has one hidden layer here, and nothing beside it")
    init_from: InitFrom | None = None
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    batch: Annotated[int, Field(ge=1)] = Field(1, description="which of the batches that the seed's order begins with")

    def conflicts(self, info: DatasetInfo) -> list[FieldError]:
        wrong = self._net_conflicts()
        if self.batch_size > info.train_examples:
            detail = f"{self.dataset} has {info.train_examples} examples to train on; got {self.batch_size}"
            wrong.append(FieldError("/batch_size", "conflict", detail))
        elif self.batch > (batches := -(-info.train_examples // self.batch_size)):
            detail = f"{self.dataset} has {batches} batches of {self.batch_size}; got {self.batch}"
            wrong.append(FieldError("/batch", "conflict", detail))
        return wrong

    def _net_conflicts(self) -> list[FieldError]:
        net = self.architecture
        if isinstance(net, Linear):
            return []
        refused = []
        if len(net.hidden) > 1:
            detail = f"a walk goes through one hidden layer; got {len(net.hidden)}"
            refused.append(FieldError("/architecture/hidden", "conflict", detail))
        if net.dropout:
            detail = f"a walk has no dropout on its way; leave it out, got {net.dropout:g}"
            refused.append(FieldError("/architecture/dropout", "conflict", detail))
        if net.batch_norm:
            detail = "a walk has no batch normalization on its way; leave it out"
            refused.append(FieldError("/architecture/batch_norm", "conflict", detail))
        return refused

    def generated_name(self) -> str:
        return f"walk-{self.dataset}-{self.architecture.type}-{self.seed % 0x10000:04x}"


KINDS: dict[str, type[Work]] = {model.kind: model for model in (JobSpec, GradientCheckSpec, WalkSpec)}


def architecture_conflicts(architecture: Any, info: DatasetInfo) -> list[FieldError]:
    """Whether the net can take images of this size."""
    smallest = min(info.shape[1:])
    if isinstance(architecture, Cnn):
        halvings = len(architecture.channels)
        if smallest >> halvings == 0:
            detail = (
                f"each entry halves the image: {info.name} is {smallest} pixels wide and allows "
                f"{int(math.log2(smallest))} entries, got {halvings}"
            )
            return [FieldError("/architecture/channels", "too_long", detail)]
    return []


def needs_two_examples(architecture: Architecture, info: DatasetInfo) -> bool:
    """Whether some batch normalization sees one value an example: of a batch of one it could take no variance."""
    if isinstance(architecture, Torchvision):  # the others are given images that end as several pixels
        halvings = 3 if max(info.shape[1:]) <= SMALL_IMAGE else 5
        return architecture.name.startswith("resnet") and min(info.shape[1:]) <= 2**halvings
    return not isinstance(architecture, Linear) and architecture.batch_norm and bool(architecture.hidden)


def _no_such_preset(name: str) -> FieldError:
    guess = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"; did you mean '{guess[0]}'?" if guess else f"; there are: {', '.join(PRESETS)}"
    return FieldError("/preset", "not_found", f"there is no preset '{name[:80]}'{hint}")


def _no_such_dataset(name: str) -> FieldError:
    guess = difflib.get_close_matches(name, DATASETS, n=1)
    hint = f"; did you mean '{guess[0]}'?" if guess else f"; built in: {', '.join(DATASETS)}"
    return FieldError("/dataset", "not_found", f"there is no dataset '{name[:80]}'{hint}")
