"""Plain text: which characters names, labels and classes may have, in the same way in Python, in pydantic and in the
command line."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from gradq.commands import plain_text as shown
from shared import plain_text
from shared.datasets.catalog import DATASETS
from shared.errors import InvalidSpec
from shared.spec.job_spec import KINDS, JobSpec

REFUSED = {
    "CSI": "\x9b",
    "OSC": "\x9d",
    "NEL": "\x85",
    "escape": "\x1b",
    "delete": "\x7f",
    "override": "\u202e",
    "isolate": "\u2066",
    "mark": "\u200f",
    "Arabic mark": "\u061c",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "zero-width space": "\u200b",
    "byte order mark": "\ufeff",
    "annotation": "\ufff9",
    "FDD0": "\ufdd0",
    "FFFE": "\ufffe",
    "FFFF": "\uffff",
    "1FFFE": "\U0001fffe",
    "10FFFF": "\U0010ffff",
}
ACCEPTED = (
    "naïve 日本語",
    "👩‍👩‍👧 ❤️ 🇳🇱 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "می‌خواهم",
    "क्‍ष",
    "a\u00adb",
    "\ue000",
    "c:\\x9b $x$ <b>",
)
POINTS = [chr(point) for point in range(sys.maxunicode + 1)]
HALVES = {letter for letter in POINTS if "\ud800" <= letter <= "\udfff"}  # which no text of JSON or of a query has
DEFINED = TypeAdapter(Annotated[str, Field(pattern=plain_text.PLAIN)])


@pytest.mark.parametrize("letter", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("spec", [{"name": "ab{}c"}, {"labels": {"k": "ab{}c"}}, {"labels": {"ab{}c": "v"}}], ids=str)
def test_a_spec_with_such_a_character_is_refused_by_its_field_and_code_point(spec, letter):
    body = json.loads(json.dumps(spec).replace("{}", json.dumps(letter)[1:-1]))
    with pytest.raises(InvalidSpec) as refused:
        JobSpec.parse(body)
    (error,) = refused.value.errors
    where = "/name" if "name" in spec else f"/labels/{next(iter(body['labels']))}"
    assert (error.pointer, error.code) == (where, "string_pattern_mismatch")
    assert f"character 3 is U+{ord(letter):04X}" in error.detail
    assert letter not in error.detail


@pytest.mark.parametrize("text", ACCEPTED)
def test_other_texts_of_any_script_are_kept_as_they_are(text):
    spec = JobSpec.parse({"name": text, "labels": {text: text}})
    assert (spec.name, spec.labels) == (text, {text: text})
    assert plain_text.escaped(text) == shown.escaped(text) == text


def test_pattern_search_and_command_line_refuse_the_same_characters():
    whole = re.compile(plain_text.PLAIN.replace("$", r"\Z"))
    refused = {letter for letter in POINTS if plain_text.refusal(letter)}
    assert refused == {letter for letter in POINTS if shown.escaped(letter) != letter}
    assert refused - HALVES == {letter for letter in POINTS if not whole.match(letter)}
    for letter in refused - HALVES:
        with pytest.raises(ValidationError):
            DEFINED.validate_python(letter)
    DEFINED.validate_python("".join(letter for letter in POINTS if letter not in refused))


def test_all_controls_separators_and_characters_that_turn_the_direction_are_refused():
    turning = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    for letter in POINTS:
        if unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") or unicodedata.bidirectional(letter) in turning:
            assert plain_text.refusal(letter), hex(ord(letter))


def test_a_character_is_escaped_by_its_code_point():
    text = "a\x9b\u202e\ufffe\U0001fffe\n\t"
    assert plain_text.escaped(text) == shown.escaped(text) == r"a\x9b\u202e\ufffe\U0001fffe\x0a\x09"
    assert shown.escaped_lines("a\x9b\x1b[31mb\n\tc\r") == "a\\x9b\\x1b[31mb\n\tc\\x0d"
    assert shown.escaped_lines("\x1b[31mred\x1b[0m \x1b[2J", coloured=True) == "\x1b[31mred\x1b[0m \\x1b[2J"


def test_json_is_escaped_as_json():
    value = {"k\x9b": ["\u202e", "\U0001fffe", "\x7f", "日本 ‍", "\ud800", "\n"]}
    text = shown.escaped_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert shown.escaped_lines(text) == text
    assert "日本" in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_spec_may_have_a_name_that_is_older_than_the_rule(kind):
    spec = KINDS[kind].parse({"seed": 1}, DATASETS.get).to_json()
    old = {**spec, "name": "a\u202eb", "labels": {"k\x9b": "v\x85"}}
    read = KINDS[kind].stored(old)
    assert read.to_json() == old
    assert KINDS[kind].stored(spec).to_json() == spec
    with pytest.raises(ValidationError):
        KINDS[kind].stored({**spec, "device": "gpu"})


def test_the_generated_name_of_a_job_shows_an_old_dataset_escaped():
    assert JobSpec.parse({"seed": 1}).generated_name("a\u202eb").startswith("a\\u202eb-mlp-")
