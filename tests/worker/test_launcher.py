"""The server that trainers are forked from is replaced when it dies or hangs. Tested with real servers."""

from __future__ import annotations

import psutil
import pytest

from worker import launcher as launching
from worker.launcher import Launcher


def servers() -> set[psutil.Process]:
    found = {child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}
    return {child for child in found if any("multiprocessing.forkserver" in word for word in child.cmdline())}


@pytest.fixture
def launcher() -> Launcher:
    launcher = Launcher()
    launcher.warm_up()
    return launcher


def test_a_server_that_died_is_replaced_at_the_next_start(launcher: Launcher) -> None:
    (old,) = servers()
    old.kill()
    launcher.warm_up()
    assert servers() != {old}


def test_a_server_that_hangs_is_killed_and_replaced(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    (old,) = servers()
    monkeypatch.setattr(launching, "FORK_SECONDS", 0.3)
    old.suspend()
    launcher.warm_up()
    assert not old.is_running() or old.status() == psutil.STATUS_ZOMBIE
    assert servers() - {old}


def test_a_server_that_responds_in_time_is_kept(launcher: Launcher) -> None:
    before = servers()
    launcher.warm_up()
    assert servers() == before
