"""The pictures: they show what they should, mistakes are red, names are not cut off by the edge."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import nn

from shared.jobs import curves
from shared.pictures import files, sheets
from shared.pictures.drawing import Drawing
from worker.trainer.data.normalization import Normalization
from worker.trainer.exports import confusion, pictures

DIGITS = tuple("0123456789")


def toy(n: int, shape: tuple[int, int, int], classes: tuple[str, ...]) -> Any:
    normalization = Normalization([0.5] * shape[0], [0.25] * shape[0], 255.0)
    pixels = torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)) * 255
    return SimpleNamespace(
        test_images=normalization.apply(pixels),
        normalization=normalization,
        info=SimpleNamespace(shape=shape, classes=classes),
    )


def drawing(
    data: Any, true: torch.Tensor, predicted: torch.Tensor, confidence: torch.Tensor | None = None, net: Any = None
) -> Drawing:
    confidence = torch.ones(len(true)) if confidence is None else confidence
    tested = pictures.Tested(true, predicted, confidence)
    matrix = confusion.count_confusions(true, predicted, len(data.info.classes))
    return pictures.drawing_of("a job", {"train_loss": [(1, 1, 2.0)]}, data, net, tested, matrix)


def first_layer(net: nn.Module, data: Any) -> sheets.Picture:
    layer = pictures.first_layer(net, data)
    assert layer is not None
    return sheets.first_layer(layer, data.info.classes)


def pixels(picture: sheets.Picture) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def red(picture: sheets.Picture) -> int:
    r, g, b = np.moveaxis(pixels(picture), 2, 0)
    return int(((r > 150) & (g < 80) & (b < 100)).sum())


def edge_is_paper(picture: sheets.Picture, width: int = 6) -> bool:
    found = pixels(picture)
    edges = (found[:width], found[-width:], found[:, :width], found[:, -width:])
    return all((edge == 255).all() for edge in edges)


def test_the_sheet_of_predictions_shows_the_images_and_marks_mistakes():
    data, true = toy(60, (1, 8, 8), DIGITS), torch.arange(60) % 10
    right, wrong = (sheets.predictions(drawing(data, true, p)) for p in (true, (true + 1) % 10))
    assert red(right) == 0
    assert red(wrong) > 500
    few = sheets.predictions(drawing(toy(3, (1, 8, 8), DIGITS), true[:3], true[:3]))
    assert few.width < right.width
    assert few.height < right.height


@pytest.mark.parametrize(
    ("labels", "most", "shown"),
    [
        ([0, 0, 0, 0, 1, 1, 2, 2], 6, [0, 1, 2, 0, 1, 2]),  # sorted by class, as folders give them
        ([2, 1, 0, 2, 1, 0], 4, [0, 1, 2, 0]),
        ([0] * 90 + [1] * 3, 40, [0, 1] * 3 + [0] * 34),  # a rare class is shown as often as there are images of it
        ([5, 3, 5], 40, [3, 5, 5]),  # classes without test images, and fewer images than places
        ([7], 40, [7]),
        (list(range(100)), 40, list(range(40))),
    ],
)
def test_the_images_of_predictions_are_balanced_over_the_classes(labels, most, shown):
    true = torch.tensor(labels)
    places = pictures.balanced(true, most)
    assert true[places].tolist() == shown
    assert len(set(places.tolist())) == len(places)
    for label in set(shown):  # the first images of each class
        assert (
            places[true[places] == label].tolist()
            == [i for i, at in enumerate(labels) if at == label][: shown.count(label)]
        )


def test_an_image_stands_on_the_sheet_pixel_by_pixel():
    data, true = toy(1, (1, 8, 8), DIGITS), torch.zeros(1, dtype=torch.int64)
    sheet = pixels(sheets.predictions(drawing(data, true, true)))
    shown = (data.test_images[0, 0] * 0.25 + 0.5).mul(255).round().int().numpy()
    left, dots = sheets.MARGIN, 88 // 8
    top = next(
        y for y in range(sheet.shape[0]) if (sheet[y : y + 88 : dots, left : left + 88 : dots, 0] == shown).all()
    )
    assert top > sheets.TITLE_SIZE


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 300, 100), (3, 2, 5)])
def test_sheets_hold_images_of_every_shape_and_long_names(shape):
    classes = ("a class with a name that is far too long", "x")
    data, true = toy(12, shape, classes), torch.arange(12) % 2
    shown = drawing(data, true, 1 - true, torch.linspace(0.5, 1, 12))
    for sheet in (sheets.predictions(shown), sheets.mistakes(shown)):
        assert edge_is_paper(sheet)
        assert 600 < sheet.width < 2000


def test_the_surest_mistakes_come_first(monkeypatch):
    data, true = toy(100, (1, 8, 8), DIGITS), torch.zeros(100, dtype=torch.int64)
    predicted = torch.ones(100, dtype=torch.int64)
    predicted[::2] = 0
    confidence = torch.linspace(0.5, 1, 100)
    chosen = pictures.surest_mistakes(pictures.Tested(true, predicted, confidence))
    assert chosen.tolist() == list(range(99, 19, -2))
    shown = []
    monkeypatch.setattr(sheets, "_sheet", lambda *given: shown.append(given))
    sheets.mistakes(drawing(data, true, predicted, confidence))
    ((images, title, captions),) = shown
    assert images.confidence == confidence[chosen].tolist()
    assert title.startswith("50 mistakes on 100 test images; the 40 surest")
    assert [text for text, _ in captions[0]] == ["0 → 1", "100.0%"]


def test_no_mistake_is_said_in_words():
    data, true = toy(5, (1, 8, 8), DIGITS), torch.arange(5)
    sheet = sheets.mistakes(drawing(data, true, true))
    assert (pixels(sheet) < 128).any()
    assert red(sheet) == 0


@pytest.mark.parametrize("n", [2, 3, 10, 20, 37, 100, 300, 400])
def test_a_confusion_matrix_of_any_size_is_whole(n):
    matrix = np.eye(n, dtype=np.int64) * 12_345
    matrix[0, n - 1] = 7
    sheet = sheets.confusion_matrix(matrix, [f"class number {i}" for i in range(n)])
    assert edge_is_paper(sheet)
    assert 600 < sheet.width < 2000
    assert 400 < sheet.height < 2000
    deep = (pixels(sheet) == sheets.BLUE).all(2).sum()
    assert deep > n * 10  # the diagonal


@pytest.mark.parametrize("n", [500, 600, 750, 1000])
def test_a_confusion_matrix_of_very_many_classes_stays_small_enough_to_look_at(n):
    sheet = sheets.confusion_matrix(np.eye(n, dtype=np.int64), [f"class number {i}" for i in range(n)])
    assert max(sheet.size) <= 2400
    assert (pixels(sheet) == sheets.BLUE).all(2).sum() >= n


def test_an_empty_row_of_the_matrix_is_white_and_no_error():
    sheet = sheets.confusion_matrix(np.zeros((3, 3), np.int64), ("a", "b", "c"))
    assert red(sheet) == 0


def test_a_class_whose_name_the_font_cannot_write_goes_by_its_number():
    classes = ("Zürich", "東京", "Αθήνα", "two\nlines", "서울")
    assert sheets.drawable(classes) == ["Zürich", "1", "Αθήνα", "3", "4"]
    data, true = toy(5, (1, 8, 8), classes), torch.arange(5)
    numbered = toy(5, (1, 8, 8), tuple(sheets.drawable(classes)))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    for draw in (
        lambda data: sheets.predictions(drawing(data, true, 4 - true)),
        lambda data: sheets.mistakes(drawing(data, true, 4 - true)),
        lambda data: sheets.confusion_matrix(np.eye(5, dtype=np.int64), data.info.classes),
        lambda data: first_layer(net, data),
    ):
        assert (pixels(draw(data)) == pixels(draw(numbered))).all()


class TestFirstLayer:
    def test_weights_are_coloured_by_sign_on_one_scale(self):
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        net[1].weight.data = torch.tensor([[1.0, -1.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
        sheet = pixels(first_layer(net, toy(1, (1, 2, 2), ("a", "b"))))
        for colour, least in ((sheets.RED, 44 * 44), (sheets.BLUE, 44 * 44), ((228, 136, 150), 44 * 44)):
            assert (abs(sheet - colour).max(2) <= 1).sum() >= least

    def test_colours_show_each_channel(self):
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        net[1].weight.data = torch.zeros(2, 12)
        net[1].weight.data[0, :4] = 1.0
        sheet = pixels(first_layer(net, toy(1, (3, 2, 2), ("a", "b"))))
        assert (sheet == (255, 128, 128)).all(2).sum() >= 88 * 88  # red up, the others at 0
        assert (sheet == (128, 128, 128)).all(2).sum() >= 88 * 88

    def test_kernels_are_shown_and_nets_without_a_row_are_not(self):
        data = toy(1, (1, 8, 8), DIGITS)
        kernels = nn.Sequential(nn.Conv2d(1, 70, 3), nn.Flatten(), nn.Linear(10, 10))
        assert edge_is_paper(first_layer(kernels, data))
        assert pictures.first_layer(nn.Linear(2, 2), data) is None
        assert pictures.first_layer(kernels, toy(1, (2, 8, 8), DIGITS)) is None

    def test_weights_that_are_all_0_are_no_error(self):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        nn.init.zeros_(net[1].weight)
        assert edge_is_paper(first_layer(net, toy(1, (1, 8, 8), ("a", "b"))))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 300, 100)])
def test_a_drawing_is_the_same_after_it_was_stored(shape, tmp_path):
    data, true = toy(50, shape, DIGITS), torch.arange(50) % 10
    net = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 10))
    made = drawing(data, true, (true * 3) % 10, torch.linspace(0.5, 1, 50), net)
    made.save(tmp_path / "a.npz")
    Drawing.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        names = {path.name for path in files.draw(tmp_path / "a.npz", tmp_path / folder)}
        assert names == {
            *("loss_curve.png", "loss_curve.svg", "confusion_matrix.png"),
            *("predictions.png", "mistakes.png", "first_layer.png"),
        }
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_a_long_curve_is_thinned_in_a_drawing():
    data, true = toy(3, (1, 8, 8), DIGITS), torch.arange(3)
    points = [(step, 1, 1 / step) for step in range(1, 10_001)]
    tested = pictures.Tested(true, true, torch.ones(3))
    matrix = confusion.count_confusions(true, true, 10)
    made = pictures.drawing_of("long", {"batch_loss": points}, data, nn.Identity(), tested, matrix)
    assert made.series["batch_loss"] == curves.thin(points, curves.PICTURE_POINTS)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_drawing_is_refused(tmp_path, content):
    (tmp_path / "undrawn.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r".+"):
        files.draw(tmp_path / "undrawn.npz", tmp_path)


def test_a_drawing_that_unpacks_to_more_than_it_says_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "undrawn.npz", predictions=np.zeros((1000, 88, 88, 1), np.uint8))
    with pytest.raises(ValueError, match="is compressed"):
        Drawing.load(tmp_path / "undrawn.npz")


def test_a_drawing_of_another_version_is_refused(tmp_path, monkeypatch):
    data, true = toy(3, (1, 8, 8), DIGITS), torch.arange(3)
    drawing(data, true, true).save(tmp_path / "undrawn.npz")
    monkeypatch.setattr("shared.pictures.drawing.VERSION", 2)
    with pytest.raises(ValueError, match="has version 1"):
        Drawing.load(tmp_path / "undrawn.npz")


def test_a_confusion_table_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(3)
    true, predicted = (torch.randint(0, high, (500,), generator=generator) for high in (6, 5))  # 5 is never predicted
    table = confusion.scores(confusion.count_confusions(true, predicted, 7), "abcdefg")  # and 6 never there
    labels = list(range(7))
    assert table["matrix"] == confusion_matrix(true, predicted, labels=labels).tolist()
    expected = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0.0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert table[name] == pytest.approx(values.tolist()), name
