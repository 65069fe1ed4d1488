"""URLs are shown with their passwords and keys hidden, wherever these are in the URL."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradq.client import masking
from shared import addresses
from shared.addresses import has_password, is_local, masked, secrets_of, without_secrets

SHOWN = [
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
        ("postgresql+psycopg://u:hu/sh@h/d", "postgresql+psycopg://u:***@h/d"),
        ("redis://:hu#sh@h/0", "redis://:***@h/0"),
        ("redis://:hu?sh@h/0", "redis://:***@h/0"),
        ("s3://key:hu/s@h@bucket/prefix", "s3://key:***@bucket/prefix"),
        ("http://u:hush@[::1]:8080", "http://u:***@[::1]:8080"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("http://h:8080/gradq", "http://h:8080/gradq"),
]  # fmt: skip


@pytest.mark.parametrize(("address", "shown"), SHOWN)
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


@pytest.mark.parametrize("address", [address for address, _ in SHOWN])
def test_the_client_hides_what_the_service_hides(address: str) -> None:
    for function in ("without_secrets", "secrets_of"):
        assert getattr(masking, function)(address) == getattr(addresses, function)(address)
    text = f"cannot reach {address}, since 'hush' is wrong"
    assert masking.masked(text, secrets_of(address)) == masked(text, secrets_of(address))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://key:hush@bucket", "Bucket create failed 'key:hush@bucket'"),
        ("s3://key:hu%2Fsh@bucket", "Bucket create failed 'key:hu/sh@bucket'"),
        ("s3://key:hu/sh@bucket", "GET /key%3Ahu%2Fsh%40bucket"),
        ("s3://hush@bucket", "no such bucket: hush"),
        ("s3://bucket?secret=hush", "unexpected keyword secret=hush"),
        ("redis://:hush@h/0", "cannot connect to redis://:hush@h/0: refused"),
        ("redis://:hush@h/0", "WRONGPASS hush"),
        ("http://nobody", "proxy http://u:hush@h:1 is not there, nor redis://:hush@r."),
    ],
)
def test_the_text_of_a_library_has_no_secret(address: str, said: str) -> None:
    shown = masked(said, secrets_of(address))
    assert "hush" not in shown
    assert "hu/sh" not in shown
    assert "hu%2Fsh" not in shown
    assert "***" in shown


def test_the_time_to_hide_grows_with_the_length_of_the_text() -> None:
    for function in (without_secrets, secrets_of, masked):
        function("http://h:1" + "/" * 200_000)  # would take minutes if it grew with the square
        function("http://h:1" + "/" * 200_000 + "@b")
