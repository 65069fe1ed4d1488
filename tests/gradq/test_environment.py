"""What the environment sets: proxies, tokens, addresses and certificates that apply, and those that cannot be used."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.faults import answers, faulty, problem
from typer.testing import CliRunner

from gradq import ApiError, AsyncClient, BadAnswer, Client, Forbidden, InvalidSetting, ServerError, Unreachable
from gradq.cli import app
from gradq.client.environment import Target, address, bearer, is_this_machine, proxy_of
from gradq.client.sender import Retries, Sender
from gradq.commands.checkups import examine, service
from gradq.commands.checkups.targets import Targets
from shared.config import Settings

DEAD = "http://127.0.0.1:9"  # the discard port: nothing listens there
ELSEWHERE = "http://gradq.example.com:8080"
JOB = {"object": "job", "id": "job_1", "name": "a", "status": "queued", "terminal": False}
VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "NO_PROXY", "no_proxy", "GRADQ_URL", "GRADQ_TOKEN", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


# --- this machine is asked directly -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("proxy", [DEAD, "socks4://127.0.0.1:9", "http://[bad"])
def test_this_machine_is_asked_directly_whatever_proxy_is_set(monkeypatch, variable, proxy):
    monkeypatch.setenv(variable, proxy)
    with faulty(answers(JOB)) as server, Client(server.url, retries=0) as client:
        assert client.job("job_1")["id"] == "job_1"

        async def awaited() -> str:
            async with AsyncClient(server.url, retries=0) as other:
                return (await other.job("job_1")).id

        assert asyncio.run(awaited()) == "job_1"


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *[
            ("localhost", True),
            ("LOCALHOST.", True),
            ("gradq.localhost", True),
            ("127.0.0.1", True),
            ("127.8.9.1", True),
        ],
        *[("::1", True), ("[::1]", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", True), ("127.1", True)],
        *[("0x7f000001", True), ("10.0.0.1", False), ("localhost.example.com", False), ("128.0.0.1", False)],
        *[("2001:db8::1", False), ("gradq", False)],
    ],
)
def test_every_spelling_of_this_machine_is_known(host, here):
    assert is_this_machine(host) is here


def test_the_verbs_and_the_checkup_ask_this_machine_directly(gradq, api, monkeypatch, tmp_path: Path):
    for variable in VARIABLES:
        monkeypatch.setenv(variable, DEAD)
    assert gradq("ps").exit_code == 0
    settings = Settings(state_dir=tmp_path / "none")
    targets = Targets(settings, api.url, None)
    found = {finding.check: finding for finding in examine(targets)}
    assert found["api"].verdict != "problem", found["api"].detail
    assert found["port"].detail.endswith("is gradq's")


# --- elsewhere the proxy applies, and errors name it ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exceptions", "direct"),
    [
        *[("gradq.example.com", True), ("example.com", True), (".example.com", True), ("*.example.com", True)],
        *[("*", True), ("a.org, EXAMPLE.com", True), ("gradq.example.com:8080", True)],
        *[("example.org", False), ("ample.com", False), ("gradq.example.com:9", False), ("", False), (" , ", False)],
    ],
)
def test_no_proxy_names_hosts_and_domains(monkeypatch, exceptions, direct):
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("no_proxy", exceptions)
    assert (proxy_of(ELSEWHERE) is None) is direct


@pytest.mark.parametrize(
    ("url", "exceptions", "direct"),
    [
        ("http://10.1.2.3:8080", "10.0.0.0/8", True),
        ("http://10.1.2.3:8080", "192.168.0.0/16,10.1.2.3", True),
        ("http://[2001:db8::1]:8080", "2001:db8::/32", True),
        ("http://[2001:db8::1]", "[2001:db8::1]", True),
        ("http://10.1.2.3:8080", "10.2.0.0/16", False),
        ("http://10.1.2.3:8080", "2001:db8::/32", False),
    ],
)
def test_no_proxy_names_addresses_and_networks(monkeypatch, url, exceptions, direct):
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("no_proxy", exceptions)
    assert (proxy_of(url) is None) is direct


def test_a_proxy_is_used_for_its_scheme_and_its_variable_is_named(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    assert proxy_of(ELSEWHERE) is None
    assert str(proxy_of("https://gradq.example.com")) == "http://user:***@proxy:3128 (HTTPS_PROXY)"
    monkeypatch.setenv("all_proxy", "proxy:80")
    assert str(proxy_of(ELSEWHERE)) == "http://proxy (all_proxy)"


def test_a_proxy_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("http_proxy", DEAD)
    words = rf"cannot reach {ELSEWHERE} through the proxy {DEAD} \(http_proxy\): "
    with Client(ELSEWHERE, retries=0) as client, pytest.raises(Unreachable, match=words):
        client.job("job_1")
    result = CliRunner().invoke(app, ["ps", "--url", ELSEWHERE])
    assert result.exit_code == 1
    assert f"through the proxy {DEAD} (http_proxy)" in result.stderr
    assert "add gradq.example.com to NO_PROXY" in result.stderr
    assert "gradq up" not in result.stderr
    told = json.loads(CliRunner().invoke(app, ["ps", "--url", ELSEWHERE, "--json"]).stderr)
    assert (told["code"], told["proxy"]) == ("unreachable", f"{DEAD} (http_proxy)")


PAGE = b"<html><h1>403 Forbidden</h1></html>"


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (answers(PAGE, 403), Forbidden, "403 X through the proxy"),
        (answers(PAGE, 500), ServerError, "500 X through the proxy"),
        (answers(PAGE, 200), BadAnswer, "answers through the proxy"),
        (answers({"error": "no"}, 403), Forbidden, "403 X through the proxy"),
    ],
)
def test_an_answer_that_is_not_gradqs_names_the_proxy_and_no_token(monkeypatch, answer, error, words):
    with faulty(answer) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with Client(ELSEWHERE, retries=0) as client, pytest.raises(error, match=words) as caught:
            client.job("job_1")
        assert caught.value.proxy == f"{proxy.url} (http_proxy)"
        said = CliRunner().invoke(app, ["show", "job_1", "--url", ELSEWHERE]).stderr
    assert f"the proxy {proxy.url} (http_proxy)" in said
    assert "GRADQ_TOKEN" not in said
    assert "NO_PROXY" in said


@pytest.mark.parametrize("url", ["http://a_b.c-d.example:1", "http://[fe80::1%25eth0]:80", "http://größe.example"])
def test_names_and_addresses_of_hosts_are_accepted(url):
    assert address(url) == url


def test_an_error_of_gradq_behind_a_proxy_names_the_proxy_too(monkeypatch):
    wrong = [{"pointer": "/lr", "code": "x", "detail": "is wrong"}]
    for answer in (problem(403, "insufficient_scope"), problem(422, "invalid_spec", "no", wrong)):
        with faulty(answer) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            with Client(ELSEWHERE) as client, pytest.raises(ApiError) as caught:
                client.job("job_1")
        assert str(caught.value).count(f"through the proxy {proxy.url} (http_proxy)") == 1
    with faulty(problem(403, "insufficient_scope")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        said = CliRunner().invoke(app, ["show", "job_1", "--url", ELSEWHERE]).stderr
    assert f"(asked through the proxy {proxy.url} (http_proxy))" in said
    assert "GRADQ_TOKEN" in said


def test_without_a_proxy_a_strange_answer_is_not_about_tokens_either():
    with faulty(answers(PAGE, 403)) as server:
        said = CliRunner().invoke(app, ["show", "job_1", "--url", server.url]).stderr
    assert "403 X" in said
    assert "GRADQ_TOKEN" not in said
    assert "GRADQ_URL" in said


def test_the_checkup_names_the_proxy_and_sends_no_one_the_wrong_way(monkeypatch, tmp_path: Path):
    settings = Settings(state_dir=tmp_path / "none")
    with faulty(answers(PAGE, 403)) as proxy:
        for variable, words in ((DEAD, "no answer"), (proxy.url, "is not a gradq service")):
            monkeypatch.setenv("http_proxy", variable)
            targets = Targets(settings, ELSEWHERE, None)
            found = service.api(targets)
            assert found.verdict == "problem"
            assert words in found.detail
            assert f"the proxy {variable} (http_proxy)" in found.detail
            assert found.mend is not None
            assert "NO_PROXY" in found.mend
            assert "gradq up" not in found.mend
            assert service.port(targets).verdict == "ok"


# --- what cannot be used ----------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, str], str]] = [
    ({"GRADQ_TOKEN": "gradq_ä"}, "its character 7 is not an ASCII"),
    ({"GRADQ_TOKEN": "gradq_1 gradq_2"}, "its character 8 is a space"),
    ({"GRADQ_TOKEN": "gradq_1\ngradq_2"}, "its character 8 is a space or line break"),
    ({"GRADQ_TOKEN": "gradq_\udc80"}, "its character 7 is not an ASCII"),
    ({"GRADQ_TOKEN": "Bearer gradq_1"}, "give the token alone"),
    ({"GRADQ_URL": "nonsense"}, "nonsense is not an address"),
    ({"GRADQ_URL": "http://"}, "is not an address"),
    ({"GRADQ_URL": "http://127.0.0.1:99999"}, "ports end at 65535"),
    ({"GRADQ_URL": "http://127.0.0.1:0"}, "begin at 1"),
    *[({"GRADQ_URL": f"http://a{sign}b"}, "letters, digits, dots and hyphens") for sign in (" ", "%20", "<", ",", "|")],
    ({"GRADQ_URL": ELSEWHERE, "http_proxy": "http://proxy:0"}, "it must be http://host:port"),
    ({"GRADQ_URL": ELSEWHERE, "http_proxy": "http://a b:1"}, "it must be http://host:port"),
    ({"GRADQ_URL": "http://127.0.0.1:80a"}, "is not an address"),
    ({"GRADQ_URL": "http://x\udc80"}, "is not an address"),
    ({"GRADQ_URL": "http://a\nb"}, "is not an address"),
    ({"GRADQ_URL": "http://.."}, "between its dots"),
    ({"GRADQ_URL": "http://a..b:80"}, "between its dots"),
    ({"GRADQ_URL": f"http://{'a' * 64}.example"}, "more than 63 letters"),
    ({"GRADQ_URL": "http://gradq.invalid", "HTTP_PROXY": "http://..:1"}, "the proxy in HTTP_PROXY cannot be used"),
    ({"GRADQ_URL": "http://127.0.0.1:8080/?job=1"}, "must end before `?`"),
    ({"GRADQ_URL": ELSEWHERE, "http_proxy": "socks4://proxy:1080"}, "the proxy in http_proxy cannot be used"),
    ({"GRADQ_URL": ELSEWHERE, "HTTP_PROXY": "ftp://proxy"}, "the proxy in HTTP_PROXY cannot be used"),
    ({"GRADQ_URL": ELSEWHERE, "ALL_PROXY": "http://[bad"}, "the proxy in ALL_PROXY cannot be used"),
    ({"GRADQ_URL": ELSEWHERE, "http_proxy": ":8080"}, "it must be http://host:port"),
    ({"GRADQ_URL": ELSEWHERE, "http_proxy": "http://proxy:99999"}, "it must be http://host:port"),
    ({"GRADQ_URL": "https://gradq.example.com", "SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE=/nowhere.pem"),
    ({"GRADQ_URL": "https://gradq.example.com", "SSL_CERT_FILE": __file__}, "the certificates of SSL_CERT_FILE="),
]


@pytest.mark.parametrize(("environment", "words"), WRONG)
def test_what_cannot_be_used_is_one_sentence_and_exit_2(monkeypatch, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSetting) as caught:
        Client()
    assert words in str(caught.value)
    result = CliRunner().invoke(app, ["ps"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    told: dict[str, Any] = json.loads(CliRunner().invoke(app, ["ps", "--json"]).stderr)
    assert told["code"] == "configuration_error"


@pytest.mark.parametrize(("environment", "words"), WRONG[:1] + WRONG[5:6] + WRONG[12:13])
def test_the_checkup_says_what_cannot_be_used(monkeypatch, tmp_path: Path, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    targets = Targets(
        Settings(state_dir=tmp_path / "none"), environment.get("GRADQ_URL"), environment.get("GRADQ_TOKEN")
    )
    found = service.api(targets)
    assert found.verdict == "problem"
    assert words in found.detail
    assert service.token(targets).detail == "unknown: the service cannot be asked"
    assert "in use by another program" not in service.port(targets).detail


def test_a_token_is_sent_without_the_space_around_it_and_an_empty_one_not_at_all(monkeypatch):
    assert bearer(" gradq_1\n", "") == "Bearer gradq_1"
    for nothing in ("", " ", "\n", None):
        assert bearer(nothing, "") is None
    with pytest.raises(InvalidSetting, match="its character 6 is not an ASCII"):
        bearer("gradq\x00", "")
    monkeypatch.setenv("GRADQ_TOKEN", "gradq_2")
    assert bearer(None, "") == "Bearer gradq_2"
    assert bearer("", "") is None


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hush@127.0.0.1:1",
        "http://me:hu/sh@127.0.0.1:1",
        "http://me:hu#sh@127.0.0.1:1",
        "http://me:hush@[::1",
        "http://me:hush@127.0.0.1:99999999",
        "http://me:hush@127.0.0.1:1/?x=1",
        "ftp://me:hush@h",
        "http://me:hush@h\n",
        "http://hush@127.0.0.1:1",
    ],
)
def test_no_verb_shows_the_password_of_the_address(url):
    for verb in (["ps"], ["ps", "--json"], ["wait", "job_1"]):
        result = CliRunner().invoke(app, verb, env={"GRADQ_URL": url})
        assert result.exit_code in (1, 2, 4)
        assert len(result.output) > 20
        assert not re.search("hu.{0,5}sh|'hu'", result.output), result.output


@pytest.mark.parametrize(
    "proxy", ["http://me:hush@127.0.0.1:1", "http://hush@127.0.0.1:1", "http://me:hu/sh@h:1", "me:hush@h:x"]
)
def test_no_verb_shows_the_password_of_a_proxy(proxy):
    for verb in (["ps"], ["ps", "--json"]):
        result = CliRunner().invoke(app, verb, env={"GRADQ_URL": ELSEWHERE, "HTTP_PROXY": proxy})
        assert not re.search("hu.{0,5}sh|'hu'", result.output), result.output
        assert "HTTP_PROXY" in result.output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize(
    ("verb", "code"), [(["ps"], 2), (["ps", "--json"], 2), (["worker"], 2), (["show", "job_1"], 1)]
)
def test_an_error_that_cannot_be_written_keeps_its_exit_code(verb, code):
    url = DEAD if code == 1 else "nonsense"
    env = {**os.environ, "GRADQ_URL": url, "GRADQ_SLOTS": "none"}
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([sys.executable, "-m", "gradq", *verb], env=env, stderr=full, check=False)
    assert ran.returncode == code


def test_a_client_is_shown_without_its_password():
    with Client("http://me:hush@127.0.0.1:1") as client:
        assert repr(client) == "<Client http://me:***@127.0.0.1:1>"


def test_the_error_of_a_library_is_shown_without_passwords():
    secrets = Target.of("http://me:hush@127.0.0.1:1", "gq_secret").secrets
    sender = Sender(None, "http://h", Retries(0, 0.0), secrets=secrets)
    assert str(sender.unreachable(httpx2.ConnectError("no route for hush with gq_secret"))) == (
        "cannot reach http://h: no route for *** with ***"
    )
