"""Bodies for all other calls that change something: predictions, actions on jobs, changes of a job, bulk calls,
sign-ins. None of them is expected to succeed, and none may cost more than its limits."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from fuzz.job_bodies import TEXT, VALUES, broken, damaged, noise
from fuzz.message import FRAMINGS, JSON, Message
from hypothesis import strategies as st
from support.images import picture, pixels

ANSWER_BYTES = {"predict": 16 << 20, "bulk": 4 << 20}  # by the end of the path; of all others:
OTHER_ANSWER_BYTES = 1 << 20
ACTIONS = ("cancel", "pause", "resume", "retry", "reproduce")
SIDE = 8  # of the images of `digits`


def most_answer_bytes(path: str) -> int:
    return ANSWER_BYTES.get(path.partition("?")[0].rpartition("/")[2], OTHER_ANSWER_BYTES)


def _npz(images: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, images=images)
    return out.getvalue()


@st.composite
def image_bodies(draw: st.DrawFn) -> bytes:
    match draw(st.sampled_from(["json", "texts", "lists", "npz", "picture", "large", "values"])):
        case "json":
            return json.dumps({"images": pixels(draw(st.integers(1, 40)), SIDE, SIDE).tolist()}).encode()
        case "texts":
            texts = [draw(TEXT) * draw(st.integers(1, 50)), *[""] * draw(st.integers(0, 100))]
            return json.dumps({"images": draw(st.sampled_from([texts, [texts], [[texts]]]))}).encode("utf-8", "replace")
        case "lists":
            element = draw(st.sampled_from(["[]", "[[]]", "[[[0]]]", "[0]", "1", "{}", '""', "null", "1e999"]))
            return ('{"images":[' + ",".join([element] * draw(st.sampled_from([1, 9, 30_000]))) + "]}").encode()
        case "npz":
            kind = draw(st.sampled_from(["u1", "f8", "i8", "?", "f2", "U3", ">i4"]))
            n = draw(st.sampled_from([0, 1, 50, 10_001]))
            images = np.zeros((n, SIDE, draw(st.sampled_from([SIDE, SIDE + 1]))), kind)
            return _npz(np.asfortranarray(images) if draw(st.booleans()) else images)
        case "picture":
            return picture(np.zeros(draw(st.sampled_from([(1, 1), (9, 5), (600, 900)])), np.uint8))
        case "large":
            return json.dumps({"images": [[[0] * SIDE] * SIDE] * draw(st.sampled_from([500, 10_001]))}).encode()
    return json.dumps({"images": draw(VALUES), "white": draw(VALUES)}).encode("utf-8", "replace")


@st.composite
def bulk_bodies(draw: st.DrawFn) -> bytes:
    ids = st.lists(st.one_of(TEXT, st.just("job_" + "0" * 32)), max_size=20)
    body = {
        "action": draw(st.sampled_from([*ACTIONS, "delete", "stop"])),
        draw(st.sampled_from(["ids", "ids", "filter", "flter"])): draw(st.one_of(ids, VALUES)),
    }
    return json.dumps(body).encode("utf-8", "replace")


@st.composite
def other_messages(draw: st.DrawFn, job: str) -> Message:
    """A message to any call that changes something, but for submissions of jobs and uploads. `job`: a finished one."""
    method, path = draw(
        st.sampled_from(
            [
                *[("POST", f"/v1/jobs/{job}/predict")] * 6,
                *[("POST", "/v1/jobs/bulk")] * 3,
                ("POST", "/v1/gradient-checks"),
                ("POST", "/v1/walks"),
                ("POST", "/v1/jobs?dry_run=true"),
                ("POST", "/session"),
                ("PATCH", f"/v1/jobs/{job}"),
                *(("POST", f"/v1/jobs/job_{'0' * 32}/{action}") for action in ACTIONS),
            ]
        )
    )
    if path.endswith("predict"):
        body = draw(image_bodies())
    elif path.endswith("bulk"):
        body = draw(bulk_bodies())
    else:
        values: Any = draw(st.one_of(broken(), VALUES, st.dictionaries(TEXT, VALUES, max_size=4)))
        body = json.dumps(values).encode("utf-8", "replace")
    match draw(st.sampled_from(["as it is"] * 4 + ["damaged", "noise"])):
        case "damaged":
            body = draw(damaged(body))
        case "noise":
            body = draw(noise())
    media = draw(
        st.sampled_from(
            [JSON] * 6 + ["application/octet-stream", "image/png", "text/plain", "multipart/form-data; boundary=b"]
        )
    )
    headers = {"Content-Type": media}
    if draw(st.booleans()):
        headers["Idempotency-Key"] = draw(st.uuids()).hex
    return Message(path, body, headers, draw(st.sampled_from(["length"] * 10 + list(FRAMINGS))), method)
