"""Bodies for POST /v1/jobs: valid specs with one error or many random values; and bodies that are not JSON."""

from __future__ import annotations

import copy
import gzip
import json
from typing import Any

from fuzz.message import FRAMINGS, JSON, Message
from hypothesis import strategies as st

PATH = "/v1/jobs"
DRAWN: dict[str, list[Any]] = {  # values that are valid by themselves; combinations may not be
    "name": ["x", "grüße \U0001f40c", "x" * 128],
    "dataset": ["digits", "digits", "digits", "mnist", "cifar10"],
    "architecture": [
        *("linear", "mlp", "cnn", {"type": "mlp", "hidden": [1]}),
        {"type": "mlp", "hidden": [8, 8], "activation": "gelu", "dropout": 0.9, "batch_norm": True},
        {"type": "cnn", "channels": [2, 2, 2], "kernel": 7, "hidden": []},
        {"type": "cnn", "channels": [4], "kernel": 1, "hidden": [4], "activation": "tanh", "batch_norm": True},
        {"type": "torchvision", "name": "resnet18"},
    ],
    "init": ["pytorch", "kaiming", "xavier", {"type": "normal", "std": 1e-30}, {"type": "normal", "std": 1e30}],
    "gradients": ["manual", "autograd"],
    "loss": ["clamped_cross_entropy", {"type": "cross_entropy", "reduction": "sum"}],
    "optimizer": [
        *("basic", "adam", "adamw"),
        {"type": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e30},
        {"type": "adam", "betas": [0, 0], "eps": 1e-37},
    ],
    "lr": [1e-300, 1e-3, 1, 1e30],
    "schedule": ["onecycle", {"type": "cosine", "warmup_epochs": 0.5}, {"type": "step", "every_epochs": 1}],
    "epochs": [1, 2],
    "batch_size": [1, 7, 64, 65_536],
    "validation": ["test", {"fraction": 0.0007}, {"fraction": 0.9993}],
    "augment": [["flip"], ["shift", "rotate", "crop"], [{"type": "crop", "padding": 7}] * 8],
    "seed": [0, 2**53 - 1],
    "precision": ["bf16", "fp32"],
    "device": ["cpu", "auto", "cuda"],
    "devices": [1, 2],
    "deterministic": [True, False],
    "verify": [None, {"every_steps": 1}],
    "init_from": [{"job": "job_" + "0" * 32}],
    "checkpoint": [{"every_seconds": None, "every_epochs": 1, "keep_last": 1}, {"every_seconds": 1e-9}],
    "early_stopping": [{"patience_epochs": 1, "min_delta": 1e30}, {"metric": "val_accuracy"}],
    "max_seconds": [1e-9, 3],
    "max_attempts": [1, 20],
    "priority": [0, 100],
    "labels": [{"team": "vision"}, {"k" * 64: "v" * 512}],
    "preset": ["article/manual-linear"],
}
SMALL = {"epochs": 1, "max_seconds": 3}  # base of each spec: an accepted job has to train quickly
TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["\ud800", "a\udfffb", "\x00", "‮", "x" * 5000, "NaN", "../../etc", "ds_" + "f" * 32, "job_"]),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400, 1e-320, 1.5, -0.0, float("nan"), 1e308]),
    TEXT,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=6,
)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Random fields of a spec, each with a valid value."""
    names = draw(st.lists(st.sampled_from(sorted(DRAWN)), max_size=5, unique=True))
    return {**SMALL, **{name: copy.deepcopy(draw(st.sampled_from(DRAWN[name]))) for name in names}}


@st.composite
def broken(draw: st.DrawFn) -> Any:
    """A spec with one change: another value, another key, an additional or a missing one."""
    spec = draw(specs())
    holder: Any = spec
    while True:
        key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if not (isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans())):
            break
        holder = holder[key]
    match draw(st.sampled_from(["value", "near", "gone", "more", "key"])):
        case "value":
            holder[key] = draw(VALUES)
        case "near":
            holder[key] = draw(st.sampled_from(_near(holder[key])))
        case "gone":
            del holder[key]
        case "more" if isinstance(holder, dict):
            holder[draw(TEXT)] = draw(VALUES)
        case "key" if isinstance(holder, dict):
            holder[f"{key}s"] = holder.pop(key)
    return spec


def _near(value: Any) -> list[Any]:
    """Invalid variants of `value` that a client may send."""
    others: list[Any] = [str(value), [value], {"type": value}, {"value": value}, None]
    if isinstance(value, bool | int | float):
        others += [-value, value + 1, value * 1000, value / 3, float(value), int(value)]
    if isinstance(value, str):
        others += [value.upper(), value + " ", value[:-1], value * 50]
    if isinstance(value, list):
        others += [value * 20, [], dict(enumerate(map(str, value)))]
    return others


def _encoded(draw: st.DrawFn, value: Any) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    how = draw(st.sampled_from(["plain"] * 12 + ["utf-16", "utf-8-sig", "latin-1", "gzip", "twice", "form"]))
    match how:
        case "utf-16" | "utf-8-sig" | "latin-1":
            return text.encode(how, "replace"), {}
        case "gzip":
            return gzip.compress(text.encode(errors="replace")), {"Content-Encoding": "gzip"}
        case "twice":
            return (text[:-1] + ("," if len(text) > 2 else "") + text[1:]).encode(errors="replace"), {}
        case "form":
            return text.encode(errors="replace"), {"Content-Type": "application/x-www-form-urlencoded"}
    return text.encode(errors="surrogatepass"), {}


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with a few changes, a piece removed, or a piece duplicated."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["flip", "cut", "drop", "double", "insert"])):
            case "flip" if at < len(data):
                data[at] ^= draw(st.integers(1, 255))
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "insert":
                data[at:at] = draw(st.binary(max_size=20))
    return bytes(data)


@st.composite
def noise(draw: st.DrawFn) -> bytes:
    depth = draw(st.sampled_from([50, 5_000, 200_000]))
    deep = [b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth, b'{"labels":' * depth + b"1" + b"}" * depth]
    huge = [b'{"seed":' + b"9" * 5000 + b"}", b'{"name":"' + b"x" * 2_000_000 + b'"}', b'{"lr":1e999}']
    return draw(st.one_of(st.binary(max_size=200), st.sampled_from([b"", b"null", b"[]", b'"mlp"', *deep, *huge])))


@st.composite
def job_messages(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from(["specs", "broken", "broken", "broken", "damaged", "noise"]))
    headers: dict[str, str] = {}
    if kind == "noise":
        body = draw(noise())
    else:
        body, headers = _encoded(draw, draw(specs() if kind == "specs" else broken()))
    if kind == "damaged":
        body = draw(damaged(body))
    framing = draw(st.sampled_from(["length"] * 10 + list(FRAMINGS)))
    media = draw(
        st.sampled_from([JSON] * 15 + ["application/json; charset=utf-16", "text/plain", "multipart/form-data"])
    )
    return Message(PATH, body, {"Content-Type": media, **headers}, framing)
