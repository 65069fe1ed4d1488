"""The job spec: every default is filled in, every wrong field is named, and nothing else is accepted."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.datasets.catalog import DatasetInfo
from shared.errors import InvalidSpec
from shared.spec.elsewhere import NAMES_BY_ANSWER, NAMES_BY_FIELD
from shared.spec.job_spec import KINDS, MAX_SEED, GradientCheckSpec, JobSpec, Mlp, WalkSpec, Work
from shared.spec.presets import PRESETS

DEFAULTS = {
    "dataset": "digits",
    "preset": None,
    "architecture": {"type": "mlp", "hidden": [30], "activation": "relu", "dropout": 0.0, "batch_norm": False},
    "init": {"type": "pytorch"},
    "init_from": None,
    "gradients": "autograd",
    "verify": None,
    "loss": {"type": "cross_entropy", "reduction": "mean"},
    "optimizer": {"type": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    "lr": 0.1,
    "schedule": {"type": "constant"},
    "epochs": 5,
    "batch_size": 64,
    "validation": {"fraction": 0.1},
    "augment": [],
    "precision": "fp32",
    "device": "auto",
    "devices": 1,
    "deterministic": True,
    "checkpoint": {"every_seconds": 30, "every_epochs": None, "keep_last": 2, "keep_best": True},
    "early_stopping": None,
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
    {"schedule": {"type": "cosine", "warmup_epochs": 0.5}, "augment": ["flip", {"type": "crop", "padding": 2}]},
    {"schedule": "onecycle", "early_stopping": {"metric": "val_accuracy"}, "precision": "bf16"},
    {"architecture": {"type": "cnn", "batch_norm": True, "dropout": 0.5}, "gradients": "manual", "verify": {}},
    {"architecture": {"type": "torchvision", "name": "resnet18"}, "init_from": {"job": "job_" + "0" * 32}},
    {"preset": "article/two-layer", "epochs": 3},
    {"name": "Übung $1", "labels": {"team": "", "a/b": "größer"}, "seed": MAX_SEED, "priority": 0, "init": "xavier"},
]


def wrong(body: Any, model: type[Work] = JobSpec) -> dict[str, tuple[str, str]]:
    """pointer -> (code, detail) of every refused field."""
    with pytest.raises(InvalidSpec) as refused:
        model.parse(body)
    assert len({e.pointer for e in refused.value.errors}) == len(refused.value.errors)
    return {e.pointer: (e.code, e.detail) for e in refused.value.errors}


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_an_empty_body_comes_back_with_every_default() -> None:
    echoed = JobSpec.parse({}).to_json()
    assert {name: value for name, value in echoed.items() if name not in ("name", "seed")} == DEFAULTS


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ({"architecture": "linear"}, {"type": "linear"}),
        (
            {"architecture": "cnn"},
            {
                **{"type": "cnn", "channels": [16, 32], "kernel": 3, "hidden": [64], "activation": "relu"},
                **{"dropout": 0.0, "batch_norm": False},
            },
        ),
        ({"init": "normal"}, {"type": "normal", "std": 1.0}),
        ({"loss": "clamped_cross_entropy"}, {"type": "clamped_cross_entropy", "reduction": "mean", "clamp": 1e-10}),
        ({"schedule": "cosine"}, {"type": "cosine", "warmup_epochs": 0.0}),
        ({"schedule": "step"}, {"type": "step", "every_epochs": 10, "gamma": 0.1}),
        ({"schedule": "onecycle"}, {"type": "onecycle"}),
        ({"optimizer": "adam"}, {"type": "adam", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}),
        ({"optimizer": "adamw"}, {"type": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}),
    ],
    ids=str,
)
def test_a_name_alone_is_short_for_an_object_with_its_defaults(short: dict[str, Any], whole: dict[str, Any]) -> None:
    (field,) = short
    assert JobSpec.parse(short).to_json()[field] == whole
    assert JobSpec.parse({field: {"type": short[field]}}).to_json()[field] == whole


def test_the_items_of_augment_have_short_forms_too() -> None:
    whole = [
        {"type": "shift", "pixels": 2},
        {"type": "rotate", "degrees": 10.0},
        {"type": "flip", "probability": 0.5},
        {"type": "crop", "padding": 4},
    ]
    short = [step["type"] for step in whole]
    assert JobSpec.parse({"augment": short}).to_json()["augment"] == whole
    assert JobSpec.parse({"augment": [{"type": name} for name in short]}).to_json()["augment"] == whole


def test_objects_without_a_type_have_defaults_too() -> None:
    spec = JobSpec.parse({"early_stopping": {}, "verify": {}, "gradients": "manual"}).to_json()
    assert spec["early_stopping"] == {"metric": "val_loss", "patience_epochs": 5, "min_delta": 0.0}
    assert spec["verify"] == {"every_steps": 100}


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
    long = JobSpec.parse({"seed": 0xABCD}).generated_name("d" * 128)
    assert len(long) == 128
    assert long.endswith("d-mlp-autograd-abcd")


@pytest.mark.parametrize("body", SPECS, ids=lambda body: json.dumps(body)[:60])
def test_a_spec_survives_the_way_through_json(body: dict[str, Any]) -> None:
    spec = JobSpec.parse(body)
    assert JobSpec.parse(json.loads(json.dumps(spec.to_json()))) == spec
    assert JobSpec.model_validate(spec.to_json()) == spec


# --- refusals ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("webhook", "gradq sends no notifications; wait with `gradq wait`"),
        ("callback_url", "gradq sends no notifications"),
        ("sweep", "submit one for each combination"),
        ("param_grid", "submit one for each combination"),
        ("cron", "submit it from cron or a systemd timer"),
        ("schedule_at", "submit it from cron or a systemd timer"),
        ("depends_on", "jobs do not wait for each other"),
        ("entrypoint", "jobs run no code of their own"),
        ("num_workers", "`gradq worker --slots … --threads …`"),
        ("owner", "the owner is that of the token"),
        ("grad_clip", "gradients are not clipped"),
        ("learning_rate", "use 'lr'"),
        ("Learning-Rate", "use 'lr'"),
        ("model", "use 'architecture'"),
        ("num_epochs", "use 'epochs'"),
        ("tags", "use 'labels'"),
        ("momentum", 'it belongs to \'optimizer\': {"type": "sgd", "momentum": …}'),
        ("hidden", 'it belongs to \'architecture\': {"type": "mlp", "hidden": …}'),
        ("keep_best", "it belongs to 'checkpoint': {\"keep_best\": …}"),
    ],
)
def test_a_field_that_is_known_elsewhere_is_told_what_there_is_instead(name: str, words: str) -> None:
    code, detail = wrong({name: 1})[f"/{name}"]
    assert code == "extra_forbidden"
    assert words in detail
    assert "did you mean" not in detail


def test_what_there_is_instead_is_there() -> None:
    for field, names in NAMES_BY_FIELD.items():
        assert field in JobSpec.model_fields
        assert not {*names.split()} & {*JobSpec.model_fields}
    for names in NAMES_BY_ANSWER.values():
        assert not {*names.split()} & {*JobSpec.model_fields, *WalkSpec.model_fields, *GradientCheckSpec.model_fields}
    with pytest.raises(InvalidSpec) as refused:
        GradientCheckSpec.parse({"num_epochs": 1})
    assert refused.value.errors[0].detail == "unknown field"  # a check has no epochs


@pytest.mark.parametrize("name", ["foo", "x", "date", "samples", "zip", "colour", "crop", "", "_", "9"])
def test_a_word_that_resembles_none_brings_no_guess(name: str) -> None:
    assert wrong({name: 1})[f"/{name}"] == ("extra_forbidden", "unknown field")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *[("batchSize", "batch_size"), ("Batch-Size", "batch_size"), ("LR", "lr"), ("nmae", "name"), ("sed", "seed")],
        *[("lable", "labels"), ("epocs", "epochs"), ("gardients", "gradients"), ("earlyStopping", "early_stopping")],
    ],
)
def test_a_misspelling_brings_the_field(name: str, field: str) -> None:
    assert wrong({name: 1})[f"/{name}"][1] == f"unknown field; did you mean '{field}'?"


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        (
            {"optimizer": {"type": "sgd", "lr": 0.1}},
            "/optimizer/lr",
            "'lr' is a field of the whole, beside 'optimizer'",
        ),
        (
            {"checkpoint": {"dir": "x"}},
            "/checkpoint/dir",
            "there are: every_epochs, every_seconds, keep_best, keep_last",
        ),
        ({"loss": "mse"}, "/loss", "'clamped_cross_entropy', got \"mse\""),
        ({"optimizer": "Adam"}, "/optimizer", "did you mean 'adam'?"),
        ({"optimizer": "rmsprop"}, "/optimizer", 'got "rmsprop"'),
    ],
)
def test_a_part_that_is_unknown_is_told_the_right_ones(body: dict[str, Any], pointer: str, words: str) -> None:
    assert wrong(body)[pointer][1].endswith(words)


def test_every_field_of_the_contract_is_there() -> None:
    assert set(JobSpec.model_fields) == {*DEFAULTS, "name", "seed"}


def test_several_devices_are_refused_by_name() -> None:
    code, detail = wrong({"devices": 2})["/devices"]
    assert code == "not_built"
    assert "set it to 1" in detail
    assert wrong({"devices": 65})["/devices"][0] == "less_than_equal"


@pytest.mark.parametrize(
    ("name", "words"),
    [("minst", "did you mean 'mnist'?"), ("cifar11", "'cifar11'"), ("ds_" + "0" * 32, "ds_000"), ("", "built in")],
)
def test_an_unknown_dataset_is_named_alone_or_with_other_errors(name: str, words: str) -> None:
    code, detail = wrong({"dataset": name})["/dataset"]
    assert code == "not_found"
    assert words in detail
    assert set(wrong({"dataset": name, "lr": 0, "preset": "no"})) == {"/dataset", "/lr", "/preset"}


UPLOADED = DatasetInfo(
    name="ds_" + "1" * 32, description="", shape=(3, 40, 24), classes=("a", "b"), train_examples=10, test_examples=2
)


def test_the_caller_of_parse_defines_which_datasets_exist() -> None:
    body = {"dataset": UPLOADED.name, "validation": {"fraction": 0.05}, "architecture": {"type": "cnn"}}
    assert JobSpec.parse({**body, "validation": "test"}, {UPLOADED.name: UPLOADED}.get).dataset == UPLOADED.name
    with pytest.raises(InvalidSpec) as refused:
        JobSpec.parse({**body, "architecture": {"type": "cnn", "channels": [2] * 5}}, {UPLOADED.name: UPLOADED}.get)
    assert {e.pointer for e in refused.value.errors} == {"/architecture/channels", "/validation/fraction"}


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
def test_a_body_other_than_an_object_is_refused_as_a_whole(body: Any) -> None:
    assert wrong(body)[""][0] == "object_type"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"optimizer": {"type": "sgd", "nesterov": True}}, "/optimizer/nesterov"),
        ({"architecture": {"type": "cnn", "channels": [4, 4, 4, 4]}}, "/architecture/channels"),
        ({"dataset": "mnist", "architecture": {"type": "cnn", "channels": [4] * 5}}, "/architecture/channels"),
        ({"schedule": {"type": "cosine", "warmup_epochs": 5}}, "/schedule/warmup_epochs"),
        ({"augment": ["flip", {"type": "shift", "pixels": 8}]}, "/augment/1/pixels"),
        ({"augment": [{"type": "crop", "padding": 8}]}, "/augment/0/padding"),
        ({"verify": {"every_steps": 10}}, "/verify"),
        ({"gradients": "manual", "precision": "bf16"}, "/precision"),
        ({"gradients": "manual", "architecture": {"type": "torchvision", "name": "vit_b_16"}}, "/gradients"),
        ({"architecture": {"type": "mlp", "batch_norm": True}, "batch_size": 1}, "/batch_size"),
        ({"architecture": {"type": "torchvision", "name": "resnet18"}, "batch_size": 1}, "/batch_size"),
        ({"preset": "article/manual-linear-continued"}, "/init_from/job"),
        ({"preset": "article/nothing"}, "/preset"),
        ({"validation": {"fraction": 0.0001}}, "/validation/fraction"),
        ({"validation": {"fraction": 0.9999}}, "/validation/fraction"),
    ],
    ids=json.dumps,
)
def test_what_is_right_alone_and_wrong_together_is_refused(body: dict[str, Any], pointer: str) -> None:
    assert set(wrong(body)) == {pointer}


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"lr": -1, "optimizer": {"type": "sgd", "nesterov": True}}, {"/lr", "/optimizer/nesterov"}),
        ({"lr": -1, "devices": 2, "verify": {}}, {"/lr", "/devices", "/verify"}),
        ({"seed": "x", "gradients": "manual", "precision": "bf16"}, {"/seed", "/precision"}),
        ({"colour": 1, "augment": [{"type": "crop", "padding": 8}]}, {"/colour", "/augment/0/padding"}),
        (
            {"labels": {"a": 1}, "schedule": {"type": "cosine", "warmup_epochs": 5}},
            {"/labels/a", "/schedule/warmup_epochs"},
        ),
        ({"name": 7, "validation": {"fraction": 0.0001}, "batch_size": 1}, {"/name", "/validation/fraction"}),
        ({"priority": 101, "preset": "article/manual-linear-continued"}, {"/priority", "/init_from/job"}),
        ({"dataset": "nowhere", "devices": 2, "lr": 0}, {"/dataset", "/devices", "/lr"}),
        ({"preset": "article/nothing", "lr": 0}, {"/preset", "/lr"}),
        ({"dataset": "nowhere", "verify": {}, "batch_size": 9999}, {"/dataset", "/verify"}),
        ({"dataset": "nowhere", "optimizer": {"type": "sgd", "nesterov": True}}, {"/dataset", "/optimizer/nesterov"}),
        (
            {"optimizer": {"type": "sgd", "nesterov": True, "weight_decay": -1}},
            {"/optimizer/weight_decay", "/optimizer/nesterov"},
        ),
        (
            {"architecture": {"type": "torchvision", "name": "resnet18", "depth": 9}, "gradients": "manual"},
            {"/architecture/depth", "/gradients"},
        ),
        (
            {"architecture": {"type": "mlp", "dropout": 1, "batch_norm": True}, "batch_size": 1},
            {"/architecture/dropout", "/batch_size"},
        ),
        (
            {"architecture": {"type": "cnn", "channels": [4] * 6, "dropout": 1}, "batch_size": 0},
            {"/architecture/channels", "/architecture/dropout", "/batch_size"},
        ),
        (
            {"schedule": {"type": "cosine", "warmup_epochs": 9, "floor": 0}, "seed": -1, "epochs": 5},
            {"/schedule/floor", "/schedule/warmup_epochs", "/seed"},
        ),
        # a conflict with a field that is wrong, misspelt or of an unknown dataset cannot be known
        ({"epochs": 0, "schedule": {"type": "cosine", "warmup_epochs": 5}}, {"/epochs"}),
        ({"epoch": 9, "schedule": {"type": "cosine", "warmup_epochs": 5}}, {"/epoch"}),
        ({"num_epochs": 9, "schedule": {"type": "cosine", "warmup_epochs": 5}}, {"/num_epochs"}),
        ({"gradients": "both", "verify": {}}, {"/gradients"}),
        ({"optimizer": {"type": "sgd", "nesterov": True, "momentun": 0.9}}, {"/optimizer/momentun"}),
        ({"optimizer": {"type": "sgd", "nesterov": True, "momentum": 2}}, {"/optimizer/momentum"}),
        ({"optimizer": {"type": "sgd", "nesterov": True}, "momentum": 0.9}, {"/momentum"}),
        ({"schedule": {"type": "cosine", "warmup_epochs": 5, "epochs": 9}}, {"/schedule/epochs"}),
        ({"architecture": "torchvision", "gradients": "manual", "lr": 0}, {"/architecture/name", "/lr"}),
        ({"architecture": {"type": "cnn", "channels": [4] * 5 + [0]}}, {"/architecture/channels/5"}),
        ({"dataset": 7, "augment": [{"type": "crop", "padding": 8}]}, {"/dataset"}),
        ({"dataset": "nowhere", "lr": 0, "architecture": {"type": "cnn", "channels": [4] * 6}}, {"/dataset", "/lr"}),
    ],
)
def test_conflicts_are_named_together_with_wrong_fields(body: dict[str, Any], pointers: set[str]) -> None:
    assert set(wrong(body)) == pointers


@pytest.mark.parametrize(
    ("model", "body", "pointers"),
    [
        (GradientCheckSpec, {"samples": 0, "batch_size": 1024, "dataset": "digits"}, {"/samples"}),
        (
            GradientCheckSpec,
            {"samples": 0, "batch_size": 1, "architecture": {"type": "mlp", "batch_norm": True}},
            {"/samples", "/batch_size"},
        ),
        (WalkSpec, {"seed": -1, "architecture": {"type": "mlp", "hidden": [2, 2]}}, {"/seed", "/architecture/hidden"}),
        (WalkSpec, {"seed": -1, "batch": 10_000}, {"/seed", "/batch"}),
        (WalkSpec, {"batch_size": 0, "batch": 10_000}, {"/batch_size"}),
    ],
)
def test_the_other_kinds_name_conflicts_together_too(
    model: type[Work], body: dict[str, Any], pointers: set[str]
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        model.parse(body)
    assert {error.pointer for error in refused.value.errors} == pointers


@pytest.mark.parametrize(
    "body",
    [
        {"batch_size": 1},
        {"architecture": {"type": "mlp", "batch_norm": True}, "batch_size": 2},  # 1455 leave one for the last batch
        {
            "architecture": {"type": "cnn", "batch_norm": True, "hidden": []},
            "batch_size": 1,
        },  # 16 pixels each, at least
        {"architecture": {"type": "torchvision", "name": "convnext_tiny"}, "batch_size": 1},
        {"architecture": {"type": "torchvision", "name": "resnet18"}, "batch_size": 1, "dataset": "mnist"},
    ],
    ids=json.dumps,
)
def test_a_batch_of_one_is_refused_where_a_variance_is_taken_of_it_and_nowhere_else(body: dict[str, Any]) -> None:
    JobSpec.parse(body)


def test_the_deepest_net_that_an_image_allows_is_taken() -> None:
    JobSpec.parse({"architecture": {"type": "cnn", "channels": [4, 4, 4]}})  # 8 pixels: 4, 2, 1
    JobSpec.parse({"dataset": "mnist", "architecture": {"type": "cnn", "channels": [4] * 4}})


@pytest.mark.parametrize("fraction", [1 / 1617, 1616 / 1617])
def test_one_example_is_enough_to_train_on_or_to_validate_with(fraction: float) -> None:
    JobSpec.parse({"validation": {"fraction": fraction}})


@pytest.mark.parametrize(
    "body",
    [
        {"name": ["x" * 100_000]},
        {"dataset": "x" * 100_000},
        {"preset": "x" * 100_000},
        {"architecture": "x" * 100_000},
        {"schedule": "x" * 100_000},
        {"augment": ["x" * 100_000]},
        {"x" * 100_000: 1},
    ],
    ids=lambda body: next(iter(body))[:10],
)
def test_a_detail_stays_short_however_long_the_value(body: dict[str, Any]) -> None:
    ((_, detail),) = wrong(body).values()
    assert len(detail) < 400


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_complete_spec_and_continues_only_a_named_job(name: str) -> None:
    preset = PRESETS[name]
    origin = {"init_from": {"job": "job_" + "0" * 32}} if preset.continues else {}
    spec = JobSpec.parse({"preset": name, **origin}).to_json()
    assert spec["preset"] == name
    assert {**JobSpec.parse({**preset.spec, "seed": spec["seed"], "name": spec["name"], **origin}).to_json()} == {
        **spec,
        "preset": None,
    }
    if preset.continues:
        assert preset.continues in PRESETS
        assert preset.continues in wrong({"preset": name})["/init_from/job"][1]


def test_the_body_overrides_its_preset() -> None:
    spec = JobSpec.parse({"preset": "article/two-layer", "epochs": 3, "dataset": "digits", "optimizer": "adam"})
    assert (spec.epochs, spec.dataset, spec.optimizer.type, spec.lr) == (3, "digits", "adam", 0.001)


def test_a_misspelt_preset_brings_the_nearest_one() -> None:
    assert "did you mean 'article/sgd'?" in wrong({"preset": "article/sdg"})["/preset"][1]


# --- gradient checks --------------------------------------------------------------------------------------------------


def test_a_gradient_check_has_defaults_and_a_kind_of_its_own() -> None:
    spec = GradientCheckSpec.parse({"seed": 0xABCD, "architecture": "cnn"})
    assert spec.name == "gradient-check-digits-cnn-abcd"
    assert (spec.batches, spec.batch_size, spec.finite_differences, spec.samples) == (3, 8, True, 25)
    assert {"training": JobSpec, "gradient_check": GradientCheckSpec, "walk": WalkSpec} == KINDS
    assert GradientCheckSpec.model_validate(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"architecture": {"type": "torchvision", "name": "resnet18"}}, "/architecture"),
        ({"lr": 0.1}, "/lr"),
        ({"gradients": "manual"}, "/gradients"),
        ({"batches": 0}, "/batches"),
        ({"batch_size": 1025}, "/batch_size"),
        ({"samples": 0}, "/samples"),
        ({"finite_differences": 1}, "/finite_differences"),
        ({"architecture": {"type": "cnn", "channels": [4] * 4}}, "/architecture/channels"),
        ({"architecture": {"type": "mlp", "batch_norm": True}, "batch_size": 1}, "/batch_size"),
        ({"dataset": "minst"}, "/dataset"),
    ],
    ids=json.dumps,
)
def test_a_gradient_check_that_cannot_be_is_refused(body: dict[str, Any], pointer: str) -> None:
    assert set(wrong(body, GradientCheckSpec)) == {pointer}


def test_a_batch_larger_than_the_dataset_is_refused_for_a_check() -> None:
    small = {UPLOADED.name: UPLOADED}.get
    with pytest.raises(InvalidSpec, match="1 field"):
        GradientCheckSpec.parse({"dataset": UPLOADED.name, "batch_size": 11}, small)


# --- walks ------------------------------------------------------------------------------------------------------------


def test_a_walk_has_defaults_and_a_kind_of_its_own() -> None:
    spec = WalkSpec.parse({"seed": 0xABCD, "architecture": "linear"})
    assert (spec.name, spec.kind) == ("walk-digits-linear-abcd", "walk")
    assert (spec.batch_size, spec.batch, spec.init_from) == (8, 1, None)
    assert WalkSpec.parse({}).architecture == Mlp()
    assert WalkSpec.model_validate(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"architecture": "cnn"}, "/architecture", "mlp"),
        ({"architecture": {"type": "mlp", "hidden": [30, 20]}}, "/architecture/hidden", "one hidden layer; got 2"),
        ({"architecture": {"type": "mlp", "dropout": 0.5}}, "/architecture/dropout", "leave it out, got 0.5"),
        ({"architecture": {"type": "mlp", "batch_norm": True}}, "/architecture/batch_norm", "leave it out"),
        ({"gradients": "manual"}, "/gradients", "unknown field"),
        ({"batch_size": 65}, "/batch_size", "64"),
        ({"batch": 0}, "/batch", "1"),
        ({"batch_size": 64, "batch": 27}, "/batch", "digits has 26 batches of 64; got 27"),
        ({"init_from": "job_1"}, "/init_from", "object"),
    ],
    ids=json.dumps,
)
def test_a_walk_that_cannot_be_is_refused(body: dict[str, Any], pointer: str, words: str) -> None:
    refused = wrong(body, WalkSpec)
    assert set(refused) == {pointer}
    assert words in refused[pointer][1]


def test_a_walk_takes_the_last_batch_and_no_batch_larger_than_the_dataset() -> None:
    small = {UPLOADED.name: UPLOADED}.get
    assert WalkSpec.parse({"dataset": UPLOADED.name, "batch_size": 4, "batch": 3}, small).batch == 3
    for beyond in ({"batch_size": 11}, {"batch_size": 4, "batch": 4}):
        with pytest.raises(InvalidSpec, match="1 field"):
            WalkSpec.parse({"dataset": UPLOADED.name, **beyond}, small)


# --- arbitrary bodies -------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
words = st.sampled_from(
    [
        "cosine",
        "flip",
        "article/sgd",
        "linear",
        "mlp",
        "cnn",
        "torchvision",
        "sgd",
        "adam",
        "test",
        "mnist",
        "cifar10",
        "auto",
        "",
    ]
)
inner_keys = st.sampled_from(["type", "hidden", "channels", "momentum", "betas", "fraction", "std"]) | st.text(
    max_size=4
)
values = st.recursive(
    leaves | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(inner_keys, inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([*JobSpec.model_fields, *GradientCheckSpec.model_fields]) | st.text(st.characters(), max_size=8)


@given(st.dictionaries(keys, values, max_size=5) | values, st.sampled_from([JobSpec, GradientCheckSpec]))
@example({"\ud800": 1}, JobSpec)
@example({"architecture": {"type": {"type": "mlp"}}, "dataset": {}}, JobSpec)
@example({"labels": {"": "", "[key]": 1}}, JobSpec)
@example({"augment": [["shift"], {"type": ["flip"]}, None]}, JobSpec)
@example({"preset": "article/two-layer", "loss": None}, JobSpec)
def test_any_json_is_a_spec_or_a_list_of_wrong_fields(body: Any, model: type[Work]) -> None:
    try:
        spec = model.parse(body)
    except InvalidSpec as refused:
        assert refused.errors
        json.dumps([error.to_json() for error in refused.errors])
        assert all(error.pointer == "" or error.pointer.startswith("/") for error in refused.errors)
    else:
        assert model.parse(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"lr": 1e39}, "/lr"),
        ({"init": {"type": "normal", "std": 1e39}}, "/init/std"),
        ({"optimizer": {"type": "adam", "eps": 1e-50}}, "/optimizer/eps"),
        ({"optimizer": {"type": "sgd", "weight_decay": 1e39}}, "/optimizer/weight_decay"),
        ({"loss": {"type": "clamped_cross_entropy", "clamp": 1e-60}}, "/loss/clamp"),
    ],
    ids=json.dumps,
)
def test_a_number_that_float32_cannot_hold_is_refused(body: dict[str, Any], pointer: str) -> None:
    assert set(wrong(body)) == {pointer}
