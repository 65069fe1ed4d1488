"""docker-compose.yml parsed as Compose does, and its services run as processes of this machine, without containers.

What replaces the parts of Docker:

- image `postgres`: a private cluster with user, database and password as the service's environment names them
- image `gradq`: the Dockerfile's ENTRYPOINT and ENV, with this Python's commands first on the PATH
- image `redis`: the service's own command, with the redis-server of this machine
- volumes and tmpfs: folders below one folder; a mount inside another mount is a link in it
- secrets: files, made by scripts/secrets.sh
- host names and ports: 127.0.0.1 and free ports, in any text
- depends_on, healthcheck, stop_grace_period: as they are written
- user, read_only, capabilities and networks: need an engine and are left out
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml
from support.postgres import Postgres, find_binary, free_port, part_missing, require_postgres
from support.waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
BASE, GPU, GPU_ID, EXAMPLE = (
    REPOSITORY / name for name in ("docker-compose.yml", "compose.gpu.yaml", "compose.gpu-id.yaml", ".env.example")
)
SECRETS = "/run/secrets"
VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:[-+])(?P<word>[^{}]*))?\}|(?P<other>.))")
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


# --- the files as Compose reads them ----------------------------------------------------------------------------------


def load(*paths: Path, variables: dict[str, str] | None = None) -> dict[str, Any]:
    """The files, merged in order. `variables`: those of .env."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, interpolate(yaml.safe_load(path.read_text()), variables or {}))
    for service in merged.get("services", {}).values():
        given = service.get("environment", {})
        known = {name: (variables or {}).get(name) if value is None else str(value) for name, value in given.items()}
        service["environment"] = {name: value for name, value in known.items() if value is not None}
    return merged


def merge(base: Any, over: Any) -> Any:
    """Mappings are merged, lists appended, other values replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {
            key: merge(base[key], over[key]) if key in base and key in over else {**base, **over}[key]
            for key in {**base, **over}
        }
    if isinstance(base, list) and isinstance(over, list):
        return base + over
    return over


def interpolate(value: Any, variables: dict[str, str]) -> Any:
    """Replace ${NAME}, ${NAME:-default}, ${NAME:+instead} and $$ in every text; other forms are an error."""
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]

    def resolve(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        assert match["name"], f"not a form of ${{NAME}} that these files use: {match[0]}"
        found, word = variables.get(match["name"], ""), match["word"] or ""
        return {None: found, ":-": found or word, ":+": word if found else ""}[match["how"]]

    return VARIABLE.sub(resolve, value) if isinstance(value, str) else value


def variables_of(path: Path) -> set[str]:
    """Every variable that the file takes from .env: ${NAME}, and names without a value in an `environment`."""
    content = yaml.safe_load(path.read_text())
    named = {match["name"] for match in VARIABLE.finditer(json.dumps(content)) if match["name"]}
    for service in content["services"].values():
        named |= {name for name, value in service.get("environment", {}).items() if value is None}
    return named


def seconds(duration: str) -> float:
    """`1m30s` -> 90.0"""
    parts = re.findall(r"(\d+)(ms|h|m|s)", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(int(number) * UNITS[unit] for number, unit in parts)


def mounts_of(service: dict[str, Any]) -> dict[str, str]:
    """Path in the container -> volume or folder of the host; empty for tmpfs."""
    volumes = (volume.split(":") for volume in service.get("volumes", []))
    return {**{target.split(":")[0]: "" for target in service.get("tmpfs", [])}, **{v[1]: v[0] for v in volumes}}


# --- the services as processes ----------------------------------------------------------------------------------------


def require_parts() -> None:
    require_postgres()
    for name in ("redis-server", "redis-cli"):
        if shutil.which(name) is None:
            part_missing(f"{name} is not installed")


class Composed:
    """The services of docker-compose.yml below one folder. `down` and `up` keep the volumes, as in Compose."""

    def __init__(self, folder: Path, variables: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.services: dict[str, Any] = load(BASE, variables=variables)["services"]
        self.ports = {"6379": free_port(), "8080": free_port()}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.secrets = self._make_secrets()
        self.postgres = self._postgres()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['8080']}"

    def up(self) -> None:
        """Start each service once the conditions of its depends_on hold; return when all are healthy."""
        for name in self._order():
            for other, needed in self.services[name].get("depends_on", {}).items():
                self._wait_until(other, needed["condition"])
            self.start(name)
        for name in self.checked:
            self._wait_until(name, "service_healthy")

    def down(self) -> dict[str, int]:
        """Send SIGTERM in reverse order, each within its stop_grace_period; return the exit codes.

        A process that remains is an error.
        """
        family = [p for process in self.processes.values() for p in _family(process.pid)]
        codes = {name: self.stop(name) for name in reversed(self._order())}
        _, left = psutil.wait_procs(family, timeout=5)
        for process in left:
            process.kill()
        assert not left, f"still there when all services had ended: {left}"
        return codes

    def close(self) -> None:
        """Kill everything, for a test that failed on the way."""
        for process in self.processes.values():
            for one in reversed(_family(process.pid)):
                one.kill()
            process.wait()
        self.postgres.close()

    @property
    def is_up(self) -> bool:
        """Whether the last service that `up` starts is there."""
        last = self.processes.get(self._order()[-1])
        return last is not None and last.poll() is None

    @property
    def checked(self) -> list[str]:
        return [name for name, service in self.services.items() if "healthcheck" in service]

    def start(self, name: str) -> None:
        if name == "postgres":
            self.postgres.start()
            return
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self._command(name),
                env=self._environment(name),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name: str) -> int:
        if name == "postgres":
            self.postgres.stop()  # the image's own STOPSIGNAL, SIGINT
            return 0
        process, grace = self.processes[name], seconds(self.services[name]["stop_grace_period"])
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(grace)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} did not end within its {grace:g} s:\n{self.log(name)}") from None

    def healthy(self, name: str) -> bool:
        """Run the service's health check once; whether it passed."""
        check = self.services[name]["healthcheck"]
        kind, *words = self._local(name, check["test"])
        try:
            ran = subprocess.run(
                words if kind == "CMD" else ["/bin/sh", "-c", *words],
                env=self._environment(name),
                cwd=self.folder,
                capture_output=True,
                timeout=seconds(check["timeout"]),
            )
        except subprocess.TimeoutExpired:
            return False
        return ran.returncode == 0

    def log(self, name: str) -> str:
        if name == "postgres":
            return self.postgres.log
        return (self.folder / f"{name}.log").read_text(errors="replace")[-5000:]

    def _order(self) -> list[str]:
        """The services, each after those that it depends on."""
        order: list[str] = []

        def put(name: str) -> None:
            for other in self.services[name].get("depends_on", {}):
                put(other)
            if name not in order:
                order.append(name)

        for name in self.services:
            put(name)
        return order

    def _wait_until(self, name: str, condition: str) -> None:
        if condition == "service_completed_successfully":
            code = self.processes[name].wait(60)
            assert code == 0, f"{name} ended with {code}:\n{self.log(name)}"
            return
        assert condition == "service_healthy", condition
        check = self.services[name]["healthcheck"]
        limit = seconds(check["start_period"]) + check["retries"] * seconds(check["interval"])

        def is_healthy() -> bool:
            process = self.processes.get(name)
            assert process is None or process.poll() is None, f"{name} ended:\n{self.log(name)}"
            return self.healthy(name)

        wait_for(is_healthy, limit, f"{name} to be healthy", every=0.2)

    # --- from the container to this machine ---

    def _command(self, name: str) -> list[str]:
        service = self.services[name]
        entrypoint = dockerfile_entrypoint() if service["image"].startswith("gradq:") else []
        return self._local(name, entrypoint + service["command"])

    def _environment(self, name: str) -> dict[str, str]:
        service = self.services[name]
        image = dockerfile_environment() if service["image"].startswith("gradq:") else {}
        paths = [Path(sys.executable).parent, Path(find_binary("pg_isready") or "/usr/bin/pg_isready").parent]
        return {
            **{key: self._local(name, value) for key, value in {**image, **service["environment"]}.items()},
            # 0.0.0.0 becomes a loopback address here, so the setting that it implies in the container is given
            **({"GRADQ_ALLOW_ANONYMOUS": "false"} if "0.0.0.0" in service.get("command", []) else {}),
            "PATH": os.pathsep.join([*map(str, paths), os.environ.get("PATH", os.defpath)]),
            "HOME": str(self.folder),
            "PGPORT": str(self.postgres.port),
        }

    def _local(self, name: str, value: Any) -> Any:
        """Replace paths, addresses and ports of the container by those of this machine, in one pass."""
        if isinstance(value, list):
            return [self._local(name, item) for item in value]
        words = {
            **{path: str(folder) for path, folder in self._folders(name).items()},
            SECRETS: str(self._local_secrets()),
            "0.0.0.0": "127.0.0.1",
            **self._addresses(),
            **{port: str(free) for port, free in self.ports.items()},
        }
        either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        return re.sub(rf"(?<![\w.])(?:{either})(?!\w)", lambda match: words[match[0]], value)

    def _addresses(self) -> dict[str, str]:
        return {"postgres:5432": f"127.0.0.1:{self.postgres.port}", "redis:6379": f"127.0.0.1:{self.ports['6379']}"}

    def _folders(self, name: str) -> dict[str, Path]:
        """A folder for each mount except /tmp, which is the machine's own."""
        folders: dict[str, Path] = {}
        for target, source in sorted(mounts_of(self.services[name]).items()):
            if target in ("/tmp", "/var/run/postgresql", "/var/lib/postgresql/data"):
                continue
            own = self.folder / "tmpfs" / name / target.strip("/").replace("/", "-")
            folder = Path(source) if source.startswith("/") else self.folder / "volumes" / source if source else own
            folder.mkdir(parents=True, exist_ok=True)
            for outer in (path for path in folders if target.startswith(f"{path}/")):
                link = folders[outer] / target.removeprefix(f"{outer}/")
                if not link.is_symlink():
                    link.symlink_to(folder)
            folders[target] = folder
        return folders

    def _make_secrets(self) -> Path:
        """Run scripts/secrets.sh in a copy, as a user does in a clone; the second run changes nothing."""
        (self.folder / "scripts").mkdir()
        shutil.copy(REPOSITORY / "scripts" / "secrets.sh", self.folder / "scripts")
        for _ in range(2):
            subprocess.run(["sh", "scripts/secrets.sh"], cwd=self.folder, check=True)
        return self.folder / "secrets"

    def _local_secrets(self) -> Path:
        """The same secrets with this machine's addresses; renamed into place, since services may be reading them."""
        folder = self.folder / "run-secrets"
        folder.mkdir(exist_ok=True)
        for file in self.secrets.iterdir():
            text = file.read_text()
            for address, local in self._addresses().items():
                text = text.replace(address, local)
            (self.folder / "secret.part").write_text(text)
            (self.folder / "secret.part").replace(folder / file.name)
        return folder

    def _postgres(self) -> Postgres:
        """The cluster that the image creates from its environment at the first start."""
        environment = self.services["postgres"]["environment"]
        password = self.secrets / Path(environment["POSTGRES_PASSWORD_FILE"]).name
        return Postgres(environment["POSTGRES_USER"], password.read_text(), environment["POSTGRES_DB"])


def dockerfile_entrypoint() -> list[str]:
    found = re.findall(r"^ENTRYPOINT (.+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    words: list[str] = json.loads(found[-1])
    return words


def dockerfile_environment() -> dict[str, str]:
    """ENV of the last stage, without the PATH."""
    stage = (REPOSITORY / "Dockerfile").read_text().split("\nFROM ")[-1].replace("\\\n", " ")
    pairs = [
        pair.split("=", 1) for line in re.findall(r"^ENV (.+)$", stage, re.MULTILINE) for pair in shlex.split(line)
    ]
    return {name: value for name, value in pairs if name != "PATH"}


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
