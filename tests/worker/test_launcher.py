"""The server that trainers are forked from is replaced when it dies or hangs. Tested with real servers."""

from __future__ import annotations

import errno
import shutil
from multiprocessing import forkserver, util
from pathlib import Path

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


@pytest.mark.parametrize("what", ["socket", pytest.param("folder", marks=pytest.mark.long)])
def test_a_server_that_lives_and_has_lost_its_socket_is_killed_and_replaced(launcher: Launcher, what: str) -> None:
    """As after a clean-up of /tmp: no job could start until the worker does."""
    (old,) = servers()
    address = Path(forkserver._forkserver._forkserver_address)  # type: ignore[attr-defined]
    if what == "socket":
        address.unlink()
    else:
        assert address.parent == Path(util.get_temp_dir())
        shutil.rmtree(address.parent)
    launcher.warm_up()
    assert not old.is_running() or old.status() == psutil.STATUS_ZOMBIE
    assert len(servers()) == 1


def test_a_server_whose_process_has_no_file_left_is_kept(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is not the server's; another one would cost seconds, and the exit codes of its trainers."""
    before = servers()
    real, failures = forkserver._forkserver.connect_to_new_process, [1]  # type: ignore[attr-defined]

    def connect(fds: list[int]) -> tuple[int, int]:
        if failures:
            failures.pop()
            raise OSError(errno.EMFILE, "Too many open files")
        answer: tuple[int, int] = real(fds)
        return answer

    monkeypatch.setattr(forkserver, "connect_to_new_process", connect)
    launcher.warm_up()
    assert (servers(), failures) == (before, [])
