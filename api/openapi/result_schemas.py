"""Models of a job's `result`, by the job's kind: metrics, the table of a gradient check, the environment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Figures(BaseModel):
    """Measured by the worker. Numbers that are not finite are null, since JSON cannot represent them."""

    model_config = ConfigDict(extra="forbid")


# --- the gradient check -----------------------------------------------------------------------------------------------


class SlopeErrors(Figures):
    """Manual gradient of one parameter against finite differences, at elements drawn from the seed."""

    max_absolute_error: float
    max_relative_error: float
    worst_index: list[int] | None
    worst_manual: float | None
    worst_numeric: float | None
    checked: int
    skipped: int = Field(description="elements at a kink, where there is no derivative")


class ParameterErrors(Figures):
    """Manual gradient of one parameter against autograd's: the largest errors over all batches."""

    shape: list[int]
    max_absolute_error: float
    max_relative_error: float = Field(description="max|manual - autograd| / max|autograd|")
    worst_index: list[int] | None
    worst_manual: float | None
    worst_autograd: float | None
    finite_differences: SlopeErrors | None = None


class SlopeSummary(Figures):
    """Comparison with finite differences over all parameters."""

    tolerance: float
    max_relative_error: float
    max_absolute_error: float
    checked: int
    skipped: int


class GradientTable(Figures):
    """Manual gradients against autograd's, in float64, by parameter."""

    passed: bool
    dtype: Literal["float64"]
    tolerance: float
    max_relative_error: float
    max_absolute_error: float
    loss_difference: float
    batch_size: int
    batches: int
    parameters: dict[str, ParameterErrors]
    finite_differences: SlopeSummary | None = None


# --- where it ran, and whether it ran the same ------------------------------------------------------------------------


class Environment(Figures):
    """What a bit-identical result depends on besides the spec."""

    gradq: str
    torch: str
    python: str
    numpy: str
    platform: str
    machine: str
    cpu_capability: str
    threads: int
    cpu_count: int | None
    gpu: str | None
    cuda: str | None
    deterministic: bool


class FirstDifference(Figures):
    """The first step at which the runs differ, and the metric or hash that differs."""

    step: int
    metric: str
    expected: float | str | None
    found: float | str | None


class EnvironmentDifference(Figures):
    """One field of the environment in which the runs differ: the original's value, and that of this run."""

    expected: Any = None
    found: Any = None


class Reproduction(Figures):
    """Comparison of this run with the one that it reproduces. `identical` is null if the original has been deleted."""

    of: str
    identical: bool | None
    first_difference: FirstDifference | None
    environment_differences: dict[str, EnvironmentDifference]
    detail: str | None = None


# --- the results ------------------------------------------------------------------------------------------------------


class Normalization(Figures):
    """Mean and standard deviation per channel, of pixels in [0, 1]."""

    mean: list[float]
    std: list[float]


class BestEpoch(Figures):
    """The epoch whose weights `best.safetensors` holds."""

    epoch: int
    val_loss: float
    val_accuracy: float


class TrainingResult(Figures):
    """Result of a training that succeeded. Losses and accuracies are those of the last epoch."""

    parameters: int
    train_loss: float | None
    val_loss: float | None
    val_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    best: BestEpoch | None
    normalization: Normalization
    training_seconds: float
    duration_seconds: float = Field(description="of the attempt, including reading data and writing files")
    examples_per_second: float | None
    stopped_early: bool
    untrained_accuracy: float | None = Field(
        None, description="of the initial weights on the validation split; measured if the spec names a preset"
    )
    device: str
    pinned_memory: bool
    weights_sha256: Sha256
    data_order_sha256: Sha256
    validation_split: Literal["stratified", "random", "test"] | None = Field(
        None,
        description="how the validation split was chosen: the same share of each class; at random, by versions up to "
        "0.2.0, whose results lack the field; or it is the test split",
    )
    gradient_check: GradientTable | None = Field(description="of the first step, if `gradients` is `manual`")
    environment: Environment
    reproduction: Reproduction | None = None


class GradientCheckResult(Figures):
    """Result of a gradient check that passed."""

    passed: Literal[True]
    parameters: int
    gradient_check: GradientTable
    device: str
    environment: Environment
    duration_seconds: float


class WalkResult(Figures):
    """Result of a walk. The values of each stage are in `walk.json`."""

    agrees: bool = Field(description="whether every manual stage equals autograd's within 1e-9")
    loss: float
    max_relative_difference: float = Field(description="largest max|manual - autograd| / max|autograd| over all stages")
    stages: int
    parameters: int
    device: str
    environment: Environment
    duration_seconds: float


class FailedGradientCheck(Figures):
    """Result of a training or a gradient check that failed with `gradient_check_failed`."""

    passed: Literal[False]
    gradient_check: GradientTable


Result = TrainingResult | GradientCheckResult | WalkResult | FailedGradientCheck
