"""Models of responses and request bodies, for the OpenAPI document and the tests. Views render dicts, and no response
is validated when it is sent, which is faster."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.http.requests import UtcTime
from api.openapi.result_schemas import FailedGradientCheck, GradientCheckResult, TrainingResult, WalkResult
from api.uploads.fields import UploadFields
from shared.artifacts import KINDS
from shared.jobs.retry_backoff import Cause
from shared.plain_text import PLAIN
from shared.spec.job_spec import (
    JOB_ID,
    GradientCheckSpec,
    JobSpec,
    LabelKey,
    LabelValue,
    Name,
    Priority,
    WalkSpec,
)
from shared.spec.job_spec import Architecture as Net
from shared.tokens import NAME as OWNER
from shared.tokens import Scope

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-23T12:00:00.123Z"])]
Part = Annotated[str, Field(json_schema_extra={"format": "binary"})]  # a file in a multipart form
Status = Literal["queued", "running", "cancelling", "pausing", "paused", "succeeded", "failed", "cancelled"]
EventType = Literal["status", "metric", "log", "checkpoint", "artifact", "warning"]
Level = Literal["info", "warning", "error"]
Outcome = Literal["succeeded", "failed", "cancelled", "paused", "drained", Cause]
ArtifactKind = Annotated[str, Field(json_schema_extra={"enum": sorted({*KINDS.values(), "file"})})]
Point = Annotated[list[float | None], Field(min_length=3, max_length=3)]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Links(BaseModel):
    """Paths of related resources, by name."""

    self: str
    model_config = ConfigDict(extra="allow")


class StatusReason(Answer):
    """Why a job ended as it did."""

    code: Literal[
        "worker_lost",
        "out_of_memory_gpu",
        "out_of_memory_host",
        "diverged",
        "data_error",
        "deadline_exceeded",
        "cancelled_by_user",
        "too_many_attempts",
        "gradient_check_failed",
        "internal_error",
    ]
    detail: str


class QueueReason(Answer):
    """Why a queued job does not run yet."""

    code: Literal[
        "no_live_worker",
        "starting",
        "waiting_for_device",
        "no_such_device",
        "no_worker_for_kind",
        "retry_backoff",
        "owner_at_limit",
        "store_unavailable",
        "disk_full",
    ]
    detail: str


class Attempt(Answer):
    """One run of the job on one worker."""

    attempt: int
    worker: str
    device: str
    started_at: Timestamp
    finished_at: Timestamp | None
    resumed_from_step: int | None
    outcome: Outcome | None = Field(description="how the attempt ended; null while it runs")


class QueueStanding(Answer):
    """Position in the queue, 1 is the next job to run, and why the job waits."""

    position: int
    reason: QueueReason


class Progress(Answer):
    """The job's progress. `eta_seconds` is null unless the job runs."""

    epoch: int
    epochs: int
    step: int
    total_steps: int
    percent: float
    examples_per_second: float
    eta_seconds: float | None


class Article(Answer):
    """Results printed in the reference article; lists have one value per epoch."""

    untrained_accuracy: float | None = None
    val_accuracy: list[float] | None = None
    first_val_accuracy: float | None = None
    last_val_accuracy: float | None = None
    train_loss: list[float] | None = None


class Job(Answer):
    """`status` is the state, or `cancelling` or `pausing` while such a request to a running job is pending. The fields
    of `result` depend on the job's `kind`."""

    object: Literal["job"]
    id: str
    name: str
    kind: Literal["training", "gradient_check", "walk"]
    status: Status
    terminal: bool
    status_reason: StatusReason | None
    spec: JobSpec | GradientCheckSpec | WalkSpec
    attempt: int = Field(description="number of attempts so far; 0 before the first")
    attempts: list[Attempt]
    queue: QueueStanding | None
    progress: Progress | None
    result: TrainingResult | GradientCheckResult | WalkResult | FailedGradientCheck | None
    article: Article | None = Field(None, description="the article's results, if the spec names a preset")
    reproduces: str | None = Field(description="id of the job that this one reproduces")
    labels: dict[str, str]
    priority: int
    owner: str | None = Field(description="owner of the token that submitted the job; null if none was required")
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    cancel_requested_at: Timestamp | None
    pause_requested_at: Timestamp | None
    links: Links


class JobList(Answer):
    """Newest first."""

    object: Literal["list"]
    data: list[Job]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DryRun(Answer):
    """The estimated cost of a job. Parameters and steps are exact; seconds and bytes are right in order of
    magnitude."""

    object: Literal["dry_run"]
    spec: JobSpec
    parameters: int
    steps: int
    estimated_seconds: float
    estimated_memory_bytes: int
    basis: str


class DeletedJob(Answer):
    """`freed_bytes`: size of the job's files and checkpoints."""

    object: Literal["job"]
    id: str
    deleted: Literal[True]
    freed_bytes: int


class JobFilter(BaseModel):
    """Selects the jobs that match all given fields."""

    status: tuple[Status, ...] = Field((), description="any of these")
    name: Name | None = Field(None, description="`*` matches any text; case is ignored")
    owner: Annotated[str, Field(pattern=f"^{OWNER}$")] | None = Field(
        None, description="owner of the token that submitted the job"
    )
    labels: dict[LabelKey, LabelValue] = Field({}, max_length=16, description="all of these labels")
    created_after: UtcTime | None = None
    created_before: UtcTime | None = None
    after: Annotated[str, Field(pattern=JOB_ID)] | None = Field(None, description="the last id of the previous page")
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _without_default(schema: dict[str, Any]) -> None:
    """Fields that are not sent are unchanged; the default is a placeholder and is left out of the schema."""
    del schema["default"]


class JobPatch(BaseModel):
    """A merge patch (RFC 7396) of a job's name, priority and labels. A label that is null is removed."""

    name: Name = Field("", json_schema_extra=_without_default)
    priority: Priority = Field(50, json_schema_extra=_without_default)
    labels: dict[LabelKey, LabelValue | None] | None = Field(None, json_schema_extra=_without_default)
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BulkRequest(BaseModel):
    """An action on many jobs, given by either `ids` or a `filter`."""

    action: Literal["cancel", "delete", "retry", "pause", "resume"]
    ids: (
        Annotated[list[Annotated[str, Field(max_length=64, pattern=PLAIN)]], Field(min_length=1, max_length=1000)]
        | None
    ) = None
    filter: JobFilter | None = None
    model_config = ConfigDict(extra="forbid", frozen=True)


class BulkError(BaseModel):
    """Some codes have further members, such as `state` and `allowed` of `wrong_state`."""

    code: str
    detail: str
    model_config = ConfigDict(extra="allow")


class BulkOutcome(Answer):
    """Has `status` if `ok` is true, else `error`."""

    id: str
    ok: bool
    status: Status | Literal["deleted"] | None = None
    error: BulkError | None = None


class BulkAnswer(Answer):
    """One outcome per job, in the order of the ids."""

    object: Literal["bulk"]
    action: str
    data: list[BulkOutcome]
    succeeded: int
    failed: int
    last_id: str | None
    has_more: bool
    freed_bytes: int | None = None


class ReasonToWait(QueueReason):
    """Why queued jobs do not run yet; `jobs` is how many wait for this reason."""

    jobs: int


class Queue(Answer):
    """The jobs with one requested device, and the slots that can run them. Slots are shared: `auto` counts all of
    them."""

    object: Literal["queue"]
    name: Literal["auto", "cpu", "cuda"]
    queued: int
    running: int
    paused: int
    oldest_queued_at: Timestamp | None
    slots: int
    free_slots: int
    reasons: list[ReasonToWait]


class QueueList(Answer):
    """One queue per requested device."""

    object: Literal["list"]
    data: list[Queue]
    has_more: Literal[False]


class AuditEntry(Answer):
    """A change that was made, or a call that was refused (`status` 403). `address` is null for changes that the command
    line made on the service's own host. `count` is 1, except of the entry `more_refusals`, which stands for that many
    refused calls of one token within an hour; the other fields are those of the first."""

    object: Literal["audit_entry"]
    at: Timestamp
    id: str
    owner: str | None
    token_id: str | None
    address: str | None
    action: str
    object_id: str | None
    status: int | None
    request_id: str | None
    count: int


class AuditList(Answer):
    """Newest first."""

    object: Literal["list"]
    data: list[AuditEntry]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Event(Answer):
    """One line of a job's log. `seq` increases in the order of commits; `data` is the machine-readable form of
    `message`."""

    id: str
    seq: int
    attempt: int
    type: EventType
    level: Level
    message: str
    data: dict[str, Any] = Field(
        description="by type. `metric`: step, epoch, series, metrics; `status`: status and its details; "
        "`checkpoint`: step, epoch; `artifact`: name, size_bytes; `log`, `warning`: the values in the message"
    )
    created_at: Timestamp


class EventList(Answer):
    """In the order of `seq`; the next page is at `after=next_after`."""

    object: Literal["list"]
    data: list[Event]
    next_after: int
    has_more: bool


class Metrics(Answer):
    """Points [step, epoch, value] by metric name; a value that is not finite is null."""

    object: Literal["metrics"]
    series: dict[str, list[Point]]


class Artifact(Answer):
    """A file of a finished job; `links.self` downloads it."""

    object: Literal["artifact"]
    name: str
    kind: ArtifactKind
    media_type: str
    size_bytes: int
    sha256: str
    created_at: Timestamp
    links: Links


class ArtifactList(Answer):
    """All files of the job, ordered by name."""

    object: Literal["list"]
    data: list[Artifact]
    has_more: Literal[False]


class Images(BaseModel):
    """One or more images of the model's size, (H,W) for one channel or (C,H,W). Numbers are from 0 (black) to `white`.
    Without it each image is read for itself: in [0, 1] if no number exceeds 1, else from 0 to the dataset's white."""

    images: list[Any] = Field(examples=[[[0, 0.5], [1, 0.5]]])
    invert: bool = Field(False, description="invert the images: black on white, for a model trained on white on black")
    white: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="the number that is white in these images, such as 1 or 255"
    )
    model_config = ConfigDict(extra="forbid", strict=True)


class Prediction(Answer):
    """`label` is the number of the most probable class, `class` its name; `probabilities` has one value per class."""

    label: int
    class_: str = Field(alias="class")
    probabilities: list[float]
    file: str | None = Field(None, description="file name in the form that was sent")


class Predictions(Answer):
    """One prediction per image, in the order in which the images were sent."""

    object: Literal["predictions"]
    job: str
    classes: list[str]
    predictions: list[Prediction]


class Slot(Answer):
    """Capacity for one job on a device. `uuid` is the GPU's, as NVML reports it."""

    kind: Literal["cpu", "cuda"]
    name: str
    uuid: str | None


class DeviceMemory(Answer):
    """Memory of a GPU, or of the host for the CPU, as of the worker's last heartbeat."""

    device: str
    used_bytes: int
    total_bytes: int


class Devices(Answer):
    """`kinds`: the values of a spec's `device`, besides `auto`, that the worker supports."""

    kinds: list[Literal["cpu", "cuda"]]
    slots: list[Slot]
    memory: list[DeviceMemory] = []


class WorkerBroker(Answer):
    """Whether the worker receives messages about queued jobs. While it does not, it polls for them. `errors` and
    `rejected`: errors of the broker, and elements of its queue that were not gradq's, since the worker's start."""

    ok: bool
    detail: str | None
    errors: int
    rejected: int


class Worker(Answer):
    """A worker whose last heartbeat is less than GRADQ_LEASE_SECONDS old. `running`: your jobs on its slots,
    `others_running`: the number of other owners' jobs. `broker` and `job_kinds` are null for a worker of a version that
    does not report them."""

    object: Literal["worker"]
    id: str
    host: str
    pid: int
    slots: int
    free_slots: int
    draining: bool
    outage: Literal["store_unavailable", "disk_full"] | None = Field(
        description="why it claims no job until a probe succeeds: the artifact store, or the disk of one of its folders"
    )
    devices: Devices
    broker: WorkerBroker | None = None
    job_kinds: list[str] | None = None
    running: list[str]
    others_running: int
    version: str
    started_at: Timestamp
    seen_at: Timestamp


class WorkerList(Answer):
    """Oldest first."""

    object: Literal["list"]
    data: list[Worker]
    has_more: Literal[False]


class UploadOptions(Answer):
    """How an upload was read."""

    format: Literal["npz", "idx", "folders"]
    files: dict[str, str] = Field(description="the SHA-256 of each uploaded part")
    test_fraction: float | None = None
    seed: int | None = None
    size: int | None = None
    white: float | None = None


class DatasetCounts(Answer):
    """Examples of each class, in the order of `classes`."""

    train: list[int]
    test: list[int]


class DatasetLinks(Links):
    samples: str | None = Field(description="a PNG of the first images of each class, one class per row")


class Dataset(Answer):
    """`id` is the value for a job's `dataset`. Built-in datasets have no `sha256`, `options`, `size_bytes` and
    `created_at`."""

    object: Literal["dataset"]
    id: str
    name: str
    source: Literal["builtin", "upload"]
    description: str
    shape: Annotated[list[int], Field(min_length=3, max_length=3)] = Field(description="channels, height, width")
    classes: list[str]
    train_examples: int
    test_examples: int
    dtype: Literal["uint8", "float32"]
    white: float
    white_reason: str | None = Field(description="why this number is white; null for uploads to earlier versions")
    warnings: list[str] = Field(description="what an upload should be checked for")
    counts: DatasetCounts | None = Field(description="null for uploads to versions up to 0.2.0, as `mean` and `std`")
    mean: list[float] | None = Field(description="of the training split's pixels in [0, 1], per channel")
    std: list[float] | None = Field(description="as `mean`; training takes 1 for a deviation of 0")
    sha256: str | None
    options: UploadOptions | None
    size_bytes: int | None
    created_at: Timestamp | None
    available: bool
    missing_files: list[str]
    links: DatasetLinks


class DatasetUpload(UploadFields):
    """Either `file`, a .npz or a zip of class folders; or `images` and `labels`, an IDX pair, plain or gzipped."""

    file: Part | None = None
    images: Part | None = None
    labels: Part | None = None
    test_images: Part | None = None
    test_labels: Part | None = None


class DeletedDataset(Answer):
    """`freed_bytes`: size of the dataset's arrays."""

    object: Literal["dataset"]
    id: str
    deleted: Literal[True]
    freed_bytes: int


class DatasetList(Answer):
    """Built-in datasets first."""

    object: Literal["list"]
    data: list[Dataset]
    has_more: Literal[False]


class Architecture(Answer):
    """`fields`: JSON schema of the fields besides `type`; `example`: an object with all defaults."""

    object: Literal["architecture"]
    type: str
    description: str
    gradients: list[Literal["autograd", "manual"]]
    fields: dict[str, Any]
    example: Net


class ArchitectureList(Answer):
    """All architectures."""

    object: Literal["list"]
    data: list[Architecture]
    has_more: Literal[False]


class Preset(Answer):
    """`spec`: all fields except `seed` and `name`, which are chosen per job. `article`: the results that it printed.

    `continues`: the preset whose finished job `init_from` has to name."""

    object: Literal["preset"]
    name: str
    description: str
    spec: JobSpec
    article: Article
    continues: str | None


class PresetList(Answer):
    """All presets."""

    object: Literal["list"]
    data: list[Preset]
    has_more: Literal[False]


class Health(Answer):
    """The process responds."""

    status: Literal["ok"]


class Readiness(Answer):
    """Jobs are accepted while the broker is `away`: it cannot be reached, or returns errors, which `broker_detail`
    explains. `workers_without_broker`: live workers that do not receive its messages, and poll for jobs."""

    ready: Literal[True]
    database: Literal["ok"]
    broker: Literal["ok", "away"]
    broker_detail: str | None = None
    workers: int
    workers_without_broker: int = 0


class OwnerStorage(Answer):
    """What an owner stores, and may store; `limit_bytes` is null without a limit. A dataset counts for each owner who
    uploaded it; `logs` are the rows and logs of jobs, `audit` is the part of the audit log about the owner's calls,
    which is counted every hour."""

    used_bytes: int
    limit_bytes: int | None
    artifacts: int
    checkpoints: int
    datasets: int
    logs: int
    audit: int


class WhoAmI(Answer):
    """The token's owner and scopes. `owner` is null if no token was required or sent. `max_priority` is the highest
    that the token can give a job; null: any. `storage` is the owner's."""

    object: Literal["principal"]
    owner: str | None
    scopes: list[Scope]
    token_id: str | None
    max_priority: int | None
    storage: OwnerStorage


class Version(Answer):
    """`version` is the version of gradq, `api` that of the paths."""

    version: str
    python: str
    api: Literal["v1"]


class WrongField(Answer):
    """`pointer` is a JSON pointer (RFC 6901) into the body, or `/` and a parameter's name."""

    pointer: str
    code: str
    detail: str


class Problem(BaseModel):
    """Problem details (RFC 9457). Some codes have further members, such as `state` and `allowed` of `wrong_state`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    request_id: str | None
    errors: list[WrongField] | None = Field(None, description="at most 100")
    more_errors: int | None = Field(None, description="number of wrong fields beyond those in `errors`")
    model_config = ConfigDict(extra="allow")
