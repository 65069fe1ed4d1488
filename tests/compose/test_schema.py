"""docker-compose.yml, compose.gpu.yaml, .env.example and the Dockerfile: valid, and hardened as documented."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.compose import (
    BASE,
    EXAMPLE,
    GPU,
    GPU_ID,
    REPOSITORY,
    dockerfile_environment,
    load,
    mounts_of,
    seconds,
    variables_of,
)

from shared.config import Settings

SERVICES = load(BASE)["services"]
WITH_GPU = load(BASE, GPU)["services"]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
OWN = ("migrate", "api", "worker")
DURATIONS = ("interval", "timeout", "start_period")
BUILT = {"gradq"}

every_service = pytest.mark.parametrize("name", sorted(WITH_GPU))


def check_schema(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", [BASE, GPU, GPU_ID], ids=lambda path: path.name)
def test_each_file_holds_against_the_compose_schema(path: Path) -> None:
    check_schema(path)


@pytest.mark.parametrize("files", [(BASE,), (BASE, GPU), (BASE, GPU_ID)], ids=["base", "gpu", "gpu id"])
def test_what_compose_makes_of_the_files_holds_against_the_schema(files: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(yaml.safe_dump(load(*files)))
    check_schema(tmp_path / "docker-compose.yml")


def test_the_schema_check_would_notice_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text("services: {api: {imagine: this}}")
    with pytest.raises(AssertionError, match="imagine"):
        check_schema(tmp_path / "docker-compose.yml")


# --- every service ----------------------------------------------------------------------------------------------------


@every_service
def test_no_service_runs_as_root_or_can_become_it(name: str) -> None:
    service = WITH_GPU[name]
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc"}


@every_service
def test_a_service_writes_to_its_volumes_and_tmpfs_alone(name: str) -> None:
    assert WITH_GPU[name]["read_only"] is True
    assert "/tmp" in mounts_of(WITH_GPU[name])
    assert not any("docker.sock" in volume for volume in WITH_GPU[name].get("volumes", []))


@every_service
def test_orphans_are_reaped_logs_end_and_what_dies_comes_back(name: str) -> None:
    service = WITH_GPU[name]
    assert service["init"] is True
    assert service["logging"]["options"].keys() >= {"max-size", "max-file"}
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")


@every_service
def test_a_service_is_checked_or_ends_by_itself(name: str) -> None:
    service = WITH_GPU[name]
    if "healthcheck" not in service:
        waiting = [s["depends_on"][name]["condition"] for s in WITH_GPU.values() if name in s.get("depends_on", {})]
        assert set(waiting) == {"service_completed_successfully"}
        return
    check = service["healthcheck"]
    assert all(seconds(check[key]) > 0 for key in DURATIONS)
    assert check["retries"] > 0
    assert not re.search(r"\b(curl|wget)\b", json.dumps(check["test"])), "the slim image has neither"


@every_service
def test_what_a_healthcheck_imports_exists(name: str) -> None:
    """An import that fails would make the container unhealthy, which only a started container would show."""
    test = WITH_GPU[name].get("healthcheck", {}).get("test", [])
    if test[1:3] != ["python", "-c"]:
        return
    imports = [node for node in ast.walk(ast.parse(test[3])) if isinstance(node, ast.ImportFrom)]
    for imported in imports:
        module = importlib.import_module(str(imported.module))
        assert all(hasattr(module, alias.name) for alias in imported.names), ast.unparse(imported)
    assert imports or name == "api"


@every_service
def test_docker_waits_longer_than_the_jobs_get_to_write_their_checkpoints(name: str) -> None:
    grace = Settings.model_fields["grace_seconds"].default
    assert seconds(WITH_GPU[name]["stop_grace_period"]) >= 3 * grace


@every_service
def test_the_image_is_pinned(name: str) -> None:
    repository, _, tag = WITH_GPU[name]["image"].partition(":")
    assert re.match(r"\d+\.\d+(\.\d+)?", tag), f"{repository} is at the mercy of {tag or 'latest'}"
    assert repository in {"postgres", "redis", *BUILT}


@every_service
def test_secrets_come_from_files(name: str) -> None:
    service = WITH_GPU[name]
    for variable, value in service["environment"].items() if service["environment"] else ():
        if re.search("PASSWORD|SECRET|TOKEN|_URL", variable) and variable != "GRADQ_ARTIFACTS_URL":
            assert variable.endswith("_FILE"), variable
            assert value.removeprefix("/run/secrets/") in service["secrets"]
        assert "://" not in value or value.startswith("file://")


def test_redis_takes_its_password_from_its_secret_and_no_image_holds_one() -> None:
    redis = SERVICES["redis"]
    assert "requirepass $(cat /run/secrets/redis_password)" in " ".join(redis["command"])
    assert redis["secrets"] == ["redis_password"]
    for line in re.findall(r"^(?:ARG|ENV|COPY|ADD) .+$", DOCKERFILE, re.MULTILINE):
        assert not re.search("password|secret|token", line, re.IGNORECASE), line


def test_secret_files_are_kept_out_of_git_and_of_the_image() -> None:
    content = yaml.safe_load(BASE.read_text())
    assert all(secret["file"].startswith("./secrets/") for secret in content["secrets"].values())
    assert {"secrets/", ".env"} <= set((REPOSITORY / ".gitignore").read_text().split())
    kept = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert kept[0] == "*"
    assert not {"!secrets", "!.env", "!.git"} & set(kept)


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_api_alone_has_a_port_and_only_on_the_loopback_address() -> None:
    published = {name: service["ports"] for name, service in WITH_GPU.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8080:8080"]}


def test_a_token_is_required_and_no_setting_moves_the_port_off_the_loopback_address() -> None:
    assert "GRADQ_ALLOW_ANONYMOUS" not in SERVICES["api"]["environment"]
    assert SERVICES["api"]["environment"]["GRADQ_ADMIN_TOKEN_FILE"] == "/run/secrets/admin_token"
    (raw,) = yaml.safe_load(BASE.read_text())["services"]["api"]["ports"]
    assert raw.startswith("127.0.0.1:${")


def test_postgres_and_redis_have_no_way_out_and_none_in() -> None:
    assert load(BASE)["networks"]["backend"]["internal"] is True
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["backend"]


def test_who_needs_the_database_waits_for_it_and_for_its_schema() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker"):
        wanted = {other: dependency["condition"] for other, dependency in SERVICES[name]["depends_on"].items()}
        assert wanted == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "redis": "service_healthy",
        }


def test_api_and_worker_share_files_and_lease() -> None:
    api, worker = SERVICES["api"], SERVICES["worker"]
    path = SERVICES["worker"]["environment"]["GRADQ_ARTIFACTS_URL"].removeprefix("file://")
    assert mounts_of(api)[path] == mounts_of(worker)[path] == "artifacts"
    longer = load(BASE, variables={"GRADQ_LEASE_SECONDS": "60"})["services"]
    assert [longer[name]["environment"]["GRADQ_LEASE_SECONDS"] for name in ("api", "worker")] == ["60", "60"]


def test_a_folder_of_datasets_is_mounted_read_only_and_without_one_downloads_have_a_volume() -> None:
    given = load(BASE, variables={"DATASETS_DIR": "/srv/data"})["services"]
    path = SERVICES["worker"]["environment"]["GRADQ_DATA_DIR"]
    assert f"/srv/data:{path}:ro" in given["worker"]["volumes"]
    assert f"/srv/data:{path}:ro" in given["api"]["volumes"]
    assert f"datasets:{path}" in SERVICES["worker"]["volumes"]


# --- GPU --------------------------------------------------------------------------------------------------------------


def test_the_base_file_starts_on_a_host_without_a_gpu() -> None:
    assert not any("deploy" in service or "gpus" in service for service in SERVICES.values())


def test_the_gpu_file_reserves_gpus_for_the_worker_alone() -> None:
    assert [name for name, service in WITH_GPU.items() if "deploy" in service] == ["worker"]
    (device,) = WITH_GPU["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert {"gpu", "utility"} <= set(device["capabilities"])
    assert ("count" in device) != ("device_ids" in device), "Compose takes one of the two"


@pytest.mark.parametrize("file", [GPU, GPU_ID], ids=lambda path: path.name)
def test_the_gpu_file_changes_nothing_else(file: Path) -> None:
    gpu = yaml.safe_load(file.read_text())
    assert gpu.keys() == {"services"}
    assert gpu["services"].keys() == {"worker"}
    assert gpu["services"]["worker"].keys() == {"deploy"}


@pytest.mark.parametrize("files", [(BASE,), (BASE, GPU), (BASE, GPU_ID)], ids=["base", "gpu", "gpu id"])
@pytest.mark.parametrize(("variables", "size"), [({}, "1g"), ({"SHM_SIZE": "4g"}, "4g")], ids=str)
def test_every_worker_has_shared_memory_for_the_batches_of_datasets_on_disk(files, variables, size) -> None:
    assert load(*files, variables=variables)["services"]["worker"]["shm_size"] == size


@pytest.mark.parametrize("gpu", ["0", "3", "GPU-8f6d6a0e-1f0a-4c1d-9f0b-0a3f6c1d2e4b"])
def test_a_gpu_is_chosen_by_its_id(gpu: str) -> None:
    worker = load(BASE, GPU_ID, variables={"GPU_ID": gpu})["services"]["worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == [gpu]
    assert "count" not in device, "Compose takes one of the two"
    (counted,) = WITH_GPU["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == (counted["driver"], counted["capabilities"])


# --- .env.example and settings ----------------------------------------------------------------------------------------


def test_env_example_names_every_variable_of_the_compose_files_and_no_other() -> None:
    named = re.findall(r"^#?([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(variables_of(BASE) | variables_of(GPU) | variables_of(GPU_ID))


def test_every_gradq_variable_is_a_setting_of_gradq() -> None:
    known = {f"GRADQ_{name.upper()}" for name in Settings.model_fields}
    for name in OWN:
        used = {variable.removesuffix("_FILE") for variable in SERVICES[name]["environment"]}
        assert used <= known
    assert {name for name in variables_of(BASE) if name.startswith("GRADQ_")} <= known


def test_operations_explains_every_setting() -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    missing = [name for name in Settings.model_fields if f"`GRADQ_{name.upper()}`" not in page]
    assert not missing


# --- Dockerfile -------------------------------------------------------------------------------------------------------


def test_the_image_runs_gradq_itself_as_the_user_that_compose_names() -> None:
    assert re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE) == ['["gradq"]']
    (user,) = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert {SERVICES[name]["user"] for name in OWN} == {user}


def test_the_image_writes_to_the_state_folder_only() -> None:
    environment = dockerfile_environment()
    state = environment["GRADQ_STATE_DIR"]
    assert environment["MPLCONFIGDIR"].startswith(state)
    for name in OWN:
        assert state in mounts_of(SERVICES[name]), f"{name} has nothing to write to at {state}"


def test_torch_comes_from_one_index_and_everything_from_the_constraints() -> None:
    installs = re.findall(r"install -c constraints.txt", DOCKERFILE)
    assert len(installs) == len(re.findall(r"\bpip\b[^\n]* install\b", DOCKERFILE))
    assert SERVICES["migrate"]["build"]["args"] == {"TORCH_INDEX": ""}
    assert re.search(r"\$\{TORCH_INDEX:\+--no-deps --index-url", DOCKERFILE)


def test_the_base_image_is_pinned_to_a_minor_version() -> None:
    (python,) = re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"3\.\d+-slim-\w+", python)


def test_what_the_image_is_made_of_passes_dockerignore() -> None:
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == kept
    assert all((REPOSITORY / source).exists() for source in copied)
