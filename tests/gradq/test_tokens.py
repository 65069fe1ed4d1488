"""`gradq token`: tokens are created and revoked in the service's database, and shown once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gradq.cli import app
from gradq.client.blocking import Client
from gradq.client.problems import InsufficientScope, Unauthorized
from gradq.commands.tokens import end_of
from shared.config import Settings
from shared.db.database import Database
from shared.db.migrate import known

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
TEXT = re.compile(r"gq_[0-9a-f]{32}_[\w-]{43}")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A service that requires a token."""
    return settings.model_copy(update={"allow_anonymous": False})


@pytest.fixture
def token(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """token("create", "x"): runs the verb on the database of this test's service."""
    monkeypatch.setenv("GRADQ_STATE_DIR", str(settings.state_dir))
    return lambda *arguments: CliRunner().invoke(app, ["token", *arguments])


def made(token: Callable[..., Result], *arguments: str) -> str:
    result = token("create", *arguments)
    assert result.exit_code == 0, result.stderr
    assert TEXT.fullmatch(result.stdout.strip()), "standard output has only the token"
    return result.stdout.strip()


def test_a_token_that_was_made_opens_the_service_and_a_revoked_one_does_not(api, token) -> None:
    with pytest.raises(Unauthorized, match="gradq token create"):
        api.client.version()
    text = made(token, "laptop", "--owner", "alice")
    with Client(api.url, text) as client:
        assert client.whoami()["owner"] == "alice"
        job = client.submit()
        assert job["owner"] == "alice"
        assert token("revoke", "laptop").exit_code == 0
        with pytest.raises(Unauthorized) as refused:
            client.job(job.id)
    assert refused.value.code == "token_revoked"


def test_a_read_token_is_told_which_scope_it_lacks(api, token) -> None:
    with Client(api.url, made(token, "eyes", "--scope", "read")) as client, pytest.raises(InsufficientScope) as refused:
        client.submit()
    assert refused.value.scope == "submit"


def test_the_environment_variable_counts_and_the_way_out_is_named(api, token, gradq, monkeypatch) -> None:
    result = gradq("ps")
    assert result.exit_code == 1
    assert "Set GRADQ_TOKEN" in result.stderr
    monkeypatch.setenv("GRADQ_TOKEN", made(token, "eyes", "--scope", "read") + "\n")
    assert gradq("ps").exit_code == 0
    refused = gradq("submit")
    assert refused.exit_code == 1
    assert "--scope" in refused.stderr


def test_no_text_of_a_token_is_kept_or_shown_again(api, token, settings: Settings) -> None:
    text = made(token, "laptop", "--owner", "alice")
    listed = token("list", "--json")
    (row,) = json.loads(listed.stdout)["data"]
    assert {name: row[name] for name in ("name", "owner", "scope", "state", "last_used_at")} == {
        **{"name": "laptop", "owner": "alice", "scope": "submit", "state": "good"},
        "last_used_at": None,
    }
    secret = text.split("_", 2)[2]
    shown = token("list").stdout + listed.stdout + token("revoke", row["id"]).stdout
    assert row["id"] in shown
    assert secret not in shown
    assert not any(secret.encode() in path.read_bytes() for path in settings.state_dir.rglob("*") if path.is_file())
    with Client(api.url, text) as client:
        assert secret not in repr(client) + repr(vars(client))


def test_as_json_everything_comes_in_one_object(api, token) -> None:
    body = json.loads(token("create", "ci", "--scope", "admin", "--expires", "never", "--json").stdout)
    assert (body["object"], body["owner"], body["scope"], body["expires_at"]) == ("token", "ci", "admin", None)
    assert TEXT.fullmatch(body["token"])
    revoked = json.loads(token("revoke", "ci", "--json").stdout)["data"]
    assert [(row["id"], row["state"]) for row in revoked] == [(body["id"], "revoked")]


def test_the_table_says_whose_and_until_when(api, token) -> None:
    assert "gradq token create" in token("list").stdout
    made(token, "laptop", "--owner", "alice", "--expires", "2099-01-31")
    header, row = token("list").stdout.splitlines()
    assert header.split() == ["id", "name", "owner", "scope", "state", "priority", "expires", "used"]
    assert re.split(r"\s{2,}|\t", row.strip())[1:6] == ["laptop", "alice", "submit", "good", "to 50"]
    assert "2099-01-3" in row


@pytest.mark.parametrize(
    ("arguments", "highest", "shown"),
    [
        ((), 50, "to 50"),
        (("--max-priority", "10"), 10, "to 10"),
        (("--max-priority", "0"), 0, "to 0"),
        (("--max-priority", "100"), 100, "to 100"),
        (("--scope", "read"), 50, "to 50"),
        (("--scope", "admin"), None, "any"),
        (("--scope", "admin", "--max-priority", "60"), 60, "to 60"),
    ],
)
def test_the_highest_priority_of_a_token_is_chosen_when_it_is_made_and_listed(
    token, settings: Settings, arguments, highest, shown
) -> None:
    made(token, "laptop", *arguments)
    assert shown in token("list").stdout
    (row,) = json.loads(token("list", "--json").stdout)["data"]
    assert row["max_priority"] == highest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "laptop"), "a valid token named laptop exists"),
        (("create", "a b"), "must be 1 to 64 letters"),
        (("create", "x", "--owner", "../x"), "must be 1 to 64 letters"),
        (("create", "x", "--expires", "soon"), "must be a duration"),
        (("create", "x", "--expires", "2020-01-01"), "in the past"),
        (("create", "x", "--scope", "root"), "'root'"),
        (("create", "x", "--max-priority", "101"), "'--max-priority': Input should be less than or equal to 100"),
        (("create", "x", "--max-priority", "-1"), "'--max-priority': Input should be greater than or equal to 0"),
        (("revoke", "desktop"), "token desktop not found"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_reason(api, token, arguments, says) -> None:
    made(token, "laptop")
    result = token(*arguments)
    assert result.exit_code != 0
    assert says in result.stderr
    assert len(json.loads(token("list", "--json").stdout)["data"]) == 1


def test_a_name_is_free_again_once_its_token_is_not_good_any_more(api, token) -> None:
    made(token, "laptop")
    token("revoke", "laptop")
    made(token, "laptop")
    assert [row["state"] for row in json.loads(token("list", "--json").stdout)["data"]] == ["revoked", "good"]


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("90d", NOON + timedelta(days=90)),
        ("12h", NOON + timedelta(hours=12)),
        (" 2W ", NOON + timedelta(weeks=2)),
        ("2027-01-01T00:00:00+01:00", datetime(2026, 12, 31, 23, tzinfo=UTC)),
        ("never", None),
    ],
)
def test_how_long_it_is_good_is_said_as_people_say_it(text: str, until: datetime | None) -> None:
    assert end_of(text, NOON) == until


@pytest.mark.parametrize("text", ["", "0d", "-1d", "90", "d", "1e9d", "999999999d", "2026-11-25T11:00:00+00:00"])
def test_a_time_that_is_none_or_over_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        end_of(text, NOON)


def test_before_the_first_start_there_is_a_place_for_tokens(tmp_path: Path, monkeypatch) -> None:
    """The service refuses to start on an open address without one, so this comes first."""
    monkeypatch.delenv("GRADQ_STATE_DIR", raising=False)
    state = tmp_path / "new"
    listed = CliRunner().invoke(app, ["token", "list", "--state", str(state)])
    assert (listed.exit_code, state.exists()) == (2, False)
    assert CliRunner().invoke(app, ["token", "create", "x", "--state", str(state)]).exit_code == 0
    assert state.stat().st_mode & 0o777 == 0o700
    assert len(CliRunner().invoke(app, ["token", "list", "--state", str(state)]).stdout.splitlines()) == 2


def test_an_older_schema_is_left_alone(settings: Settings, token) -> None:
    settings.make_state_dir()
    database = Database(settings.database)
    database.migrate("0005")
    result = token("create", "x")
    assert result.exit_code == 2
    assert "gradq migrate" in result.stderr
    assert database.migrate() == known()[-1]
    database.close()
