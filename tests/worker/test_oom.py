"""The kernel's count of OOM kills, in each of the files that can hold it."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker import oom
from worker.oom import OomKills


@pytest.mark.parametrize(
    "text",
    [
        "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n",
        "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n",
        "nr_free_pages 1\noom_kill {}\npgfault 9\n",
    ],
    ids=["cgroup 2", "cgroup 1", "host"],
)
def test_a_kill_counts_as_recent_for_some_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    counter = tmp_path / "counter"
    counter.write_text(text.format(4))
    kills = OomKills([tmp_path / "missing", counter])
    assert not kills.recently()  # kills before this object was made do not count
    counter.write_text(text.format(5))
    kills.poll()
    assert kills.recently()
    monkeypatch.setattr(oom, "RECENT_SECONDS", 0.0)
    assert not kills.recently()


def test_a_system_without_a_counter_reports_no_kills(tmp_path: Path) -> None:
    kills = OomKills([tmp_path / "missing"])
    kills.poll()
    assert not kills.recently()


def test_the_cgroup_of_this_process_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "cgroup"
    monkeypatch.setattr(oom, "OWN_CGROUPS", own)
    monkeypatch.setattr(oom, "CGROUPS", tmp_path / "fs")
    for line, place in (("0::/a/b\n", "a/b/memory.events"), ("4:memory:/a\n", "memory/a/memory.oom_control")):
        own.write_text("9:name=systemd:/\n" + line)
        counter = tmp_path / "fs" / place
        counter.parent.mkdir(parents=True)
        counter.write_text("oom_kill 7\n")
        assert (OomKills().counter, OomKills().count) == (counter, 7)
