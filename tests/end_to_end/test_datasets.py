"""An uploaded dataset through the whole service: 40 000 PNG files in a zip, one epoch, results."""

from __future__ import annotations

import io
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from support.service import Service

EXAMPLES, CLASSES, SIDE = 40_000, 10, 16
SECONDS = 60  # for upload, decoding and training; a quiet machine needs about six


def many_pngs() -> bytes:
    """Noise with a bright row whose place is the class: a linear model learns it in an epoch."""
    images = np.random.default_rng(0).integers(0, 120, (EXAMPLES, SIDE, SIDE)).astype(np.uint8)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i, image in enumerate(images):
            image[i % CLASSES + 2] += 100
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG", compress_level=1)
            archive.writestr(f"rows/class {i % CLASSES}/{i:05}.png", png.getvalue())
    return file.getvalue()


@pytest.mark.long
def test_forty_thousand_pngs_are_uploaded_and_trained_on_in_well_under_a_minute(steady: Service) -> None:
    content = many_pngs()
    started = time.monotonic()
    answer = steady.http.post("/v1/datasets", files={"file": ("rows.zip", content)}, timeout=SECONDS)
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert (dataset["shape"], dataset["classes"][3]) == ([1, SIDE, SIDE], "class 3")
    assert (dataset["train_examples"], dataset["test_examples"]) == (36_000, 4_000)
    body = {"dataset": dataset["id"], "architecture": "linear", "gradients": "manual", "epochs": 1, "seed": 1}
    job = steady.wait(steady.http.post("/v1/jobs", json=body).json()["id"], SECONDS)
    assert time.monotonic() - started < SECONDS
    assert job["status"] == "succeeded", job["status_reason"]
    assert job["result"]["test_accuracy"] > 0.95
    model = steady.http.get(f"/v1/jobs/{job['id']}/artifacts/model.json").json()
    assert model["classes"] == dataset["classes"]
    deleted = steady.http.delete(f"/v1/datasets/{dataset['id']}").json()
    assert deleted["freed_bytes"] == dataset["size_bytes"]
    again = steady.http.post("/v1/jobs", json=body)
    assert again.json()["errors"][0]["code"] == "not_found"


def test_a_job_whose_dataset_lost_its_files_ends_as_a_data_error(steady: Service) -> None:
    arrays = {"x": np.zeros((40, 6, 6), np.uint8), "y": np.arange(40) % 2}
    file = io.BytesIO()
    np.savez(file, **arrays)
    dataset = steady.http.post("/v1/datasets", files={"file": ("flat.npz", file.getvalue())}).json()
    (path,) = (steady.state / "artifacts" / "datasets" / dataset["id"]).glob("*/train_images.npy")
    path.unlink()
    job = steady.wait(steady.http.post("/v1/jobs", json={"dataset": dataset["id"]}).json()["id"], 20)
    assert (job["status"], job["status_reason"]["code"]) == ("failed", "data_error")
    assert "train_images.npy" in job["status_reason"]["detail"]
    assert job["attempt"] == 1
