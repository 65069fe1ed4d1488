"""Downloads over connections that break: files are complete with the right sha256, or do not exist."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from support.faults import CUT, Asked, Step, answers, cut, faulty, problem

from gradq import BadAnswer, Client, NotFound, Unreachable
from gradq.client.transport import Blocking

CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()


def listed(name: str = "model.bin", content: bytes = CONTENT, **more: object) -> bytes:
    artifact = {"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **more}
    return answers({"object": "list", "data": [artifact], "has_more": False})


def part_of(asked: Asked) -> bytes:
    """The answers of a service that supports ranges."""
    if "range" not in asked.headers:
        return answers(CONTENT, ETag=f'"{SHA}"')
    place = int(asked.headers["range"].removeprefix("bytes=").removesuffix("-"))
    return answers(CONTENT[place:], 206, Content_Range=f"bytes {place}-{len(CONTENT) - 1}/{len(CONTENT)}")


def cut_after(size: int) -> Step:
    return lambda asked: cut(part_of(asked), size)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(_: Blocking, seconds: float) -> None:
        pass

    monkeypatch.setattr(Blocking, "sleep", sleep)


def fetch(folder: Path, *steps: Step, retries: int = 5) -> tuple[list[Path], list[Asked]]:
    with faulty(*steps) as server, Client(server.url, retries=retries) as client:
        found = client.job("job_1", fetch=False).download(folder)
    return found, server.asked


def test_a_broken_connection_goes_on_where_it_broke(tmp_path: Path):
    [path], asked = fetch(tmp_path / "out", listed(), cut_after(1000), CUT, cut_after(500), part_of)
    assert path == tmp_path / "out/model.bin"
    assert path.read_bytes() == CONTENT
    assert [one.headers.get("range") for one in asked[1:]] == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]
    assert asked[2].headers["if-range"] == f'"{SHA}"'
    assert list(path.parent.iterdir()) == [path]


def test_a_service_without_a_free_place_is_asked_again_and_the_download_resumes(tmp_path: Path):
    full = problem(503, "too_many_transfers", Retry_After="0")
    [path], asked = fetch(tmp_path, listed(), full, cut_after(1000), full, part_of)
    assert path.read_bytes() == CONTENT
    assert [one.headers.get("range") for one in asked[1:]] == [None, None, "bytes=1000-", "bytes=1000-"]


def test_progress_on_each_try_is_no_failure(tmp_path: Path):
    """However often the connection breaks, as long as bytes came."""
    [path], asked = fetch(tmp_path, listed(), *[cut_after(500)] * 20, part_of, retries=1)
    assert path.read_bytes() == CONTENT
    assert len(asked) == 22


def test_a_service_without_ranges_sends_all_again(tmp_path: Path):
    whole = answers(CONTENT)
    [path], _ = fetch(tmp_path, listed(), cut(whole, 4000), cut(whole, 100), whole)
    assert path.read_bytes() == CONTENT


def test_an_empty_file_is_a_file(tmp_path: Path):
    [path], _ = fetch(tmp_path, listed(content=b""), answers(b""))
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("steps", "error", "words"),
    [
        ((answers(CONTENT[:-1] + b"x"),), BadAnswer, "do not have the listed sha256"),
        (
            (cut_after(1000), answers(b"x" * 5000, 206, Content_Range="bytes 0-4999/10240")),
            BadAnswer,
            "got other bytes",
        ),
        ((cut_after(1000), problem(416, "range_not_satisfiable")), BadAnswer, "shorter than the service lists it"),
        ((cut_after(1000), CUT), Unreachable, "cannot reach"),
        ((problem(404, "not_found"),), NotFound, "no"),
    ],
)
def test_what_does_not_arrive_whole_leaves_nothing(tmp_path: Path, steps, error, words):
    (tmp_path / "model.bin").write_bytes(b"what was there before")
    with pytest.raises(error, match=words):
        fetch(tmp_path, listed(), *steps, retries=2)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what was there before"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", ".hidden", "..", "a/b", ""])
def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path: Path, name):
    with pytest.raises(BadAnswer, match="not a plain file name"):
        fetch(tmp_path / "out", listed(name), answers(CONTENT))
    assert list(tmp_path.rglob("*")) == []


def test_names_choose_among_the_files_and_unknown_ones_are_named(api, tmp_path: Path):
    job_id = api.submit()
    api.finish(api.start(), files={"metrics.csv": b"step\n", "spec.json": b"{}"})
    job = api.client.job(job_id)
    assert [path.name for path in job.download(tmp_path / "all")] == ["metrics.csv", "spec.json"]
    assert [path.read_bytes() for path in job.download(tmp_path / "one", ["spec.json"])] == [b"{}"]
    assert [path.name for path in job.download(tmp_path / "one", "metrics.csv")] == ["metrics.csv"]
    assert job.download(tmp_path / "none", []) == []
    with pytest.raises(NotFound, match=r"has no file spec\.yaml; its files: metrics\.csv, spec\.json"):
        job.download(tmp_path, ["spec.yaml"])


# --- one zip ----------------------------------------------------------------------------------------------------------


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"job_1/{name}", content)
    return out.getvalue()


def fetch_zip(path: Path, *steps: Step) -> Path:
    with faulty(*steps) as server, Client(server.url, retries=2) as client:
        return client.job("job_1", fetch=False).download_zip(path)


def test_a_zip_that_breaks_is_begun_again(tmp_path: Path):
    whole = answers(zipped(model=CONTENT))
    path = fetch_zip(tmp_path / "all.zip", listed("model"), cut(whole, 3000), CUT, whole)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("job_1/model") == CONTENT


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (zipped(model=b"other"), "does not hold the files"),
        (zipped(), "does not hold"),
        (b"hello", "not a readable zip"),
    ],
)
def test_a_zip_of_other_files_is_not_kept(tmp_path: Path, body, words):
    with pytest.raises(BadAnswer, match=words):
        fetch_zip(tmp_path / "all.zip", listed("model"), answers(body))
    assert list(tmp_path.iterdir()) == []
