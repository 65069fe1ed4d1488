"""Settings: defaults as in the contract, errors that name each wrong setting, and secrets that are not shown."""

from __future__ import annotations

import os
import shutil
import traceback
from pathlib import Path

import platformdirs
import pytest

from shared.config import Settings
from shared.errors import ConfigurationError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GRADQ_")]:
        monkeypatch.delenv(name)


def test_nothing_needs_to_be_set() -> None:
    settings = Settings.from_env()
    state = Path(platformdirs.user_data_dir("gradq"))
    assert settings.state_dir == state
    assert settings.datasets_dir == state / "data"
    assert settings.database == f"sqlite:///{state}/gradq.db"
    assert settings.artifacts == f"file://{state}/artifacts"
    assert settings.broker_url == f"redis+socket://{state}/broker/redis.sock"
    assert settings.runs_dir == state / "runs"
    assert (settings.slots, settings.threads_per_slot) == (None, None)
    assert (settings.lease_seconds, settings.grace_seconds) == (15, 10)
    assert settings.download is True
    assert (settings.max_upload_bytes, settings.max_unpacked_bytes) == (2 * 1024**3, 8 * 1024**3)
    assert (settings.uploads_dir, settings.cache_dir) == (state / "uploads", state / "cache")
    assert settings.cache_bytes == 16 * 1024**3
    assert settings.allow_anonymous is None
    assert (settings.max_owner_bytes, settings.max_owner_uploads) == (None, 2)


@pytest.mark.parametrize(("given", "bytes"), [("1", 1), ("21474836480", 20 << 30), ("none", None), ("None ", None)])
def test_the_bytes_of_an_owner_are_a_number_or_none(monkeypatch: pytest.MonkeyPatch, given: str, bytes: object) -> None:
    monkeypatch.setenv("GRADQ_MAX_OWNER_BYTES", given)
    assert Settings.from_env().owner_bytes == bytes


@pytest.mark.parametrize("folder", [".", "state", "deep/below/it"])
def test_by_default_an_owner_may_store_half_of_the_disk(tmp_path: Path, folder: str) -> None:
    settings = Settings(state_dir=tmp_path / folder)
    assert settings.owner_bytes == shutil.disk_usage(tmp_path).total // 2


def test_all_paths_are_below_the_named_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRADQ_STATE_DIR", str(tmp_path))
    settings = Settings.from_env()
    assert settings.datasets_dir == tmp_path / "data"
    assert settings.database == f"sqlite:///{tmp_path}/gradq.db"
    assert settings.artifacts == f"file://{tmp_path}/artifacts"
    assert settings.broker_socket.is_relative_to(tmp_path)


@pytest.mark.parametrize("token", ["short", "x" * 31, "ü" * 40, "x" * 20 + " " + "y" * 20])
def test_an_admin_token_that_is_too_weak_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("GRADQ_ADMIN_TOKEN", token)
    with pytest.raises(ConfigurationError, match="GRADQ_ADMIN_TOKEN: .*32 or more") as refused:
        Settings.from_env()
    shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value)
    assert token not in shown


def test_an_admin_token_may_lie_in_a_file_and_hosts_are_a_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t" * 32 + "\n")
    monkeypatch.setenv("GRADQ_ADMIN_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("GRADQ_ALLOWED_HOSTS", "Gradq.example, b.example ,")
    settings = Settings.from_env()
    assert settings.admin_token is not None
    assert settings.admin_token.get_secret_value() == "t" * 32
    assert "t" * 32 not in repr(settings)
    assert settings.allowed_hosts == ("gradq.example", "b.example")


def test_a_relative_folder_and_a_home_are_made_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = Settings.from_env(state_dir="state", data_dir="~/data")
    assert settings.state_dir == tmp_path / "state"
    assert settings.datasets_dir == tmp_path / "home" / "data"
    assert settings.database == f"sqlite:///{tmp_path}/state/gradq.db"


def test_the_environment_is_read_and_what_the_caller_says_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADQ_SLOTS", "3")
    monkeypatch.setenv("GRADQ_LEASE_SECONDS", "2.5")
    monkeypatch.setenv("GRADQ_DOWNLOAD", "false")
    monkeypatch.setenv("GRADQ_DATABASE_URL", "postgresql+psycopg://h/d")
    monkeypatch.setenv("GRADQ_REDIS_URL", "redis://:hush@h:6379/1")
    settings = Settings.from_env(slots=7)
    assert (settings.slots, settings.lease_seconds, settings.download) == (7, 2.5, False)
    assert settings.database == "postgresql+psycopg://h/d"
    assert settings.broker_url == "redis://:hush@h:6379/1"


def test_a_value_may_lie_in_a_file_and_the_variable_itself_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "database_url"
    secret.write_text("postgresql+psycopg://u:hush@h/d\n")
    monkeypatch.setenv("GRADQ_DATABASE_URL_FILE", str(secret))
    assert Settings.from_env().database == "postgresql+psycopg://u:hush@h/d"
    monkeypatch.setenv("GRADQ_DATABASE_URL", "postgresql+psycopg://h/other")
    assert Settings.from_env().database == "postgresql+psycopg://h/other"


@pytest.mark.parametrize("kind", ["missing", "folder", "not text"])
def test_a_file_that_cannot_be_read_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "secret"
    if kind == "folder":
        path.mkdir()
    elif kind == "not text":
        path.write_bytes(b"\xff\xfe\x00")
    monkeypatch.setenv("GRADQ_REDIS_URL_FILE", str(path))
    with pytest.raises(ConfigurationError, match=f"GRADQ_REDIS_URL_FILE.*{path}"):
        Settings.from_env()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADQ_SLOTS", "0"),
        ("GRADQ_SLOTS", "many"),
        ("GRADQ_THREADS_PER_SLOT", "1.5"),
        ("GRADQ_LEASE_SECONDS", "0.5"),
        ("GRADQ_LEASE_SECONDS", "nan"),
        ("GRADQ_GRACE_SECONDS", "0"),
        ("GRADQ_DOWNLOAD", "perhaps"),
        ("GRADQ_CACHE_BYTES", "-1"),
        ("GRADQ_LOG_LEVEL", "CHATTY"),
        ("GRADQ_MAX_OWNER_BYTES", "0"),
        ("GRADQ_MAX_OWNER_BYTES", "20G"),
        ("GRADQ_MAX_OWNER_UPLOADS", "0"),
        ("GRADQ_DATABASE_URL", "nonsense"),
        ("GRADQ_DATABASE_URL", "postgres://u:p@h/d"),
        ("GRADQ_DATABASE_URL", "postgresql://u:p@h/d"),
        ("GRADQ_DATABASE_URL", "mysql+pymysql://u:p@h/d"),
        ("GRADQ_DATABASE_URL", "postgresql+psycopg://h:port/d"),
        ("GRADQ_DATABASE_URL", "postgresql+psycopg:/h/d"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_env()


@pytest.mark.parametrize("url", ["sqlite:////tmp/a.db", "sqlite://", "postgresql+psycopg://u:p%2Fq@h:5432/d"])
def test_a_database_that_can_be_opened_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("GRADQ_DATABASE_URL", url)
    assert Settings.from_env().database == url


def test_a_state_folder_that_cannot_be_created_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "state", tmp_path / "file"):
        with pytest.raises(ConfigurationError, match="GRADQ_STATE_DIR: cannot create"):
            Settings(state_dir=folder).make_state_dir()


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADQ_SLOTS", "none")
    monkeypatch.setenv("GRADQ_GRACE_SECONDS", "-1")
    with pytest.raises(ConfigurationError, match="(?s)GRADQ_SLOTS.*GRADQ_GRACE_SECONDS"):
        Settings.from_env()


def test_a_wrong_value_in_a_file_is_named_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "slots").write_text("many")
    monkeypatch.setenv("GRADQ_SLOTS_FILE", str(tmp_path / "slots"))
    with pytest.raises(ConfigurationError, match="GRADQ_SLOTS"):
        Settings.from_env()


@pytest.mark.parametrize(
    "address", ["redis://h", "rediss://10.0.0.7:6379/0", "redis://me:@h", "redis://0.0.0.0", "redis://"]
)
def test_a_redis_elsewhere_without_a_password_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("GRADQ_REDIS_URL", address)
    with pytest.raises(ConfigurationError, match=r"^GRADQ_REDIS_URL: .*requirepass.*GRADQ_REDIS_URL_FILE"):
        Settings.from_env()
    monkeypatch.setenv("GRADQ_REDIS_WITHOUT_PASSWORD", "true")
    assert Settings.from_env().broker_url == address


@pytest.mark.parametrize(
    "address",
    [
        *("redis://127.0.0.1:6379/0", "redis://localhost", "redis://[::1]:7", "redis+socket:///run/b.sock"),
        *("redis://:hush@h", "redis://me:hush@h:1/2", "rediss://h?password=hush", "unix:///run/b.sock"),
    ],
)
def test_a_redis_of_this_machine_or_with_a_password_is_taken(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("GRADQ_REDIS_URL", address)
    assert Settings.from_env().broker_url == address


@pytest.mark.parametrize(
    "address",
    [
        *("redis://127.0.0.1:99999/0", "redis://127.0.0.1:abc/0", "redis://127.0.0.1:6379/abc", "http://127.0.0.1:1"),
        *("redis+socket://", "nonsense", "h:6379", "redis://h:abc/0", "rediss://:p@h:70000"),
    ],
)
def test_what_no_redis_can_be_reached_by_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("GRADQ_REDIS_URL", address)
    with pytest.raises(ConfigurationError, match=r"^GRADQ_REDIS_URL: not an address of a Redis; write redis://"):
        Settings.from_env()


@pytest.mark.parametrize(
    ("address", "why"), [("nonsense://x", "fsspec knows"), ("s4://bucket", "fsspec knows"), ("dropbox://x", "dropbox")]
)
def test_a_store_without_a_filesystem_is_refused(monkeypatch: pytest.MonkeyPatch, address: str, why: str) -> None:
    monkeypatch.setenv("GRADQ_ARTIFACTS_URL", address)
    with pytest.raises(ConfigurationError, match=f"^GRADQ_ARTIFACTS_URL: .*{why}"):
        Settings.from_env()


@pytest.mark.parametrize("address", ["redis://[hush", "redis://:hush@h\u2100", "hush"])
def test_what_is_refused_is_not_repeated_in_the_error_or_behind_it(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("GRADQ_REDIS_URL", address)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env()
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_passwords_do_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADQ_DATABASE_URL", "postgresql+psycopg://u:hush@h/d")
    monkeypatch.setenv("GRADQ_REDIS_URL", "redis://:hush@h:6379/1")
    settings = Settings.from_env()
    assert "hush" not in f"{settings!r} {settings}"


def test_the_state_folder_is_for_its_user_alone(settings: Settings) -> None:
    assert not settings.state_dir.exists()  # reading settings creates nothing
    settings.make_state_dir()
    assert settings.state_dir.stat().st_mode & 0o777 == 0o700
    settings.state_dir.chmod(0o755)
    settings.make_state_dir()
    assert settings.state_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["LEASE_SECONDS", "GRACE_SECONDS", "RECONCILE_SECONDS", "AUDIT_DAYS"])
@pytest.mark.parametrize("value", ["1e999", "inf", "nan", "-inf", "1e9"])
def test_a_time_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GRADQ_{name}", value)
    with pytest.raises(ConfigurationError, match=f"GRADQ_{name}: "):
        Settings.from_env()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////srv/gradq.db?nonsense=1", "'nonsense' is unknown; SQLite has .*timeout"),
        ("sqlite:////srv/gradq.db?timeout=soon", "cannot be read"),
        ("postgresql+psycopg://u:hush@h/d?nonsense=hush", "'nonsense' is unknown"),
        ("postgresql+psycopg://u:hush@h/d?sslmode=require&nonsense=1", "'nonsense' is unknown"),
        ("postgresql+psycopg://u:hush@h/d?pool_size=3", "'pool_size' is unknown"),
    ],
)
def test_an_unknown_option_of_a_database_is_named(monkeypatch: pytest.MonkeyPatch, url: str, words: str) -> None:
    monkeypatch.setenv("GRADQ_DATABASE_URL", url)
    with pytest.raises(ConfigurationError, match=f"GRADQ_DATABASE_URL: .*{words}") as refused:
        Settings.from_env()
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////srv/gradq.db?timeout=20",
        "sqlite:///file:/srv/gradq.db?mode=rw&uri=true",
        "postgresql+psycopg://u:hush@h/d?sslmode=require&application_name=gradq&connect_timeout=3",
        "postgresql+psycopg:///d?host=/run/postgresql&user=u&password=hush",
        "postgresql+psycopg://u:hush@/d?host=a:1&host=b:2&target_session_attrs=read-write",
    ],
)
def test_options_that_a_database_has_are_accepted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("GRADQ_DATABASE_URL", url)
    assert Settings.from_env().database == url


def test_the_secrets_of_all_settings_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADQ_DATABASE_URL", "postgresql+psycopg://u:word%2F1@h/d")
    monkeypatch.setenv("GRADQ_REDIS_URL", "redis://:word2@h/0")
    monkeypatch.setenv("GRADQ_ARTIFACTS_URL", "s3://key:word3@bucket/?token=word4")
    monkeypatch.setenv("GRADQ_ADMIN_TOKEN", "word5" * 10)
    found = Settings.from_env().secrets
    assert found == {"word/1", "word%2F1", "word2", "word3", "word4", "word5" * 10}
