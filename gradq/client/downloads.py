"""Downloads files to a folder. A file appears only if it is complete and has the sha256 that the service lists."""

from __future__ import annotations

import hashlib
import os
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from gradq.client.calls import Calls, path_of
from gradq.client.problems import ApiError, BadAnswer, ClientError, NotFound, Unreachable
from gradq.client.sender import RetryState
from gradq.client.transport import Request, Stream
from gradq.client.types import Json

IDENTITY = {"Accept": "*/*", "Accept-Encoding": "identity"}  # ranges and the sha256 are of uncompressed bytes


async def files(calls: Calls, job_id: str, folder: Path, names: str | Sequence[str] | None = None) -> list[Path]:
    """Downloads the files in `names`, or all, to `folder`; returns their paths. Raises NotFound for an unknown name."""
    names = [names] if isinstance(names, str) else names
    there = {artifact["name"]: artifact for artifact in await calls.artifacts(job_id)}
    if missing := [name for name in names or [] if name not in there]:
        known = ", ".join(there) or "none yet; they come when it succeeds"
        raise NotFound(404, "not_found", f"{job_id} has no file {', '.join(missing)}; its files: {known}")
    wanted = [there[name] for name in names] if names is not None else list(there.values())
    return [await file(calls, job_id, artifact, folder) for artifact in wanted]


async def file(calls: Calls, job_id: str, artifact: Json, folder: Path) -> Path:
    """Downloads one file and returns its path; resumes a broken download. Raises BadAnswer if the sha256 is wrong."""
    name = str(artifact["name"])
    if not name or name != Path(name).name or name.startswith("."):
        raise BadAnswer("bad_artifact_name", f"the service lists a file {name!r}, which is not a plain file name")
    folder.mkdir(parents=True, exist_ok=True)
    with _whole_or_not(folder / name) as (part, out):
        await _receive(calls, f"{path_of(job_id)}/artifacts/{quote(name)}", artifact, out)
        out.flush()
        if _sha256(part) != artifact["sha256"]:
            raise BadAnswer("wrong_checksum", f"{name}: the downloaded bytes do not have the listed sha256")
    return folder / name


async def zipped(calls: Calls, job_id: str, path: Path) -> Path:
    """Downloads all files as one zip to `path`, and checks each against its listed sha256. Raises BadAnswer."""
    expected = {artifact["name"]: artifact["sha256"] for artifact in await calls.artifacts(job_id)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole_or_not(path) as (part, out):
        await _receive(calls, f"{path_of(job_id)}/artifacts.zip", None, out)
        out.flush()
        if _contents(part) != expected:
            raise BadAnswer("wrong_checksum", "the downloaded zip does not hold the files that the service lists")
    return path


# --- bytes ------------------------------------------------------------------------------------------------------------


async def _receive(calls: Calls, path: str, artifact: Json | None, out: IO[bytes]) -> None:
    """Fills `out` with the complete answer. An artifact resumes where its download broke; a zip starts again."""
    tries = RetryState(calls.sender)
    while True:
        place = out.tell() if artifact else out.seek(0)
        headers = dict(IDENTITY)
        if place and artifact:
            headers |= {"Range": f"bytes={place}-", "If-Range": f'"{artifact["sha256"]}"'}
        request = Request("GET", path, headers=headers)
        try:
            async with calls.sender.stream(request) as stream:
                await _copy(stream, place, out)
            if artifact is None or out.tell() >= artifact["size_bytes"]:
                return
            raise Unreachable(calls.sender.url, f"the file ended after {out.tell()} bytes", refused=False)
        except ClientError as error:
            if isinstance(error, ApiError) and error.status == 416:
                raise BadAnswer("wrong_size", f"{path} is shorter than the service lists it") from error
            if out.tell() > place:
                tries.went_well()  # some bytes came
            await tries.again(error)


async def _copy(stream: Stream, place: int, out: IO[bytes]) -> None:
    if stream.response.status_code != 206:
        out.seek(0)  # the service sends the whole file again
    elif not stream.response.headers.get("Content-Range", "").startswith(f"bytes {place}-"):
        raise BadAnswer(
            "wrong_range",
            f"asked for the bytes from {place} on, got other bytes",
        )
    out.truncate()
    async for chunk in stream.chunks():
        out.write(chunk)


@contextmanager
def _whole_or_not(target: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A temporary file next to the target; replaces the target unless the block raises."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as out:
            yield part, out
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contents(path: Path) -> dict[str, Any]:
    """Name -> sha256 of each file of a zip. Raises BadAnswer if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for name in archive.namelist():
                with archive.open(name) as member:
                    found[name.rpartition("/")[2]] = hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]
            return found
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise BadAnswer("bad_zip", f"the download is not a readable zip: {error}") from error
