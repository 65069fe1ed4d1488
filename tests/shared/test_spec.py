"""What a client may ask for: every default is echoed, every wrong field is named, and nothing else gets through."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import InvalidSpec
from shared.spec import MAX_SEED, NOT_BUILT_FIELDS, JobSpec

DEFAULTS = {
    "dataset": "digits",
    "architecture": {"type": "mlp", "hidden": [30], "activation": "relu"},
    "init": {"type": "pytorch"},
    "gradients": "autograd",
    "loss": {"type": "cross_entropy", "reduction": "mean"},
    "optimizer": {"type": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    "lr": 0.1,
    "epochs": 5,
    "batch_size": 64,
    "validation": {"fraction": 0.1},
    "device": "auto",
    "deterministic": True,
    "checkpoint": {"every_seconds": 30, "every_epochs": None, "keep_last": 2, "keep_best": True},
    "max_seconds": 86_400,
    "max_attempts": 3,
    "priority": 50,
    "labels": {},
}

SPECS: list[dict[str, Any]] = [
    {},
    {"architecture": "linear", "optimizer": "basic", "validation": "test", "dataset": "mnist"},
    {"architecture": {"type": "mlp", "hidden": [128, 64], "activation": "gelu"}, "optimizer": "adam"},
    {"architecture": "cnn", "loss": {"type": "clamped_cross_entropy", "reduction": "sum", "clamp": 1e-7}},
    {"optimizer": {"type": "sgd", "momentum": 0.9, "nesterov": True}, "init": {"type": "normal", "std": 0.2}},
    {"optimizer": {"type": "adamw", "betas": [0.8, 0.9], "eps": 1e-6}, "init": "kaiming", "lr": 1},
    {"validation": {"fraction": 0.25}, "checkpoint": {"every_seconds": None, "every_epochs": 2, "keep_last": 1}},
    {"name": "Übung $1", "labels": {"team": "", "a/b": "größer"}, "seed": MAX_SEED, "priority": 0, "init": "xavier"},
]


def wrong(body: Any) -> dict[str, tuple[str, str]]:
    """pointer -> (code, detail) of every field that is refused."""
    with pytest.raises(InvalidSpec) as refused:
        JobSpec.parse(body)
    assert len({e.pointer for e in refused.value.errors}) == len(refused.value.errors)
    return {e.pointer: (e.code, e.detail) for e in refused.value.errors}


# --- what is filled in ------------------------------------------------------------------------------------------------


def test_an_empty_body_comes_back_with_every_default() -> None:
    echoed = JobSpec.parse({}).to_json()
    assert {name: value for name, value in echoed.items() if name not in ("name", "seed")} == DEFAULTS


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ({"architecture": "linear"}, {"type": "linear"}),
        (
            {"architecture": "cnn"},
            {"type": "cnn", "channels": [16, 32], "kernel": 3, "hidden": [64], "activation": "relu"},
        ),
        ({"init": "normal"}, {"type": "normal", "std": 1.0}),
        ({"loss": "clamped_cross_entropy"}, {"type": "clamped_cross_entropy", "reduction": "mean", "clamp": 1e-10}),
        ({"optimizer": "adam"}, {"type": "adam", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}),
        ({"optimizer": "adamw"}, {"type": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}),
    ],
    ids=str,
)
def test_a_name_alone_is_short_for_an_object_with_its_defaults(short: dict[str, Any], whole: dict[str, Any]) -> None:
    (field,) = short
    assert JobSpec.parse(short).to_json()[field] == whole
    assert JobSpec.parse({field: {"type": short[field]}}).to_json()[field] == whole


def test_a_seed_is_drawn_anew_for_each_job_and_every_json_reader_keeps_it_exact() -> None:
    seeds = [JobSpec.parse({}).seed for _ in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed <= 2**53 - 1 for seed in seeds)
    assert max(seeds) > 2**50  # from the whole range
    assert MAX_SEED == 2**53 - 1


def test_a_name_is_made_where_none_is_given_and_kept_where_one_is() -> None:
    made = JobSpec.parse({"seed": 0xABCD, "gradients": "manual"}).name
    assert made == "digits-mlp-manual-abcd"
    assert JobSpec.parse({"name": "mine"}).name == "mine"


@pytest.mark.parametrize("body", SPECS, ids=lambda body: json.dumps(body)[:60])
def test_a_spec_survives_the_way_through_json(body: dict[str, Any]) -> None:
    spec = JobSpec.parse(body)
    assert JobSpec.parse(json.loads(json.dumps(spec.to_json()))) == spec
    assert JobSpec.model_validate(spec.to_json()) == spec


# --- what is refused --------------------------------------------------------------------------------------------------


def test_all_wrong_fields_are_named_at_once() -> None:
    body = {
        "lr": -1,
        "epochs": 0,
        "optimiser": "sgd",
        "gradients": "both",
        "architecture": {"type": "mlp", "hidden": [30, 0, "x"]},
        "optimizer": {"type": "adam", "betas": [0.9, 1.0]},
        "validation": {"fraction": 2},
        "checkpoint": {"keep_last": 0},
        "labels": {"a/b~c": 7},
    }
    found = wrong(body)
    assert set(found) == {
        "/lr",
        "/epochs",
        "/optimiser",
        "/gradients",
        "/architecture/hidden/1",
        "/architecture/hidden/2",
        "/optimizer/betas/1",
        "/validation/fraction",
        "/checkpoint/keep_last",
        "/labels/a~1b~0c",
    }
    assert found["/lr"] == ("greater_than", "must be greater than 0, got -1")
    assert found["/optimiser"] == ("extra_forbidden", "unknown field; did you mean 'optimizer'?")


@pytest.mark.parametrize(
    ("body", "pointer", "guess"),
    [
        ({"batchsize": 1}, "/batchsize", "batch_size"),
        ({"architecture": {"type": "mlp", "hiden": [3]}}, "/architecture/hiden", "hidden"),
        ({"optimizer": {"type": "sgd", "momentun": 0.9}}, "/optimizer/momentun", "momentum"),
        ({"checkpoint": {"every_epoch": 1}}, "/checkpoint/every_epoch", "every_epochs"),
        ({"validation": {"fracton": 0.1}}, "/validation/fracton", "fraction"),
        ({"architecture": "mpl"}, "/architecture", "mlp"),
        ({"optimizer": {"type": "adamv"}}, "/optimizer", "adam"),
        ({"loss": "crossentropy"}, "/loss", "cross_entropy"),
    ],
)
def test_a_misspelt_word_brings_the_nearest_right_one(body: dict[str, Any], pointer: str, guess: str) -> None:
    assert f"did you mean '{guess}" in wrong(body)[pointer][1]


@pytest.mark.parametrize(
    "body",
    [{"init": {"type": "pytorch", "std": 1.0}}, {"optimizer": {"type": "basic", "momentum": 0.9}}],
    ids=json.dumps,
)
def test_a_field_of_another_type_is_not_proposed_to_itself(body: dict[str, Any]) -> None:
    (field,) = body
    (_, name) = body[field]
    assert f"did you mean '{name}'" not in wrong(body)[f"/{field}/{name}"][1]


@pytest.mark.parametrize("field", NOT_BUILT_FIELDS)
def test_a_field_that_this_version_does_not_build_is_refused_by_name(field: str) -> None:
    code, detail = wrong({field: "constant"})[f"/{field}"]
    assert code == "not_built"
    assert f"'{field}'" in detail


def test_every_field_of_the_contract_is_either_built_or_refused_by_name() -> None:
    contract = {*DEFAULTS, "name", "seed", "schedule", "augment", "precision", "devices", "early_stopping", "preset"}
    assert contract <= {*JobSpec.model_fields, *NOT_BUILT_FIELDS}
    assert not set(JobSpec.model_fields) & set(NOT_BUILT_FIELDS)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"dataset": "fashion_mnist"}, "fashion_mnist"),
        ({"dataset": "kmnist"}, "kmnist"),
        ({"dataset": "cifar10"}, "cifar10"),
        ({"architecture": "torchvision"}, "torchvision"),
        ({"architecture": {"type": "torchvision", "name": "resnet18"}}, "torchvision"),
    ],
)
def test_a_value_that_this_version_does_not_build_is_refused_by_name(body: dict[str, Any], named: str) -> None:
    (field,) = body
    code, detail = wrong(body)[f"/{field}"]
    assert code == "not_built"
    assert f"'{named}'" in detail


@pytest.mark.parametrize("field", ["lr", "max_seconds"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.1", True, None, [1], 0, -1, 10**400], ids=repr)
def test_a_number_is_a_finite_positive_number_and_nothing_that_looks_like_one(field: str, value: Any) -> None:
    assert set(wrong({field: value})) == {f"/{field}"}


@pytest.mark.parametrize("field", ["epochs", "batch_size", "seed", "max_attempts", "priority"])
@pytest.mark.parametrize("value", [True, False, "1", 1.0, 1.5, math.nan, None, -1, 2**53], ids=repr)
def test_a_count_is_an_integer_in_its_range_and_nothing_that_looks_like_one(field: str, value: Any) -> None:
    assert set(wrong({field: value})) == {f"/{field}"}


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ({"epochs": 10_000}, {"epochs": 10_001}),
        ({"batch_size": 65_536}, {"batch_size": 65_537}),
        ({"priority": 100}, {"priority": 101}),
        ({"priority": 0}, {"priority": -1}),
        ({"max_attempts": 20}, {"max_attempts": 21}),
        ({"seed": 2**53 - 1}, {"seed": 2**53}),
        ({"name": "n" * 128}, {"name": "n" * 129}),
        ({"name": "n"}, {"name": ""}),
        ({"labels": {str(i): "" for i in range(16)}}, {"labels": {str(i): "" for i in range(17)}}),
        ({"labels": {"k" * 64: "v" * 512}}, {"labels": {"k" * 65: ""}}),
        ({"labels": {"k": "v" * 512}}, {"labels": {"k": "v" * 513}}),
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_a_range_ends_where_the_contract_says(inside: dict[str, Any], outside: dict[str, Any]) -> None:
    JobSpec.parse(inside)
    (pointer,) = wrong(outside)
    assert pointer.startswith("/" + next(iter(outside)))


@pytest.mark.parametrize("text", ["\0", "a\0b", "line\nline", "\x1b[31m", "\x7f", "\ud800"], ids=ascii)
def test_text_that_a_database_or_a_terminal_chokes_on_is_refused(text: str) -> None:
    assert set(wrong({"name": text})) == {"/name"}
    assert set(wrong({"labels": {"key": text}})) == {"/labels/key"}
    assert len(wrong({"labels": {text: "value"}})) == 1


@pytest.mark.parametrize("body", [None, [], "mlp", 3, True, [{"lr": 0.1}]], ids=json.dumps)
def test_a_body_that_is_no_object_is_refused_as_a_whole(body: Any) -> None:
    assert wrong(body)[""][0] == "object_type"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"optimizer": {"type": "sgd", "nesterov": True}}, "/optimizer/nesterov"),
        ({"architecture": {"type": "cnn", "channels": [4, 4, 4, 4]}}, "/architecture/channels"),
        ({"dataset": "mnist", "architecture": {"type": "cnn", "channels": [4] * 5}}, "/architecture/channels"),
        ({"validation": {"fraction": 0.0001}}, "/validation/fraction"),
        ({"validation": {"fraction": 0.9999}}, "/validation/fraction"),
    ],
    ids=json.dumps,
)
def test_what_is_right_alone_and_wrong_together_is_refused(body: dict[str, Any], pointer: str) -> None:
    assert set(wrong(body)) == {pointer}


def test_the_deepest_net_that_an_image_allows_is_taken() -> None:
    JobSpec.parse({"architecture": {"type": "cnn", "channels": [4, 4, 4]}})  # 8 pixels: 4, 2, 1
    JobSpec.parse({"dataset": "mnist", "architecture": {"type": "cnn", "channels": [4] * 4}})


@pytest.mark.parametrize("fraction", [1 / 1617, 1616 / 1617])
def test_one_example_is_enough_to_train_on_or_to_validate_with(fraction: float) -> None:
    JobSpec.parse({"validation": {"fraction": fraction}})


def test_a_detail_stays_short_however_long_the_value() -> None:
    ((_, detail),) = wrong({"name": ["x" * 100_000]}).values()
    assert len(detail) < 200


# --- whatever comes ---------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
words = st.sampled_from(["linear", "mlp", "cnn", "torchvision", "sgd", "adam", "test", "mnist", "cifar10", "auto", ""])
inner_keys = st.sampled_from(["type", "hidden", "channels", "momentum", "betas", "fraction", "std"]) | st.text(
    max_size=4
)
values = st.recursive(
    leaves | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(inner_keys, inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([*JobSpec.model_fields, *NOT_BUILT_FIELDS]) | st.text(st.characters(), max_size=8)


@given(st.dictionaries(keys, values, max_size=5) | values)
@example({"\ud800": 1})
@example({"architecture": {"type": {"type": "mlp"}}, "dataset": {}})
@example({"labels": {"": "", "[key]": 1}})
def test_any_json_is_a_spec_or_a_list_of_wrong_fields(body: Any) -> None:
    try:
        spec = JobSpec.parse(body)
    except InvalidSpec as refused:
        assert refused.errors
        json.dumps([error.to_json() for error in refused.errors])
        assert all(error.pointer == "" or error.pointer.startswith("/") for error in refused.errors)
    else:
        assert JobSpec.parse(json.loads(json.dumps(spec.to_json()))) == spec
