"""What is imported before a verb runs: only what it uses, and nothing of the service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import gradq
import shared.version
from gradq.cli import VERBS, app
from gradq.commands.errors import no_server
from gradq.commands.specs import TYPES
from gradq.version import VERSION
from shared.spec.job_spec import JobSpec

LIBRARIES = {"httpx2", "rich", "typer", "pydantic", "yaml", "numpy"}
SERVICE = {
    "shared",
    "api",
    "worker",
    "sqlalchemy",
    "celery",
    "kombu",
    "redis",
    "flask",
    "torch",
    "matplotlib",
    "psutil",
}
CODE = """import json, sys
{}
print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})), file=sys.stderr)"""


def loaded(code: str) -> set[str]:
    """The top-level modules of a new Python after `code`."""
    command = [sys.executable, "-c", CODE.format(code)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(ended.stderr.splitlines()[-1]))


def after_verb(*words: str) -> set[str]:
    return loaded(
        f"from gradq.cli import app\ntry: app({list(words)!r})\nexcept SystemExit as end: assert not end.code"
    )


def test_import_gradq_imports_no_library():
    assert loaded("import gradq, gradq.version") & (LIBRARIES | SERVICE) == set()


def test_a_client_imports_httpx2_and_nothing_of_the_command_line():
    found = loaded("from gradq import Client; Client('http://127.0.0.1:1').close()")
    assert found & (LIBRARIES | SERVICE) == {"httpx2"}


def test_the_help_text_imports_typer_alone():
    assert after_verb("--help") & (LIBRARIES | SERVICE) == {"typer"}
    assert after_verb("--version") & (LIBRARIES | SERVICE) == {"typer"}


def test_ps_in_a_pipe_imports_no_more_than_it_needs(api):
    assert after_verb("ps", "--url", api.url) & (LIBRARIES | SERVICE) == {"typer", "httpx2"}
    assert after_verb("ps", "--json", "--url", api.url) & (LIBRARIES | SERVICE) == {"typer", "httpx2"}


@pytest.mark.parametrize("verb", [line.name for line in VERBS])
def test_the_module_of_a_verb_imports_nothing_of_the_service(verb):
    """Its help text is there where the service is not, and a project's own `shared` or `api` is not what it gets."""
    assert after_verb(verb, "--help") & SERVICE == set()


def test_the_library_has_what_it_lists():
    for name in gradq.__all__:
        assert getattr(gradq, name).__name__ == name
    assert set(gradq.__all__) <= set(dir(gradq))
    with pytest.raises(AttributeError, match="has no attribute 'Clinet'"):
        _ = gradq.Clinet  # type: ignore[attr-defined]


def test_the_table_of_verbs_says_what_the_verbs_say():
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in VERBS:
        command = commands[line.name]
        assert (command.name, command.hidden or line.hidden) == (line.name, line.hidden)
        assert (command.help or "").split("\n\n")[0] == line.help


def test_both_sides_say_the_same_version():
    assert VERSION == shared.version.VERSION


def test_a_dot_in_set_knows_the_types_that_the_service_fills_in():
    fields = {name: field.get_default(call_default_factory=True) for name, field in JobSpec.model_fields.items()}
    assert {name: default.type for name, default in fields.items() if hasattr(default, "type")} == TYPES


def test_the_package_says_that_it_is_typed():
    assert (Path(gradq.__file__).parent / "py.typed").exists()


def test_a_module_that_the_server_extra_does_not_bring_is_not_blamed_on_it():
    with pytest.raises(ModuleNotFoundError, match="a_driver"):
        no_server(ModuleNotFoundError("No module named 'a_driver'", name="a_driver"), ["ps"])
