"""A small HTTP client for the calls that the commands make. JSON in, JSON out; a problem becomes an ApiError."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

import httpx2

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
DECODE_SECONDS = 3600.0  # how long a service may take to decode what was uploaded, before it answers

Job = dict[str, Any]


class ApiError(Exception):
    """The service said no: `code`, `status`, `detail` and, for wrong fields, `errors` as in the contract."""

    def __init__(self, status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors or []


class Unreachable(Exception):
    """Nobody answered at `url`."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot reach {url}: {reason}")
        self.url = url
        self.reason = reason


class Client:
    """One service at one address. Usable as a context manager; holds open connections until closed."""

    def __init__(self, url: str = DEFAULT_URL, token: str | None = None, timeout: float = ANSWER_SECONDS) -> None:
        self.url = url.rstrip("/")
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        limits = httpx2.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout))
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, spec: dict[str, Any]) -> Job:
        return self._call("POST", "/v1/jobs", json=spec)

    def dry_run(self, spec: dict[str, Any]) -> dict[str, Any]:
        """What the job would cost; nothing is stored."""
        return self._call("POST", "/v1/jobs", json=spec, params={"dry_run": "true"})

    def check(self, spec: dict[str, Any]) -> Job:
        return self._call("POST", "/v1/gradient-checks", json=spec)

    def presets(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/v1/presets")["data"])

    def job(self, job_id: str) -> Job:
        return self._call("GET", _job(job_id))

    def jobs(self, limit: int = 20, status: str | None = None, after: str | None = None) -> dict[str, Any]:
        """A page of jobs, newest first."""
        return self._call("GET", "/v1/jobs", params=_given(limit=limit, status=status, after=after))

    def cancel(self, job_id: str) -> Job:
        return self._call("POST", f"{_job(job_id)}/cancel")

    def pause(self, job_id: str) -> Job:
        return self._call("POST", f"{_job(job_id)}/pause")

    def resume(self, job_id: str) -> Job:
        return self._call("POST", f"{_job(job_id)}/resume")

    def reproduce(self, job_id: str) -> Job:
        return self._call("POST", f"{_job(job_id)}/reproduce")

    def events(self, job_id: str, after: int = 0, type: str | None = None) -> list[dict[str, Any]]:
        """A page of the job's log from the cursor `after` on; the next cursor is the last row's `seq`."""
        return list(self._call("GET", f"{_job(job_id)}/events", params=_given(after=after, type=type))["data"])

    def metrics(self, job_id: str, max_points: int = 1000) -> dict[str, list[list[Any]]]:
        """Name -> [[step, epoch, value], …] in the order of steps."""
        return dict(self._call("GET", f"{_job(job_id)}/metrics", params={"max_points": max_points})["series"])

    def artifacts(self, job_id: str) -> list[dict[str, Any]]:
        return list(self._call("GET", f"{_job(job_id)}/artifacts")["data"])

    def download(self, job_id: str, artifact: dict[str, Any], folder: Path) -> Path:
        """Fetch one file into `folder`, whole and with the sha256 that the service names, or not at all."""
        name = str(artifact["name"])
        if name != Path(name).name or name.startswith("."):
            raise ApiError(502, "bad_artifact_name", f"the service names a file {name!r}, which is no plain file name")
        folder.mkdir(parents=True, exist_ok=True)
        target, part = folder / name, folder / f".{name}.{secrets.token_hex(4)}.part"
        try:
            digest = hashlib.sha256()
            with self._reaching(), self._http.stream("GET", f"{_job(job_id)}/artifacts/{quote(name)}") as response:
                if response.status_code >= 400:
                    response.read()
                    raise _problem(response)
                with part.open("wb") as file:
                    for chunk in response.iter_bytes():
                        digest.update(chunk)
                        file.write(chunk)
            if digest.hexdigest() != artifact["sha256"]:
                raise ApiError(502, "wrong_checksum", f"{name}: the bytes that came do not have the sha256 of the list")
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return target

    def predict(self, job_id: str, files: Sequence[Path], invert: bool = False) -> dict[str, Any]:
        """Let a finished model label PNG, JPEG and npz files; `predictions` in their order, each with its `file`."""
        form = [("files", (path.name, path.read_bytes(), "application/octet-stream")) for path in files]
        return self._call("POST", f"{_job(job_id)}/predict", files=form, params={"invert": str(invert).lower()})

    def workers(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/v1/workers")["data"])

    def datasets(self) -> dict[str, Any]:
        """All data sets: built-in ones first, then uploaded ones, newest first."""
        return self._call("GET", "/v1/datasets")

    def dataset(self, dataset_id: str) -> dict[str, Any]:
        return self._call("GET", _dataset(dataset_id))

    def add_dataset(
        self, files: Mapping[str, tuple[str, IO[bytes]]], fields: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Upload a data set; its parts by name: (file name, open file). They are streamed, not held in memory."""
        patience = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, read=DECODE_SECONDS)
        return self._call("POST", "/v1/datasets", files=dict(files), data=dict(fields or {}), timeout=patience)

    def delete_dataset(self, dataset_id: str) -> dict[str, Any]:
        return self._call("DELETE", _dataset(dataset_id))

    def ready(self) -> bool:
        """True once the service reaches its database and broker."""
        try:
            self._call("GET", "/readyz")
        except (ApiError, Unreachable):
            return False
        return True

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        with self._reaching():
            response = self._http.request(method, path, **request)
        if response.status_code >= 400:
            raise _problem(response)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ApiError(502, "not_gradq", f"{self.url} answers, but not as gradq does; is the address right?")
        return answer

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise Unreachable(self.url, f"not an address: {error}") from error
        except httpx2.TransportError as error:
            raise Unreachable(self.url, str(error) or type(error).__name__) from error


def _problem(response: httpx2.Response) -> ApiError:
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    return ApiError(
        status=response.status_code,
        code=str(body.get("code", "http_error")),
        detail=str(body.get("detail") or body.get("title") or f"{response.status_code} {response.reason_phrase}"),
        errors=body.get("errors"),
    )


def _job(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _dataset(dataset_id: str) -> str:
    return f"/v1/datasets/{quote(dataset_id, safe='')}"


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
