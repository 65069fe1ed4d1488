"""Children end when they are stopped, with their descendants, and when their parent is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.waiting import wait_for

from gradq.local import children
from gradq.local.children import Child

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
)
WITH_A_CHILD = (
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True); print(p.pid, flush=True); time.sleep(600)"
)


def child_of(code: str, folder: Path) -> Child:
    return Child("part", [sys.executable, "-c", code], os.environ, folder / "part.log")


def wait_for_output(child: Child) -> str:
    return wait_for(lambda: child.log.read_text() if child.log.exists() else "", 20, "the child's first line")


def never() -> bool:
    return False


def test_a_child_that_ignores_sigterm_is_killed_after_its_time(tmp_path: Path):
    child = child_of(STUBBORN, tmp_path)
    child.start()
    wait_for_output(child)
    assert not child.stop(0.3, never)
    assert not child.alive


def test_a_second_wish_to_stop_does_not_wait(tmp_path: Path):
    child = child_of(STUBBORN, tmp_path)
    child.start()
    wait_for_output(child)
    assert not child.stop(3600, lambda: True)


def test_what_a_child_started_ends_with_it(tmp_path: Path):
    child = child_of(WITH_A_CHILD, tmp_path)
    child.start()
    grandchild = psutil.Process(int(wait_for_output(child)))
    child.stop(5, never)
    wait_for(lambda: not grandchild.is_running(), 30, "the end of the grandchild")


def test_a_child_that_keeps_dying_is_started_again_with_growing_pauses(tmp_path: Path):
    child = child_of("print('no'); raise SystemExit(3)", tmp_path)
    said: list[str] = []
    child.start()
    wait_for(lambda: (child.tend(said.append), child.deaths == 3)[1], 30, "three deaths")
    child.stop(1, never)
    deaths = [line for line in said if "exit code 3" in line]
    assert [line.split("; restarting it in ")[1].split(" ")[0] for line in deaths] == ["0.5", "1", "2"]
    assert child.last_lines() == "no\nno\nno"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux signals a child when its parent dies")
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path):
    parent = (
        "import os, sys, time; from pathlib import Path; from gradq.local.children import Child\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        f"child = Child('part', sleep, os.environ, Path({str(tmp_path)!r}) / 'log')\n"
        "child.start(); print(child.pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 30, "the end of the child")


def test_a_descendant_that_has_ended_is_not_waited_for_until_init_collects_it():
    zombies = [subprocess.Popen([sys.executable, "-c", ""]) for _ in range(3)]  # nobody waits for them
    processes = [psutil.Process(zombie.pid) for zombie in zombies]
    wait_for(lambda: all(p.status() == psutil.STATUS_ZOMBIE for p in processes), 30, "three zombies")
    started = time.monotonic()
    assert children._running_after(processes, seconds=60) == []
    assert time.monotonic() - started < 30
    for zombie in zombies:
        zombie.wait()
    assert children._running_after(processes, seconds=60) == []  # nor are those that are gone


def test_a_descendant_that_runs_is_waited_for_and_named():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        (left,) = children._running_after([psutil.Process(process.pid)], seconds=0.1)
        assert left.pid == process.pid
    finally:
        process.kill()
        process.wait()


def test_several_children_are_asked_to_stop_before_the_first_is_waited_for(tmp_path):
    parts = [child_of("import time; time.sleep(600)", tmp_path) for _ in range(3)]
    for part in parts:
        part.start()
        part.request_stop()
    for part in parts:
        wait_for(lambda part=part: not part.alive, 30, "the end of the child")
        assert part.stop(5.0, never)
        part.request_stop()  # has no effect on one that has ended
        part.start()
        assert not part.stopping
        assert part.stop(30.0, never)


def test_a_log_that_grows_too_large_is_cut_while_its_part_writes_on(tmp_path):
    code = "import time\nfor n in range(200):\n    print('line', n, 'x' * 90, flush=True)\n    time.sleep(0.005)"
    child = child_of(code, tmp_path)
    child.start()
    older = child.log.with_suffix(".log.1")

    def ended() -> bool:
        children.keep_small(child.log, 2000)
        return not child.alive

    wait_for(ended, 60, "the end of the part")
    kept = older.read_text() + child.log.read_text()
    assert "line 199 " in kept
    assert len(kept) < 200 * 100 / 2  # some of the lines are gone
    assert all(line.startswith("line ") for line in kept.splitlines())


def test_a_log_and_the_older_one_have_a_limit_together(tmp_path):
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as out:
        for number in range(200):
            out.write(f"{number} {'x' * 200}\n".encode())
            children.keep_small(log, 1000)
            assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 3000
    kept = (tmp_path / "part.log.1").read_text() + log.read_text()
    numbers = [int(line.split()[0]) for line in kept.splitlines()]
    assert numbers == list(range(numbers[0], 200))


@pytest.mark.parametrize("fault", ["no room", "no file", "a folder"])
def test_a_log_that_cannot_be_kept_is_discarded_or_left(tmp_path, monkeypatch, fault):
    log = tmp_path / "part.log"
    if fault == "no room":
        log.write_bytes(bytes(5000))

        def full(*_: object) -> None:
            (tmp_path / "part.log.1").write_bytes(bytes(100))
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(children.shutil, "copyfile", full)
    elif fault == "a folder":
        log.mkdir()
    children.keep_small(log, 1000)
    assert not (tmp_path / "part.log.1").exists()
    if fault == "no room":
        assert log.stat().st_size == 0


class Silent:
    """Says that the first process does not work."""

    def __init__(self) -> None:
        self.first: int | None = None

    def round(self, pid: int) -> str | None:
        self.first = self.first or pid
        return "shows no heartbeat" if pid == self.first else None


@pytest.mark.parametrize("code", ["import time; time.sleep(600)", STUBBORN])
def test_a_part_that_runs_but_does_not_work_is_ended_and_started_again(tmp_path, code):
    child = child_of(code, tmp_path)
    child.liveness, child.stop_rounds = Silent(), 20
    child.start()
    if code == STUBBORN:
        wait_for_output(child)
    said: list[str] = []
    before = child.pid
    wait_for(lambda: (child.tend(said.append), child.pid != before)[1], 60, "another process")
    assert child.alive
    for _ in range(100):
        child.tend(said.append)
    assert child.alive
    assert ["shows no heartbeat; ending it" in line for line in said] == [True, False, False]
    child.stop(0.3, never)


def test_a_part_that_cannot_be_started_again_at_the_moment_is_tried_later(tmp_path, monkeypatch):
    child = child_of("pass", tmp_path)
    child.start()
    wait_for(lambda: not child.alive, 30, "the end of the part")
    said: list[str] = []
    child.tend(said.append)
    child.restart_at = 0.0
    with monkeypatch.context() as patched:
        patched.setattr(children.subprocess, "Popen", refuse)
        child.tend(said.append)
    assert "cannot be started: [Errno 11] no process" in said[-1]
    child.restart_at = 0.0
    child.tend(said.append)
    assert "restarted" in said[-1]
    child.stop(5, never)


def refuse(*_: object, **__: object) -> None:
    raise OSError(11, "no process")


def test_a_part_goes_on_without_the_folder_of_its_log(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    child = child_of("import time; time.sleep(600)", folder)
    child.start()
    child.process.kill()
    child.process.wait()
    shutil.rmtree(folder)
    child.tend(print)
    child.restart_at = 0.0
    child.tend(print)
    assert child.alive
    child.stop(5, never)
