"""Predictions without torch: PNGs of every kind compared with Pillow, resizing, pixel ranges, and the command alone."""

from __future__ import annotations

import io
import itertools
import json
import math
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from safetensors.numpy import save_file

from shared import inference
from shared.inference import Model, Refused, fitted, pixels_of, read_png, resampling

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
KINDS = [(colour, depth) for colour, depths in inference.DEPTHS.items() for depth in depths]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    samples: np.ndarray, colour: int, depth: int, filters: list[int], extra: bytes = b"", interlace: int = 0
) -> bytes:
    """Encode (h,w,samples) as a PNG whose rows use `filters` in turn; Pillow writes only a few of the kinds."""
    height, width, count = samples.shape
    bits = np.unpackbits(samples.astype(">u2").view(np.uint8).reshape(height, width, count, 2), axis=3)[
        ..., 16 - depth :
    ]
    rows = np.packbits(bits.reshape(height, -1), axis=1).astype(int)
    step = max(1, count * depth // 8)
    above, out = np.zeros_like(rows[0]), b""
    for row, kind in zip(rows, itertools.cycle(filters), strict=False):
        left, corner = (np.concatenate([np.zeros(step, int), line[:-step]])[: len(row)] for line in (row, above))
        p = left + above - corner
        to = [abs(p - guess) for guess in (left, above, corner)]
        paeth = np.where((to[0] <= to[1]) & (to[0] <= to[2]), left, np.where(to[1] <= to[2], above, corner))
        guess = [0 * row, left, above, (left + above) // 2, paeth][kind]
        out += bytes([kind]) + bytes(((row - guess) % 256).astype(np.uint8))
        above = row
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    packed = zlib.compress(out)
    data = chunk(b"IDAT", packed[:20]) + chunk(b"IDAT", packed[20:])  # in two parts, as in large files
    return inference.SIGNATURE + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def drawn(colour: int, depth: int, size: tuple[int, int] = (11, 7), seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2**depth, (*size, inference.SAMPLES[colour]), dtype=np.uint16)


def by_pillow(content: bytes) -> np.ndarray:
    """(h,w,1..4) in [0, 1]"""
    picture = Image.open(io.BytesIO(content))
    if picture.mode.startswith("I"):
        return (np.asarray(picture).astype(float) / 65535)[..., None]
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif "transparency" in picture.info:
        picture = picture.convert("LA" if picture.mode == "L" else "RGBA")
    elif picture.mode == "1":
        picture = picture.convert("L")
    return np.asarray(picture).reshape(*picture.size[::-1], -1) / 255


@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 1, 3, 0, 2]], ids=str)
@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_a_png_of_every_kind_and_filter_is_read_as_pillow_reads_it(colour, depth, filters):
    palette = (
        bytes(np.random.default_rng(1).integers(0, 256, 3 * 2**depth, dtype=np.uint8)) if colour == PALETTE else b""
    )
    content = png(drawn(colour, depth), colour, depth, filters, chunk(b"PLTE", palette) if palette else b"")
    # Pillow keeps the upper 8 of 16 bits, except for grey
    tolerance = 1 / 255 if depth == 16 and colour != GREY else 1e-6
    expected = by_pillow(content)
    if (colour, depth) == (GREY_ALPHA, 16):
        expected = expected[..., [0, 3]]  # which Pillow reads as RGBA
    np.testing.assert_allclose(read_png(content), expected, atol=tolerance)


def test_transparent_colours_are_found():
    palette = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", bytes([0, 128]))
    content = png(drawn(PALETTE, 2), PALETTE, 2, [0], palette)
    np.testing.assert_allclose(read_png(content), by_pillow(content), atol=1e-6)
    grey = png(drawn(GREY, 8), GREY, 8, [0], chunk(b"tRNS", struct.pack(">H", int(drawn(GREY, 8)[0, 0, 0]))))
    assert read_png(grey)[0, 0, 1] == 0
    assert read_png(grey)[..., 1].mean() > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (64, 64)])
def test_what_pillow_writes_is_read(size):
    pixels = np.random.default_rng(5).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    assert (read_png(out.getvalue()) * 255).round().astype(int).tolist() == pixels.tolist()


class TestRefused:
    good = png(drawn(GREY, 8), GREY, 8, [4])

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"GIF89a", "not a PNG"),
            (b"", "not a PNG"),
            (good[:40], "truncated"),
            (good[:-20], "truncated"),
            (good[:60] + b"?" + good[61:], "checksum"),
            (png(drawn(GREY, 8), GREY, 8, [0], interlace=1), "Adam7"),
            (png(drawn(PALETTE, 4), PALETTE, 4, [0], chunk(b"PLTE", b"\0\0\0")), "palette"),
            (good[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 11, 5, 0, 0, 0, 0)) + good[33:], "header"),
            (
                good[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 0, 0, 0, 0)) + good[33:],
                "the limit is",
            ),
            (good[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 99, 99, 8, 0, 0, 0, 0)) + good[33:], "truncated"),
        ],
    )
    def test_a_file_that_is_not_a_png_is_refused_with_the_reason(self, content, words):
        with pytest.raises(Refused, match=words):
            read_png(content)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["II", "MM"])
def test_a_png_is_turned_as_pillow_turns_it(orientation, order):
    pixels = drawn(RGB, 8)
    byte_order, mark = ("<", b"II*\0") if order == "II" else (">", b"MM\0*")
    entries = struct.pack(f"{byte_order}IHHHIHHHHIHH", 8, 2, 0x0100, 3, 1, 7, 0, 0x0112, 3, 1, orientation, 0)
    content = png(pixels, RGB, 8, [0], chunk(b"eXIf", mark + entries + bytes(4)))
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_allclose(read_png(content) * 255, np.asarray(turned), atol=1e-4)


@pytest.mark.parametrize(
    "exif",
    [b"", b"II*\0", b"MM\0*\0\0\0\x08", b"II*\0\xff\xff\xff\xff", b"nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"],
)
def test_damaged_exif_data_turns_nothing(exif):
    assert inference.orientation_of(exif) == 1


def test_an_orientation_beyond_8_turns_nothing():
    entries = struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 9, 0)
    assert inference.orientation_of(b"II*\0" + entries) == 1
    assert inference.orientation_of(b"Exif\0\0II*\0" + entries.replace(b"\x09\0", b"\x06\0")) == 6


class TestSizes:
    @pytest.mark.parametrize(("size", "wanted"), [(28, 8), (28, 28), (8, 28), (5, 3), (1, 4), (4, 1)])
    def test_a_flat_picture_stays_flat(self, size, wanted):
        matrix = resampling(size, wanted)
        assert matrix.shape == (wanted, size)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
        assert (matrix >= 0).all()

    def test_halving_takes_the_mean_of_four_and_the_same_size_changes_nothing(self):
        image = np.random.default_rng(0).random((6, 4, 1)).astype(np.float32)
        halved = fitted(image, (1, 3, 2))[0]
        np.testing.assert_allclose(halved, image[..., 0].reshape(3, 2, 2, 2).mean((1, 3)), atol=1e-6)
        np.testing.assert_array_equal(fitted(image, (1, 6, 4))[0], image[..., 0])

    def test_enlarging_agrees_with_pillow(self):
        image = np.random.default_rng(0).random((5, 4)).astype(np.float32)
        bilinear = np.asarray(Image.fromarray(image).resize((11, 9), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(fitted(image[..., None], (1, 9, 11))[0], bilinear, atol=1e-6)

    def test_colours_become_grey_and_grey_becomes_colours(self):
        red = np.zeros((2, 2, 3), np.float32)
        red[..., 0] = 1
        np.testing.assert_allclose(fitted(red, (1, 2, 2)), 0.299, atol=1e-6)
        assert fitted(red[..., :1], (3, 2, 2)).tolist() == np.ones((3, 2, 2)).tolist()
        with pytest.raises(Refused, match="2 channels"):
            fitted(red, (2, 2, 2))

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_whole_numbers_are_fitted_as_their_fractions_are(self, channels, kind):
        image = np.random.default_rng(3).integers(0, np.iinfo(kind).max, (9, 7, channels), endpoint=True, dtype=kind)
        fractions = (image / np.iinfo(kind).max).astype(np.float32)
        for shape in ((1, 9, 7), (3, 4, 5), (1, 12, 3)):
            for invert in (False, True):
                np.testing.assert_array_equal(fitted(image, shape, invert), fitted(fractions, shape, invert))

    @pytest.mark.parametrize(("white", "rounded"), [(255, True), (65_535, True), (1, False), (16, False), (100, False)])
    def test_pictures_are_rounded_to_the_grey_levels_of_stored_pictures(self, white, rounded):
        pixels = np.random.default_rng(3).random((1, 4, 4)).astype(np.float32)
        levels = inference.levelled(pixels, float(white)) * white
        assert (np.abs(levels - np.rint(levels)).max() < 1e-2) == rounded
        np.testing.assert_allclose(levels / white, pixels, atol=0.501 / white)

    def test_what_is_transparent_is_black_and_inverted_too(self):
        clear = np.zeros(
            (2, 2, 4), np.float32
        )  # the background of a drawing: black strokes on it need white below them
        assert fitted(clear, (1, 2, 2)).max() == 0
        assert fitted(clear, (1, 2, 2), invert=True).max() == pytest.approx(0, abs=1e-6)
        stroke = np.array([[[0, 0, 0, 1.0]]], np.float32)
        assert fitted(stroke, (1, 1, 1), invert=True).item() == 1


class TestPixels:
    shape = (1, 2, 3)

    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            ([0, 1, 1], [0, 1, 1]),
            ([0.0, 1.0, 1.0], [0, 1, 1]),
            ([0, 0.5, 1], [0, 0.5, 1]),
            ([0, 8, 16], [0, 0.5, 1]),
            ([0.0, 8.0, 16.0], [0, 0.5, 1]),
            ([0.5, 8.5, 2.0], [0.5 / 16, 8.5 / 16, 2 / 16]),
            ([0, 0, 0], [0, 0, 0]),
            ([0, 0.5, 1.0009], [0, 0.5, 1]),
            ([16.0009, 0, 0], [1, 0, 0]),
            ([True, False, True], [1, 0, 1]),
        ],
    )
    @pytest.mark.parametrize("beside", [[], [0.5, 0.25, 0], [0, 3, 16], [0, 1, 0], [0.0, 0.0, 0.0]], ids=str)
    def test_an_image_is_read_by_its_numbers_whatever_their_type_and_the_images_beside_it(
        self, image, expected, beside
    ):
        images = [[image, image], *([[beside, beside]] if beside else [])]
        np.testing.assert_allclose(pixels_of(images, self.shape, 16)[0, 0], [expected, expected], atol=1e-7)

    @pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32, np.float64])
    @pytest.mark.parametrize("declared", [1, 4, 16, 255, 1000.0])
    def test_a_declared_white_holds_for_every_image(self, kind, declared):
        images = np.array([[[0, 1, 0], [1, 0, 1]], [[0, 0, 0], [0, 0, 0]]], kind)
        np.testing.assert_allclose(pixels_of(images, self.shape, 16, declared)[:, 0], images / declared, rtol=1e-6)

    @pytest.mark.parametrize(
        ("images", "declared", "words"),
        [
            ([[0, 1.5, 0], [0, 0, 0]], None, "neither fractions of white nor pixels .* send `white`"),
            ([[0, 1.01, 0.3], [0, 0, 0]], None, "send `white`"),
            ([[0, 1.5, 0], [0, 0, 0]], 1, "between 0 and 1, got 0 to 1.5 in image 0"),
            ([[0, 300, 0], [0, 0, 0]], 255, "between 0 and 255, got 0 to 300"),
            ([[0, -0.1, 0], [0, 0, 0]], 255, "got -0.1 to 0"),
            ([[[0, 0, 0]] * 2, [[0, 17, 0]] * 2], None, "in image 1"),
        ],
    )
    def test_numbers_whose_scale_is_not_known_are_refused(self, images, declared, words):
        with pytest.raises(Refused, match=words):
            pixels_of(images, self.shape, 16, declared)

    def test_zeros_and_ones_are_the_dataset_s_pixels_where_it_has_nothing_brighter(self):
        """Models of earlier versions were trained on images of 0 and 1 with a white of 255."""
        image = np.array([[0, 1], [1, 0]])
        for share in (0.05, 0.5, 1.0):
            scale = {"mean": [share / 255], "std": [(share - share**2) ** 0.5 / 255], "white": 255.0}
            model = Model({**description(LINEAR), "normalization": scale}, WEIGHTS)
            for images in (image, image.astype(float), image.astype(np.uint8)):
                np.testing.assert_allclose(model.array(images)[0, 0], image / 255)
            np.testing.assert_allclose(model.array(image, white=1)[0, 0], image)
        bright = {"mean": [0.13], "std": [0.3], "white": 255.0}
        np.testing.assert_array_equal(
            Model({**description(LINEAR), "normalization": bright}, WEIGHTS).array(image)[0, 0], image
        )

    def test_whole_numbers_are_pixels_and_fractions_are_shares(self):
        np.testing.assert_allclose(pixels_of([[0, 8, 16], [4, 0, 0]], self.shape, 16)[0, 0, 0], [0, 0.5, 1])
        np.testing.assert_allclose(pixels_of([[0, 0.5, 1.0], [0, 0, 0]], self.shape, 16)[0, 0, 0], [0, 0.5, 1])
        assert pixels_of(np.ones((2, 3), bool), self.shape, 16).max() == 1

    @pytest.mark.parametrize("given", [(2, 3), (1, 2, 3), (5, 2, 3), (5, 1, 2, 3), (5, 2, 3, 1)])
    def test_one_image_or_many(self, given):
        assert pixels_of(np.zeros(given), self.shape, 16).shape == (5 if given[0] == 5 else 1, 1, 2, 3)

    def test_channels_may_come_last(self):
        image = np.arange(24).reshape(2, 3, 4, 1).repeat(3, axis=3)
        assert pixels_of(image, (3, 3, 4), 255).shape == (2, 3, 3, 4)

    @pytest.mark.parametrize(
        ("images", "words"),
        [
            (np.zeros((3, 3)), r"\(1, 2, 3\) or \(2, 3\), got \(3, 3\)"),
            ([[1, 2], [1]], "different sizes"),
            ([[None, 1, 1], [1, 1, 1]], "numbers, got object"),
            ([["a", "b", "c"], ["a", "b", "c"]], "must be numbers"),
            ([[0, 17, 0], [0, 0, 0]], "between 0 and 16, got 0 to 17"),
            ([[0, -1, 0], [0, 0, 0]], "got -1 to 0"),
            ([[0, 1.5, 0], [0, 0, 0]], "between 0 and 1, got 0 to 1.5"),
            ([[0, math.nan, 0], [0, 0, 0]], "between 0 and 1"),
        ],
    )
    def test_the_rest_is_refused_by_name(self, images, words):
        with pytest.raises(Refused, match=words):
            pixels_of(images, self.shape, 16)


def test_erf_is_that_of_the_standard_library_to_float32():
    x = np.linspace(-6, 6, 20_001)
    assert max(abs(inference.erf(x) - [math.erf(value) for value in x])) < 5e-8


def test_sigmoid_and_softmax_never_overflow():
    far = np.array([[-1e4, 0, 1e4]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert inference.sigmoid({}, {}, far).tolist() == [[0, 0.5, 1]]
        assert inference.softmax(far).tolist() == [[0, 0, 1]]


def description(layers: list[dict], shape: tuple[int, int, int] = (1, 2, 2)) -> dict:
    return {
        "architecture": {"type": "mlp"},
        "layers": layers,
        "input_shape": list(shape),
        "classes": ["a", "b"],
        "normalization": {"mean": [0.0], "std": [1.0], "white": 16.0},
    }


LINEAR = [{"type": "Flatten", "arguments": {}}, {"type": "Linear", "arguments": {}}]
WEIGHTS = {
    "1.weight": np.array([[1, 1, 1, 1], [-1, -1, -1, -1]], np.float32),
    "1.bias": np.array([-2, 2], np.float32),
}


def test_a_convolution_in_bands_is_a_convolution_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    weights = {"weight": rng.random((3, 2, 5, 5), np.float32), "bias": rng.random(3, np.float32)}
    x = rng.random((4, 2, 9, 8), np.float32)
    whole = inference.conv2d({}, weights, x)
    monkeypatch.setattr(inference, "CHUNK_FLOATS", 2000)
    np.testing.assert_allclose(inference.conv2d({}, weights, x), whole, rtol=1e-6)


def test_a_model_in_chunks_answers_as_at_once(monkeypatch):
    model = Model(description(LINEAR), WEIGHTS)
    images = np.random.default_rng(0).random((7, 2, 2))
    whole = model.predict(images)
    monkeypatch.setattr(inference, "CHUNK_FLOATS", 8)
    assert model.predict(images) == whole
    assert len(whole) == 7


def test_inverted_is_the_complement():
    model = Model(description(LINEAR), WEIGHTS)
    assert model.predict(np.ones((2, 2)))[0]["class"] == "a"
    assert model.predict(np.ones((2, 2)), invert=True) == model.predict(np.zeros((2, 2)))


def test_a_channel_that_was_constant_divides_by_1_in_models_of_earlier_versions_too():
    scale = {"mean": [0.5], "std": [1e-8], "white": 255.0}
    model = Model({**description(LINEAR), "normalization": scale}, WEIGHTS)
    assert np.abs(model.logits(np.full((1, 1, 2, 2), 0.5 + 1 / 255))).max() < 3


def test_what_numpy_does_not_compute_is_refused_by_name():
    zoo = {**description(LINEAR), "layers": None, "architecture": {"type": "torchvision", "name": "resnet18"}}
    with pytest.raises(Refused, match=r"resnet18 .* run its model\.onnx"):
        Model(zoo, {})
    with pytest.raises(Refused, match="a layer LSTM"):
        Model(description([{"type": "LSTM", "arguments": {}}]), {})


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "PIL", "scipy", "shared", "worker", "gradq"):
            raise ImportError(f"{name} was asked for")
sys.meta_path.insert(0, Refuse())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, a copy of the file, and two pictures."""
    (tmp_path / "predict.py").write_bytes(Path(inference.__file__).read_bytes())
    (tmp_path / "model.json").write_text(json.dumps(description(LINEAR)))
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    for name, value in (("white.png", 255), ("black.png", 0)):
        (tmp_path / name).write_bytes(png(np.full((9, 5, 1), value), GREY, 8, [0]))
    return tmp_path


def alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-I", "-c", textwrap.dedent(ALONE), str(folder / "predict.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=150)


class TestCommand:
    def test_it_runs_where_torch_and_pillow_cannot_be_imported(self, folder):
        run = alone(folder, "white.png", "black.png")
        assert run.returncode == 0, run.stderr
        assert [line.split("\t")[:2] for line in run.stdout.splitlines()] == [["white.png", "a"], ["black.png", "b"]]
        assert "a:0.9820" in run.stdout.splitlines()[0]

    def test_json_has_every_probability(self, folder):
        run = alone(folder, "--json", "--invert", "white.png")
        (answer,) = json.loads(run.stdout)
        assert (answer["file"], answer["label"], answer["class"]) == ("white.png", 1, "b")
        assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-6)

    def test_another_folder_s_model_can_be_named(self, folder, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "predict.py"
        elsewhere.write_bytes((folder / "predict.py").read_bytes())
        command = [sys.executable, "-I", str(elsewhere), "--model", str(folder), str(folder / "white.png")]
        run = subprocess.run(command, capture_output=True, text=True, timeout=150)
        assert (run.returncode, run.stdout.split("\t")[1]) == (0, "a")

    def test_a_file_that_is_not_a_png_is_named_without_a_traceback(self, folder):
        (folder / "no.png").write_text("hello")
        for name, words in (("no.png", "no.png: not a PNG file"), ("gone.png", "gone.png")):
            run = alone(folder, name)
            assert run.returncode == 1
            assert run.stderr.startswith("predict.py: ")
            assert words in run.stderr
            assert "Traceback" not in run.stderr
