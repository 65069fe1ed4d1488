"""`pip install gradq` is a client: with only the packages that its metadata requires, every verb that calls a service
works, and the others say what to install."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.installed import Installed, closure

from gradq import Client
from gradq.cli import VERBS

pytestmark = pytest.mark.long
SERVERS = ("torch", "torchvision", "celery", "kombu", "redis", "flask", "sqlalchemy", "alembic", "plotly")
SERVERS += ("scikit-learn", "psycopg", "gunicorn", "matplotlib", "pillow", "numpy", "fsspec")
NEEDS_SERVER = (
    *(("up",), ("api",), ("worker",), ("migrate",), ("doctor",), ("demo",)),
    *(("backup", "-"), ("restore", "/dev/null"), ("token", "list"), ("token", "create", "laptop")),
)


def test_the_client_requires_nothing_of_the_service(light: Installed):
    required = closure(text for text in light.distribution.requires or [] if "extra ==" not in text)
    assert required & set(SERVERS) == set()
    assert len(required) < 25, required
    found = {path.name.lower() for path in light.site.iterdir()}
    assert found & {"torch", "celery", "redis", "flask", "sqlalchemy", "matplotlib", "numpy", "pil"} == set()


def test_every_extra_of_the_service_brings_the_whole_service(light: Installed):
    requires = light.distribution.requires or []
    extras = light.distribution.metadata.get_all("Provides-Extra")
    assert set(extras or []) == {"server", "s3", "onnx", "dev"}
    for extra in ("s3", "onnx", "dev"):
        assert any(text.startswith("gradq[server]") and f'extra == "{extra}"' in text for text in requires)


def test_the_library_is_imported_and_has_its_exceptions(light: Installed):
    code = "import gradq; print(*sorted(map(repr, (getattr(gradq, name) for name in gradq.__all__))), sep='\\n')"
    ended = light.run(light.python, "-c", code)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) > 30
    assert ended.stdout.splitlines()[0].startswith("<class 'gradq.client.")


@pytest.mark.parametrize("verb", ["", *(line.name for line in VERBS)])
def test_every_verb_explains_itself(light: Installed, verb):
    ended = light.run(light.gradq, *verb.split(), "--help")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("Usage: gradq")


def test_verbs_that_ask_a_service_work(light: Installed, url: str):
    submitted = light.run(
        *(light.gradq, "submit", "--dataset", "digits", "--epochs", "1", "--wait", "--set", "optimizer.momentum=0.5"),
        GRADQ_URL=url,
    )
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.split()[0]
    listed = light.run(light.gradq, "ps", GRADQ_URL=url)
    assert job_id in listed.stdout, listed.stderr
    for verb in ("show", "logs", "watch", "wait"):
        ended = light.run(light.gradq, verb, job_id, GRADQ_URL=url)
        assert (ended.returncode, job_id in ended.stdout or verb == "logs") == (0, True), ended.stderr
    for verb in ("presets", "datasets", "workers"):
        assert light.run(light.gradq, verb, GRADQ_URL=url).returncode == 0
    files = light.run(light.gradq, "download", job_id, GRADQ_URL=url)
    assert files.returncode == 0, files.stderr
    assert (light.empty / job_id / "model.safetensors").stat().st_size > 1000
    assert "weights: the same, bit for bit" in light.run(light.gradq, "compare", job_id, job_id, GRADQ_URL=url).stdout
    drawn = light.run(light.gradq, "compare", job_id, job_id, "-o", "curve.png", GRADQ_URL=url)
    assert (drawn.returncode, "matplotlib" in drawn.stderr, "gradq[server]" in drawn.stderr) == (2, True, True)
    with Client(url) as client:
        assert client.job(job_id)["spec"]["optimizer"]["momentum"] == 0.5


def test_a_terminal_is_drawn_on(light: Installed, url: str):
    """What is imported for a picture alone is there as well."""
    drawn = light.run(light.gradq, "ps", GRADQ_URL=url, FORCE_COLOR="1")
    assert (drawn.returncode, "\x1b[" in drawn.stdout) == (0, True), drawn.stderr
    spec = light.empty / "spec.yaml"
    spec.write_text("dataset: digits\nepochs: 1\n")
    assert light.run(light.gradq, "submit", "-f", str(spec), "--dry-run", GRADQ_URL=url).returncode == 0


@pytest.mark.parametrize("words", NEEDS_SERVER, ids=" ".join)
def test_a_verb_that_needs_the_service_says_what_to_install(light: Installed, words):
    ended = light.run(light.gradq, *words)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"gradq: `gradq {words[0]}` needs ")
    assert line.endswith("pip install 'gradq[server]'")


def test_with_json_it_is_a_problem(light: Installed, tmp_path: Path):
    ended = light.run(light.gradq, "up", "--json")
    problem = json.loads(ended.stderr)
    assert (ended.returncode, problem["code"]) == (2, "configuration_error")
    assert problem["next_step"] == "Run `pip install 'gradq[server]'`."
