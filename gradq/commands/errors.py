"""Turns exceptions into messages on stderr (with --json into a problem) and exit codes. Only this module catches the
command line's errors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Any, NoReturn
from urllib.parse import urlsplit

import typer

from gradq import own_packages
from gradq.client.masking import masked, secrets_of
from gradq.client.problems import ApiError, InvalidSetting, ServerError, Unreachable, is_away, through
from gradq.commands.completion import VARIABLE
from gradq.commands.failure import CommandError, NoServer
from gradq.commands.guarded_output import guarded_output
from gradq.commands.options import Exit, speaks_unicode
from gradq.commands.plain_text import escaped_json
from gradq.commands.verbs import LazyVerbs

OF_THE_SERVER = "sqlalchemy"  # installed with the extra `server`, and by nothing else of gradq
NEXT_STEP = {
    401: "Set GRADQ_TOKEN to a token of this service; `gradq token create` on its machine creates one.",
    403: "Set GRADQ_TOKEN to a token with the needed scope; `gradq token create --scope …` creates one.",
    404: "`gradq ps` lists the jobs; GRADQ_URL is the address of the service.",
    429: "Too many requests; try again in a moment.",
    503: "The service is not ready; try again in a moment, or run `gradq doctor`.",
}


class Commands(LazyVerbs):
    """All verbs. Prints expected errors as a message or a problem, without a traceback, and exits."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        arguments = list(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # a name may have characters that the terminal's encoding lacks
        own_packages.prefer()
        with guarded_output():
            code = self._run(arguments, prog_name, complete_var, **extra)
        sys.exit(code)

    def _run(self, arguments: list[str], prog_name: str | None, complete_var: str | None, **extra: Any) -> int:
        """The exit code of a command line, after its output."""
        as_json = "--json" in arguments  # read here, since a usage error leaves no parsed options
        if os.environ.get(VARIABLE):
            from typer.completion import completion_init

            completion_init()
        try:
            _require_text(arguments)
            code: int = super().main(arguments, prog_name, complete_var, standalone_mode=False, **extra)
        except typer.TyperException as error:
            print_problem(problem_of(error)) if as_json else error.show()  # type: ignore[attr-defined]
            code = error.exit_code
        except ModuleNotFoundError as error:
            missing = no_server(error, arguments)
            print_problem(problem_of(missing)) if as_json else _say(in_words(missing))
            code = missing.exit
        except expected_errors() as error:
            print_problem(problem_of(error)) if as_json else _say(in_words(error))
            code = (
                Exit.AWAY if waits(arguments) and (is_away(error) or isinstance(error, ServerError)) else exit_of(error)
            )
        except OSError as error:  # a folder that cannot be written, a full disk
            print_problem(problem_of(error)) if as_json else _say(in_words(error))
            code = Exit.FAILED
        except (KeyboardInterrupt, typer.Abort):
            code = Exit.INTERRUPTED
        return code


def _require_text(arguments: Sequence[str]) -> None:
    """Raises BadParameter for bytes that are not text in the system's encoding, which no request can hold; the names of
    files may have them."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument) and not os.path.exists(argument):
            raise typer.BadParameter(
                f"the argument {argument!r} is not text in the encoding {sys.getfilesystemencoding()}"
            )


def waits(arguments: Sequence[str]) -> bool:
    """Whether the command line waits for jobs, so that its exit codes are about them: 1 is a job that failed."""
    return next(iter(arguments), "") in ("wait", "watch") or not {"--wait", "--watch"}.isdisjoint(arguments)


def expected_errors() -> tuple[type[Exception], ...]:
    return Unreachable, ApiError, CommandError, *service_errors()


def service_errors() -> tuple[type[Exception], ...]:
    """The base class of the service's errors; empty unless a verb has imported its module."""
    module = sys.modules.get("shared.errors")
    return () if module is None else (module.GradqError,)


def no_server(error: ModuleNotFoundError, arguments: Sequence[str]) -> NoServer:
    """The error to show for a module that the extra `server` brings.

    Raises `error` if the module is one of gradq's own, or if the extra is installed: then it is not what is missing.
    """
    module = (error.name or "").partition(".")[0]
    if module in own_packages.NAMES or not module or find_spec(OF_THE_SERVER) is not None:
        raise error
    verb = next((word for word in arguments if not word.startswith("-")), "")
    return NoServer(f"`gradq {verb}`", module)


def exit_of(error: Exception) -> Exit:
    """124 after a timeout, 2 for a wrong command line, spec or setting, else 1. Verbs that wait exit with 4 instead if
    the service is away."""
    if isinstance(error, CommandError):
        return error.exit
    if isinstance(error, ApiError):
        return Exit.USAGE if error.status in (400, 422) else Exit.FAILED
    wrong_setting = isinstance(error, InvalidSetting) or getattr(error, "code", None) == "configuration_error"
    return Exit.USAGE if wrong_setting else Exit.FAILED


def problem_of(error: Exception) -> dict[str, Any]:
    """The error as a problem of RFC 9457, like the service's own, with a `next_step`."""
    if isinstance(error, ApiError):
        more = {name: value for name, value in error.problem.items() if name not in ("code", "detail")}
        found = {"errors": error.errors} if error.errors else {}  # those that the client found are in no answer
        proxy = {} if error.proxy is None else {"proxy": error.proxy}
        facts = {"status": error.status, **found, **more, **proxy}
        return _problem(error.code, error.detail, next_step_of(error), **facts)
    if isinstance(error, InvalidSetting):
        return _problem("configuration_error", str(error))
    if isinstance(error, Unreachable):
        facts = {"url": error.url, **({} if error.proxy is None else {"proxy": error.proxy})}
        return _problem("unreachable", str(error), way_out(error), **facts)
    if isinstance(error, CommandError):
        return _problem(error.code, error.detail, error.next_step)
    if isinstance(error, service_errors()):
        return _problem(error.code, error.detail)  # type: ignore[attr-defined]
    if isinstance(error, OSError):
        return _problem("os_error", in_words(error))
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "gradq"
    message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    return _problem("usage_error", message, f"`{path} --help` lists its options.")


def _problem(code: str, detail: str, next_step: str | None = None, **more: Any) -> dict[str, Any]:
    hint = {"next_step": next_step} if next_step else {}
    return {"type": f"/problems/{code.replace('_', '-')}", **more, "code": code, "detail": detail, **hint}


def print_problem(problem: dict[str, Any]) -> None:
    text = json.dumps(_public(problem, known_secrets()), ensure_ascii=not speaks_unicode(sys.stderr))
    _print(escaped_json(text))


def known_secrets() -> set[str]:
    """The passwords and keys of the addresses that the environment and, in verbs of the service, the settings name."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if name.upper().endswith(("_PROXY", "_URL")):
            found |= secrets_of(value)
    config = sys.modules.get("shared.config")
    with suppress(*service_errors()):
        if config is not None:
            found |= config.Settings.from_env().secrets
    return found


def _public(value: Any, secrets: set[str]) -> Any:
    """A JSON value whose texts have no secrets."""
    if isinstance(value, str):
        return masked(value, secrets)
    if isinstance(value, dict):
        return {name: _public(part, secrets) for name, part in value.items()}
    return [_public(part, secrets) for part in value] if isinstance(value, list) else value


def in_words(error: Exception) -> str:
    """The message: the problem, the wrong fields, and what to do next."""
    if isinstance(error, InvalidSetting):
        return str(error)
    if isinstance(error, Unreachable):
        if error.proxy is not None:
            return f"{error}\n{way_out(error)}"
        return f"cannot reach {error.url} — is `gradq up` running? ({error.reason})"
    if isinstance(error, OSError):
        return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    if not isinstance(error, ApiError):
        return getattr(error, "detail", "") or str(error)
    named = error.proxy is None or error.proxy in error.detail
    lines = [error.detail if named else f"{error.detail} (asked{through(error.proxy)})"]
    for wrong in error.errors:
        field = str(wrong.get("pointer", "")).lstrip("/").replace("/", ".") or "the spec"
        lines.append(f"  {field}: {wrong.get('detail', wrong.get('code', 'wrong'))}")
    return "\n".join([*lines, *([hint] if (hint := next_step_of(error)) else [])])


def way_out(error: Unreachable) -> str:
    """What to do about a service that does not answer."""
    if error.proxy is None:
        return "Start it with `gradq up`, or set GRADQ_URL."
    return f"Check the proxy, or add {urlsplit(error.url).hostname} to NO_PROXY to ask it directly."


def next_step_of(error: ApiError) -> str | None:
    if not error.of_gradq:
        return _next_step_of_others(error)
    if error.status == 404 and str(error.problem.get("instance", "")).startswith("/v1/datasets"):
        return "`gradq datasets` lists the datasets."
    if not error.errors:
        return NEXT_STEP.get(error.status)
    if error.code in ("invalid_query", "invalid_images"):
        return f"`gradq {'ps' if error.code == 'invalid_query' else 'predict'} --help` describes what it takes."
    verb = "datasets add" if error.code == "invalid_upload" else "submit"
    return f"Nothing was changed. Correct these fields and try again; `gradq {verb} --help` lists them."


def _next_step_of_others(error: ApiError) -> str:
    """The answer is not gradq's, so it is not about tokens or jobs."""
    if error.proxy is None:
        return "The answer is not gradq's: check GRADQ_URL, and what runs in front of the service."
    if error.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return "The proxy needs a user and password: http://user:password@host:port."
    return "The answer is not gradq's. Check the proxy, or add the service's host to NO_PROXY to ask it directly."


def _say(text: str) -> None:
    _print(f"gradq: {masked(text, known_secrets())}")


def _print(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except (
        OSError
    ):  # it is full, or nobody reads it; the exit code still counts, and Python changes it if a flush fails
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
