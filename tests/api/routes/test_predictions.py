"""POST …/predict: all formats of images, all refusals, and the cache of models."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from gunicorn.http.errors import InvalidChunkSize
from PIL import Image
from safetensors.numpy import save
from support.images import npy_that_says
from support.transfers import Transfers

from api.predictions import allowance, images
from api.routes import predictions
from api.routes.predictions import ModelCache
from shared.inference import Model
from shared.jobs.states import JobState

DESCRIPTION = {
    "architecture": {"type": "linear"},
    "layers": [
        {"type": "Flatten", "arguments": {}},
        {"type": "Linear", "arguments": {"in_features": 4, "out_features": 2}},
    ],
    "input_shape": [1, 2, 2],
    "classes": ["bright", "dark"],
    "normalization": {"mean": [0.0], "std": [1.0], "white": 16.0},
}
WEIGHTS = {
    "1.weight": np.array([[1, 1, 1, 1], [-1, -1, -1, -1]], np.float32),
    "1.bias": np.array([-2, 2], np.float32),
}
BRIGHT, DARK = [[16, 15], [16, 14]], [[0, 1], [0, 2]]
PNG, JPEG, NPZ = "image/png", "image/jpeg", "application/octet-stream"


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    monkeypatch.setattr(predictions, "_models", ModelCache(1 << 20))


@pytest.fixture
def finished(hands):
    """finished(description=…): the path of a finished job with a model."""

    def make(description: dict[str, Any] = DESCRIPTION, weights: bytes | None = None) -> str:
        job = hands.submit()
        lease = hands.start()
        files = [
            hands.store(lease, "model.json", json.dumps(description).encode()),
            hands.store(lease, "model.safetensors", weights or save(WEIGHTS)),
        ]
        hands.finish(lease, files=files)
        return f"/v1/jobs/{job['id']}/predict"

    return make


@pytest.fixture
def path(finished) -> str:
    return finished()


def picture(
    value: int | tuple[int, ...], mode: str = "L", size: tuple[int, int] = (9, 5), format: str = "png"
) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, value).save(out, format)
    return out.getvalue()


def said(shape: tuple[int, ...], kind: str = "'|u1'", content: bytes = b"") -> bytes:
    return zipped("images.npy", npy_that_says(shape, kind, content))


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def zipped(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def npy(header: dict[str, Any], content: bytes = b"") -> bytes:
    text = (repr(header) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def classes(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [prediction["class"] for prediction in answer.json["predictions"]]


class TestImagesIn:
    def test_the_answer_has_label_class_and_every_probability(self, client, path, conforms):
        answer = client.post(path, json={"images": [BRIGHT, DARK]}).json
        conforms(answer, "Predictions")
        assert answer["classes"] == ["bright", "dark"]
        assert answer["job"] == path.split("/")[3]
        first, second = answer["predictions"]
        assert (first["label"], first["class"]) == (0, "bright")
        assert (second["label"], second["class"]) == (1, "dark")
        logit = sum(map(sum, BRIGHT)) / 16 - 2
        assert first["probabilities"] == pytest.approx(
            [1 / (1 + np.exp(-2 * logit)), 1 / (1 + np.exp(2 * logit))], abs=1e-6
        )

    @pytest.mark.parametrize("images", [BRIGHT, [BRIGHT], [[BRIGHT]], [[1.0, 0.9], [0.9, 1]]])
    def test_json_lists_of_one_image_in_each_shape(self, client, path, images):
        assert classes(client.post(path, json={"images": images})) == ["bright"]

    def test_the_answer_for_an_image_depends_on_its_numbers_alone(self, client, path):
        expected = client.post(path, json={"images": [[[0, 1.0], [1.0, 1.0]]]}).json["predictions"][0]
        for image in ([[0, 1], [1, 1]], [[0.0, 1.0], [1.0, 1.0]], [[0, 16], [16, 16]], [[0, 16.0], [16, 16]]):
            for beside in ([], [[[0, 0.5], [0, 0]]], [[[0, 7], [0, 0]]], [[[0, 0], [0, 0]]]):
                images = [image, *beside]
                assert client.post(path, json={"images": images}).json["predictions"][0] == expected
                as_npz = client.post(path, data=npz(images=np.array(images)), content_type=NPZ)
                assert as_npz.json["predictions"][0] == expected

    def test_the_white_of_arrays_can_be_declared_in_json_and_in_a_form(self, client, path, problem):
        image = [[1, 1], [1, 0]]
        assert classes(client.post(path, json={"images": image})) == ["bright"]
        assert classes(client.post(path, json={"images": image, "white": 1})) == ["bright"]
        assert classes(client.post(path, json={"images": image, "white": 16})) == ["dark"]
        assert classes(client.post(path, json={"images": [[1.5, 1.5], [1.5, 0]], "white": 1.5})) == ["bright"]

        def form(white: str, content: bytes) -> Any:
            return client.post(path, data={"files": (io.BytesIO(content), "a"), "white": white})

        array = npz(images=np.array([image], np.uint8))
        assert classes(form("1", array)) == ["bright"]
        assert classes(form("255", array)) == ["dark"]
        for white in ("0", "-1", "nan", "inf", "bright"):
            body = problem(form(white, array), 422, "invalid_images")
            assert body["errors"][0]["pointer"] == "/white"
        assert "a picture has its own" in problem(form("1", picture(255)), 422, "invalid_images")["detail"]
        for white in (0, -1, "1", True):
            answer = client.post(path, json={"images": image, "white": white})
            assert "/white" in problem(answer, 422, "invalid_images")["detail"]

    def test_curl_s_media_type_does_not_matter(self, client, path):
        form = "application/x-www-form-urlencoded"
        assert classes(client.post(path, data=json.dumps({"images": DARK}), content_type=form)) == ["dark"]
        assert classes(client.post(path, data=picture(255), content_type=form)) == ["bright"]

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (picture(255), "bright"),
            (picture(3), "dark"),
            (picture(1, "1"), "bright"),
            (picture(65_000, "I;16"), "bright"),
            (picture((255, 255, 255), "RGB"), "bright"),
            (picture((255, 255, 255, 0), "RGBA"), "dark"),  # transparent: the background
            (picture((255, 255), "LA"), "bright"),
            (picture(255, "L", (1000, 700)), "bright"),
            (picture((250, 250, 250), "RGB", format="jpeg"), "bright"),
            (picture(0, "CMYK", format="jpeg"), "bright"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_picture_of_any_kind_and_size(self, client, path, body, expected):
        assert classes(client.post(path, data=body, content_type=PNG)) == [expected]

    @pytest.mark.parametrize("name", ["images", "x"])
    @pytest.mark.parametrize("dtype", ["uint8", "int64", ">i4"])
    def test_an_npz(self, client, path, name, dtype):
        body = npz(**{name: np.array([BRIGHT, DARK], dtype), "labels": np.zeros(2)})
        assert classes(client.post(path, data=body, content_type=NPZ)) == ["bright", "dark"]

    def test_an_npz_of_columns_first_and_of_fractions(self, client, path):
        images = np.asfortranarray(np.array([BRIGHT, DARK, BRIGHT]) / 16)
        assert classes(client.post(path, data=npz(images=images), content_type=NPZ)) == ["bright", "dark", "bright"]

    def test_a_form_of_several_files_names_them_in_their_order(self, client, path, conforms):
        files = [
            (io.BytesIO(picture(255)), "a.png"),
            (io.BytesIO(picture(0, format="jpeg")), "b.jpg"),
            (io.BytesIO(npz(images=np.array([BRIGHT, DARK]))), "c.npz"),
        ]
        answer = client.post(path, data={"files": files})
        conforms(answer.json, "Predictions")
        assert classes(answer) == ["bright", "dark", "bright", "dark"]
        assert [p["file"] for p in answer.json["predictions"]] == ["a.png", "b.jpg", "c.npz", "c.npz"]

    def test_inverted_by_query_by_field_and_by_form(self, client, path):
        assert classes(client.post(f"{path}?invert=true", data=picture(255), content_type=PNG)) == ["dark"]
        assert classes(client.post(path, json={"images": BRIGHT, "invert": True})) == ["dark"]
        assert classes(client.post(path, data={"files": (io.BytesIO(picture(255)), "a.png"), "invert": "true"})) == [
            "dark"
        ]
        assert classes(client.post(f"{path}?invert=true", data=picture((0, 0, 0, 0), "RGBA"), content_type=PNG)) == [
            "dark"
        ]

    def test_the_orientation_of_a_photo_is_applied(self, client, finished):
        left = {"1.weight": np.array([[1, -1, 1, -1], [-1, 1, -1, 1]], np.float32), "1.bias": np.zeros(2, np.float32)}
        path = finished(weights=save(left))
        drawing = Image.new("L", (20, 20))
        drawing.paste(255, (0, 0, 10, 20))  # bright on the left
        for orientation, expected in ((1, "bright"), (3, "dark")):  # orientation 3: rotated by 180 degrees
            exif = Image.Exif()
            exif[0x0112] = orientation
            out = io.BytesIO()
            drawing.save(out, "jpeg", exif=exif)
            assert classes(client.post(path, data=out.getvalue(), content_type=JPEG)) == [expected]


def png_of(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


class Evil:
    def __reduce__(self) -> Any:
        return print, ("unpickled",)


BOMB = npy({"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 2, 2)}, b"\0" * 1000)
NEGATIVE = npy({"descr": "<f8", "fortran_order": False, "shape": (-1, 2, 2)}, b"\0" * 1000)
STRUCTURED = npy({"descr": [("a", "<f8")], "fortran_order": False, "shape": (1, 2, 2)}, b"\0" * 32)


class TestRefused:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({}, "/images"),
            ([], "must be"),
            ({"images": []}, "no image"),
            ({"images": BRIGHT, "inverted": True}, "did you mean 'invert'"),
            ({"images": BRIGHT, "invert": "yes"}, "/invert"),
            ({"images": "BRIGHT"}, "/images"),
            ({"images": [[1, 2, 3], [1, 2, 3]]}, "(1, 2, 2) or (2, 2), got (2, 3)"),
            ({"images": [BRIGHT, [[1]]]}, "different sizes"),
            ({"images": [[17, 0], [0, 0]]}, "between 0 and 16, got 0 to 17"),
            ({"images": [[1.5, 0], [0, 0]]}, "between 0 and 1"),
            ({"images": [["a", "b"], ["c", "d"]]}, "must be numbers"),
            ({"images": [[None, 1], [1, 1]]}, "must be numbers"),
            ({"images": [[{}, 1], [1, 1]]}, "must be numbers"),
            ({"images": [[10**400, 1], [1, 1]]}, "must be numbers"),
        ],
    )
    def test_json_without_images(self, client, path, problem, body, words):
        answer = problem(client.post(path, json=body), 422, "invalid_images")
        assert words in answer["detail"]
        assert answer["errors"]

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "neither"),
            (b"GIF89a....", "neither"),
            (b"\x89PNG\r\n\x1a\nbroken", "not a PNG or JPEG image"),
            (picture(1, size=(30, 30))[:60], "cannot be read"),
            (b"\xff\xd8\xffbroken", "not a PNG or JPEG image"),
            (png_of(9_000, 9_000), "9000 x 9000"),
            (png_of(100_000, 100_000), "cannot be read"),
            (b"PK\x03\x04broken", "cannot be read"),
            (npz(pixels=np.zeros(3)), "contains pixels"),
            (npz(images=np.zeros((3, 3))), "got (3, 3)"),
            (npz(images=np.array(["a"])), "must be numbers"),
            (npz(images=np.array([Evil()], object)), "never unpickled"),
            (zipped("images.npy", pickle.dumps(Evil())), "not an array in NumPy's format"),
            (zipped("images.npy", BOMB), "damaged"),
            (zipped("images.npy", NEGATIVE), "damaged"),
            (zipped("images.npy", STRUCTURED), "must be numbers"),
            (lambda: zipped("images.npy", b"\0" * (300 << 20)), "unpacks to"),  # takes a second: not at the import
            (zipped("images.npy", BOMB, zipfile.ZIP_LZMA), "compression method"),
            (said((0, 10**30)), "the shape (0, 1"),
            (said((1,) * 70, content=b"x"), "the shape (1, 1"),
            (said((True, 2, 2), content=bytes(4)), "the shape (True"),
            (said((2,), "()"), "not an array in NumPy's format"),
            (said((2,), "'|u1' (("), "not an array in NumPy's format"),
            (npz(images=np.zeros((10_001, 2, 2), np.uint8)), "10001 images; at most 10000"),
        ],
        ids=range(24),
    )
    def test_bytes_that_are_not_images(self, client, path, problem, body, words, capsys):
        data = body() if callable(body) else body
        answer = problem(client.post(path, data=data, content_type=NPZ), 422, "invalid_images")
        assert words in answer["detail"]
        assert " object at 0x" not in answer["detail"]
        assert "unpickled\n" not in capsys.readouterr().out

    def test_many_small_files_that_unpack_to_large_pictures(self, client, path, problem, monkeypatch):
        monkeypatch.setattr(images, "MAX_REQUEST_PIXELS", 100)
        files = [(io.BytesIO(picture(0)), f"{i}.png") for i in range(3)]
        answer = problem(client.post(path, data={"files": files}), 422, "invalid_images")
        assert "2.png: the images have more than 100 pixels in total" in answer["detail"]
        assert answer["errors"][0]["pointer"] == "/files/2"

    def test_a_form_without_files_or_with_other_fields(self, client, path, problem):
        for form, words in (
            ({"invert": "true"}, "no image"),
            ({"what": "1"}, "'what'"),
            ({"invert": "perhaps"}, "perhaps"),
        ):
            answer = client.post(path, data=form, content_type="multipart/form-data")
            assert words in problem(answer, 422, "invalid_images")["detail"]

    def test_a_form_whose_body_cannot_be_read(self, client, path, problem):
        class Broken(io.BytesIO):
            def read(self, *size: Any) -> Any:
                raise InvalidChunkSize(b"zz")

            readinto = readline = readall = read

        chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        for kind in ("multipart/form-data; boundary=b", "application/json"):
            answer = client.post(path, input_stream=Broken(b"x"), content_type=kind, environ_overrides=chunked)
            assert "malformed chunked" in problem(answer, 400, "bad_request")["detail"]

    def test_text_that_is_not_json(self, client, path, problem):
        problem(client.post(path, data="{", content_type="application/json"), 400, "bad_request")
        problem(client.post(path, data="{", content_type="application/x-www-form-urlencoded"), 400, "bad_request")

    def test_another_media_type(self, client, path, problem):
        assert (
            "text/csv"
            in problem(client.post(path, data="1,2", content_type="text/csv"), 415, "unsupported_media_type")["detail"]
        )

    def test_a_body_that_is_too_large_for_this_call_and_one_that_is_so_for_others(self, app, path, problem, settings):
        client = app.test_client()
        over = b"\x89PNG\r\n\x1a\n" + bytes(settings.predict_bytes)
        problem(client.post(path, data=over, content_type=PNG), 413, "payload_too_large")
        problem(client.post(path, data={"files": (io.BytesIO(over), "a.png")}), 413, "payload_too_large")
        images = np.random.default_rng(0).integers(0, 17, (9_000, 2, 2))
        large = json.dumps({"images": images.tolist(), "invert": False}, indent=40)
        assert len(large) > 1 << 20  # more than any other call takes
        assert len(classes(client.post(path, data=large, content_type="application/json"))) == 9_000

    def test_a_job_that_has_not_succeeded(self, client, hands, problem):
        job = hands.submit()
        path = f"/v1/jobs/{job['id']}/predict"
        assert problem(client.post(path, json={"images": DARK}), 409, "wrong_state")["state"] == "queued"
        hands.finish(hands.start(), JobState.FAILED, reason={"code": "diverged", "detail": "nan"})
        assert problem(client.post(path, json={"images": DARK}), 409, "wrong_state")["state"] == "failed"

    def test_a_job_without_a_model_and_no_job(self, client, hands, problem):
        job = hands.submit()
        hands.finish(hands.start())
        assert (
            "model.json" in problem(client.post(f"/v1/jobs/{job['id']}/predict", json={}), 404, "not_found")["detail"]
        )
        problem(client.post("/v1/jobs/job_0/predict", json={}), 404, "not_found")

    def test_a_model_whose_file_was_removed(self, client, path, services, problem):
        services.store.remove_folder(path.split("/")[3])
        assert "has been removed" in problem(client.post(path, json={"images": DARK}), 404, "not_found")["detail"]

    def test_a_net_that_numpy_does_not_compute_is_refused_by_name(self, client, finished, problem):
        zoo = {**DESCRIPTION, "layers": None, "architecture": {"type": "torchvision", "name": "resnet18"}}
        answer = problem(client.post(finished(zoo), json={"images": DARK}), 422, "not_built")
        assert "resnet18" in answer["errors"][0]["detail"]
        assert "model.onnx" in answer["errors"][0]["detail"]

    def test_a_net_of_torchvision_with_its_operations_is_answered(self, client, finished):
        operations = [
            {"op": "Flatten", "inputs": [0], "weights": None, "arguments": {}, "size": 4, "multiplications": 0},
            {"op": "Linear", "inputs": [1], "weights": "1", "arguments": {}, "size": 2, "multiplications": 8},
        ]
        zoo = {**DESCRIPTION, "layers": None, "operations": operations, "architecture": {"type": "torchvision"}}
        assert classes(client.post(finished(zoo), json={"images": [BRIGHT, DARK]})) == ["bright", "dark"]

    def test_more_images_than_the_service_computes_for_one_request(self, client, path, problem, monkeypatch):
        each = Model(DESCRIPTION, WEIGHTS).cost.multiplications
        monkeypatch.setattr(allowance, "MAX_MULTIPLICATIONS", 2 * each + 1)
        assert len(classes(client.post(path, json={"images": [DARK] * 2}))) == 2
        detail = problem(client.post(path, json={"images": [DARK] * 3}), 422, "invalid_images")["detail"]
        assert f"3 images, of {each} multiplications each" in detail
        assert "send at most 2 per request" in detail

    def test_a_model_that_is_too_large_to_keep(self, client, path, problem, monkeypatch):
        monkeypatch.setattr(predictions, "MAX_MODEL_BYTES", 10)
        (error,) = problem(client.post(path, json={"images": DARK}), 422, "not_built")["errors"]
        assert error["code"] == "model_too_large"

    def test_an_unknown_parameter(self, client, path, problem):
        problem(client.post(f"{path}?inverted=true", json={"images": DARK}), 422, "invalid_query")


class TestModelCache:
    def model(self, n: int) -> Model:
        return Model(DESCRIPTION, {**WEIGHTS, "1.bias": np.zeros(n, np.float32)})

    def test_a_model_is_read_once(self, client, path, services, monkeypatch):
        opened: list[str] = []
        original = type(services.store).open
        monkeypatch.setattr(
            type(services.store), "open", lambda self, key: (opened.append(key), original(self, key))[1]
        )
        for _ in range(3):
            assert classes(client.post(path, json={"images": DARK})) == ["dark"]
        assert len(opened) == 2  # description and weights

    def test_a_model_that_was_damaged_on_its_way_is_not_kept(self, client, path, services, problem, monkeypatch):
        with monkeypatch.context() as patched:
            Transfers(patched, damaged=1)
            problem(client.post(path, json={"images": DARK}), 503, "store_unavailable")
        assert classes(client.post(path, json={"images": DARK})) == ["dark"]
        assert len(predictions._models._held) == 1

    def test_the_ones_used_last_stay_within_the_bytes(self):
        cache = ModelCache(2 * self.model(100).size_bytes)
        a, b = (cache.get(name, lambda: self.model(100)) for name in "ab")
        assert cache.get("a", lambda: self.model(1)) is a
        cache.get("c", lambda: self.model(100))
        assert cache.size_bytes <= cache.limit_bytes
        assert cache.get("a", lambda: self.model(1)) is a  # b was evicted: it was used before a
        assert cache.get("b", lambda: self.model(100)) is not b

    def test_one_that_is_larger_than_all_is_served_and_the_next_one_takes_its_place(self):
        cache = ModelCache(10)
        big = cache.get("big", lambda: self.model(100))
        assert cache.get("big", lambda: self.model(1)) is big
        cache.get("small", lambda: self.model(1))
        assert cache.get("big", lambda: self.model(100)) is not big


def test_the_document_names_every_body(client):
    operation = client.get("/v1/openapi.json").json["paths"]["/v1/jobs/{job_id}/predict"]["post"]
    assert set(operation["requestBody"]["content"]) >= {"application/json", PNG, JPEG, NPZ, "multipart/form-data"}
    assert [p["name"] for p in operation["parameters"] if p["in"] == "query"] == ["invert"]
