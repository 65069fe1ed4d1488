"""Settings: every environment variable, read once by `Settings.from_env()`. No other module reads the environment."""

from __future__ import annotations

import functools
import os
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from shared.addresses import check_redis, has_password, is_local, secrets_of
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

PREFIX = "GRADQ_"
DATABASES = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
SQLITE_OPTIONS = frozenset({"timeout", "isolation_level", "detect_types", "cached_statements", "uri"})
MAX_PATH_PREFIX = 200  # characters
PATH_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*")  # no `//`, which would name a host, and no `..`
DAY = 86_400.0  # seconds
UNLIMITED = 2**63 - 1  # bytes; what `none` means
MIN_TOKEN = 32  # characters of an admin token, which gradq does not generate itself
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def _require_password(url: SecretStr, info: ValidationInfo) -> SecretStr:
    """Any client of a Redis without a password can read and write the queue, and fill the host's memory with EVAL."""
    address = url.get_secret_value()
    try:
        check_redis(address)
        unprotected = not is_local(address) and not has_password(address)
    except ValueError:
        raise ValueError("not an address of a Redis; write redis://:PASSWORD@host:6379/0") from None
    if unprotected and not info.data.get("redis_without_password"):
        raise ValueError(
            "this Redis is on another machine, and the URL has no password. Set requirepass there and write "
            "redis://:PASSWORD@host:6379/0, best in a file that GRADQ_REDIS_URL_FILE names; if the Redis is protected "
            "by other means, accept it with GRADQ_REDIS_WITHOUT_PASSWORD=true"
        )
    return url


def _known_database(url: SecretStr) -> SecretStr:
    """Refuses what SQLAlchemy could not open, before a process starts with it."""
    from sqlalchemy.engine import make_url  # imported here: half a second that the default database does not need
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url.get_secret_value())
    except (ArgumentError, ValueError):
        parts = None
    if parts is None or parts.drivername not in DATABASES:
        raise ValueError(
            "not a database that gradq supports; write sqlite:////path/gradq.db or "
            "postgresql+psycopg://user:password@host:5432/name"
        )
    if (wrong := _wrong_option(parts)) is not None:
        raise ValueError(wrong)
    return url


def _wrong_option(url: URL) -> str | None:
    """What is wrong with the options after `?`, which the driver would refuse when it connects; None if nothing is."""
    if url.get_backend_name() == "sqlite":
        # with `uri`, all others are SQLite's own
        unknown = [] if "uri" in url.query else sorted(set(url.query) - SQLITE_OPTIONS)
        known = f"SQLite has {', '.join(sorted(SQLITE_OPTIONS))}"
    else:
        from psycopg import pq

        options = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
        unknown, known = sorted(set(url.query) - options), "PostgreSQL's are named in the documentation of libpq"
    if unknown:
        return f"its option {unknown[0]!r} is unknown; {known}"
    try:
        url.get_dialect()().create_connect_args(url)
    except (TypeError, ValueError):
        return "the value of one of its options cannot be read"
    return None


def _known_store(url: str) -> str:
    """Refuses what fsspec has no filesystem for, before a process starts with it."""
    import fsspec  # imported here: the default store does not need it

    try:
        fsspec.get_filesystem_class(fsspec.utils.get_protocol(url))
    except ValueError:
        raise ValueError("not a store that fsspec knows; write s3://bucket/folder, or file:///folder") from None
    except ImportError as error:
        raise ValueError(f"needs a package that is not installed: {error}") from None
    return url


def _strong_enough(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if len(text) < MIN_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"must be {MIN_TOKEN} or more ASCII characters without spaces, such as `openssl rand -hex 32` prints"
        )
    return token


def as_path_prefix(text: str) -> str:
    """`/gradq` for `/gradq/`, an empty text for `/`. Raises ValueError unless it is an absolute path."""
    prefix = text.removesuffix("/")
    if len(prefix) > MAX_PATH_PREFIX or not PATH_PREFIX.fullmatch(prefix):
        raise ValueError("must be a path like /gradq: letters, digits and . _ ~ - between slashes")
    return prefix


def _split_names(given: Any) -> Any:
    """A comma-separated text (`a.example, b.example`) as a list; any other value is returned unchanged."""
    return [name.strip().lower() for name in given.split(",") if name.strip()] if isinstance(given, str) else given


def _or_unlimited(given: Any) -> Any:
    return UNLIMITED if isinstance(given, str) and given.strip().lower() == "none" else given


Rate = Annotated[str, Field(pattern=r"^(none|[1-9]\d{0,8}/(second|minute|hour|day))$")]


class Settings(BaseModel):
    """Settings of a machine; settings of a job are in the job spec. docs/operations.md describes each."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True, validate_default=True)

    state_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("gradq")))
    data_dir: Path | None = None
    database_url: Annotated[SecretStr, AfterValidator(_known_database)] | None = None
    redis_without_password: bool = False
    redis_url: Annotated[SecretStr, AfterValidator(_require_password)] | None = None
    artifacts_url: Annotated[str, AfterValidator(_known_store)] | None = None
    slots: Annotated[int, Field(ge=1, le=256)] | None = None
    threads_per_slot: Annotated[int, Field(ge=1, le=1024)] | None = None
    lease_seconds: Annotated[float, Field(ge=1, le=DAY)] = 15.0
    grace_seconds: Annotated[float, Field(gt=0, le=DAY)] = 10.0
    reconcile_seconds: Annotated[float, Field(gt=0, le=DAY)] = 2.0
    sweep_seconds: Annotated[float, Field(gt=0, le=30 * DAY)] = 3600.0
    download: bool = True
    cache_bytes: Annotated[int, Field(ge=0)] = 16 << 30
    held_requests: Annotated[int, Field(ge=0, le=4096)] = 64
    transfers: Annotated[int, Field(ge=1, le=4096)] = 64
    predict_bytes: Annotated[int, Field(ge=1024)] = 16 << 20
    max_upload_bytes: Annotated[int, Field(ge=1)] = 2 << 30
    max_unpacked_bytes: Annotated[int, Field(ge=1)] = 8 << 30
    allow_anonymous: bool | None = None  # None: only where the API listens on a loopback address
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_split_names)] = ()
    path_prefix: Annotated[str, AfterValidator(as_path_prefix)] = ""
    max_queued_jobs: Annotated[int, Field(ge=1)] = 10_000  # per owner; anonymous jobs have no limit
    max_running_jobs: Annotated[int, Field(ge=1)] | None = None
    max_owner_bytes: Annotated[int, BeforeValidator(_or_unlimited), Field(ge=1)] | None = None  # None: half of the disk
    max_owner_uploads: Annotated[int, Field(ge=1)] = 2  # at the same time
    rate_reads: Rate = "200/second"  # per token; `none` disables the limit
    rate_changes: Rate = "50/second"
    audit_days: Annotated[float, Field(ge=1, le=36_500)] = 365.0
    admin_token: Annotated[SecretStr, AfterValidator(_strong_enough)] | None = None
    log_level: Annotated[LogLevel, BeforeValidator(lambda value: str(value).upper())] = "INFO"

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Settings that are not given are those of the environment; an empty one counts as not set. pydantic-settings
        would do this with 6 MB more in each process of the service, for sources that are not used here."""
        environment = {name.upper(): value for name, value in os.environ.items() if value}
        names = {field: f"{PREFIX}{field.upper()}" for field in cls.model_fields}
        return {field: environment[name] for field, name in names.items() if name in environment} | given

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        state = self.state_dir.expanduser().absolute()
        filled: dict[str, Any] = {
            "state_dir": state,
            "data_dir": (self.data_dir or state / "data").expanduser().absolute(),
            "database_url": self.database_url or SecretStr(f"sqlite:///{state / 'gradq.db'}"),
            "artifacts_url": self.artifacts_url or f"file://{state / 'artifacts'}",
        }
        for name, value in filled.items():
            object.__setattr__(self, name, value)  # the model is frozen
        return self

    @classmethod
    def from_env(cls, **overrides: Any) -> Settings:
        """Read the environment; `GRADQ_X_FILE` names a file that holds the value of `GRADQ_X`.

        Raises ConfigurationError, which names each wrong setting.
        """
        try:
            values: dict[str, Any] = {**_values_from_files(), **overrides}
            return cls(**values)
        except ValidationError as error:
            wrong = [(f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()}", e["msg"]) for e in error.errors()]
            lines = [f"{name}: {text.removeprefix('Value error, ')}" for name, text in wrong]
            raise ConfigurationError("; ".join(lines)) from None  # pydantic's message may contain the value

    @property
    def owner_bytes(self) -> int | None:
        """Bytes that one owner may store; None: any number. By default half of the disk that the state folder is on,
        free or not."""
        if self.max_owner_bytes is not None:
            return self.max_owner_bytes if self.max_owner_bytes < UNLIMITED else None
        try:
            return _half_of_disk(self.state_dir)
        except OSError:
            return None

    @property
    def runs_dir(self) -> Path:
        """Working folders of trainers: one per attempt, removed when its outcome is stored."""
        return self.state_dir / "runs"

    @property
    def uploads_dir(self) -> Path:
        """Where uploads are received and decoded: one folder per request, removed with the response."""
        return self.state_dir / "uploads"

    @property
    def cache_dir(self) -> Path:
        """Where the workers of a host cache datasets: decoded, or fetched from a store that is not a local folder."""
        return self.state_dir / "cache"

    @property
    def broker_socket(self) -> Path:
        return self.state_dir / "broker" / "redis.sock"

    @property
    def broker_url(self) -> str:
        """URL of the broker: `redis_url` if set, else the embedded Redis on its private socket."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        return f"redis+socket://{self.broker_socket}"

    @property
    def database(self) -> str:
        assert self.database_url is not None
        return self.database_url.get_secret_value()

    @property
    def datasets_dir(self) -> Path:
        assert self.data_dir is not None
        return self.data_dir

    @property
    def artifacts(self) -> str:
        assert self.artifacts_url is not None
        return self.artifacts_url

    @property
    def secrets(self) -> set[str]:
        """Texts that no log, error or output may show: passwords and keys in the URLs, the admin token."""
        token = {self.admin_token.get_secret_value()} if self.admin_token is not None else set()
        urls = (self.database, self.artifacts, *([self.broker_url] if self.redis_url is not None else []))
        return token.union(*map(secrets_of, urls))

    def make_state_dir(self) -> None:
        """Create the state folder, accessible to this user only: it holds jobs, models and the broker's socket.

        Raises ConfigurationError if it cannot be created.
        """
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"GRADQ_STATE_DIR: cannot create {self.state_dir}: {error.strerror}") from error
        if self.state_dir.stat().st_uid == os.getuid():
            self.state_dir.chmod(stat.S_IRWXU)


def _nearest_folder(path: Path) -> Path:
    """`path`, or the first of the folders above it that exists."""
    return next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))


@functools.cache
def _half_of_disk(state_dir: Path) -> int:
    """Half of the bytes of the disk that the folder is on, or will be. An error is not kept."""
    return shutil.disk_usage(_nearest_folder(state_dir)).total // 2


def _values_from_files() -> dict[str, str]:
    values = {}
    for field in Settings.model_fields:
        name = f"{PREFIX}{field.upper()}"
        path = os.environ.get(f"{name}_FILE")
        if path is None or name in os.environ:
            continue
        try:
            value = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{name}_FILE: cannot read {path}: {error}") from error
        if not value:
            raise ConfigurationError(f"{name}_FILE: {path} is empty")
        values[field] = value
    return values
