"""`gradq datasets` against the real API: what it lists, uploads and deletes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.images import folders, idx, npz, pixels, small, zipped

from gradq.client.problems import ApiError
from gradq.commands import datasets


def test_what_is_built_in_is_listed_with_what_a_job_calls_it(gradq):
    result = gradq("datasets")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["id", "name", "shape", "classes", "train", "test", "here"]
    assert lines[1].split() == ["digits", "digits", "1x8x8", "10", "1617", "180", "yes"]
    assert [line.split()[0] for line in lines[1:]] == ["digits", "mnist", "fashion_mnist", "kmnist", "cifar10"]
    listed = json.loads(gradq("datasets", "--json").stdout)
    assert [row["id"] for row in listed["data"]] == [line.split()[0] for line in lines[1:]]


def test_a_file_goes_up_and_a_job_can_name_it(gradq, tmp_path: Path):
    file = tmp_path / "pets.zip"
    file.write_bytes(zipped(folders(12)))
    result = gradq("datasets", "add", str(file), "--size", "8", "--test-fraction", "0.25", "--seed", "3")
    assert result.exit_code == 0, result.output
    dataset_id, *rest = result.stdout.split()
    assert rest == ["pets", "1x8x8", "2", "classes", "18", "train", "6", "test"]
    assert gradq("datasets").stdout.splitlines()[-1].startswith(dataset_id)
    job = json.loads(gradq("submit", "--dataset", dataset_id, "--json").stdout)
    assert job["spec"]["dataset"] == dataset_id


def test_what_should_be_checked_is_said_and_white_can_be_declared(gradq, tmp_path: Path):
    file = tmp_path / "digits.npz"
    file.write_bytes(npz(**small(x=pixels(40, 6, 6) // 16)))
    result = gradq("datasets", "add", str(file))
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: white is taken to be 15, the highest pixel")
    result = gradq("datasets", "add", str(file), "--white", "16", "--json")
    assert (result.stderr, json.loads(result.stdout)["white"]) == ("", 16)


def test_an_idx_pair_goes_up_with_its_labels_and_a_name(gradq, tmp_path: Path):
    images, labels = tmp_path / "images.gz", tmp_path / "labels"
    images.write_bytes(idx(pixels(20, 5, 5), packed=True))
    labels.write_bytes(idx((np.arange(20) % 2).astype(np.uint8)))
    options = ("--labels", str(labels), "--test-images", str(images), "--test-labels", str(labels), "--name", "mine")
    dataset = json.loads(gradq("datasets", "add", str(images), *options, "--json").stdout)
    assert (dataset["name"], dataset["options"]["format"], dataset["test_examples"]) == ("mine", "idx", 20)


def test_a_deleted_one_is_gone_and_says_what_it_freed(gradq, api, tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(npz(**small()))
    dataset = json.loads(gradq("datasets", "add", str(tmp_path / "a.npz"), "--json").stdout)
    api.submit(dataset=dataset["id"])
    result = gradq("datasets", "rm", dataset["id"])
    assert (result.exit_code, "needed by job_" in result.stderr) == (1, True)
    api.finish(api.start())
    result = gradq("datasets", "rm", dataset["id"])
    assert result.exit_code == 0
    assert result.stdout == f"{dataset['id']}  deleted, {dataset['size_bytes'] / 1000:.1f} kB freed\n"
    with pytest.raises(ApiError) as error:
        api.client.dataset(dataset["id"])
    assert error.value.status == 404


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"hello", (), "neither a .npz nor a zip"),
        (npz(**small()), ("--size", "8"), "size: applies to a zip of folders only"),
        (npz(**small()), ("--test-fraction", "2"), "test_fraction: must be less than 1, got"),
        (None, (), "cannot read"),
    ],
)
def test_what_is_refused_exits_2_with_the_reason(gradq, tmp_path: Path, content, options, words):
    file = tmp_path / "a.npz"
    if content is not None:
        file.write_bytes(content)
    result = gradq("datasets", "add", str(file), *options)
    assert result.exit_code == 2
    assert words in result.stderr
    if options:
        assert "gradq datasets add --help" in result.stderr


def test_in_a_terminal_a_bar_follows_the_upload(gradq, monkeypatch, tmp_path: Path):
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=100)
    monkeypatch.setattr(datasets, "PlainConsole", lambda **_: terminal)
    (tmp_path / "pets.npz").write_bytes(npz(**small()))
    result = gradq("datasets", "add", str(tmp_path / "pets.npz"))
    assert result.exit_code == 0, result.output
    assert "pets.npz" in drawn.getvalue()


def test_what_is_not_there_is_said_for_each(gradq):
    result = gradq("datasets", "rm", "ds_0", "digits")
    assert result.exit_code == 1
    assert "ds_0: dataset ds_0 not found" in result.stderr
    assert "`gradq datasets` lists the datasets" in result.stderr
    assert "digits: digits is built in" in result.stderr


def test_an_option_before_the_verb_is_not_lost(gradq):
    result = gradq("datasets", "--url", "http://127.0.0.1:1", "rm", "ds_0")
    assert result.exit_code == 2
    assert "gradq datasets rm --url" in result.stderr


def test_a_folder_is_to_be_zipped_first(gradq, tmp_path: Path):
    result = gradq("datasets", "add", str(tmp_path))
    assert result.exit_code == 2
    assert "zip its class folders" in " ".join(result.stderr.replace("│", " ").split())
