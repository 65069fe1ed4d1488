"""The numbers of predictions in docs/security.md, "Limits", are those of the code, and the places keep to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.waiting import wait_for

from api.connections.places import Places
from api.predictions import allowance, places
from api.predictions import images as formats
from api.predictions.places import PredictionPlaces
from api.routes import predictions
from shared import inference
from shared.config import Settings
from shared.errors import TooManyPredictions

DOCUMENT = Path(__file__).parents[3] / "docs" / "security.md"
MIB = 1 << 20
NUMBER_BYTES = 32  # of a float in a list of Python: 24, and 8 to refer to it


def documented(resource: str) -> str:
    (row,) = [line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {resource} |")]
    return row.split(" | ")[1]


@pytest.fixture
def taken() -> Iterator[Callable[..., bool]]:
    """taken(of, where, owner, weight=1): whether there is room; it is kept until the test ends."""
    with ExitStack() as kept:

        def take(of: PredictionPlaces, where: Places, owner: str | None, weight: int = 1) -> bool:
            try:
                kept.enter_context(of.taken(where, owner, weight))
            except TooManyPredictions:
                return False
            return True

        yield take


@pytest.fixture
def made(settings: Settings) -> PredictionPlaces:
    return PredictionPlaces(settings)


def test_the_document_has_the_numbers_of_places():
    computed = f"{places.AT_ONCE} computed per API process, {places.AT_ONCE // 2} of one owner"
    waiting = f"{places.WAITING} wait, {places.WAITING // 2} of one owner, for at most {places.SECONDS:g} s"
    assert documented("predictions at the same time").startswith(f"{computed}; {waiting}; then 503")
    bodies = f"{places.BODIES} of the largest size per API process, {places.BODIES // 2} of one owner"
    assert documented("bodies of predictions in memory").startswith(bodies)
    models = documented("models of predictions in memory")
    assert models.startswith(f"{predictions.MAX_MODEL_BYTES // MIB} MiB of those used last")
    assert f"{places.AT_ONCE} are read at the same time, {places.AT_ONCE // 2} of one owner" in models
    assert predictions._models.limit_bytes == predictions.MAX_MODEL_BYTES


@pytest.mark.parametrize("kind", ["computing", "loading"])
def test_the_places_are_as_many_as_documented(made, taken, kind):
    where: Places = getattr(made, kind)
    assert where.seconds == places.SECONDS
    where.seconds = 0.01
    assert [taken(made, where, "a") for _ in range(2)] == [True, False]
    assert [taken(made, where, owner) for owner in "bc"] == [True, False]


@pytest.mark.parametrize("kind", ["computing", "loading"])
def test_callers_without_a_token_have_both_places_together(made, taken, kind):
    where: Places = getattr(made, kind)
    where.seconds = 0.01
    assert [taken(made, where, None) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("kind", ["computing", "loading"])
def test_as_many_wait_as_documented_and_half_of_them_of_one_owner(made, taken, kind):
    where: Places = getattr(made, kind)
    where.seconds = 60
    leaves = [where.enter(owner) for owner in "xy"]

    def wait(owner: str) -> None:
        with made.taken(where, owner):
            pass

    threads = [threading.Thread(target=wait, args=(owner,)) for owner in "aaaabbbb"]
    for thread in threads[:4]:
        thread.start()
    wait_for(lambda: where._waits["a"] == 4, 60, "four requests that wait")
    assert not taken(made, where, "a"), "refused at once: an owner has four of the eight"
    for thread in threads[4:]:
        thread.start()
    wait_for(lambda: where._waits.total() == 8, 60, "eight requests that wait")
    assert not taken(made, where, "c"), "refused at once: eight wait"
    for leave in leaves:
        assert leave is not None
        leave()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_the_bodies_are_as_many_as_documented(settings, made, taken):
    size = settings.predict_bytes
    assert [taken(made, made.bytes, "a", size) for _ in range(3)] == [True, True, False]
    assert [taken(made, made.bytes, "b", size) for _ in range(3)] == [True, True, False]
    assert not taken(made, made.bytes, "c")
    of_all = PredictionPlaces(settings)
    assert [taken(of_all, of_all.bytes, None, size) for _ in range(5)] == [True] * 4 + [False]


def test_the_document_has_the_work_of_a_prediction():
    thousand_millions = allowance.MAX_MULTIPLICATIONS // 10**9
    images = f"{allowance.MAX_IMAGES:,}".replace(",", " ")
    told = f"{images} images, {thousand_millions} thousand million multiplications"
    assert documented("work of a prediction").startswith(told)
    assert documented("response of a prediction").startswith(f"{allowance.MAX_ANSWER_BYTES // MIB} MiB")
    body = f"{Settings().predict_bytes // MIB} MiB, {Settings().max_upload_bytes >> 30} GiB"
    assert documented("body of a prediction, of an upload") == body


def test_the_document_has_the_memory_of_a_prediction():
    """By the costs that test_costs.py measures on small inputs, at the largest ones that are accepted."""
    computing = 4 * allowance.MAX_FLOATS
    together = 4 * inference.CHUNK_FLOATS  # of several images; of one alone, a model takes MAX_FLOATS at most
    blocks = 13 * 4 * inference.BLOCK
    decoding = (2 * len("RGBA") + 4) * formats.MAX_PICTURE_PIXELS + 24 * MIB
    columns_first = 2 * formats.MAX_COLUMNS_FIRST_BYTES
    assert max(computing, together + blocks, decoding, columns_first) <= 256 * MIB
    pixels = inference.CHUNK_FLOATS * NUMBER_BYTES  # of images that are computed together, as they arrive in JSON
    assert pixels == 32 * MIB
    assert documented("memory of a prediction").startswith("256 MiB to decode a picture or to compute, and 32 MiB of")
