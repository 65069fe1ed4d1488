"""What a file is that is not an accepted upload, and what its sender is told to send."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile

import numpy as np
import pytest
from support.images import idx, npy, npz, picture, pixels, small, zipped

from api.uploads.file_types import describe, describe_contents, describe_pair


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("cats/1.png")
        entry.size = 5000
        archive.addfile(entry, io.BytesIO(bytes(5000)))
    return file.getvalue()


def old_tar() -> bytes:
    """Without the word `ustar` in its headers, which the first version of the format does not have."""
    header = bytearray(tar()[:512])
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


IMAGE = pixels(1, 6, 6)[0]
FILES = {  # name: the file, what it is, what to do
    "tar": (tar(), "a tar archive", "send the folder as a zip"),
    "tar.gz": (gzip.compress(tar()), "a gzipped tar archive", "send the folder as a zip"),
    "tar.bz2": (bz2.compress(tar()), "a bzip2 file", "send the folder as a zip"),
    "tar.xz": (lzma.compress(tar()), "an xz file", "send the folder as a zip"),
    "tar of 1979": (old_tar(), "a tar archive", "send the folder as a zip"),
    "lz": (b"LZIP" + bytes(90), "an lzip file", "send the folder as a zip"),
    "lzma": (lzma.compress(tar(), lzma.FORMAT_ALONE), "an LZMA file", "send the folder as a zip"),
    "png.gz": (
        gzip.compress(picture(IMAGE)),
        "a gzip file that holds a single PNG image",
        "one folder of images per class",
    ),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(90), "a 7z archive", "send the folder as a zip"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(90), "a RAR archive", "send the folder as a zip"),
    "zst": (b"\x28\xb5\x2f\xfd" + bytes(90), "a Zstandard file", "send the folder as a zip"),
    "zip.gz": (gzip.compress(zipped({"a/1.png": b"x"})), "a gzipped zip or .npz", "gunzip"),
    "a zip cut short": (zipped({"a/1.png": b"x" * 100})[:60], "without its end", "complete"),
    "npy": (npy(pixels(3)), "a single .npy array", "numpy.savez"),
    "png": (picture(IMAGE), "a single PNG image", "one folder of images per class"),
    "jpeg": (picture(IMAGE, "JPEG"), "a single JPEG image", "one folder of images per class"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file", "numpy.savez"),
    "mat": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MATLAB file", "numpy.savez"),
    "parquet": (b"PAR1" + bytes(90), "a Parquet file", "numpy.savez"),
    **{
        f"pickle {protocol}": (pickle.dumps(value, protocol), "a pickle, which is never unpickled", "numpy.savez")
        for protocol in (2, 3, 4, 5)
        for value in ({"data": [1]},)
    },
    "idx": (idx(pixels(9, 3, 3)), "an IDX file", "'images' and 'labels'"),
    "idx.gz": (idx(pixels(9, 3, 3), packed=True), "a gzip file", "'images' and 'labels'"),
    "text": (b"label,pixel0\n1,0\n", "neither a .npz nor a zip", "complete"),
    "nothing": (b"", "neither a .npz nor a zip", "complete"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_and_its_sender_told_what_to_send(tmp_path, name):
    content, what, action = FILES[name]
    (tmp_path / "file").write_bytes(content)
    said = describe(tmp_path / "file")
    assert said.startswith("'file' is ")
    assert what in said
    assert action in said


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (zipped({"a/1.png": b"x"}), "it is a zip or .npz; send it as 'file'"),
        (npz(**small()), "it is a zip or .npz; send it as 'file'"),
        (tar(), "it is a tar archive; unpack it"),
        (npy(np.zeros(3)), "it is a single .npy array"),
        (picture(IMAGE), "it is a single PNG image"),
        (b"P5 6 6 255\n", "it does not begin with 0, 0, type, dimensions"),
    ],
)
def test_so_is_a_part_of_an_idx_pair(tmp_path, content, word):
    (tmp_path / "file").write_bytes(content)
    assert word in describe_pair(tmp_path / "file", "labels")


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["mnist.npz"], "'mnist.npz': send that file itself"),
        (["a/pets.zip", "README"], "'a/pets.zip': send that file itself"),
        (["cats.zip", "dogs.zip"], "'cats.zip', 'dogs.zip': unpack them and send one zip"),
        (["pets.tar.gz"], "'pets.tar.gz': unpack it and send the folder as a zip"),
        (["data/x.npy", "data/y.npy"], "without the folder"),
        (["b.csv", "a.csv"], "It has 'a.csv', 'b.csv'"),
        ([f"{i}.txt" for i in range(9)], "and 6 more"),
        ([], ""),
    ],
)
def test_a_zip_without_images_is_described_by_its_files(names, word):
    assert word in describe_contents(names)
