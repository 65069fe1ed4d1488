"""Counts wordings to avoid, per 1 000 words of docstrings and comments; CONTRIBUTING.md has the rules.

    python scripts/check_prose.py               rates of the whole tree; exits with 1 where one is over the limit
    python scripts/check_prose.py api/http -v   the same for some folders, and each place

The rates are taken over Python docstrings and comments. The phrases are refused in every tracked text: code, pages,
templates, scripts, messages to users. `make lint` runs it.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 0.3  # per 1 000 words; ten public codebases of this field have 0 to 0.3

RATES = {
    "somebody, nobody, whoever": r"(some|no|any)body|whoever",
    "stands": r"stands?",
    "lies": r"lies|lie",
    "goes on": r"go(es)? on",
    "wish": r"wish(es|ed)?",
    "tells": r"tells?",
    "is no": r"is no(?! longer)",
}
PHRASES = (
    r"steady hand",
    r"whose hand",
    r"\bof late\b",
    r"hears? nothing of",
    r"bells? and nothing else",
    r"what is none",
    r"owes us",
    r"said a word",
    r"last word",
    r"nobody listens",
    r"offer_to_the_oom_killer",
    r"let the world know",
    r"rings? the bell",
    r"the bell hangs",
    r"stands on a kink",
    r"costs no training",
    r"teaches nothing",
    r"nobody's business",
    r"where nobody is",
    r"lets go of his hold",
    r"anybody may come",
    r"must stand once",
    r"chunks that are none",
    r"as many jobs wait as",
    r"asks too often",
    r"goes by another name",
    r"the wish to pause",
    r"^#+ the house",
    r"one script a claim",
    r"a slot a gpu",
    r"a verb a file",
    r"\bdata sets?\b",
)
SUFFIXES = (".py", ".md", ".html", ".js", ".css", ".sh", ".toml", ".yml", ".yaml", ".json", ".c")
EXEMPT = {"scripts/check_prose.py"}  # this list


def tracked(folders: list[str]) -> list[Path]:
    names = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.splitlines() if name.endswith(SUFFIXES) and name not in EXEMPT]


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each docstring and comment of a Python file."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node, clean=False):
                yield node.body[0].lineno, text
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value  # the text below a field is its description
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def matches(pattern: str, text: str) -> Iterator[int]:
    """The line of each match within `text`, from 0; a phrase may run over a line's end."""
    for match in re.finditer(pattern.replace(" ", r"\s+(?:#\s*)?"), text, re.IGNORECASE | re.MULTILINE):
        yield text.count("\n", 0, match.start())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", default=["."], help="default: the whole tree")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each place")
    options = parser.parse_args()
    words, counts, found = 0, dict.fromkeys(RATES, 0), 0
    for path in tracked(options.folders):
        name = path.relative_to(ROOT)
        seen: set[tuple[int, str]] = set()
        for line, text in prose_of(path) if path.suffix == ".py" else ():
            if (line, text) in seen:
                continue
            seen.add((line, text))
            words += len(text.split())
            for rate, pattern in RATES.items():
                for offset in matches(rf"\b({pattern})\b", text):
                    counts[rate] += 1
                    if options.verbose:
                        print(f"{name}:{line + offset}: {rate}")
        for phrase in PHRASES:
            for offset in matches(phrase, path.read_text()):
                found += 1
                print(f"{name}:{offset + 1}: {phrase}")
    over = False
    print(f"{words} words of docstrings and comments; per 1 000 of them, at most {LIMIT} each:")
    for rate, count in counts.items():
        per_thousand = 1000 * count / max(words, 1)
        over |= per_thousand > LIMIT
        print(f"  {rate:28} {per_thousand:5.2f}  ({count})")
    print(f"  refused phrases              {found:5}")
    return 1 if over or found else 0


if __name__ == "__main__":
    sys.exit(main())
