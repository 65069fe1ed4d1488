"""The help of each verb on a small screen, the manual page, shell completion, and that a verb does not import what it
does not need."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gradq.cli import app
from gradq.commands.verbs import SECTIONS

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
EXAMPLE = re.compile(r"`(gradq [^`]+)`|^(?:[^`|#]*\| )?(gradq .+?)(?:\s+#.*)?$", re.MULTILINE)


@functools.cache
def verbs() -> dict[str, Any]:
    """`datasets add` -> its command, for every verb that is shown."""
    group: Any = typer.main.get_command(app)
    found = {name: command for name, command in group.commands.items() if not command.hidden}
    for name, command in list(found.items()):
        found |= {f"{name} {inner}": verb for inner, verb in getattr(command, "commands", {}).items()}
    return found


def help_of(*words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("verb", ["", *verbs()])
def test_help_fits_80_columns_and_nothing_in_it_is_cut(verb):
    lines = help_of(*verb.split()).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.endswith("...") and not line.startswith("Usage:")] == []


def test_the_help_shows_the_first_five_first_and_hides_what_is_not_for_users():
    shown = help_of()
    places = [shown.index(f"{section}:") for section in SECTIONS]
    assert places == sorted(places)
    first = shown[places[0] : places[1]]
    assert [line.split()[0] for line in first.splitlines()[1:6]] == ["up", "submit", "ps", "watch", "download"]
    listed = {line.split()[0] for line in shown.splitlines() if re.match(r"  [a-z]+ {2,}\S", line)}
    assert listed == {verb for verb in verbs() if " " not in verb}
    assert "demo" not in shown


def test_a_verb_that_does_not_exist_is_guessed():
    result = CliRunner().invoke(app, ["submt"])
    assert result.exit_code == 2
    assert "Did you mean 'submit'?" in result.stderr


@pytest.mark.parametrize("verb", [verb for verb in verbs() if verb not in ("api", "worker", "completion", "token")])
def test_every_verb_that_says_something_can_say_it_as_json(verb):
    """api and worker become other programs, which log JSON; completion prints a script; token only has sub-commands."""
    assert "--json" in {option for parameter in verbs()[verb].params for option in parameter.opts}


def test_values_are_named_by_what_they_are():
    assert "--port N" in help_of("up")
    for verb in verbs():
        assert re.findall(r"<(?:str|int|float|list|path)[^>]*>", help_of(*verb.split())) == []


# --- the manual -------------------------------------------------------------------------------------------------------


def examples() -> list[str]:
    return [one or other for one, other in EXAMPLE.findall(PAGE.read_text()) if "VERB" not in (one or other)]


def test_the_manual_has_every_verb_once_with_an_example():
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if re.match(r"\| `[a-z]+` \| `gradq", line)]
    assert sorted(row[1].strip().strip("`") for row in rows) == sorted(verb for verb in verbs() if " " not in verb)
    for row in rows:
        assert row[2].strip().startswith(f"`gradq {row[1].strip().strip('`')}"), row


@pytest.mark.parametrize("example", examples())
def test_the_manuals_examples_are_what_the_verbs_take(example):
    words = example.removeprefix("gradq ").split("|")[0].split()
    if words[0].startswith("-"):
        return
    verb = next(name for name in (" ".join(words[:2]), words[0]) if name in verbs())
    known = {option for parameter in verbs()[verb].params for option in parameter.opts}
    used = [word for word in words if re.match(r"--?[a-z]", word)]
    assert set(used) - known == set()


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_verb_starts_without_what_it_does_not_need():
    """Half a second of torch, celery, SQLAlchemy or matplotlib before every `gradq ps` would be felt."""
    code = "import sys, gradq.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "celery", "kombu", "matplotlib", "numpy", "pandas", "sqlalchemy", "flask", "yaml", "PIL"}
    assert heavy & set(loaded) == set()


# --- the shell --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tab(tmp_path: Path, monkeypatch):
    """tab("ps --st"): the completions of a real bash."""
    command = tmp_path / "bin" / "gradq"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gradq "$@"\n')
    command.chmod(0o755)
    (tmp_path / "completion").write_text(CliRunner().invoke(app, ["completion", "bash"]).stdout)

    def press(line: str) -> list[str]:
        script = (
            'PATH="$1/bin:$PATH"; source "$1/completion"; complete -p gradq >/dev/null || exit 1\n'
            'read -ra COMP_WORDS <<< "gradq $2"; [[ "$2" == *" " ]] && COMP_WORDS+=("")\n'
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _gradq_completion gradq\n"
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        arguments = ["bash", "--norc", "-c", script, "bash", str(tmp_path), line]
        result = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert result.stderr == ""
        return [word for word in result.stdout.splitlines() if word]

    return press


def test_bash_completes_verbs_options_and_words(tab, monkeypatch):
    monkeypatch.setenv("GRADQ_URL", "http://127.0.0.1:1")
    assert tab("sub") == ["submit"]
    assert tab("submit --gra") == ["--gradients"]
    assert tab("ps --status failed,can") == ["failed,cancelling", "failed,cancelled"]
    assert tab("submit --gradients ") == ["autograd", "manual"]
    assert tab("datasets ") == ["add", "rm"]
    assert tab("show ") == [], "the service is away, and a Tab has no place for an error"


def test_bash_completes_what_the_service_has_and_what_fits_the_verb(tab, api, monkeypatch):
    monkeypatch.setenv("GRADQ_URL", api.url)
    done, waiting = api.ended(), api.submit()
    assert tab("show ") == [waiting, done]
    assert tab(f"show {done[:-1]}") == [done]
    assert tab("cancel ") == [waiting]
    assert tab("rm ") == [done]
    assert tab("submit --dataset fas") == ["fashion_mnist"]
    assert tab("submit --preset article/two") == ["article/two-layer"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_asks_for_gradq(shell):
    result = CliRunner().invoke(app, ["completion", shell])
    assert result.exit_code == 0
    assert f"_GRADQ_COMPLETE=complete_{shell}" in result.stdout
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2
