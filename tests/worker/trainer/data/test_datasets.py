"""Datasets as tensors, and batches in an order that is a pure function of (seed, epoch)."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.datasets.catalog import DATASETS
from shared.errors import DataError
from shared.spec.job_spec import JobSpec
from worker.trainer.data import built_in, datasets
from worker.trainer.data.batches import ShuffledBatches
from worker.trainer.data.built_in import read_idx
from worker.trainer.data.normalization import measure
from worker.trainer.data.splits import split

CPU = torch.device("cpu")
MNIST = DATASETS["mnist"]


def prepared(folder=Path("nowhere"), **fields):
    spec = JobSpec.parse({"seed": 7, **fields})
    return datasets.prepare(spec, Path(folder), False, CPU)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_1617_to_train_on_and_180_to_test_with():
    pixels = built_in.load_digits()
    info = DATASETS["digits"]
    assert (
        (len(pixels.train_images), len(pixels.test_images)) == (info.train_examples, info.test_examples) == (1617, 180)
    )
    assert pixels.train_images.shape[1:] == pixels.test_images.shape[1:] == info.shape
    assert pixels.train_labels.dtype == pixels.test_labels.dtype == torch.int64
    assert pixels.train_images.max() == pixels.white == 16


def test_digits_splits_hold_an_equal_share_of_each_class():
    pixels = built_in.load_digits()
    everyone = torch.cat([pixels.train_labels, pixels.test_labels]).bincount().double()
    for labels in (pixels.train_labels, pixels.test_labels):
        assert (labels.bincount().double() / everyone - len(labels) / 1797).abs().max() < 0.01


def test_digits_splits_share_no_image_and_leave_none_out():
    from sklearn.datasets import load_digits

    pixels = built_in.load_digits()
    both = torch.cat([pixels.train_images, pixels.test_images]).flatten(1).numpy()
    whole = load_digits().data.astype(np.float32)
    assert sorted(map(bytes, both)) == sorted(map(bytes, whole))
    assert len(set(map(bytes, whole))) == 1797  # so no image of the test split is one of the training split either


def test_digits_are_those_of_scikit_learn_with_their_labels():
    from sklearn.datasets import load_digits

    bunch, pixels = load_digits(), built_in.load_digits()
    theirs = dict(zip(map(bytes, bunch.data.astype(np.float32)), bunch.target.tolist(), strict=True))
    for images, labels in ((pixels.train_images, pixels.train_labels), (pixels.test_images, pixels.test_labels)):
        assert (images.dtype, labels.dtype, images.shape[1:]) == (torch.float32, torch.int64, (1, 8, 8))
        assert [theirs[bytes(image)] for image in images.flatten(1).numpy()] == labels.tolist()


def test_digits_without_scikit_learn_are_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="scikit-learn, which is not installed"):
        built_in.load_digits()


# --- normalization ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"validation": "test"}], ids=str)
def test_pixels_have_mean_0_and_deviation_1_over_the_training_split(fields):
    loaded = prepared(**fields)
    images = loaded.train.images
    assert images.dtype == torch.float32
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)


def test_counts_of_bytes_give_the_same_figures_as_the_pixels_themselves():
    images = torch.randint(0, 256, (50, 3, 9, 7), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    images[:, 1] //= 3
    by_counts, by_pixels = measure(images, 255.0), measure(images.double(), 255.0)
    assert by_counts.mean == pytest.approx(by_pixels.mean, rel=1e-12)
    assert by_counts.std == pytest.approx(by_pixels.std, rel=1e-9)
    assert len(by_counts.mean) == 3


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_channel_without_contrast_stays_finite(kind):
    for value in range(256):
        images = torch.full((64, 1, 7, 7), value, dtype=kind)
        normalization = measure(images, 255.0)
        assert normalization.apply(images).isfinite().all(), value
        assert normalization.std == [1], value
        assert normalization.apply(images.float() + 1).abs().max() < 0.01, value  # one grey level is one grey level


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("value", [0.0, 1 / 3, 0.1, 1.0])
def test_one_constant_channel_leaves_the_others_as_they_are(channel, value):
    images = torch.rand(40, 3, 5, 4, generator=torch.Generator().manual_seed(3))
    without = measure(images, 1.0)
    images[:, channel] = value
    normalization = measure(images, 1.0)
    assert normalization.std[channel] == 1
    others = [i for i in range(3) if i != channel]
    assert [normalization.std[i] for i in others] == [without.std[i] for i in others]


def test_a_channel_in_which_one_pixel_differs_has_its_own_deviation():
    images = torch.full((50, 2, 6, 6), 7, dtype=torch.uint8)
    images[3, 1, 2, 2] = 8
    assert measure(images, 255.0).std == pytest.approx([1, (1799 / 1800**2) ** 0.5 / 255], rel=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_statistics_are_in_float64_in_each_layout_and_type(monkeypatch, layout, kind):
    images = torch.rand(300, 3, 12, 10, generator=torch.Generator().manual_seed(5)).add(1000).to(kind)
    expected = images.double()
    images = images.contiguous(memory_format=layout)
    monkeypatch.setattr("worker.trainer.data.normalization.CHUNK_VALUES", 7000)
    normalization = measure(images, 4.0)
    assert normalization.mean == pytest.approx((expected.mean((0, 2, 3)) / 4).tolist(), rel=1e-12)
    assert normalization.std == pytest.approx((expected.std((0, 2, 3), unbiased=False) / 4).tolist(), rel=1e-9)


@pytest.mark.mnist
def test_mnist_has_the_mean_and_the_deviation_that_everybody_knows(mnist_dir):
    loaded = prepared(mnist_dir, dataset="mnist")
    assert [round(v, 4) for v in loaded.normalization.mean] == [0.1307]
    assert [round(v, 4) for v in loaded.normalization.std] == [0.3081]
    assert loaded.test_images.shape == (10_000, *MNIST.shape)
    assert len(loaded.train.order.indices) + len(loaded.val_labels) == 60_000
    assert loaded.test_labels.bincount().tolist()[:3] == [980, 1135, 1032]


# --- splits -----------------------------------------------------------------------------------------------------------


def test_the_held_out_examples_depend_on_the_seed_alone():
    def trained_on(**fields):
        return prepared(**fields).train.order.indices

    assert torch.equal(trained_on(seed=7), trained_on(seed=7, batch_size=8, lr=1, architecture="cnn"))
    assert not torch.equal(trained_on(seed=7), trained_on(seed=8))


def test_validating_with_the_test_split_holds_nothing_out():
    loaded = prepared(validation="test")
    assert len(loaded.train.order.indices) == 1617
    assert torch.equal(loaded.val_images, loaded.test_images)
    assert torch.equal(loaded.val_labels, loaded.test_labels)


# --- order ------------------------------------------------------------------------------------------------------------


def batches(loaded, epoch, first_batch=0):
    return [(x.clone(), labels.clone()) for x, labels in loaded.train.epoch(epoch, first_batch)]


def same(some, others):
    return len(some) == len(others) and all(
        torch.equal(x, y) and torch.equal(a, b) for (x, a), (y, b) in zip(some, others, strict=True)
    )


def test_every_example_comes_once_an_epoch():
    loaded = prepared(batch_size=100)
    held_out = split(built_in.load_digits().train_labels, 0.1, seed=7)[1].tolist()
    for epoch in (1, 2):
        order = loaded.train.order.order(epoch).tolist()
        assert sorted(order + held_out) == list(range(1617))
        drawn = batches(loaded, epoch)
        assert [len(labels) for _, labels in drawn] == [100] * 14 + [55]  # the smaller last batch counts too
        assert len(drawn) == len(loaded.train.order)
        images = loaded.train.images
        assert torch.equal(torch.cat([x for x, _ in drawn]), images[torch.tensor(order)])


def test_the_order_of_an_epoch_is_a_pure_function_of_seed_and_epoch():
    first, second = prepared(), prepared()
    third_epoch = batches(first, 3)
    batches(second, 1)
    torch.manual_seed(99)
    batches(second, 7)
    assert same(batches(second, 3), third_epoch)  # batches drawn before have no effect
    assert same(batches(second, 3), third_epoch)
    assert not same(batches(second, 4), third_epoch)
    assert not same(batches(prepared(seed=8), 3), third_epoch)


@pytest.mark.parametrize("first_batch", [0, 1, 10, 22, 23])
def test_an_epoch_taken_up_in_the_middle_goes_on_with_the_very_next_batch(first_batch):
    loaded = prepared()
    whole = batches(loaded, 2)
    assert len(whole) == 23
    rest = batches(loaded, 2, first_batch)
    assert same(rest, whole[first_batch:])


def test_an_epoch_begun_after_a_broken_off_one_is_whole():
    loaded = prepared()
    iterator = loaded.train.epoch(1, first_batch=5)
    next(iterator)
    assert len(batches(loaded, 2)) == 23


def test_drawing_batches_leaves_the_global_random_state_alone():
    loaded = prepared()
    before = torch.get_rng_state()
    batches(loaded, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_hash_of_the_order_is_a_chain_over_the_epochs():
    one, other = prepared().train, prepared(seed=8).train
    assert one.order.sha256(1, "") == hashlib.sha256(one.order.order(1).numpy().tobytes()).hexdigest()
    chained = one.order.sha256(2, one.order.sha256(1, ""))
    assert chained == prepared().train.order.sha256(2, one.order.sha256(1, ""))
    assert len({chained, one.order.sha256(2, ""), one.order.sha256(1, ""), other.order.sha256(1, "")}) == 4


def test_a_batch_larger_than_the_data_is_the_data():
    sampler = ShuffledBatches(torch.arange(5), 64, seed=1)
    assert [sorted(batch.tolist()) for batch in sampler] == [[0, 1, 2, 3, 4]]
    assert len(sampler) == 1


def test_on_the_cpu_nothing_is_pinned():
    loaded = prepared()
    assert loaded.train.pinned is False
    assert not next(iter(loaded.train.epoch(1)))[0].is_pinned()


# --- files ------------------------------------------------------------------------------------------------------------


def idx(array) -> bytes:
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_files(folder, n=6, **replaced):
    """Files of a small MNIST with 6 images per split; `replaced`: other bytes for a file, by its name."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in MNIST.files:
        array = rng.integers(0, 256, (n, 28, 28)) if "images" in name else np.arange(n) % 10
        (raw / name).write_bytes(replaced.get(name.split("-ubyte")[0].replace("-", "_"), idx(array)))
    return folder


def load_mnist(folder):
    return built_in.load(MNIST, folder, False)


def test_mnist_is_read_plain_and_gzipped(tmp_path):
    plain = load_mnist(mnist_files(tmp_path / "plain"))
    for path in (mnist_files(tmp_path / "packed") / "MNIST" / "raw").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = load_mnist(tmp_path / "packed")
    assert plain.train_images.shape == (6, 1, 28, 28)
    assert plain.train_images.dtype == torch.uint8
    assert plain.test_labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(plain.train_images, packed.train_images)
    assert torch.equal(plain.test_labels, packed.test_labels)


@pytest.mark.parametrize("name", MNIST.files)
def test_a_missing_file_is_named_with_its_folder_and_what_to_do(tmp_path, name):
    mnist_files(tmp_path)
    (tmp_path / "MNIST" / "raw" / name).unlink()
    with pytest.raises(DataError) as error:
        load_mnist(tmp_path)
    for word in (name, str(tmp_path / "MNIST" / "raw"), "GRADQ_DATA_DIR", "GRADQ_DOWNLOAD"):
        assert word in error.value.detail
    assert error.value.data == {"missing": [str(tmp_path / "MNIST" / "raw" / name)]}
    assert error.value.code == "data_error"


WHOLE = idx(np.zeros((6, 28, 28)))
BROKEN = {
    "empty": b"",
    "garbage": b"<html>404 Not Found</html>",
    "cut in the header": WHOLE[:9],
    "nothing but the magic": WHOLE[:4],
    "cut in the pixels": WHOLE[:-1],
    "too long": WHOLE + b"\0",
    "floats": b"\0\0\x0d" + WHOLE[3:],
    "another shape": idx(np.zeros((6, 8, 8))),
    "no image dimension": idx(np.zeros(6)),
    "another count": idx(np.zeros((5, 28, 28))),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_a_data_error(tmp_path, fault):
    mnist_files(tmp_path, train_images_idx3=BROKEN[fault])
    with pytest.raises(DataError, match="train-images-idx3-ubyte|mnist in"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("fault", ["cut", "not gzip", "damaged"])
def test_a_broken_gzip_file_is_a_data_error(tmp_path, fault):
    packed = bytearray(gzip.compress(np.random.default_rng(1).integers(0, 9, 9000).astype(np.uint8).tobytes()))
    if fault == "damaged":
        packed[20:60] = b"\xff" * 40
    broken = {"cut": packed[:-100], "not gzip": b"<html>", "damaged": packed}[fault]
    (tmp_path / "images.gz").write_bytes(bytes(broken))
    with pytest.raises(DataError, match="images"):
        read_idx(tmp_path / "images")


def test_a_label_outside_the_classes_is_a_data_error(tmp_path):
    mnist_files(tmp_path, train_labels_idx1=idx([0, 1, 2, 3, 4, 10]))
    with pytest.raises(DataError, match="label"):
        load_mnist(tmp_path)
