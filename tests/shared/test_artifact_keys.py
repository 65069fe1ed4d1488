"""No key points outside the artifact store: any text either names a file below its root, or is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.artifacts import ArtifactStore, artifact_key, checked, checkpoint_key, dataset_folder

SIGNS = st.sampled_from(
    ["..", ".", "/", "\\", "a", "job_1", "\x00", "%2e", "%2f", "~", "C:", "*", "é", "‥", "／", "\n", " "]
)
KEYS = st.one_of(st.lists(SIGNS, max_size=6).map("".join), st.text(max_size=20))
SECRET = b"what lies beside the store"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtifactStore]:
    """A store with one file, in a folder with a secret next to it and one above."""
    folder = tmp_path_factory.mktemp("around")
    (folder / "secret").write_bytes(SECRET)
    (folder / "beside").mkdir()
    (folder / "beside" / "secret").write_bytes(SECRET)
    store = ArtifactStore(f"file://{folder / 'artifacts'}")
    store.put("job_1/1/a", folder / "secret")
    yield store
    assert (folder / "secret").read_bytes() == SECRET
    assert sorted(path.name for path in folder.iterdir()) == ["artifacts", "beside", "secret"]


@given(key=KEYS)
@example(key="../secret")
@example(key="/etc/passwd")
@example(key="job_1/../../secret")
@example(key="..\\secret")
@example(key="a\x00b")
@example(key="~/secret")
@example(key="C:/secret")
@example(key="job_*")
@example(key="job_1//a")
@example(key="./job_1")
@example(key="\udcff")
def test_a_key_is_below_the_root_or_is_refused(store: ArtifactStore, key: str) -> None:
    try:
        path = store.local_path(key)
    except ValueError as error:
        assert "not a valid key of the artifact store" in str(error)
        return
    assert path is not None
    root = Path(store.root)
    assert path == root if not key else Path(os.path.normpath(path)).is_relative_to(root) and path != root
    assert os.path.normpath(path) == str(path)


@pytest.mark.parametrize("key", ["../secret", "job_1/../../beside", "/", "..", "*", "a\x00b", "..\\beside"])
def test_no_call_of_the_store_takes_a_key_that_leaves_it(store: ArtifactStore, tmp_path: Path, key: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"new")
    calls: list[Callable[[], object]] = [
        lambda: store.put(key, source),
        lambda: store.get(key, tmp_path / "got"),
        lambda: store.open(key),
        lambda: store.has(key),
        lambda: store.keys_of(key),
        lambda: store.remove(key),
        lambda: store.remove_folder(key),
        lambda: store.remove_folder(key),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="not a valid key of the artifact store"):
            call()
    assert store.has("job_1/1/a")


@given(name=KEYS)
def test_a_name_with_path_parts_makes_no_key_of_another_job(name: str) -> None:
    try:
        key = checked(artifact_key("job_1", 1, name))
    except ValueError:
        return
    assert key.startswith("job_1/1/")
    assert os.path.normpath(key).startswith("job_1/1/")


def test_the_keys_that_are_made_here_are_keys() -> None:
    for key in (artifact_key("job_1", 1, "model.pt"), checkpoint_key("job_1", 2, 7), dataset_folder("ds_1")):
        assert checked(key) == key
