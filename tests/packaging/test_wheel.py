"""The wheel has all tracked files of the packages, and what it installs serves every page and every GET."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import httpx2
import pytest
from support.installed import Installed, tracked
from werkzeug.routing import Rule

from api.app import create_app
from gradq import Client
from gradq.version import VERSION
from shared.config import Settings

pytestmark = pytest.mark.long
PACKAGES = ("api", "gradq", "shared", "worker")


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set(tracked(*PACKAGES))
    assert wheel.name.startswith(f"gradq-{VERSION}-")


def test_gradq_comes_from_the_wheel_alone(server: Installed):
    code = "import gradq, shared, api, worker; print(*(m.__file__ for m in (gradq, shared, api, worker)), sep='\\n')"
    for file in server.run(server.python, "-c", code).stdout.split():
        assert Path(file).is_relative_to(server.site)
    said = server.run(server.python, "-c", "from importlib.metadata import version; print(version('gradq'))").stdout
    assert said.strip() == VERSION
    assert server.run(server.gradq, "--version").stdout == f"gradq {VERSION}\n"


def rules(folder: Path) -> list[Rule]:
    """Every route that answers GET."""
    settings = Settings(state_dir=folder, redis_url=f"redis+socket://{folder}/none.sock", allow_anonymous=True)
    settings.make_state_dir()
    return [rule for rule in create_app(settings).url_map.iter_rules() if "GET" in (rule.methods or ())]


def test_every_page_and_every_get_is_answered(url: str, tmp_path: Path):
    with Client(url) as client:
        job = client.submit(dataset="digits", epochs=1).wait(timeout=120, check=True)
        artifact = job.artifacts()[0]["name"]
    found = rules(tmp_path / "state")
    assert {"/learn", "/jobs/<job_id>", "/v1/jobs", "/docs"} <= {rule.rule for rule in found}
    with httpx2.Client(base_url=url, follow_redirects=True, timeout=30) as http:
        page = http.get("/").text
        version = re.search(r"/static/([^/]+)/", page)
        assert version is not None
        statics = [name.partition("/static/")[2] for name in tracked("api/dashboard/static")]
        docs = re.findall(r"/docs/([\w.-]+)", http.get("/docs").text)
        names = {"assets.asset": statics, "docs.asset": docs, "artifacts.download": [artifact]}
        assert docs
        answers = {}
        for rule in found:
            for name in names.get(rule.endpoint, [""]):
                filled = {"job_id": job.id, "dataset_id": "digits", "version": version[1], "name": name}
                path = re.sub(r"<(?:\w+:)?(\w+)>", lambda part, filled=filled: filled[part[1]], rule.rule)
                answers[path] = http.get(path).status_code
    assert len(answers) > len(found)
    assert {path: status for path, status in answers.items() if status != 200} == {}
