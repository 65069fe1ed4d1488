"""What one request for predictions may cost: memory, places, bytes of the response. Inputs are small, and the cost of
two sizes is compared."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save
from sqlalchemy import func, select
from support.costs import cpu_seconds, peak_bytes

from api.http.errors import NotBuilt
from api.predictions import allowance
from api.predictions import images as formats
from api.predictions.images import PixelBudget, Reader, batches, read_picture
from api.predictions.places import PredictionPlaces
from api.routes import predictions
from api.uploads import pictures
from shared import inference
from shared.db.tables import IdempotencyKey
from shared.errors import GradqError, TooManyPredictions
from shared.inference import Model, Refused, pixels_of

MB = 1 << 20


def description(side: int, classes: int) -> dict[str, Any]:
    return {
        "architecture": {"type": "linear"},
        "layers": [{"type": "Flatten", "arguments": {}}, {"type": "Linear", "arguments": {}}],
        "input_shape": [1, side, side],
        "classes": [f"c{i}" for i in range(classes)],
        "normalization": {"mean": [0.1], "std": [0.3], "white": 255.0},
    }


def weights(side: int, classes: int) -> dict[str, Any]:
    drawn = np.random.default_rng(0).standard_normal((classes, side * side))
    return {"1.weight": drawn.astype(np.float32), "1.bias": np.zeros(classes, np.float32)}


def model(side: int = 2, classes: int = 2) -> Model:
    return Model(description(side, classes), weights(side, classes))


def npz(images: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, images=images)
    return out.getvalue()


def computed(of: Model, parts: Any) -> int:
    """Compute all parts, as the route does; return the number of images."""
    n = 0
    for pixels, _ in batches(((part, None) for part in parts), Reader(of, False).step):
        n += len(of.answer(pixels))
    return n


def refusal(call: Any) -> str:
    with pytest.raises((GradqError, Refused)) as refused:
        call()
    return str(getattr(refused.value, "detail", refused.value))


# --- texts and lists --------------------------------------------------------------------------------------------------

LONG, MANY = "x" * 20_000, 500  # numpy would take 4 x 20 000 bytes for each of 500 texts: 40 MB
TEXTS: dict[str, Any] = {
    "beside": [LONG, *[""] * MANY],
    "rows": [[LONG, ""]] * MANY,
    "last": [[[0, 0], [0, 0]]] * MANY + [[[0, 0], [0, LONG]]],
    "first": [[[LONG, 0], [0, 0]]] + [[[0, 0], [0, 0]]] * MANY,
    "nested": [[[[LONG], ""], ["", ""]]] * MANY,
    "null": [None, LONG, *[""] * MANY],
    "object": [{LONG: LONG}, *[""] * MANY],
}


def refused_cheaply(body: bytes, beyond: int) -> str:
    """The refusal of a JSON body, which costs four times its bytes and `beyond` at most."""
    told: list[str] = []
    peak = peak_bytes(lambda: told.append(refusal(lambda: list(Reader(model(), False).of_json(body)))))
    assert peak < 4 * len(body) + beyond
    return told[0]


@pytest.mark.parametrize("images", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("padding", [0, formats.WHOLE_BYTES], ids=["small", "large"])
def test_a_text_among_the_numbers_is_refused_before_numpy_makes_room_for_it(images, padding):
    body = json.dumps({"images": images}).encode() + b" " * padding
    told = refused_cheaply(body, 2 * MB)
    assert "must be numbers" in told or "list of lists" in told or "Input should" in told


@pytest.mark.parametrize("images", [*TEXTS.values(), (LONG, *[""] * MANY), [b"x" * 20_000, *[b""] * MANY]])
def test_predict_py_refuses_texts_before_numpy_makes_room_for_them(images):
    def call() -> None:
        with pytest.raises(Refused, match="must be numbers"):
            pixels_of(images, (1, 2, 2), 255)

    assert peak_bytes(call) < 2 * MB


@pytest.mark.parametrize(
    ("element", "words"),
    [
        ("[[[[]]]]", "lists in one another"),
        ("[[[]]]", "images"),
        ('{"a":[]}', "got an object"),
        ("[[0,0],[0,0],[0,0]]", "more numbers"),
        ("[[0,0],[0,0]] ", "list of lists"),
    ],
)
def test_lists_without_images_cost_no_more_than_their_text(element, words):
    comma = "," if words != "list of lists" else ""
    body = ('{"images":[' + " " * formats.WHOLE_BYTES + (element + comma) * 9_000 + "[[0,0],[0,0]]]}").encode()
    # a list of Python has 56 bytes, and is written with two
    assert words in refused_cheaply(body, 6 * MB)


def test_empty_lists_are_no_images():
    body = ('{"images":[' + "[]," * 9_000 + " " * formats.WHOLE_BYTES + "[]]}").encode()
    reader = Reader(model(), False)
    assert peak_bytes(lambda: list(reader.of_json(body))) < 3 * len(body) + 3 * MB
    assert reader.allowance.images == 0


def test_what_a_large_body_has_beside_its_images_is_little():
    for text in ('{"invert":[' + "[]," * 60_000 + '0],"images":[[[0,0],[0,0]]]}', "[" * 100_000, "[[],[]]" + " " * MB):
        assert "images`" in refused_cheaply(text.encode(), MB)


@pytest.mark.parametrize("layout", ["NHW", "NCHW", "NHWC", "one", "spaces"])
def test_a_large_body_is_read_as_a_small_one(layout):
    drawn = np.random.default_rng(1).integers(0, 256, (60, 1, 28, 28))
    images = {
        "NHW": drawn[:, 0],
        "NCHW": drawn,
        "NHWC": drawn.transpose(0, 2, 3, 1),
        "one": np.random.default_rng(1).random((160, 160)),
        "spaces": drawn / 255,
    }[layout]
    of = model(160 if layout == "one" else 28)
    text = json.dumps({"images": images.tolist(), "invert": True}, indent=1 if layout == "spaces" else None)
    assert len(text) > formats.WHOLE_BYTES
    found = np.concatenate(list(Reader(of, False).of_json(text.encode())))
    np.testing.assert_array_equal(found, of.array(images.tolist(), invert=True))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"images":[[[0,0],[0,0]]', "no end"),
        ('{"images":[[[0,0],[0,0]]]', "not JSON"),
        ('{"images":[[[0,0],[0,0]] [[0,0],[0,0]]]}', "commas between"),
        ('{"images":[[[0,0],[0,0]],]}', "commas between"),
        ('{"images":[,[[0,0],[0,0]]]}', "commas between"),
        ('{"images":[[[0,0],[0,01]]]}', "image 0: the body is not JSON"),
        ('{"images":[[[0,0],[0,NaN]]]}', "image 0: the body is not JSON"),
        ('{"images":[[[0,0],[0,0]]],"images":[]}', "duplicate key"),
        ('{"images":[[[0,0],[0,0]]],"imagse":[]}', "did you mean"),
        ('{"images":[[[0,0],[0,0]],[[0]]]}', "different sizes"),
        ('{"images":[[[0,0],[0,0]],[[300,0],[0,0]]]}', "300 in image 1"),
    ],
)
def test_a_large_body_that_is_wrong_is_told_what_is(body, words):
    def call() -> None:
        large = body.replace("[", "[" + " " * formats.WHOLE_BYTES, 1)
        list(Reader(model(), False).of_json(large.encode()))

    assert words in refusal(call)


# --- memory of many images and of large pictures ----------------------------------------------------------------------


def test_memory_does_not_grow_with_the_images_of_an_npz():
    of = model(64)
    bodies = [npz(np.zeros((n, 64, 64), np.uint8)) for n in (1100, 4400)]
    few, many = (peak_bytes(lambda body=body: computed(of, Reader(of, False).of_file(body, None))) for body in bodies)
    assert len(bodies[1]) < MB
    assert many < few + 25 * MB  # 4400 images are 72 MB of float32, of which there were three copies


@pytest.mark.parametrize("kind", ["f8", "i8", "u1"])
def test_memory_does_not_grow_with_the_type_of_the_numbers(kind):
    of = model(64)
    body = npz(np.zeros((1500, 64, 64), kind))
    assert peak_bytes(lambda: computed(of, Reader(of, False).of_file(body, None))) < 110 * MB


def test_memory_of_json_is_that_of_its_text_and_of_the_images():
    of = model(28)
    body = json.dumps({"images": np.ones((200, 28, 28), int).tolist()}, separators=(",", ":")).encode()
    peak = peak_bytes(lambda: computed(of, Reader(of, False).of_json(body)))
    assert peak < 3 * len(body) + 8 * 8 * 200 * 28 * 28


def picture(mode: str, side: int, **more: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (side, side), (9, 9, 9, 9)[: len(Image.new(mode, (1, 1)).getbands())]).save(out, "png", **more)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "LA", "L"])
def test_a_large_picture_is_resized_in_bands(mode):
    content, side = picture(mode, 1400), 1400
    of = model(28)
    peak = peak_bytes(lambda: of.picture(read_picture(content, PixelBudget()), True))
    # as it is stored and one plane of floats, apart from the band; as floats an RGBA picture has 40 bytes a pixel
    assert peak < (2 * len(mode) + 4) * side * side + 24 * MB


def test_a_picture_in_bands_has_the_same_pixels(monkeypatch):
    rng = np.random.default_rng(2)
    for channels, dtype in ((1, np.uint8), (2, np.uint16), (3, np.uint8), (4, np.uint8)):
        image = rng.integers(0, np.iinfo(dtype).max, (151, 257, channels), endpoint=True, dtype=dtype)
        for shape in ((1, 28, 28), (3, 32, 40)):
            whole = inference.fitted(image, shape, True)
            monkeypatch.setattr(inference, "BAND_PIXELS", 5_000)
            np.testing.assert_array_equal(inference.fitted(image, shape, True), whole)
            monkeypatch.undo()


def test_a_transparent_colour_of_16_bits_is_read_up_to_a_size(monkeypatch):
    rows = np.zeros((3, 3, 3), np.uint16)
    content = deep_png(rows)
    assert read_picture(content, PixelBudget()).shape == (3, 3, 4)
    monkeypatch.setattr(pictures, "MAX_DEEP_PIXELS", 8)
    assert "at most 8 are accepted" in refusal(lambda: read_picture(content, PixelBudget()))


def deep_png(rows: Any) -> bytes:
    """A PNG of 16 bits per colour with a transparent one."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, _ = rows.shape
    data = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
            chunk(b"tRNS", bytes(6)),
            chunk(b"IDAT", zlib.compress(data)),
            chunk(b"IEND", b""),
        ]
    )


def test_the_entries_of_an_npz_are_counted_before_they_are_read(monkeypatch):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for i in range(50):
            archive.writestr(f"{i}", b"")
    monkeypatch.setattr("api.uploads.archive.MAX_ENTRIES", 49)
    assert "too many entries" in refusal(lambda: list(Reader(model(), False).of_file(out.getvalue(), None)))


def test_an_array_in_fortrans_order_is_read_up_to_a_size(monkeypatch):
    body = npz(np.asfortranarray(np.zeros((5, 2, 2), np.uint8)))
    assert len(next(Reader(model(), False).of_file(body, None))) == 5
    monkeypatch.setattr(formats, "MAX_COLUMNS_FIRST_BYTES", 19)
    assert "ascontiguousarray" in refusal(lambda: list(Reader(model(), False).of_file(body, None)))


# --- the cost of one image --------------------------------------------------------------------------------------------


def cnn(
    channels: list[int],
    shape: tuple[int, int, int] = (1, 16, 16),
    kernel: int = 3,
    activation: str = "ReLU",
    hidden: tuple[int, ...] = (),
    norm: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """model.json and weights of a network such as the trainer's, with weights that take no memory."""
    layers: list[dict[str, Any]] = []
    found: dict[str, Any] = {}

    def add(kind: str, arguments: dict[str, Any], **tensors: tuple[int, ...]) -> None:
        found.update(
            {f"{len(layers)}.{name}": np.broadcast_to(np.float32(0.1), size) for name, size in tensors.items()}
        )
        layers.append({"type": kind, "arguments": arguments})

    before, height, width = shape
    for out in channels:
        add("Conv2d", {}, weight=(out, before, kernel, kernel), bias=(out,))
        if norm:
            add(
                "BatchNorm2d", {"eps": 1e-5}, **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (out,))
            )
        add(activation, {})
        add("MaxPool2d", {"kernel_size": 2})
        before, height, width = out, height // 2, width // 2
    add("Flatten", {})
    before *= height * width
    for out in (*hidden, 3):
        add("Linear", {}, weight=(out, before), bias=(out,))
        if out != 3:
            add(activation, {})
        before = out
    told = description(1, 3) | {"layers": layers, "input_shape": list(shape)}
    told["normalization"] = {"mean": [0.1] * shape[0], "std": [0.3] * shape[0], "white": 255.0}
    return told, found


NETWORKS: list[dict[str, Any]] = [
    {"channels": [64], "shape": (1, 64, 64)},
    {"channels": [64], "shape": (3, 64, 64), "kernel": 1, "norm": True},
    {"channels": [8, 64], "shape": (3, 50, 64), "kernel": 5, "hidden": (30,)},
    {"channels": [4], "shape": (3, 64, 80), "kernel": 7, "norm": True},
    {"channels": [90, 90], "shape": (3, 32, 32)},
    {"channels": [1], "shape": (1, 64, 64), "kernel": 1, "hidden": (1000, 4000)},
]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("activation", ["ReLU", "GELU", "Sigmoid", "Tanh"])
def test_computing_holds_no_more_numbers_than_are_counted(network, activation, monkeypatch):
    """The count, of one image and of those that are computed together, is also how many these are."""
    monkeypatch.setattr(inference, "BLOCK", 1 << 10)
    few = 13 * inference.BLOCK * 4 + 20_000  # of a block, and objects of Python
    inference.erf(np.zeros(1))  # its table is made once
    for chunk in (1 << 17, 1 << 20):  # in bands of rows, and several images at once
        monkeypatch.setattr(inference, "CHUNK_FLOATS", chunk)
        told, tensors = cnn(activation=activation, **network)
        of = Model(told, {name: array.copy() for name, array in tensors.items()})
        n = of.images_at_once
        assert n == 1 or n * of.cost.floats <= chunk
        for images in {1, n}:
            pixels = np.zeros((images, *of.shape), np.float32)
            counted = of.cost.floats_alone if images == n == 1 else images * of.cost.floats
            peak = peak_bytes(lambda of=of, pixels=pixels: of.logits(pixels))
            assert peak < 1.02 * 4 * counted + few
        assert of.cost.floats_alone <= of.cost.floats + chunk


def test_images_one_by_one_and_in_bands_are_answered_as_at_once(monkeypatch):
    told, tensors = cnn([8, 16], (3, 20, 24), hidden=(9,), activation="GELU", norm=True)
    rng = np.random.default_rng(5)
    of = Model(told, {name: rng.random(array.shape, np.float32) for name, array in tensors.items()})
    pixels = rng.random((5, 3, 20, 24), np.float32)
    whole = of.logits(pixels)
    monkeypatch.setattr(inference, "CHUNK_FLOATS", 3_000)
    monkeypatch.setattr(inference, "BLOCK", 7)
    np.testing.assert_allclose(of.logits(pixels), whole, rtol=1e-4)


LARGE = (3, 224, 224)  # of which a network is small on the disk and large in memory


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"channels": [2048, 2048], "shape": LARGE}, "multiplications"),
        ({"channels": [2048], "shape": LARGE}, "bytes of memory"),
        ({"channels": [2048], "shape": LARGE, "kernel": 1}, "bytes of memory"),
        ({"channels": [700], "shape": LARGE, "activation": "GELU"}, "bytes of memory"),
        ({"channels": [64, 2048, 1024], "shape": LARGE, "kernel": 7}, "multiplications"),
        ({"channels": [1024, 8], "shape": (1, 256, 256), "norm": True}, "bytes of memory"),
        ({"channels": [64], "shape": (1, 1200, 1200)}, "bytes of memory"),
    ],
    ids=str,
)
def test_a_model_of_which_one_image_costs_more_than_a_request_may_is_refused(network, words):
    of = Model(*cnn(**network))
    assert sum(4 * array.size for layer in of.weights for array in layer.values()) <= predictions.MAX_MODEL_BYTES
    told = refused_model(of)
    assert words in told
    assert "run its model.onnx" in told


def refused_model(of: Model) -> str:
    with pytest.raises(NotBuilt) as refused:
        allowance.check_model(of)
    (error,) = refused.value.errors
    assert error.code == "model_too_large"
    return error.detail


@pytest.mark.parametrize(
    "network",
    [
        {"channels": [512], "shape": LARGE},
        {"channels": [64, 128, 256, 512, 512], "shape": LARGE, "hidden": (4096, 4096)},
        {"channels": [16, 32], "shape": (1, 28, 28), "hidden": (64,)},
        {"channels": [256, 256], "shape": (3, 96, 96), "kernel": 7, "activation": "GELU"},
        {"channels": [1], "shape": (1, 64, 64), "hidden": (16_384,) * 2},
    ],
    ids=str,
)
def test_other_models_are_computed(network):
    of = Model(*cnn(**network))
    allowance.check_model(of)
    allowance.Allowance(of).spend(1)


def test_activations_count_as_work_where_there_is_little_else():
    """A GELU takes as long as some 50 multiplications: a convolution with one channel and a kernel of 1 has few."""
    of = Model(*cnn(channels=[700], kernel=1, shape=(1, 224, 224), activation="GELU"))
    assert of.cost.multiplications > 2 * 700 * 224**2 * inference.NUMBER_COST > 10 * 700 * 224**2


def test_the_largest_model_that_is_computed_is_the_one_at_the_limit(monkeypatch):
    of = Model(*cnn([4]))
    for name, cost in (("MAX_MULTIPLICATIONS", of.cost.multiplications), ("MAX_FLOATS", of.cost.floats_alone)):
        monkeypatch.setattr(allowance, name, cost)
        allowance.check_model(of)
        monkeypatch.setattr(allowance, name, cost - 1)
        assert str(cost - 1 if name != "MAX_FLOATS" else 4 * (cost - 1)) in refused_model(of)
        monkeypatch.undo()


@pytest.mark.parametrize("limit", ["MAX_MULTIPLICATIONS", "MAX_FLOATS"])
def test_every_kind_of_body_has_the_same_refusal_of_a_model_that_is_too_large(
    client, predict, problem, limit, monkeypatch
):
    monkeypatch.setattr(allowance, limit, 7)  # a Linear layer of 4 x 2 has 8 multiplications
    path = predict()
    image = picture("L", 2)
    bodies: list[dict[str, Any]] = [
        {"json": {"images": [[0, 1], [1, 0]]}},
        {"json": {"images": [[[0, 1], [1, 0]]] * 3}},
        {"data": image, "content_type": "image/png"},
        {"data": npz(np.zeros((2, 2, 2), np.uint8)), "content_type": "application/zip"},
        {"data": {"files": [(io.BytesIO(image), "a.png"), (io.BytesIO(image), "b.png")]}},
        {"data": {"files": (io.BytesIO(npz(np.zeros((1, 2, 2)))), "a.npz"), "white": "1"}},
    ]
    told = [problem(client.post(path, **body), 422, "not_built")["errors"] for body in bodies]
    assert told[1:] == told[:-1]
    monkeypatch.undo()


# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.fixture
def predict(client, hands, monkeypatch):
    """predict(side, classes): the path of a finished job."""
    monkeypatch.setattr(predictions, "_models", predictions.ModelCache(64 * MB))

    def make(side: int = 2, classes: int = 2) -> str:
        job, lease = hands.submit(), hands.start()
        files = {"model.json": json.dumps(description(side, classes)).encode()}
        files["model.safetensors"] = save(weights(side, classes))
        hands.finish(lease, files=[hands.store(lease, name, content) for name, content in files.items()])
        return f"/v1/jobs/{job['id']}/predict"

    return make


def test_a_response_that_would_be_too_large_is_refused_with_the_number_that_may_be_sent(client, predict, problem):
    path = predict(classes=1000)
    body = npz(np.zeros((10_000, 2, 2), np.uint8))
    assert len(body) < 2000
    detail = problem(client.post(path, data=body, content_type="application/zip"), 422, "invalid_images")["detail"]
    most = int(detail.rpartition("send at most ")[2].split()[0])
    assert 1000 < most < 2000
    counted = allowance.Allowance(model(classes=1000))
    counted.spend(most)
    assert "probabilities each" in refusal(lambda: counted.spend(1))


def test_the_largest_response_is_within_the_limit(client, predict, monkeypatch):
    monkeypatch.setattr(allowance, "MAX_ANSWER_BYTES", 60_000)
    path = predict(classes=50)
    detail = client.post(path, data=npz(np.zeros((999, 2, 2), np.uint8)), content_type="application/zip").json["detail"]
    most = int(detail.rpartition("send at most ")[2].split()[0])
    answer = client.post(path, data=npz(np.ones((most, 2, 2), np.uint8)), content_type="application/zip")
    assert answer.status_code == 200
    assert 20_000 < len(answer.data) < 60_000


def test_a_file_name_is_repeated_for_each_image_only_if_it_is_short(client, predict, problem, monkeypatch):
    path, images = predict(), npz(np.zeros((100, 2, 2), np.uint8))
    problem(client.post(path, data={"files": (io.BytesIO(images), "x" * 256)}), 422, "invalid_images")
    assert client.post(path, data={"files": (io.BytesIO(images), "x" * 255)}).status_code == 200
    monkeypatch.setattr(allowance, "MAX_ANSWER_BYTES", 20_000)  # of which 100 names take 25 000
    answer = client.post(path, data={"files": (io.BytesIO(images), "x" * 255)})
    assert "send at most" in problem(answer, 422, "invalid_images")["detail"]


def test_a_prediction_keeps_no_response_for_its_key(client, predict, services):
    path, key = predict(), {"Idempotency-Key": "k"}
    first = client.post(path, json={"images": [[0, 1], [1, 0]]}, headers=key)
    again = client.post(path, json={"images": [[0, 1], [1, 0]]}, headers=key)
    assert (first.status_code, first.data) == (again.status_code, again.data) == (200, first.data)
    assert client.post(path, json={"images": [[1, 1], [1, 0]]}, headers=key).status_code == 200
    assert "Idempotent-Replayed" not in again.headers
    with services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 0


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(app) -> PredictionPlaces:
    found: PredictionPlaces = app.extensions[predictions.EXTENSION]
    return found


def test_one_owner_has_half_of_the_places_and_callers_without_a_token_share_all(places):
    places.computing.seconds = 0.01
    computing = places.computing
    with places.taken(computing, "a"):
        with pytest.raises(TooManyPredictions), places.taken(computing, "a"):
            pass
        with places.taken(computing, "b"), pytest.raises(TooManyPredictions), places.taken(computing, None):
            pass
    with places.taken(computing, None), places.taken(computing, None):
        pass
    with pytest.raises(ZeroDivisionError), places.taken(places.bytes, "a", 2):
        raise ZeroDivisionError
    assert places.computing.in_use == places.bytes.in_use == 0


def test_a_prediction_without_a_place_is_told_when_to_send_it_again(client, predict, problem, places):
    path = predict()
    places.computing.seconds = 0.01
    body = {"images": [[0, 1], [1, 0]]}
    with places.taken(places.computing, None), places.taken(places.computing, None):
        answer = client.post(path, json=body)
        problem(answer, 503, "too_many_predictions")
        assert int(answer.headers["Retry-After"]) >= 1
    with places.taken(places.bytes, None, places.bytes.number):
        problem(client.post(path, json=body), 503, "too_many_predictions")
    assert client.post(path, json=body).status_code == 200


def test_a_refused_prediction_gives_its_place_back(client, predict, places):
    path = predict()
    for body in ({"images": [["a", 1], [1, 0]]}, {"images": []}, {"imagse": []}):
        for _ in range(4):
            assert client.post(path, json=body).status_code == 422
    assert places.computing.in_use == places.bytes.in_use == 0


def test_many_small_images_take_linear_time():
    def seconds(n: int) -> float:
        body = json.dumps({"images": [[[0, 1], [1, 0]]] * n}).encode()
        return cpu_seconds(lambda: list(Reader(model(), False).of_json(body)))

    assert seconds(10_000) < 3  # 0.3 s
