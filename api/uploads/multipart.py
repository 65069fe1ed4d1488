"""Streams a multipart body into files: it is not held in memory, and its size is limited."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from api.http.requests import refuse_encoded
from shared.errors import BadRequest, FieldError, GradqError, InvalidUpload, OwnerStorageFull, PayloadTooLarge
from shared.validation_errors import did_you_mean

CHUNK = 1 << 18
MAX_FIELD_BYTES = 4096
MAX_HEAD_BYTES = 1 << 16  # of the preamble and of the headers of a part
# of a refused body, read before the connection is closed: a client that is still sending may not read the response
DRAINED_BYTES = 32 << 20


@dataclass
class Upload:
    """A received upload: files by the name of their part, and text fields."""

    files: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    file_names: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)


def receive(
    folder: Path, parts: Sequence[str], fields: Sequence[str], limit: int, over: GradqError | None = None
) -> Upload:
    """Write the parts of this request's body into `folder`. `parts`: names of file parts, `fields`: names of text
    parts; `limit`: bytes of the body; `over`: the error for a larger one. Raises UnsupportedMediaType, BadRequest,
    InvalidUpload and `over`, by default PayloadTooLarge."""
    if request.mimetype != "multipart/form-data":
        got = request.mimetype or "none"
        raise UnsupportedMediaType(f"send multipart/form-data, as curl -F file=@data.zip does; got {got}")
    refuse_encoded()
    boundary = request.mimetype_params.get("boundary", "")
    if not boundary.isascii() or not boundary:
        raise BadRequest("the Content-Type has no boundary")
    body = _Body(limit, over or _too_large(limit))
    try:
        return _Receiver(folder, parts, fields).run(body, boundary.encode())
    except (InvalidUpload, BadRequest, PayloadTooLarge, OwnerStorageFull):
        body.drain()
        raise


class _Body:
    """The request's body in chunks. Its bytes are counted, so the limit holds without or with a wrong Content-Length
    too."""

    def __init__(self, limit: int, over: GradqError) -> None:
        self.limit, self.over, self.read = limit, over, 0
        # higher than our limit, so that our error is returned instead of werkzeug's
        request.max_content_length = limit + DRAINED_BYTES + CHUNK
        try:
            self.stream: IO[bytes] = request.stream
        except RequestEntityTooLarge:  # by its Content-Length; nothing is read, and the connection is closed
            raise self.over from None

    def __iter__(self) -> Iterator[bytes]:
        if (request.content_length or 0) > self.limit:
            raise self.over
        while chunk := self._chunk():
            self.read += len(chunk)
            if self.read > self.limit:
                raise self.over
            yield chunk

    def drain(self) -> None:
        """Read what a refused client is still sending, up to DRAINED_BYTES, so that it reads the response."""
        drained = 0
        with contextlib.suppress(BadRequest, RequestEntityTooLarge):
            while drained < DRAINED_BYTES and (chunk := self._chunk()):
                drained += len(chunk)

    def _chunk(self) -> bytes:
        try:
            return self.stream.read(CHUNK)
        except RequestEntityTooLarge:
            raise
        except (ClientDisconnected, OSError) as error:
            raise BadRequest("the connection ended in the middle of the body") from error
        except ParseException as error:  # gunicorn parses the chunks while the app reads the body
            raise BadRequest("the body has malformed chunked transfer encoding") from error


def _too_large(limit: int) -> PayloadTooLarge:
    detail = f"the body is larger than {limit} bytes; GRADQ_MAX_UPLOAD_BYTES sets the limit"
    return PayloadTooLarge(detail, limit_bytes=limit)


class _Receiver:
    """Feeds the body to the decoder, and decoded parts to files and fields."""

    def __init__(self, folder: Path, parts: Sequence[str], fields: Sequence[str]) -> None:
        self.folder, self.parts, self.fields = folder, parts, fields
        self.upload = Upload()
        self.ended = False

    def run(self, body: _Body, boundary: bytes) -> Upload:
        decoder = MultipartDecoder(boundary)
        with contextlib.ExitStack() as stack:
            self.stack = stack
            for chunk in body:
                decoder.receive_data(chunk)
                self._take(decoder)
            decoder.receive_data(None)
            self._take(decoder)
        if not self.ended:
            raise BadRequest("the body ends in the middle of a part")
        return self.upload

    def _take(self, decoder: MultipartDecoder) -> None:
        while True:
            try:
                event = decoder.next_event()
            except (ValueError, AttributeError) as error:  # AttributeError: a part has a header without a line break
                raise BadRequest(f"the body is not multipart/form-data, or is truncated: {error}") from error
            match event:
                case NeedData():
                    if len(decoder.buffer) > MAX_HEAD_BYTES + CHUNK:
                        raise BadRequest("the body is not multipart/form-data: the headers of a part have no end")
                    return
                case Epilogue():
                    self.ended = True
                    return
                case Field() | File():
                    self._begin(event)
                case Data():
                    self.sink(event.data)
                    if not event.more_data:
                        self.finish()

    def _begin(self, part: Field | File) -> None:
        name, upload = part.name or "", self.upload
        if name in upload.files or name in upload.fields:
            raise InvalidUpload([FieldError(f"/{name}", "repeated", "must be given only once")])
        if name in self.parts:
            self._begin_file(name, part)
        elif name in self.fields:
            self._begin_field(name)
        else:
            known = [*self.parts, *self.fields]
            hint = did_you_mean(name, known) or f"; known parts: {', '.join(known)}"
            raise InvalidUpload([FieldError(f"/{name[:80]}", "extra_forbidden", f"unknown part{hint}")])

    def _begin_file(self, name: str, part: Field | File) -> None:
        path, digest = self.folder / f"{name}.part", hashlib.sha256()
        file = self.stack.enter_context(path.open("wb"))
        self.upload.files[name] = path
        self.upload.file_names[name] = part.filename if isinstance(part, File) else ""

        def sink(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        def finish() -> None:
            file.close()
            self.upload.digests[name] = digest.hexdigest()

        self.sink, self.finish = sink, finish

    def _begin_field(self, name: str) -> None:
        value = bytearray()
        self.upload.fields[name] = ""

        def sink(data: bytes) -> None:
            value.extend(data)
            if len(value) > MAX_FIELD_BYTES:
                raise InvalidUpload([FieldError(f"/{name}", "too_long", f"is longer than {MAX_FIELD_BYTES} bytes")])

        def finish() -> None:
            try:
                self.upload.fields[name] = value.decode()
            except UnicodeDecodeError as error:
                raise InvalidUpload([FieldError(f"/{name}", "not_utf8", "must be UTF-8")]) from error

        self.sink, self.finish = sink, finish


def content_of(upload: Upload) -> bytes:
    """Bytes that identify an upload, independent of the order and the boundary of its parts."""
    return json.dumps([upload.digests, upload.file_names, upload.fields], sort_keys=True).encode()


def name_of(upload: Upload) -> str:
    """Default name of a dataset: that of its first file, without folders and suffix."""
    given = next((upload.file_names[part] for part in ("file", "images") if part in upload.file_names), "")
    stem = given.replace("\\", "/").rpartition("/")[2].partition(".")[0]
    plain = "".join(sign for sign in stem if sign.isprintable()).strip()[:128]
    return plain or "upload"
