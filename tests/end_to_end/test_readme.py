"""Every command of the README, run in a copy of the repository, block by block.

A block that this module does not know fails a test: a block added to the README needs a test here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres import free_port
from support.waiting import wait_for

ROOT = Path(__file__).parents[2]
PORT = 8080
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = BLOCK.findall((ROOT / "README.md").read_text())
MAKE, START, CURL, PYTHON, SHELL, ARTICLE, DOCKER = range(7)
PNG = b"\x89PNG\r\n\x1a\n"


def block(number: int) -> str:
    return str(README[number][1])


def runnable(command: str) -> str:
    """A line without its comment."""
    return re.sub(r"\s+#.*$", "", command, flags=re.MULTILINE)


class Clone:
    """A copy of the repository with its service, on the README's port, or another one if that is in use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "gradq"
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, files.split("\0")):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        (self.folder / ".venv").mkdir()
        (self.folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        (self.folder / ".venv" / ".installed").touch()  # as `make install` leaves it, which is not run again
        self.port = PORT if is_free(PORT) else free_port()
        keep = {name: value for name, value in os.environ.items() if not name.startswith("GRADQ_")}
        self.env = {**keep, "GRADQ_STATE_DIR": str(folder / "state"), "GRADQ_DOWNLOAD": "false"}
        if "GRADQ_DATA_DIR" in os.environ:  # with MNIST
            self.env["GRADQ_DATA_DIR"] = str(Path(os.environ["GRADQ_DATA_DIR"]).absolute())
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        if self.port != PORT:
            self.env["GRADQ_URL"] = f"http://127.0.0.1:{self.port}"

    def start(self) -> subprocess.Popen[bytes]:
        """Run the block that ends with `gradq up` in the foreground of a new shell."""
        command = runnable(block(START)).replace("gradq up", "exec gradq up")
        if self.port != PORT:
            command = command.replace("exec gradq up", f"exec gradq up --port {self.port}")
        self.log = self.folder / "up.log"
        with self.log.open("wb") as log:
            shell = ["bash", "-euc", command]
            process = subprocess.Popen(shell, cwd=self.folder, env=self.env, stdout=log, stderr=log)
        wait_for(lambda: self._ready(process), 150, "`gradq up` to be ready")
        return process

    def _ready(self, process: subprocess.Popen[bytes]) -> bool:
        text = self.log.read_text()
        assert process.poll() is None, text
        return f"ready http://127.0.0.1:{self.port}\n" in text

    def run(self, *command: str) -> str:
        """The output. Fails unless the exit code is 0."""
        text = [part.replace(f":{PORT}", f":{self.port}") for part in command]
        ended = subprocess.run(text, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=250)
        assert ended.returncode == 0, f"{command[-1]}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def shell(self, commands: str) -> str:
        return self.run("bash", "-euo", "pipefail", "-c", commands)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = Clone(tmp_path_factory.mktemp("readme"))
    service = clone.start()
    yield clone
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0, clone.log.read_text()


def test_the_blocks_are_those_that_are_run_here():
    languages = [language for language, _ in README]
    assert languages == ["sh", "sh", "sh", "python", "sh", "sh", "sh"]
    assert "make demo" in block(MAKE)
    assert "gradq up" in block(START)
    assert "curl" in block(CURL)
    assert "article/" in block(ARTICLE)
    assert "docker compose" in block(DOCKER)


def test_make_knows_the_two_commands():
    """`make demo` is run by test_up.py, and `make test` is what runs this."""
    for command in runnable(block(MAKE)).splitlines():
        assert command in ("make demo", "make test")
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.long
def test_five_curl_calls_submit_wait_and_fetch(clone: Clone):
    assert block(CURL).count("curl ") == 5
    answers = clone.shell(block(CURL))
    job, end = json.JSONDecoder().raw_decode(answers)
    prediction = json.loads(answers[end:])
    assert (job["status"], job["spec"]["gradients"]) == ("succeeded", "manual")
    assert job["result"]["gradient_check"]["passed"] is True
    assert prediction["predictions"][0]["label"] == 7
    assert (clone.folder / "loss_curve.png").read_bytes().startswith(PNG)
    assert len((clone.folder / "model.safetensors").read_bytes()) > 1000


@pytest.mark.long
def test_the_same_in_python(clone: Clone):
    lines = clone.run(sys.executable, "-c", block(PYTHON)).splitlines()
    accuracy, passed = lines[0].split()
    assert float(accuracy) > 0.9
    assert passed == "True"
    assert "7" in lines[-1]
    assert (clone.folder / "model" / "model.safetensors").exists()


@pytest.mark.long
def test_the_same_in_a_shell(clone: Clone):
    printed = clone.shell(block(SHELL))
    assert "weights: the same, bit for bit" in printed
    assert "identical to job_" in printed
    assert (clone.folder / "compare.png").read_bytes().startswith(PNG)
    (job_id,) = [folder.name for folder in clone.folder.glob("job_*")]
    assert f"{job_id}  succeeded  by-hand" in printed
    assert (clone.folder / job_id / "model.safetensors").exists()


@pytest.mark.long
@pytest.mark.mnist
def test_through_the_article(clone: Clone, mnist_dir: Path):
    printed = clone.shell(block(ARTICLE))
    assert printed.count(" succeeded") >= 6
    assert re.search(r"^last val_accuracy +0\.\d+ +0\.\d+$", printed, re.MULTILINE)  # the article's, ours
    assert (clone.folder / "article.png").read_bytes().startswith(PNG)


@pytest.mark.long
def test_docker_compose(clone: Clone):
    commands = runnable(block(DOCKER)).splitlines()
    for command in [command for command in commands if not command.startswith("docker ")]:
        clone.shell(command)
    assert len(list((clone.folder / "secrets").iterdir())) == 5  # four passwords and addresses, and an admin token
    for name in (clone.folder / ".env").read_text().strip().removeprefix("COMPOSE_FILE=").split(":"):
        assert (clone.folder / name).exists()
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("no docker compose: its commands were not run (tests/compose runs what they start)")
    clone.shell("docker compose config --quiet")


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
