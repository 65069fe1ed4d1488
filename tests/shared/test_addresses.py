"""URLs are shown with their passwords and keys hidden, wherever these are in the URL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.addresses import has_password, is_local, without_secrets


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql+psycopg://u:hush@h:5432/d", "postgresql+psycopg://u:***@h:5432/d"),
        ("postgresql+psycopg://h/d?user=u&password=hush&sslmode=require", "postgresql+psycopg://h/d?user=u&password=***&sslmode=require"),
        ("redis://:hush@h/0", "redis://:***@h/0"),
        ("redis://:hu@sh@h/0", "redis://:***@h/0"),
        ("redis://:hu:sh@h/0", "redis://:***@h/0"),
        ("redis://h?Password=hush", "redis://h?Password=***"),
        ("s3://key:hush@bucket/prefix", "s3://key:***@bucket/prefix"),
        ("s3://bucket/prefix?secret_key=hush", "s3://bucket/prefix?secret_key=***"),
        ("https://hush@h/", "https://***@h/"),
        ("sqlite:////var/lib/gradq/gradq.db", "sqlite:////var/lib/gradq/gradq.db"),
        ("file:///srv/me@home:8/artifacts", "file:///srv/me@home:8/artifacts"),
        ("redis+socket:///run/b.sock", "redis+socket:///run/b.sock"),
    ],
)  # fmt: skip
def test_a_secret_is_hidden_and_all_else_stays(address: str, shown: str) -> None:
    assert without_secrets(address) == shown


@given(st.text("abc:@%!=é", min_size=1, max_size=12))
def test_no_password_that_a_url_can_hold_shows(password: str) -> None:
    assert without_secrets(f"redis://me:HUSH{password}HUSH@host:1/0") == "redis://me:***@host:1/0"


def test_where_an_address_leads() -> None:
    assert is_local("redis://127.0.0.1:1/0")
    assert is_local("redis+socket:///run/b.sock")
    assert not is_local("redis://127.0.0.1.evil.example")
    assert not is_local("redis://localhost.evil.example")
    assert has_password("redis://:x@h")
    assert not has_password("redis://x@h")
