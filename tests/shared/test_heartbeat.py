"""The heartbeat of a worker's maintenance loop: read by other processes, without a disk or a database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import heartbeat

ANOTHER = """
import sys, time
from pathlib import Path
from shared import heartbeat
heartbeat.start(Path(sys.argv[1]))
print("on", flush=True)
time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(heartbeat, "MEMORY", memory)
    yield tmp_path / "state"
    heartbeat.end()


def test_a_beat_is_read_by_pid_and_by_host(state: Path):
    assert heartbeat.of_host(state) == []
    heartbeat.start(state)
    assert [beat.rounds for beat in heartbeat.of_host(state)] == [0]  # its loop has not begun
    heartbeat.beat("cuda")
    heartbeat.beat("cpu,cuda")
    beat = heartbeat.of_process(state, os.getpid())
    assert beat is not None
    assert (beat.rounds, beat.kinds) == (2, "cpu,cuda")
    assert 0 <= beat.age < 60
    assert [other.rounds for other in heartbeat.of_host(state)] == [2]
    assert heartbeat.of_process(state, 1) is None
    assert heartbeat.of_process(state / "another", os.getpid()) is None


def test_a_beat_needs_no_room(state: Path, monkeypatch: pytest.MonkeyPatch):
    heartbeat.start(state)

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    heartbeat.beat()


def test_without_a_place_there_is_none(state: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heartbeat, "_place", lambda _: state / "nowhere" / "folder")
    heartbeat.start(state)
    heartbeat.beat()
    assert heartbeat.of_process(state, os.getpid()) is None


def test_the_end_leaves_no_file(state: Path):
    heartbeat.start(state)
    heartbeat.end()
    assert list(heartbeat.MEMORY.iterdir()) == []


def test_the_file_of_a_killed_process_does_not_count_and_is_removed_at_the_next_start(tmp_path: Path):
    state = tmp_path / "state"
    killed = subprocess.Popen([sys.executable, "-c", ANOTHER, str(state)], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "on\n"
    assert len(heartbeat.of_host(state)) == 1
    killed.kill()
    killed.communicate()
    assert heartbeat.of_host(state) == []
    heartbeat.start(state)
    assert [path.name for path in heartbeat._place(state).iterdir()] == [str(os.getpid())]
    heartbeat.end()
    assert not heartbeat._place(state).exists()


def test_a_sweep_leaves_the_living_alone(state: Path):
    heartbeat.start(state)
    (heartbeat._place(state) / "77").write_text("1 2.0 cpu\n")
    heartbeat.sweep(state)
    assert [path.name for path in heartbeat._place(state).iterdir()] == [str(os.getpid())]
    heartbeat.end()
    heartbeat.sweep(state)  # has no effect
    assert not heartbeat._place(state).exists()


@pytest.mark.parametrize("content", ["", "\n", "seven 1.0 cpu\n", "1 2\n", "\xff"])
def test_a_file_that_is_no_heartbeat_is_none(state: Path, content: str):
    heartbeat.start(state)
    (heartbeat._place(state) / "77").write_bytes(content.encode("latin-1"))
    assert heartbeat.of_process(state, 77) is None


def test_a_link_is_not_followed(state: Path, tmp_path: Path):
    heartbeat.start(state)
    (tmp_path / "target").write_text("1 2.0 cpu\n")
    (heartbeat._place(state) / "77").symlink_to(tmp_path / "target")
    assert heartbeat.of_process(state, 77) is None
