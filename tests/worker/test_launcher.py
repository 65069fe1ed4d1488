"""The server that trainers are forked from is replaced when it dies or hangs. Tested with real servers."""

from __future__ import annotations

import errno
import shutil
from multiprocessing import forkserver, util
from pathlib import Path

import psutil
import pytest
from support.drawings import DRAWING, PICTURES

from shared.pictures import files
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


def test_pictures_are_drawn_in_a_process_of_their_own(launcher: Launcher, tmp_path: Path) -> None:
    DRAWING.save(tmp_path / "undrawn.npz")
    for folder in ("there", "here"):
        (tmp_path / folder).mkdir()
    drawn = launcher.draw(tmp_path / "undrawn.npz", tmp_path / "there")
    assert [path.name for path in drawn] == PICTURES
    for path in files.draw(tmp_path / "undrawn.npz", tmp_path / "here"):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


def test_pictures_that_cannot_be_drawn_are_an_error(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "undrawn.npz").write_bytes(b"no drawing")
    with pytest.raises(ValueError, match=r".+"):
        launcher.draw(tmp_path / "undrawn.npz", tmp_path)


def test_a_process_that_draws_for_too_long_is_killed(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "DRAW_SECONDS", 0.0)
    DRAWING.save(tmp_path / "undrawn.npz")
    with pytest.raises(ValueError, match="not drawn after 0 s"):
        launcher.draw(tmp_path / "undrawn.npz", tmp_path)
