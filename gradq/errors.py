"""Exceptions to words on stderr and an exit code. The one place where the command line catches."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from gradq.options import Exit
from gradq.problems import ApiError, Unreachable
from shared.errors import ConfigurationError, GradqError

NEXT_STEP = {
    401: "Set GRADQ_TOKEN to a token of this service.",
    404: "`gradq ps` lists the jobs; GRADQ_URL says which service is asked.",
    503: "The service is up but not whole; try again in a moment.",
}


class Commands(TyperGroup):
    """The verbs, with every expected error turned into a sentence instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Unreachable as error:
            _say(f"cannot reach {error.url} — is `gradq up` running? ({error.reason})")
            raise typer.Exit(Exit.FAILED) from None
        except ApiError as error:
            _say(in_words(error))
            raise typer.Exit(Exit.USAGE if error.status in (400, 422) else Exit.FAILED) from None
        except ConfigurationError as error:
            _say(error.detail)
            raise typer.Exit(Exit.USAGE) from None
        except GradqError as error:
            _say(error.detail)
            raise typer.Exit(Exit.FAILED) from None
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None


def in_words(error: ApiError) -> str:
    """The problem, the fields that it names, and what to do next."""
    lines = [error.detail]
    for wrong in error.errors:
        field = str(wrong.get("pointer", "")).lstrip("/").replace("/", ".") or "the spec"
        lines.append(f"  {field}: {wrong.get('detail', wrong.get('code', 'wrong'))}")
    if error.errors:
        verb = "datasets add" if error.code == "invalid_upload" else "submit"
        lines.append(f"Nothing was changed. Correct these fields and try again; `gradq {verb} --help` lists them.")
    elif hint := NEXT_STEP.get(error.status):
        lines.append(hint)
    return "\n".join(lines)


def _say(text: str) -> None:
    print(f"gradq: {text}", file=sys.stderr)
