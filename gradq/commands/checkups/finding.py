"""What one check found: a verdict, the facts in words, and how to mend what is not right."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

Verdict = Literal["ok", "warning", "problem"]
WORST_FIRST: tuple[Verdict, ...] = ("problem", "warning", "ok")


@dataclass(frozen=True)
class Finding:
    verdict: Verdict
    detail: str
    mend: str | None = None  # a command or a setting; for whatever is not ok
    facts: dict[str, Any] = field(default_factory=dict)  # the same for scripts
    check: str = ""

    def named(self, check: str) -> Finding:
        return replace(self, check=check)

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "verdict": self.verdict,
            "detail": self.detail,
            "mend": self.mend,
            "facts": self.facts,
        }


def ok(detail: str, **facts: Any) -> Finding:
    return Finding("ok", detail, facts=facts)


def warning(detail: str, mend: str, **facts: Any) -> Finding:
    return Finding("warning", detail, mend, facts)


def problem(detail: str, mend: str, **facts: Any) -> Finding:
    return Finding("problem", detail, mend, facts)


def worst(findings: list[Finding], otherwise: Finding) -> Finding:
    """One finding of several: the worst verdict, every mend, and what `otherwise` would say behind what is wrong."""
    ranked = sorted([otherwise, *findings], key=lambda finding: WORST_FIRST.index(finding.verdict))
    mend = " ".join(dict.fromkeys(finding.mend for finding in ranked if finding.mend))
    return Finding(ranked[0].verdict, "; ".join(f.detail for f in ranked), mend or None, otherwise.facts)
