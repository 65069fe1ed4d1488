"""The embedded broker: which binary, where its socket is, and that it starts, restarts and stops."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
from pathlib import Path

import psutil
import pytest
from support.waiting import wait_for

from gradq.local import broker_process
from gradq.local.broker_process import BrokerServer, bundled_binary, embedded_broker, find_binary
from gradq.local.children import Child
from gradq.local.folders import SOCKET_PATH_BYTES
from shared.broker import Broker
from shared.config import Settings
from shared.errors import ConfigurationError


@pytest.fixture
def binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """binaries("redis-server", "7.0.15"): put a server of that version on an otherwise empty PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, version: str) -> str:
        path = folder / name
        path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0:0 bits=64'\n")
        path.chmod(0o755)
        return str(path)

    return put


def test_redis_on_the_path_comes_before_valkey_before_the_bundled_one(binaries):
    assert find_binary() == str(bundled_binary())
    valkey = binaries("valkey-server", "8.0.1")
    assert find_binary() == valkey
    redis = binaries("redis-server", "7.0.15")
    assert find_binary() == redis


def test_a_redis_that_is_too_old_is_passed_over(binaries):
    binaries("redis-server", "5.0.7")
    assert find_binary() == str(bundled_binary())


def test_without_any_server_the_error_says_what_to_install(binaries, monkeypatch):
    monkeypatch.setattr(broker_process, "bundled_binary", lambda: None)
    with pytest.raises(ConfigurationError, match="GRADQ_REDIS_URL"):
        find_binary()


def test_a_redis_that_was_named_needs_no_server(tmp_path: Path):
    assert embedded_broker(Settings(state_dir=tmp_path, redis_url="redis://:hush@elsewhere")) is None


def test_the_sockets_folder_is_private_whatever_the_umask_is(tmp_path: Path):
    settings = Settings(state_dir=tmp_path / "state")
    before = os.umask(0)
    try:
        server = embedded_broker(settings)
    finally:
        os.umask(before)
    assert server is not None
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (server.socket.parent, server.data)] == [0o700, 0o700]
    server.socket.parent.chmod(0o777)
    assert embedded_broker(settings) == server
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["x" * 150, "with space", "per%20cent"])
def test_a_long_or_odd_state_folder_gets_a_short_socket(tmp_path: Path, name):
    settings = Settings(state_dir=tmp_path / name)
    server = embedded_broker(settings)
    assert server is not None
    assert len(str(server.socket)) <= SOCKET_PATH_BYTES
    assert settings.state_dir not in server.socket.parents
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    assert embedded_broker(settings) == server, "the same folder at the next start"
    shutil.rmtree(server.socket.parent)


SERVERS = [
    pytest.param(bundled_binary(), id="bundled", marks=pytest.mark.skipif(not bundled_binary(), reason="not for here")),
    pytest.param(
        shutil.which("redis-server"),
        id="redis-server",
        marks=[pytest.mark.redis, pytest.mark.skipif(not shutil.which("redis-server"), reason="no redis-server")],
    ),
]


@pytest.mark.parametrize("binary", SERVERS)
def test_the_server_starts_again_after_a_kill_and_stops(tmp_path: Path, binary):
    server = BrokerServer(str(binary), tmp_path / "s.sock", tmp_path)
    broker = Broker(server.url)
    child = Child("broker", server.command, {}, tmp_path / "broker.log")
    said: list[str] = []
    assert not server.answers()
    child.start()
    try:
        wait_for(server.answers, 30, "the broker")
        assert broker.ping()
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        assert not psutil.Process(child.pid).net_connections("inet"), "the socket is the only way in"
        assert broker.ring()
        assert child.process is not None
        child.process.kill()
        wait_for(lambda: (child.tend(said.append), child.deaths and child.alive and broker.ping())[1], 20, "a restart")
        assert "was killed by SIGKILL" in said[0]
    finally:
        assert child.stop(10, lambda: False), "ends by itself on SIGTERM"
    assert not child.alive
    assert not broker.ping()
    assert not server.answers()


def test_a_program_that_accepts_connections_and_says_something_else_does_not_answer(tmp_path: Path):
    server = BrokerServer("none", tmp_path / "s.sock", tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(server.socket))
        other.listen()
        thread = threading.Thread(target=lambda: other.accept()[0].sendall(b"-LOADING\r\n"))
        thread.start()
        assert not server.answers()
        thread.join()
