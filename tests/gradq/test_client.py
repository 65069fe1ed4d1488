"""The client against the real API: every call, blocking and awaited, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save
from support.images import npz, small

import gradq
from gradq import (
    ApiError,
    AsyncClient,
    AsyncJob,
    Client,
    InvalidImages,
    InvalidSpec,
    Job,
    KeyReused,
    NotFound,
    Unreachable,
    WrongState,
)
from gradq.client import calls
from gradq.client.curve import frame, table
from gradq.client.images import body_of
from gradq.commands.wait import patiently

# --- submitting and looking -------------------------------------------------------------------------------------------


def test_a_spec_and_fields_are_one_submit_and_fields_win(api):
    job = api.client.submit({"lr": 0.5, "epochs": 3}, lr=0.25, name="mine", labels={"team": "vision"}, seed=4)
    assert (job.id, job.name, job.status, job.terminal) == (job["id"], "mine", "queued", False)
    assert (job.spec["lr"], job.spec["epochs"], job.spec["batch_size"]) == (0.25, 3, 64)
    assert (job.labels, job.priority, job.kind) == ({"team": "vision"}, 50, "training")
    assert (job.progress, job.result, job.attempts, job.status_reason) == (None, None, [], None)
    assert job.queue is not None
    assert job.queue["position"] == 1
    assert repr(job) == f"<Job {job.id} 'mine' queued>"


def test_a_job_is_the_json_that_the_service_sent(api):
    job = api.client.job(api.submit(name="a"))
    assert dict(job) == job.json
    assert list(job) == list(job.json)
    assert len(job) == len(job.json)
    assert job.get("nothing") is None
    assert {job, api.client.job(job.id)} == {job}
    assert json.loads(json.dumps(job, default=dict))["links"]["self"] == f"/v1/jobs/{job.id}"


def test_wrong_fields_are_all_named(api):
    with pytest.raises(InvalidSpec) as caught:
        api.client.submit(lr=-1, optimiser="sgd")
    assert caught.value.names("/lr")
    assert "did you mean 'optimizer'" in str(caught.value)


def test_one_key_is_one_job_and_stands_for_one_request(api):
    first = api.client.submit(lr=0.1, idempotency_key="k")
    assert api.client.submit(lr=0.1, idempotency_key="k").id == first.id
    with pytest.raises(KeyReused):
        api.client.submit(lr=0.2, idempotency_key="k")
    for wrong in ("", "k" * 256):
        with pytest.raises(ApiError) as caught:
            api.client.submit(idempotency_key=wrong)
        assert caught.value.names("/Idempotency-Key")


def test_a_dry_run_costs_nothing_and_a_check_and_a_walk_are_jobs(api):
    assert api.client.dry_run({"architecture": "linear"}, epochs=2)["parameters"] == 650
    assert list(api.client.jobs()) == []
    check = api.client.check(architecture="linear", batches=2)
    assert (check.kind, check.spec["batches"]) == ("gradient_check", 2)
    walk = api.client.walk({"architecture": "linear"}, batch=3, idempotency_key="w")
    assert (walk.kind, walk.spec["batch"]) == ("walk", 3)
    assert api.client.walk(architecture="linear", batch=3, idempotency_key="w").id == walk.id


def test_a_handle_without_a_fetch_asks_when_it_has_to(api):
    job_id = api.submit(name="late")
    handle = api.client.job(job_id, fetch=False)
    assert repr(handle) == f"<Job {job_id} '' not asked yet>"
    assert handle.refresh().name == "late"
    with pytest.raises(NotFound):
        api.client.job("job_0").refresh()
    with pytest.raises(NotFound):
        api.client.job("../workers")


def test_jobs_pages_by_itself_and_filters(api, monkeypatch):
    monkeypatch.setattr(calls, "PAGE", 5)
    ids = [api.submit(name=f"n{i}", labels={"half": str(i % 2)}) for i in range(13)]
    assert [job.id for job in api.client.jobs()] == ids[::-1]
    assert [job.id for job in api.client.jobs(limit=11)] == ids[:1:-1]
    assert list(api.client.jobs(limit=0)) == []
    assert [job.name for job in api.client.jobs(labels={"half": "1"}, name="n1*", limit=2)] == ["n11", "n1"]
    api.client.job(ids[0]).cancel()
    assert [job.id for job in api.client.jobs(status=["cancelled", "failed"])] == [ids[0]]
    assert [job.id for job in api.client.jobs(status="cancelled")] == [ids[0]]
    soon, ago = datetime.now(UTC) + timedelta(hours=1), datetime.now() - timedelta(hours=1)  # one without a zone
    assert list(api.client.jobs(created_after=soon)) == list(api.client.jobs(created_before=ago)) == []
    assert len(list(api.client.jobs(created_after=ago, created_before=soon.isoformat()))) == 13


def test_a_page_is_what_the_service_sends(api):
    ids = [api.submit() for _ in range(3)]
    page = api.client.page(limit=2)
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (ids[:0:-1], True)
    assert [job["id"] for job in api.client.page(limit=2, after=page["last_id"])["data"]] == ids[:1]


# --- steering ---------------------------------------------------------------------------------------------------------


def test_a_job_is_steered_by_its_handle(api):
    job = api.client.submit()
    lease = api.start()
    assert job.pause().status == "pausing"
    api.release(lease)
    assert job.refresh().status == "paused"
    assert job.resume().status == "queued"
    assert job.cancel() is job
    assert (job.status, job.terminal, job.succeeded) == ("cancelled", True, False)
    assert job.retry().status == "queued"
    assert job.cancel().delete() >= 0
    with pytest.raises(NotFound):
        job.refresh()


def test_labels_are_merged_and_taken_away_by_none(api):
    job = api.client.submit(labels={"a": "1", "b": "2"})
    job.update(priority=90, labels={"a": None, "c": "3"}, name="renamed")
    assert (job.priority, job.labels, job.name) == (90, {"b": "2", "c": "3"}, "renamed")
    assert job.update(priority=0).priority == 0


def test_a_reproduction_is_another_job(api):
    job = api.client.job(api.ended(seed=3))
    again = job.reproduce()
    assert (again["reproduces"], again.spec["seed"], again.id != job.id) == (job.id, 3, True)
    with pytest.raises(WrongState):
        again.reproduce()


def test_many_jobs_are_steered_at_once_each_with_an_outcome(api):
    ids = [api.submit(labels={"sweep": "1"}) for _ in range(3)]
    done = api.ended(labels={"sweep": "1"})  # the first in the queue
    assert done not in ids
    outcomes = api.client.bulk("cancel", ids=[*ids, "job_0"])
    assert [outcome["ok"] for outcome in outcomes].count(False) == 2  # the ended one, and one that never was
    assert {outcome["error"]["code"] for outcome in outcomes if not outcome["ok"]} == {"wrong_state", "not_found"}
    ago = datetime.now(UTC) - timedelta(hours=1)
    retried = api.client.bulk("retry", filter={"labels": {"sweep": "1"}, "status": "cancelled", "created_after": ago})
    assert api.client.bulk("cancel", filter={"status": ("running", "paused"), "name": None}) == []
    assert {outcome["status"] for outcome in retried} == {"queued"}
    for wrong in ({}, {"ids": ids, "filter": {}}):
        with pytest.raises(ValueError, match="exactly one of them"):
            api.client.bulk("cancel", **wrong)


def test_a_bulk_call_of_more_than_a_thousand_is_several():
    from support.faults import Asked, answers, faulty

    def one(asked: Asked) -> bytes:
        body = json.loads(asked.body)
        ids = body.get("ids") or [f"job_{body['filter'].get('after', 'x')}"]
        more = "filter" in body and "after" not in body["filter"]
        outcomes = [{"id": id, "ok": True} for id in ids]
        return answers({"object": "list", "data": outcomes, "has_more": more, "last_id": "last"})

    with faulty(one) as server, Client(server.url) as client:
        assert len(client.bulk("cancel", ids=[f"job_{i}" for i in range(2500)])) == 2500
        assert [len(json.loads(asked.body)["ids"]) for asked in server.asked] == [1000, 1000, 500]
        found = client.bulk("delete", filter={"status": ["failed"], "created_before": datetime(2026, 1, 1, tzinfo=UTC)})
    assert [outcome["id"] for outcome in found] == ["job_x", "job_last"]
    assert json.loads(server.asked[-1].body)["filter"]["created_before"] == "2026-01-01T00:00:00+00:00"


# --- curve and predictions --------------------------------------------------------------------------------------------

SERIES = {"train_loss": [[10, 1, 0.5], [20, 2, None]], "batch_loss": [[5, 1, 0.75], [10, 1, 0.625]]}
TABLE = {"step": [5, 10, 20], "train_loss": [None, 0.5, None], "batch_loss": [0.75, 0.625, None]}


def test_a_curve_is_a_data_frame_with_a_row_a_step():
    pandas = pytest.importorskip("pandas")
    curve = frame(SERIES)
    assert isinstance(curve, pandas.DataFrame)
    assert (curve.index.name, list(curve.index), list(curve.columns)) == ("step", [5, 10, 20], list(SERIES))
    assert curve["batch_loss"].tolist()[:2] == [0.75, 0.625]
    assert curve["train_loss"].isna().tolist() == [True, False, True]
    assert {str(kind) for kind in curve.dtypes} == {"float64"}
    assert frame({}).empty


def test_without_pandas_a_curve_is_a_dict_of_lists(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert frame(SERIES) == table(SERIES) == TABLE


def test_a_job_s_metrics_and_curve(api, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    job = api.client.submit()
    lease = api.start()
    for epoch in (1, 2):
        api.point(lease, step=26 * epoch, epoch=epoch, train_loss=1 / epoch, val_loss=0.5)
    assert job.metrics("train_loss") == {"train_loss": [[26, 1, 1.0], [52, 2, 0.5]]}
    assert job.curve("train_loss", "val_loss") == {"step": [26, 52], "train_loss": [1.0, 0.5], "val_loss": [0.5, 0.5]}


MODEL = {
    "architecture": {"type": "linear"},
    "layers": [{"type": "Flatten", "arguments": {}}, {"type": "Linear", "arguments": {}}],
    "input_shape": [1, 2, 2],
    "classes": ["bright", "dark"],
    "normalization": {"mean": [0.0], "std": [1.0], "white": 16.0},
}
WEIGHTS = {"1.weight": np.array([[1] * 4, [-1] * 4], np.float32), "1.bias": np.array([-2, 2], np.float32)}
WHITE, BLACK = np.full((2, 2), 16), np.zeros((2, 2), int)


@pytest.fixture
def trained(api) -> Job:
    """A model that distinguishes bright images from dark ones."""
    job = api.client.submit()
    api.finish(api.start(), files={"model.json": json.dumps(MODEL).encode(), "model.safetensors": save(WEIGHTS)})
    return job.refresh()


def test_images_are_taken_as_people_hold_them(trained, tmp_path: Path):
    white = Image.new("L", (9, 5), 255)
    white.save(tmp_path / "white.png")
    many = [
        (np.stack([WHITE, BLACK]), [0, 1]),
        ([WHITE, BLACK], [0, 1]),
        (np.stack([WHITE, BLACK])[:, None] / 16, [0, 1]),
        ([WHITE.tolist(), BLACK.tolist()], [0, 1]),
        (WHITE.tolist(), [0]),
        (WHITE, [0]),
        (tmp_path / "white.png", [0]),
        (str(tmp_path / "white.png"), [0]),
        ([tmp_path / "white.png", Image.new("RGB", (4, 4))], [0, 1]),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 0)), [0]),
        (white, [0]),
    ]
    for images, labels in many:
        assert trained.predict(images).labels == labels, images
    seen = trained.predict(white, invert=True)
    assert (seen.labels, seen.classes, seen[0]["class"], len(seen)) == ([1], ["bright", "dark"], "dark", 1)
    assert repr(seen) == "<Predictions ['dark']>"
    assert [entry["file"] for entry in trained.predict([tmp_path / "white.png", white])] == ["white.png", "1.png"]


def test_arrays_and_lists_are_sent_with_their_white(trained):
    ones = np.ones_like(WHITE)
    for images in (ones, ones[None].astype(float), ones.tolist(), [ones]):
        assert trained.predict(images).labels == [0]
        assert trained.predict(images, white=1).labels == [0]
        assert trained.predict(images, white=255).labels == [1]


def test_a_photo_in_memory_is_sent_with_its_orientation_and_depth():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (9, 5)).save(file, "JPEG", exif=exif)
    deep = Image.fromarray(np.full((4, 4), 40_000, np.int32))  # of Pillow's mode I
    body = body_of([Image.open(file), deep])
    photo, grey = (Image.open(io.BytesIO(content)) for _, (_, content) in body["files"])
    assert photo.getexif()[0x0112] == 6
    assert np.asarray(grey).max() == 40_000


def test_images_that_cannot_be_used_are_refused_with_the_reason(trained, tmp_path: Path):
    with pytest.raises(InvalidImages, match=r"each image must have the shape"):
        trained.predict(np.zeros((3, 5, 5)))
    with pytest.raises(TypeError, match="with a ndarray in one call"):
        trained.predict([tmp_path / "a.png", WHITE])
    with pytest.raises(FileNotFoundError):
        trained.predict(tmp_path / "gone.png")


# --- the service ------------------------------------------------------------------------------------------------------


def test_what_the_service_has_is_listed(api, tmp_path: Path):
    client = api.client
    assert {preset["object"] for preset in client.presets()} == {"preset"}
    assert [row["type"] for row in client.architectures()] == ["linear", "mlp", "cnn", "torchvision"]
    assert client.dataset("digits")["shape"] == [1, 8, 8]
    assert client.workers() == []
    api.submit(device="cpu")
    assert [(queue["name"], queue["queued"]) for queue in client.queues()] == [("cpu", 1)]
    assert client.version()["api"] == "v1"
    assert client.ready()
    (tmp_path / "a.npz").write_bytes(npz(**small()))
    uploaded = client.add_dataset(tmp_path / "a.npz", name="mine")
    assert client.datasets()[-1]["id"] == uploaded["id"]
    assert client.delete_dataset(uploaded["id"]) > 0
    again = client.add_dataset({"file": ("b.npz", io.BytesIO(npz(**small())))})
    assert (again["name"], uploaded["name"]) == ("b", "mine")


def test_ready_is_false_without_a_service():
    with Client("http://127.0.0.1:1") as client:
        assert not client.ready()


def test_address_and_token_come_from_the_environment(monkeypatch):
    from support.faults import answers, faulty

    with faulty(answers({"version": "1"})) as server:
        monkeypatch.setenv("GRADQ_URL", server.url + "/")
        monkeypatch.setenv("GRADQ_TOKEN", "secret")
        with Client() as client:
            assert client.url == server.url
            client.version()
        with Client(token="other") as client:
            client.version()
    assert server.asked[0].headers["user-agent"].startswith("gradq/")
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer secret", "Bearer other"]
    monkeypatch.delenv("GRADQ_URL")
    with Client() as client:
        assert repr(client) == "<Client http://127.0.0.1:8080>"


# --- in a notebook ----------------------------------------------------------------------------------------------------


def test_a_notebook_shows_state_and_curve_and_runs_nothing(api):
    job = api.client.submit(name="<script>alert(1)</script>")
    lease = api.start()
    api.point(lease, step=26, epoch=1, train_loss=0.5, val_loss=0.5)
    api.finish(lease)
    shown = job._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "succeeded" in shown  # as it is now, not as it was when the handle was made
    assert 'src="data:image/svg+xml;base64,' in shown
    assert "<tr><th" in shown


def test_a_notebook_shows_what_was_seen_last_where_the_service_is_gone():
    job = gradq.client.job.Job(
        Client("http://127.0.0.1:1", retries=0)._calls, {"id": "job_1", "name": "a", "status": "failed"}
    )
    job.json.update(terminal=True, result=None, progress=None, queue=None)
    job.json["status_reason"] = {"code": "diverged", "detail": "loss is nan"}
    shown = job._repr_html_()
    assert "diverged: loss is nan" in shown
    assert "<img" not in shown


def test_a_notebook_shows_a_handle_without_an_answer():
    with Client("http://127.0.0.1:1", retries=0) as client:
        assert "job_1" in client.job("job_1", fetch=False)._repr_html_()


# --- the asynchronous twin --------------------------------------------------------------------------------------------


def test_the_asynchronous_client_takes_the_same_calls():
    for one, other in ((Client, AsyncClient), (Job, AsyncJob)):
        names = {name for name in vars(one) if not name.startswith("_")}
        assert names == {name for name in vars(other) if not name.startswith("_")}
        for name in names:
            mine, theirs = inspect.signature(vars(one)[name]), inspect.signature(vars(other)[name])
            assert mine.parameters == theirs.parameters, name


def test_every_public_name_says_what_it_is():
    for name in gradq.__all__:
        thing = getattr(gradq, name)
        assert thing.__doc__, name
        methods = {n: m for n, m in vars(thing).items() if not n.startswith("_") and callable(m)}
        assert all(m.__doc__ for m in methods.values()), name


def test_a_job_s_whole_life_awaited(api, tmp_path: Path):
    async def live() -> AsyncJob:
        async with AsyncClient(api.url) as client:
            assert await client.ready()
            jobs = await asyncio.gather(*(client.submit(name=f"n{i}", epochs=1) for i in range(5)))
            assert {job.id async for job in client.jobs(name="n*")} == {job.id for job in jobs}
            lease = await asyncio.to_thread(api.start)  # of the job that was queued first
            job = await client.job(lease.job_id)
            others = [other for other in jobs if other.id != job.id]
            waiting = asyncio.create_task(job.wait(timeout=60, poll=0.05))
            await asyncio.to_thread(api.point, lease, 26, 1, train_loss=0.5)
            await asyncio.to_thread(api.finish, lease, files={"spec.json": b"{}"})
            assert (await waiting) is job
            assert [event.type async for event in job.watch()][-1] == "status"
            assert [event.seq for event in await job.events()] == [1, 2, 3, 4, 5]
            assert await job.metrics("train_loss") == {"train_loss": [[26, 1, 0.5]]}
            [path] = await job.download(tmp_path, ["spec.json"])
            assert path.read_bytes() == b"{}"
            assert (await job.download_zip(tmp_path / "all.zip")).is_file()
            assert "<img" not in job._repr_html_()
            outcomes = await client.bulk("cancel", ids=[other.id for other in others])
            assert all(outcome["ok"] for outcome in outcomes)
            again = await (await client.job(others[0].id, fetch=False)).retry()
            assert (await again.update(labels={"a": "b"})).labels == {"a": "b"}
            return job

    job = asyncio.run(live())
    assert job.succeeded
    assert job.result is not None


def test_files_and_images_go_up_awaited(api, trained, tmp_path: Path):
    (tmp_path / "a.npz").write_bytes(npz(**small()))
    Image.new("L", (9, 5), 255).save(tmp_path / "white.png")

    async def send() -> None:
        async with AsyncClient(api.url) as client:
            uploaded = await client.add_dataset(tmp_path / "a.npz", name="mine")
            assert (await client.datasets())[-1]["name"] == "mine"
            assert await client.delete_dataset(uploaded["id"]) > 0
            job = await client.job(trained.id)
            assert (await job.predict([tmp_path / "white.png"])).labels == [0]
            assert (await job.predict(np.stack([BLACK, WHITE]))).labels == [1, 0]
            assert await job.delete() > 0

    asyncio.run(send())


def test_the_blocking_client_works_inside_a_running_event_loop(api):
    """As in a notebook."""

    async def cell() -> list[str]:
        api.submit()
        with Client(api.url) as client:
            return [event.type for job in client.jobs() for event in job.events()]

    assert asyncio.run(cell()) == ["status"]


# --- the command line's patience --------------------------------------------------------------------------------------


def test_a_wait_outlives_a_short_absence():
    answers = iter([Unreachable("http://x", "refused"), ApiError(503, "database_away", "away"), "here"])

    def call() -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call) == "here"


def test_a_wait_ends_at_once_for_an_error_that_stays():
    with Client("http://127.0.0.1:1") as client, pytest.raises(Unreachable):
        patiently(lambda: client.job("job_0"), deadline=0.0)


# --- for whom it is ---------------------------------------------------------------------------------------------------


def test_the_import_brings_nothing_heavy():
    heavy = ("torch", "numpy", "pandas", "celery", "flask", "sqlalchemy", "asyncio", "matplotlib", "PIL", "typer")
    code = f"import sys, gradq; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


SCRIPT = """
import asyncio
from datetime import datetime
from gradq import AsyncClient, Client, Event, InvalidSpec, Job

def main() -> float:
    with Client(retries=3) as client:
        try:
            job: Job = client.submit(architecture="mlp", lr=0.1, labels={"team": "vision"})
        except InvalidSpec as error:
            raise SystemExit(error.errors[0]["pointer"])
        for event in job.watch(type="metric"):
            seen: Event = event
            print(seen.step, seen.metrics.get("train_loss"))
        names: list[str] = [job.name for job in client.jobs(status=["failed"], created_after=datetime.now())]
        print(names, job.wait(timeout=60, check=True).download("out"))
        return float((job.result or {})["test_accuracy"])

async def aside() -> str:
    async with AsyncClient() as client:
        job = await client.submit()
        async for event in job.watch():
            print(event.message)
        return (await job.wait()).status

print(main(), asyncio.run(aside()))
"""


MYPY = """
[mypy]
strict = True
[mypy-torch.*]
follow_imports = skip
"""


@pytest.mark.parametrize("key", ["a\nb", "ü"])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_sent(api, key):
    with pytest.raises(ValueError, match="printable ASCII"):
        api.client.submit(idempotency_key=key)
    assert list(api.client.jobs()) == []


def test_a_program_of_a_user_is_checked_against_the_types(tmp_path: Path):
    (tmp_path / "mypy.ini").write_text(MYPY)
    (tmp_path / "mine.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text(SCRIPT.replace("job.wait()", "job.wait(timeout='1')"))
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "mine.py", "wrong.py"]
    source = Path(gradq.__file__).parents[1]  # mypy does not follow an editable install
    env = {**os.environ, "MYPYPATH": str(source)}
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env).stdout.splitlines()
    assert len(found) == 2, found
    assert "wrong.py" in found[0]
    assert "[arg-type]" in found[0]
    assert Path(gradq.__file__).with_name("py.typed").is_file()
