"""Children end when they are stopped, with their descendants, and when their parent is killed."""

from __future__ import annotations

import os
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
