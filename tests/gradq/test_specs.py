"""Specs from YAML, JSON and `--set`: precedence, paths with dots, and positions of errors in files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer

from gradq import InvalidSpec
from gradq.client.spec_json import as_json
from gradq.commands.specs import assignments, merged, read_specs
from gradq.commands.yaml_specs import documents

TWO = """
architecture: {type: mlp, hidden: [8, 4]}   # a comment
lr: 1e-2
epochs: 2
name: 2026-11-24
labels: {answer: "no"}
---
epochs: 3
"""


def written(tmp_path: Path, text: str, name: str = "spec.yaml") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_yaml_is_read_as_people_mean_it(tmp_path: Path):
    one, two = read_specs(written(tmp_path, TWO))
    assert one == {
        "architecture": {"type": "mlp", "hidden": [8, 4]},
        **{"lr": 0.01, "epochs": 2, "name": "2026-11-24", "labels": {"answer": "no"}},
    }
    assert two == {"epochs": 3}
    words = "a: yes\nb: true\nc: -1.5E3\nd: .5\ne: 12\nf: null\ng: 1.5\nh: 2e5\ni: v1.2\n"
    [found] = read_specs(written(tmp_path, words))
    assert found == {"a": "yes", "b": True, "c": -1500.0, "d": 0.5, "e": 12, "f": None, "g": 1.5, "h": 2e5, "i": "v1.2"}


def test_json_with_tabs_is_json_and_braces_may_be_yaml(tmp_path: Path):
    assert read_specs(written(tmp_path, '{\n\t"lr": 0.1\n}')) == [{"lr": 0.1}]
    assert read_specs(written(tmp_path, "{lr: 0.1}")) == [{"lr": 0.1}]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("spec.yaml", "lr: 0.1\nepochs: [1, 2\nseed: 3\n", "spec.yaml, line 3, column 5: "),
        ("spec.json", '{"lr": 0.1,\n "epochs": }', "spec.json, line 2, column 12: "),
        ("spec.yaml", "a: b: c", "spec.yaml, line 1, column 5: mapping values are not allowed here"),
        ("spec.yaml", "a: !!python/object/apply:os.getcwd []", "spec.yaml, line 1, column 4: "),
        ("spec.yaml", "a: 1\nb: \x07", "spec.yaml, line 2, column 4: "),
        ("spec.yaml", "lr:\t0.1", "spec.yaml, line 1, column 4: a tab before or after a value; use spaces"),
        ("spec.yaml", "labels:\n\ta: b", "spec.yaml, line 2, column 1: a tab before or after a value; use spaces"),
        ("spec.yaml", "seed: [\t1]", "spec.yaml, line 1, column 8: a tab before or after a value; use spaces"),
        ("spec.yaml", "lr: 0.1\t", "spec.yaml, line 1, column 8: a tab before or after a value; use spaces"),
        ("spec.yaml", "-\ta", "spec.yaml, line 1, column 2: a tab before or after a value; use spaces"),
        ("spec.yaml", "- 1\n", "must hold the fields of a job, got a list"),
        ("spec.yaml", "", "a job, got nothing"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_line_and_column(gradq, tmp_path: Path, name, text, words):
    result = gradq("submit", "-f", written(tmp_path, text, name), "--json")
    assert result.exit_code == 2
    problem = json.loads(result.stderr)
    assert words in problem["detail"]
    assert "--file" in problem["detail"]


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("spec.json", '{"lr":0.1,"epochs":1,"lr":0.5}', 'line 1, column 22: the key "lr" is given twice'),
        ("spec.json", '{\n "labels": {"a": "1",\n  "a": "2"}}', 'line 3, column 3: the key "a" is given twice'),
        ("spec", '{"augment": [{"type": "flip", "type": "crop"}]}', 'column 31: the key "type" is given twice'),
        ("spec.json", '{"lr": 0.1, "\\u006cr": 0.5}', "column 13: the key"),
        ("spec.json", '{"a": {"x": 1}, "b": [{"x": 1}, {"x": 2}], "a": {}}', 'column 44: the key "a" is given twice'),
        ("spec.json", '{"name": "\\"lr\\": {", "lr": 1, "lr": 2}', 'column 32: the key "lr" is given twice'),
        ("spec.yaml", "lr: 0.1\nepochs: 1\nlr: 0.5\n", 'line 3, column 1: the key "lr" is given twice'),
        ("spec.yaml", "labels:\n  a: x\n  'a': y\n", 'line 3, column 3: the key "a" is given twice'),
        ("spec.yaml", "labels: {1: x, '1': y}\n", 'line 1, column 16: the key "1" is given twice'),
        ("spec.yaml", "epochs: 1\n---\nlr: 1\nlr: 1\n", 'line 4, column 1: the key "lr" is given twice'),
        ("spec.yaml", "augment: [{type: flip, type: crop}]\n", 'column 24: the key "type" is given twice'),
        ("spec", "{lr: 0.1, lr: 0.5}", 'line 1, column 11: the key "lr" is given twice'),
    ],
)
def test_a_key_given_twice_is_refused_with_line_and_column(gradq, api, tmp_path: Path, name, text, place):
    """As POST /v1/jobs refuses it: nothing says which one counts."""
    result = gradq("submit", "-f", written(tmp_path, text, name))
    assert result.exit_code == 2
    assert f"{name}, " in result.stderr.replace("\n", " ")
    assert place in " ".join(result.stderr.split())
    assert api.client.page()["data"] == []


def test_the_same_key_in_different_objects_is_no_repetition(tmp_path: Path):
    twice = {"optimizer": {"type": "sgd"}, "loss": {"type": "cross_entropy"}, "augment": [{"type": "flip"}] * 2}
    for name in ("spec.json", "spec.yaml"):
        assert read_specs(written(tmp_path, json.dumps(twice), name)) == [twice]
    defaults = "base: &base {lr: 0.1, epochs: 1}\nspec:\n  <<: *base\n  lr: 0.5\n"
    assert read_specs(written(tmp_path, defaults))[0]["spec"] == {"lr": 0.5, "epochs": 1}


def test_merges_of_merges_do_not_double_with_each_line():
    lines = [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: {i}}}" for i in range(1, 40)]
    (found,) = documents("\n".join(["a0: &a0 {lr: 0.1}", *lines]))
    assert found["a39"] == {"lr": 0.1, **{f"k{i}": i for i in range(1, 40)}}


def test_a_merge_gives_way_to_a_key_beside_it_and_to_an_earlier_merge():
    (found,) = documents("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], z: 3}")
    assert found["c"] == {"x": 1, "y": 1, "z": 3}


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("spec.json", '{"lr": 1,\n "name": "a\\ud83d"}', "line 2, column 12: half a surrogate pair"),
        ("spec.json", '{"name": "\\ud83d\\ude00\\udc00"}', "column 23: half a surrogate pair"),
        ("spec.yaml", 'lr: 1\nname: "a\\ud83d"\n', "line 2, column 7: half a surrogate pair"),
        ("spec.yaml", 'labels: {"\\ude00": x}\n', "column 10: half a surrogate pair"),
        ("spec.yaml", f"seed: 0x{'f' * 5000}\n", "line 1, column 7: a number of 5002 digits"),
        ("spec.yaml", f"seed: {'9' * 5000}\n", "line 1, column 7: a number of 5000 digits"),
        (
            "spec.yaml",
            "a: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 9)),
            "more than 100000 values",
        ),
    ],
)
def test_values_that_no_request_can_hold_are_refused_with_their_place(gradq, tmp_path: Path, name, text, place):
    result = gradq("submit", "-f", written(tmp_path, text, name))
    assert result.exit_code == 2
    assert place in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", '{"name":"\\ud83d\\ude00"}'), ("a.yaml", 'name: "\\ud83d\\ude00"')]
)
def test_a_surrogate_pair_is_one_character(tmp_path: Path, name, text):
    assert read_specs(written(tmp_path, text, name)) == [{"name": "\U0001f600"}]


@pytest.mark.parametrize(
    "arguments",
    [
        *(("show", "\udcff"), ("wait", "\udcff"), ("logs", "\udcff"), ("ps", "--name", "\udcff")),
        *(("ps", "--label", "a=\udcff"), ("submit", "--name", "\udcff"), ("submit", "--set", "name=\udcff")),
        *(("update", "job_1", "--name", "\udcff"), ("datasets", "rm", "\udcff")),
    ],
)
def test_an_argument_that_is_not_text_is_named(gradq, arguments):
    result = gradq(*arguments)
    assert result.exit_code == 2
    assert "\\udcff' is not text in the encoding" in " ".join(result.stderr.split())


def test_a_file_may_have_a_name_that_is_not_text(gradq, tmp_path: Path):
    result = gradq("submit", "--dry-run", "-f", written(tmp_path, "lr: 0.5", "\udcff.yaml"))
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "\ud83d"}, "is not Unicode text"),
        ({"labels": {"\ud83d": "x"}}, "cannot be the name of a field"),
        ({"seed": 10**5000}, "more than 1000 digits"),
    ],
)
def test_the_client_refuses_them_too(fields, why):
    with pytest.raises(InvalidSpec) as refused:
        as_json(fields)
    assert why in refused.value.errors[0]["detail"]


@pytest.mark.parametrize(
    "option",
    [
        ("--set", 'loss={"type":"cross_entropy","type":"clamped_cross_entropy"}'),
        ("--architecture", '{"type":"mlp","hidden":[1],"hidden":[2]}'),
        ("--optimizer", '{"type":"sgd","type":"adam"}'),
    ],
)
def test_an_option_with_a_key_given_twice_is_refused_too(gradq, option):
    result = gradq("submit", *option)
    assert result.exit_code == 2
    assert "is given twice" in result.stderr


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path):
    numbers = "a: 0123\nb: 0o17\nc: 0x1F\nd: -012\ne: +7\nf: 1e3\ng: 08\nh: .inf\ni: 0.10\n"
    text = "k: 1_0\nl: 12:30:45\nm: 0b11\nn: 1_0.5\no: 190:20:30.15\np: '1'\nq: =\nr: 1e\ns: 0o8\nt: 0x\n"
    words = "u: TRUE\nv: False\nw: on\nx: NO\ny: ~\nz: Null\n"
    [found] = read_specs(written(tmp_path, numbers + text + words))
    assert [found[name] for name in "abcdefghi"] == [123, 15, 31, -12, 7, 1000.0, 8, float("inf"), 0.1]
    assert [type(found[name]) for name in "abcdefghi"] == [*[int] * 5, float, int, float, float]
    texts = ["1_0", "12:30:45", "0b11", "1_0.5", "190:20:30.15", "1", "=", "1e", "0o8", "0x"]
    assert [found[name] for name in "klmnopqrst"] == texts
    assert [found[name] for name in "uvwxyz"] == [True, False, "on", "NO", None, None]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("spec.yaml", "lr: 1\nepochs: !!int 1_0\n", "line 2, column 9: 1_0 is not an integer"),
        ("spec.yaml", f"lr: 1\nepochs: {'9' * 5000}\n", "line 2, column 9: "),
        ("spec.json", '{"epochs": ' + "9" * 5000 + "}", "spec.json, line 1, column 1: "),
    ],
)
def test_a_number_that_cannot_be_read_is_no_traceback(gradq, tmp_path: Path, name, text, words):
    result = gradq("submit", "-f", written(tmp_path, text, name))
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path):
    for name, text in (("spec.json", '{"lr": 0.1}'), ("spec.yaml", "lr: 0.1\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read_specs(str(tmp_path / name)) == [{"lr": 0.1}]


def test_a_file_that_is_no_text_is_no_traceback(gradq, tmp_path: Path):
    (tmp_path / "spec.yaml").write_bytes(b"\xff\xfe\x00")
    assert "it is not UTF-8 text" in gradq("submit", "-f", str(tmp_path / "spec.yaml")).stderr


@pytest.mark.parametrize(
    ("file", "sets", "options", "spec"),
    [
        ({"lr": 1}, ["lr=0.5"], {}, {"lr": 0.5}),
        ({"lr": 1}, ["lr=0.5"], {"lr": 2}, {"lr": 2}),
        ({"architecture": {"type": "cnn", "channels": [1]}}, ["architecture.channels=[8]"], {}, None),
        ({}, ["architecture.hidden=[64,32]"], {}, {"architecture": {"type": "mlp", "hidden": [64, 32]}}),
        (
            {},
            ["architecture.channels=[8]"],
            {"architecture": "cnn"},
            {"architecture": {"type": "cnn", "channels": [8]}},
        ),
        ({}, ["checkpoint.every_epochs=1"], {}, {"checkpoint": {"every_epochs": 1}}),
        ({}, ["optimizer.momentum=0.9"], {}, {"optimizer": {"type": "sgd", "momentum": 0.9}}),
        ({}, ["a.b.c=x", "a.b.d=1"], {}, {"a": {"b": {"c": "x", "d": 1}}}),
    ],
)
def test_later_sources_win_and_a_dot_reaches_into_what_they_gave(file, sets, options, spec):
    before = json.dumps(file)
    found = merged(file, assignments(sets), options)
    assert found == (spec or {"architecture": {"type": "cnn", "channels": [8]}})
    assert json.dumps(file) == before


def test_a_dot_changes_a_part_of_what_the_preset_has(gradq):
    options = ("--preset", "article/two-layer", "--set", "architecture.activation=tanh", "--json")
    job = json.loads(gradq("submit", *options).stdout)
    assert (
        job["spec"]["architecture"] | {"type": "mlp", "hidden": [30], "activation": "tanh"}
        == (job["spec"]["architecture"])
    )


def test_another_type_than_the_preset_s_starts_from_its_own_defaults(gradq):
    options = ("--preset", "article/two-layer", "--set", "optimizer.type=adam", "--json")
    job = json.loads(gradq("submit", *options).stdout)
    assert job["spec"]["optimizer"] == {"type": "adam", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}


@pytest.mark.parametrize("text", ["lr.x=1", "architecture..hidden=1", ".a=1"])
def test_a_path_that_leads_nowhere_is_refused(gradq, text):
    result = gradq("submit", "--lr", "0.1", "--set", text)
    assert result.exit_code == 2
    assert "--set" in result.stderr


def test_several_files_are_several_jobs_with_the_options_in_each(gradq, api, tmp_path: Path):
    files = (written(tmp_path, TWO), written(tmp_path, '{"epochs": 4}', "b.json"))
    result = gradq("submit", "-f", files[0], "-f", files[1], "--seed", "3", "--label", "team=vision", "--json")
    jobs = json.loads(result.stdout)["data"]
    assert [(job["spec"]["epochs"], job["spec"]["seed"]) for job in jobs] == [(2, 3), (3, 3), (4, 3)]
    assert [job["labels"] for job in jobs] == [{"answer": "no", "team": "vision"}, *[{"team": "vision"}] * 2]
    assert len(gradq("submit", "-f", files[0], "--dry-run").stdout.splitlines()) == 4


def test_of_several_jobs_none_is_queued_when_one_is_wrong(gradq, api, tmp_path: Path):
    right, wrong = written(tmp_path, "lr: 0.1"), written(tmp_path, "lr: -1\noptimiser: sgd", "wrong.yaml")
    result = gradq("submit", "-f", right, "-f", wrong)
    assert result.exit_code == 2
    assert f"{wrong}: 2 fields are wrong" in result.stderr
    assert "  optimiser: unknown field; did you mean 'optimizer'?" in result.stderr
    assert list(api.client.jobs()) == []
    assert gradq("submit", "-f", right, "-f", right, "--watch").exit_code == 2


def test_a_file_nested_beyond_reading_is_refused_by_name(tmp_path: Path):
    for name, text in (("deep.yaml", "a: " + "[" * 20_000), ("deep.json", '{"a": ' + "[" * 20_000)):
        with pytest.raises(typer.BadParameter, match=f"{name} is nested too deeply"):
            read_specs(written(tmp_path, text, name))


@pytest.mark.parametrize(
    ("text", "pointer", "detail"),
    [
        ("lr: .nan", "/lr", "must be a finite number, got nan"),
        ("optimizer: {type: sgd, momentum: -.inf}", "/optimizer/momentum", "must be a finite number, got -inf"),
        ("name: !!binary aGVsbG8=", "/name", "got a bytes"),
        ("augment: [!!set {a}]", "/augment/0", "got a set"),
        ("architecture: &x [*x]", "/architecture", "is nested too deeply"),
    ],
)
def test_what_json_cannot_say_is_named_before_anything_is_sent(tmp_path: Path, text: str, pointer: str, detail: str):
    [spec] = read_specs(written(tmp_path, text))
    with pytest.raises(InvalidSpec) as refused:
        as_json(spec)
    [wrong] = refused.value.errors
    assert wrong["pointer"] == pointer
    assert detail in wrong["detail"]


def test_numbers_and_arrays_of_numpy_are_numbers_and_lists():
    spec = {"epochs": np.int64(3), "lr": np.float32(0.5), "architecture": {"hidden": np.array([8, 4])}, "seed": (1,)}
    plain = {"epochs": 3, "lr": 0.5, "architecture": {"hidden": [8, 4]}, "seed": [1]}
    assert json.loads(json.dumps(as_json(spec))) == plain


@pytest.mark.parametrize("text", ['\ufeff{"lr": 0.5}', "\ufefflr: 0.5"])
def test_a_byte_order_mark_is_no_part_of_a_spec(gradq, tmp_path: Path, text):
    """Files and standard input; the service reads a body with one in the same way."""
    assert read_specs(written(tmp_path, text, "spec.json")) == [{"lr": 0.5}]
    result = gradq("submit", "--dry-run", "-f", "-", stdin=text)
    assert result.exit_code == 0, result.stderr


def test_with_json_the_fields_that_the_client_found_wrong_are_named(gradq, tmp_path: Path):
    text = "lr: .nan\nlabels: {a: .inf}\n"
    problem = json.loads(gradq("submit", "-f", written(tmp_path, text), "--json").stderr)
    assert (problem["code"], problem["status"]) == ("invalid_spec", 422)
    assert [wrong["pointer"] for wrong in problem["errors"]] == ["/lr", "/labels/a"]
