"""Models in memory: read once, a few at a time, and not at all if they were refused. Counts instead of megabytes."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from support.waiting import wait_for

from api.http.errors import InvalidImages, NotBuilt
from api.predictions import places as limits
from api.predictions.models import ModelCache
from api.predictions.places import PredictionPlaces
from api.routes import predictions
from shared.errors import FieldError, NotFound, StoreUnavailable, TooManyPredictions
from shared.inference import Model

IMAGES = {"images": [[0, 1], [1, 0]]}
REFUSED = [FieldError("", "not_built", "the model has a layer GRU")]


def description(**changes: Any) -> dict[str, Any]:
    return {
        "architecture": {"type": "linear"},
        "layers": [{"type": "Flatten", "arguments": {}}, {"type": "Linear", "arguments": {}}],
        "input_shape": [1, 2, 2],
        "classes": ["a", "b"],
        "normalization": {"mean": [0.1], "std": [0.3], "white": 255.0},
    } | changes


def weights(seed: int = 0) -> dict[str, Any]:
    drawn = np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)
    return {"1.weight": drawn, "1.bias": np.zeros(2, np.float32)}


def model(seed: int = 0) -> Model:
    return Model(description(), weights(seed))


def together(calls: list[Callable[[], Any]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def ended(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


class Gate:
    """A load that waits until it is opened, and counts its calls."""

    def __init__(self) -> None:
        self.calls = self.inside = self.most = 0
        self.open = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, load: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock:
            self.calls, self.inside = self.calls + 1, self.inside + 1
            self.most = max(self.most, self.inside)
        try:
            assert self.open.wait(60)
            return load(*arguments)
        finally:
            with self._lock:
                self.inside -= 1


# --- the cache --------------------------------------------------------------------------------------------------------


def test_many_threads_that_want_one_model_load_it_once():
    cache, gate, found = ModelCache(1 << 20), Gate(), []
    threads = together([lambda: found.append(cache.get("a", lambda: gate(model)))] * 8)
    wait_for(lambda: gate.calls, 60, "a load")
    gate.open.set()
    ended(threads)
    assert (gate.calls, len(found), len({id(each) for each in found})) == (1, 8, 1)


def test_two_models_are_loaded_at_the_same_time():
    cache, gate = ModelCache(1 << 20), Gate()
    threads = together([lambda key=key: cache.get(key, lambda: gate(model)) for key in "ab"])
    wait_for(lambda: gate.inside == 2, 60, "two loads")
    gate.open.set()
    ended(threads)


def refusing() -> Model:
    raise NotBuilt(list(REFUSED))


def test_the_file_of_a_refused_model_is_not_read_again():
    cache, gate = ModelCache(1 << 20), Gate()
    gate.open.set()
    told = []
    for _ in range(5):
        with pytest.raises(NotBuilt) as refused:
            cache.get("a", lambda: gate(refusing))
        told.append(refused.value.errors)
    with pytest.raises(NotBuilt):
        cache.find("a")
    assert (gate.calls, told) == (1, [REFUSED] * 5)


@pytest.mark.parametrize(
    "error", [NotFound("gone"), StoreUnavailable("away"), InvalidImages("no"), OSError(), KeyError()]
)
def test_what_may_be_otherwise_the_next_time_is_not_kept(error):
    cache = ModelCache(1 << 20)

    def fails() -> Model:
        raise error

    with pytest.raises(type(error)):
        cache.get("a", fails)
    assert cache.find("a") is None
    assert cache.get("a", model) is cache.find("a")


def test_a_kept_refusal_keeps_nothing_of_the_file():
    class File:
        pass

    files: list[weakref.ref[File]] = []

    def load() -> Model:
        file = File()
        files.append(weakref.ref(file))
        return refusing()

    cache = ModelCache(1 << 20)
    for _ in range(2):
        with pytest.raises(NotBuilt):
            cache.get("a", load)
    gc.collect()
    assert [file() for file in files] == [None]


def test_refusals_and_models_together_stay_within_the_bytes():
    size = model().size_bytes
    cache = ModelCache(3_000 + size)
    kept = cache.get("kept", model)
    for i in range(50):
        with pytest.raises(NotBuilt):
            cache.get(f"refused {i}", refusing)
        assert cache.find("kept") is kept  # used last
        assert cache.size_bytes <= cache.limit_bytes
    assert cache.find("refused 40") is None
    for i in range(200):
        cache.get(f"model {i}", model)
    assert cache.size_bytes == sum(held.size_bytes for held in cache._held.values()) <= cache.limit_bytes


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(monkeypatch) -> ModelCache:
    made = ModelCache(1 << 20)
    monkeypatch.setattr(predictions, "_models", made)
    return made


@pytest.fixture
def places(app) -> PredictionPlaces:
    found: PredictionPlaces = app.extensions[predictions.EXTENSION]
    return found


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    made, load = Gate(), predictions._load
    monkeypatch.setattr(predictions, "_load", lambda *rows: made(load, *rows))
    yield made
    made.open.set()


@pytest.fixture
def finished(hands):
    """finished(seed): the path of a finished job with a model of these weights."""

    def make(seed: int = 0, **changes: Any) -> str:
        job, lease = hands.submit(), hands.start()
        files = {"model.json": json.dumps(description(**changes)).encode(), "model.safetensors": save(weights(seed))}
        hands.finish(lease, files=[hands.store(lease, name, content) for name, content in files.items()])
        return f"/v1/jobs/{job['id']}/predict"

    return make


def test_small_requests_for_many_models_read_two_at_a_time_and_few_wait(app, finished, gate, places):
    places.loading.seconds = places.computing.seconds = 60
    paths, seen = [finished(seed) for seed in range(3)] * 6, []
    threads = together([lambda p=path: seen.append(app.test_client().post(p, json=IMAGES).json) for path in paths])
    waiting = limits.WAITING // 2  # of one caller
    wait_for(lambda: len(seen) == len(paths) - limits.AT_ONCE - waiting, 60, "the refusals")
    assert {answer["code"] for answer in seen} == {"too_many_predictions"}
    assert places.loading.in_use == limits.AT_ONCE  # of which one may wait for the other, which reads the same file
    assert 1 <= gate.calls <= limits.AT_ONCE
    gate.open.set()
    ended(threads)
    assert gate.most <= limits.AT_ONCE
    assert gate.calls <= 3
    assert sum("predictions" in answer for answer in seen) == limits.AT_ONCE + waiting
    assert places.loading.in_use == places.computing.in_use == places.bytes.in_use == 0


def test_one_owner_reads_one_model_at_a_time(places):
    places.loading.seconds = 0.01
    with places.taken(places.loading, "a"):
        with pytest.raises(TooManyPredictions), places.taken(places.loading, "a"):
            pass
        with places.taken(places.loading, "b"):
            assert places.loading.in_use == limits.AT_ONCE


def test_a_model_in_memory_is_served_while_a_slow_store_has_every_place(client, finished, places, problem):
    path, other = finished(1), finished(2)
    assert client.post(path, json=IMAGES).status_code == 200
    places.loading.seconds = 0.01
    with ExitStack() as stack:
        for owner in "ab":
            stack.enter_context(places.taken(places.loading, owner))
        assert client.post(path, json=IMAGES).status_code == 200
        problem(client.post(other, json=IMAGES), 503, "too_many_predictions")
    assert client.post(other, json=IMAGES).status_code == 200


@pytest.mark.parametrize("limit", [1, 1 << 20])
def test_models_that_take_each_others_place_are_answered(client, finished, gate, cache, limit):
    cache.limit_bytes = limit
    gate.open.set()
    paths = [finished(seed) for seed in range(2)]
    answers = [[client.post(path, json=IMAGES).json["predictions"] for path in paths] for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] != answers[0][1]
    assert gate.calls == (6 if limit == 1 else 2)


def test_a_request_that_waits_to_compute_holds_no_model(app, finished, places, cache):
    places.computing.seconds = 60
    path, seen = finished(), []
    with places.taken(places.computing, "a"), places.taken(places.computing, "b"):
        threads = together([lambda: seen.append(app.test_client().post(path, json=IMAGES).status_code)])
        wait_for(lambda: places.computing._waits.total(), 60, "a request that waits")
        (held,) = map(weakref.ref, cache._held.values())
        cache._held.clear()
        gc.collect()
        assert held() is None
    ended(threads)
    assert seen == [200]


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [{"type": "GRU", "arguments": {}}]},
        {"layers": [{"type": "Flatten", "arguments": {}}, {"type": "Fold", "arguments": {}}]},
        {"layers": None, "architecture": {"type": "torchvision", "name": "resnet18"}},
        {"layers": None, "operations": [], "architecture": {"type": "torchvision"}},
        {"layers": None, "operations": [{"op": "Fold"}], "architecture": {"type": "torchvision"}},
    ],
)
def test_a_model_that_is_refused_is_read_once_however_often_it_is_asked(client, finished, gate, changes, problem):
    gate.open.set()
    path = finished(**changes)
    told = [problem(client.post(path, json=IMAGES), 422, "not_built")["errors"] for _ in range(3)]
    assert told[0] == told[1] == told[2]
    assert gate.calls == 1
