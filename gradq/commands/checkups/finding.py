"""What one check found: a verdict, the details, and how to fix a problem."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from shared.addresses import masked

Verdict = Literal["ok", "warning", "problem"]
WORST_FIRST: tuple[Verdict, ...] = ("problem", "warning", "ok")


@dataclass(frozen=True)
class Finding:
    verdict: Verdict
    detail: str
    mend: str | None = None  # a command or a setting, unless the verdict is ok
    facts: dict[str, Any] = field(default_factory=dict)  # the details for scripts
    check: str = ""

    def named(self, check: str) -> Finding:
        return replace(self, check=check)

    def without(self, secrets: set[str]) -> Finding:
        """The finding with these texts, and the passwords of all addresses in it, hidden."""
        mend = None if self.mend is None else masked(self.mend, secrets)
        return replace(self, detail=masked(self.detail, secrets), mend=mend, facts=_without(self.facts, secrets))

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "verdict": self.verdict,
            "detail": self.detail,
            "mend": self.mend,
            "facts": self.facts,
        }


def _without(value: Any, secrets: set[str]) -> Any:
    if isinstance(value, str):
        return masked(value, secrets)
    if isinstance(value, dict):
        return {name: _without(part, secrets) for name, part in value.items()}
    return [_without(part, secrets) for part in value] if isinstance(value, list | tuple) else value


def ok(detail: str, **facts: Any) -> Finding:
    return Finding("ok", detail, facts=facts)


def warning(detail: str, mend: str, **facts: Any) -> Finding:
    return Finding("warning", detail, mend, facts)


def problem(detail: str, mend: str, **facts: Any) -> Finding:
    return Finding("problem", detail, mend, facts)


def worst(findings: list[Finding], otherwise: Finding) -> Finding:
    """Joins findings into one: the worst verdict, all details, worst first, with `otherwise`, and all fixes."""
    ranked = sorted([otherwise, *findings], key=lambda finding: WORST_FIRST.index(finding.verdict))
    mend = " ".join(dict.fromkeys(finding.mend for finding in ranked if finding.mend))
    return Finding(ranked[0].verdict, "; ".join(f.detail for f in ranked), mend or None, otherwise.facts)
