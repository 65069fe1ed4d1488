"""What a file is that is not an accepted upload, from its first bytes, and what to send instead."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from api.uploads import idx
from api.uploads.budget import GZIP_MAGIC

START_BYTES = 4096
AS_ONE_ZIP = "unpack them and send one zip, with one folder of images per class"
ZIP_MAGIC = b"PK\x03\x04"
AS_ZIP = "unpack it and send the folder as a zip, for example with: zip -r data.zip FOLDER"
AS_NPZ = "load it and save images and labels as arrays with numpy.savez"
AS_PAIR = "send IDX files, plain or gzipped, as 'images' and 'labels'"
MAGIC: tuple[tuple[bytes, str, str], ...] = (  # first bytes, what the file is, what to do
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", AS_ZIP),
    (b"Rar!\x1a\x07", "a RAR archive", AS_ZIP),
    (b"BZh", "a bzip2 file, which may hold a tar archive", AS_ZIP),
    (b"\xfd7zXZ\x00", "an xz file, which may hold a tar archive", AS_ZIP),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file, which may hold a tar archive", AS_ZIP),
    (b"\x04\x22\x4d\x18", "an LZ4 file, which may hold a tar archive", AS_ZIP),
    (b"LZIP", "an lzip file, which may hold a tar archive", AS_ZIP),
    (b"\x5d\x00\x00", "an LZMA file, which may hold a tar archive", AS_ZIP),
    (b"\x1f\x9d", "a file of compress, which may hold a tar archive", AS_ZIP),
    (b"MSCF", "a cabinet archive", AS_ZIP),
    (ZIP_MAGIC, "the beginning of a zip or .npz without its end", "is it complete? Send it again"),
    (b"PK\x07\x08", "one part of a zip that was split", "join the parts (zip -s 0) and send one zip"),
    (b"\x93NUMPY", "a single .npy array", "save images and labels together with numpy.savez"),
    (b"\x89PNG\r\n", "a single PNG image", "send a zip with one folder of images per class"),
    (b"\xff\xd8\xff", "a single JPEG image", "send a zip with one folder of images per class"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5, or .mat of version 7.3)", AS_NPZ),
    (b"MATLAB 5.0", "a MATLAB file", AS_NPZ),
    (b"PAR1", "a Parquet file", AS_NPZ),
    (b"ARROW1", "an Arrow file", AS_NPZ),
    (b"SQLite format 3", "an SQLite database", AS_NPZ),
    *((bytes((0x80, n, end)), "a pickle, which is never unpickled", AS_NPZ) for n in (2, 3) for end in b"]}(c"),
    *((bytes((0x80, n, 0x95)), "a pickle, which is never unpickled", AS_NPZ) for n in (4, 5)),
)
PACKED = (".zip", ".npz", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
NAMED_FILES = 3


def describe(path: Path) -> str:
    """A sentence on the part `file`, which is no zip: what it is, and what to send instead."""
    found = identify(path)
    if found is None:
        return "'file' is neither a .npz nor a zip of class folders; is it complete?"
    return f"'file' is {found[0]}; {found[1]}"


def describe_pair(path: Path, part: str) -> str:
    """A sentence on a part of an IDX pair that is not IDX: what it is, and what to send instead."""
    found = ("a zip or .npz", "send it as 'file', alone") if zipfile.is_zipfile(path) else identify(path)
    why = "it does not begin with 0, 0, type, dimensions" if found is None else f"it is {found[0]}; {found[1]}"
    return f"{part} is not an IDX file, plain or gzipped: {why}"


def describe_contents(names: Iterable[str]) -> str:
    """What a zip without images has, and what to send instead, from the paths of its files; empty if it has none."""
    names = sorted(names)
    if len(packed := [name for name in names if name.lower().endswith(PACKED)]) > 1:
        return f"It has {', '.join(map(repr, packed[:NAMED_FILES]))}: {AS_ONE_ZIP}"
    for name in names:
        if name.lower().endswith((".zip", ".npz")):
            return f"It has '{name}': send that file itself, not in a zip"
        if name.lower().endswith(PACKED):
            return f"It has '{name}': {AS_ZIP}"
    if any(name.endswith(".npy") for name in names):
        return "It has .npy arrays in a folder: pack the arrays alone, without the folder, or use numpy.savez"
    more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
    return f"It has {', '.join(map(repr, names[:NAMED_FILES]))}{more}" if names else ""


def identify(path: Path) -> tuple[str, str] | None:
    """What the file is and what to do with it, from its first bytes; None if they are unknown."""
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if start.startswith(GZIP_MAGIC):
        return _identify_gzip(start)
    if _is_tar(start):
        return "a tar archive", AS_ZIP
    if idx.looks_like(path):
        return "an IDX file", AS_PAIR
    return next(((what, action) for magic, what, action in MAGIC if start.startswith(magic)), None)


def _identify_gzip(start: bytes) -> tuple[str, str]:
    try:
        inner = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(start, START_BYTES)
    except zlib.error:
        inner = b""
    if _is_tar(inner):
        return "a gzipped tar archive", AS_ZIP
    if inner.startswith(ZIP_MAGIC):
        return "a gzipped zip or .npz", "unpack it with gunzip, and send the file that it has"
    for magic, what, action in MAGIC:
        if inner.startswith(magic):
            return f"a gzip file that holds {what}", action
    return "a gzip file", AS_PAIR


def _is_tar(start: bytes) -> bool:
    """By the checksum of its first header, which all versions of the format have."""
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
