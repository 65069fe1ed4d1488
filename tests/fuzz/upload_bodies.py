"""Bodies for POST /v1/datasets: damaged datasets of each format, archives with false headers, malformed forms."""

from __future__ import annotations

import functools
import io
import pickle
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from fuzz.job_bodies import TEXT, damaged
from fuzz.message import FRAMINGS, Message
from hypothesis import strategies as st
from support.images import folders, idx, npy, npy_that_says, npz, picture, pixels, small, zipped

PATH = "/v1/datasets"
BOUNDARY = "b0undary"
LABELS = np.arange(20).astype(np.uint8) % 2
IDX = {"images": idx(pixels(20, 6, 6)), "labels": idx(LABELS)}
PACKED = {"images": idx(pixels(20, 6, 6), packed=True), "labels": idx(LABELS, packed=True)}
BOMB_BYTES = 12_000_000  # unpacked size of the bombs
SLIPS = ("../../evil.png", "/etc/evil.png", "..\\..\\evil.png", "C:\\evil.png", "cats/\x01.png", "cats/..", "\udcff/a")
SIZES = (0, 1, 2, 6, 36, 40, 1440, -1, 2**40, 10**30, True)
KINDS = ("'|u1'", "'<f8'", "'>i2'", "'|b1'", "'<f2'", "'<f16'", "'<c8'", "'<U3'", "'|S4'", "'|O'", "'|V8'", "'<M8[s]'")
NO_KINDS = ("()", "[('a', '<i4')]", "('|u1', (2,))", "'|u1' ((", "None", "'<U999999999'", "1" * 5000)
Parts = dict[str, bytes]


class _Runs:
    """Creates a file if it is ever unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


@functools.cache
def true_ones() -> list[Parts]:
    """Small valid datasets."""
    split = {f"{name}_{part}": array for part in ("train", "test") for name, array in small().items()}
    floats = small(x=pixels(40, 6, 6) / 255)
    photos = folders(6) | {f"cats/{i}.jpg": picture(pixels(1, 6, 6, 3)[0], "JPEG") for i in range(3)}
    names = small(classes=["a", "b", "c", "d"])
    files = [npz(**small()), npz(**split), npz(**floats), npz(**names), zipped(folders(6)), zipped(photos)]
    return [{"file": file} for file in files] + [IDX, PACKED]


@functools.cache
def liars() -> list[Parts]:
    """Malicious archives of valid form."""
    objects = small(x=np.array([_Runs()] * 40, dtype=object))
    pickled = zipped({"x.npy": pickle.dumps(_Runs()), "y.npy": npy(np.arange(40) % 4)})
    bomb = _packed({"x.npy": npy(np.zeros((BOMB_BYTES, 1, 1), np.uint8)), "y.npy": npy(LABELS)})
    wide = picture(np.zeros((6, 6), np.uint8))
    header = bytearray(wide)
    header[16:24] = struct.pack(">II", 60_000, 60_000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    crowd = _packed({f"{'a' if i % 2 else 'b'}/{i}.png": wide for i in range(400)})
    files = [npz(**objects), pickled, bomb, _packed(folders() | {"cats/big.png": bytes(header)}), crowd]
    files += [zipped(folders() | {name.encode("utf-8", "replace").decode(): wide}) for name in SLIPS]
    files += [npz(**small(x=np.full((40, 6, 6), value))) for value in (np.nan, np.inf, -1.0, 1e300)]
    return [{"file": file} for file in files] + [
        {**IDX, "images": struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(40)},
        {**IDX, "images": idx(np.zeros((BOMB_BYTES, 1, 1), np.uint8), packed=True)},
    ]


def _packed(files: Parts) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@st.composite
def inner_damage(draw: st.DrawFn) -> Parts:
    """A valid zip with damaged members, so that the archive's checksums match."""
    outer = draw(st.sampled_from([parts for parts in true_ones() if parts.get("file", b"")[:2] == b"PK"]))
    with zipfile.ZipFile(io.BytesIO(outer["file"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = draw(st.sampled_from(sorted(members)))
    if draw(st.booleans()):
        members[chosen] = draw(damaged(members[chosen]))
    else:
        name = draw(st.text(min_size=1, max_size=12).filter(lambda name: name[0] != "\0"))  # zipfile truncates it there
        members[name.encode(errors="replace").decode()] = members.pop(chosen)
    return {"file": zipped(members)}


@st.composite
def odd_arrays(draw: st.DrawFn) -> Parts:
    """A valid archive with one array whose header NumPy would not write, or class names of arbitrary codes."""
    members = {"x.npy": npy(pixels(40, 6, 6)), "y.npy": npy(np.arange(40) % 4)}
    if draw(st.booleans()):
        codes = draw(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 0x11FFFF), min_size=12, max_size=12))
        members["classes.npy"] = npy_that_says((4,), "'<U3'", struct.pack("<12I", *codes))
    else:
        shape = tuple(draw(st.lists(st.sampled_from(SIZES), max_size=5)))
        kind = draw(st.sampled_from(KINDS + NO_KINDS))
        content = draw(st.binary(max_size=40)) * draw(st.sampled_from([0, 1, 36, 40]))
        members[draw(st.sampled_from(["x.npy", "y.npy", "classes.npy"]))] = npy_that_says(shape, kind, content)
    return {"file": zipped(members)}


@st.composite
def parts_of(draw: st.DrawFn) -> Parts:
    kind = draw(st.sampled_from(["true", "true", "damaged", "damaged", "inside", "inside", "odd", "liars", "noise"]))
    if kind == "noise":
        return {draw(st.sampled_from(["file", "images"])): draw(st.binary(max_size=200))}
    if kind == "inside":
        return draw(inner_damage())
    if kind == "odd":
        return draw(odd_arrays())
    parts = dict(draw(st.sampled_from(liars() if kind == "liars" else true_ones())))
    if kind == "damaged":
        name = draw(st.sampled_from(sorted(parts)))
        parts[name] = draw(damaged(parts[name]))
    return parts


FIELDS = st.dictionaries(
    st.sampled_from(["name", "seed", "test_fraction", "size", "nmae"]),
    st.one_of(TEXT, st.sampled_from(["0", "0.5", "1", "-1", "1e400", "nan", "6", "224", "16", "9" * 400])),
    max_size=2,
)


@st.composite
def upload_messages(draw: st.DrawFn) -> Message:
    parts, fields = draw(parts_of()), draw(st.one_of(st.just({}), FIELDS))
    file_name = draw(st.sampled_from(["a.npz", "", "../../a", 'a"; name="size', "x" * 300, "é.zip"]))
    body = b"".join(_part(name, content, file_name) for name, content in parts.items())
    body += b"".join(_part(name, value.encode(errors="replace"), None) for name, value in fields.items())
    body += f"--{BOUNDARY}--\r\n".encode()
    media = f"multipart/form-data; boundary={BOUNDARY}"
    match draw(st.sampled_from(["form"] * 14 + ["damaged", "no boundary", "other", "many", "head", "twice", "type"])):
        case "damaged":
            body = draw(damaged(body))
        case "no boundary":
            media = draw(st.sampled_from(["multipart/form-data", "multipart/form-data; boundary=", f"{media}é"]))
        case "other":
            media = "multipart/form-data; boundary=" + draw(st.sampled_from(["x", "-" * 200, '"a b"', BOUNDARY[:-1]]))
        case "many":
            body = b"".join(_part(f"p{i}", b"x", None) for i in range(2000)) + body
        case "head":
            body = f"--{BOUNDARY}\r\nX: ".encode() + b"y" * draw(st.sampled_from([100, 100_000, 600_000])) + body
        case "twice":
            body = body[: -len(BOUNDARY) - 6] + body
        case "type":
            media = draw(st.sampled_from(["application/zip", "application/json", "", "multipart/mixed; boundary=b"]))
    headers = {"Content-Encoding": "gzip"} if draw(st.integers(0, 40)) == 40 else {}
    framing = draw(st.sampled_from(["length"] * 10 + list(FRAMINGS)))
    return Message(PATH, body, {"Content-Type": media, **headers}, framing)


def _part(name: str, content: bytes, file_name: str | None) -> bytes:
    file = "" if file_name is None else f'; filename="{file_name}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"
