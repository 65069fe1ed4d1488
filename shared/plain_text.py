"""Which characters a client's text may have: names, labels, classes. Terminals, logs, tables, SVG and pages show them.

Refused are control characters (a terminal obeys some of them), line and paragraph separators, characters that change
the direction of the text around them, characters without a shape that can hide text, and code points that are no
characters (XML cannot hold some of them). The joiners U+200C and U+200D, variation selectors and tags are accepted:
Persian, Indic scripts and emoji need them. gradq/commands/plain_text.py has the same ranges for the command line; a
test compares the two.
"""

from __future__ import annotations

import re

SURROGATES = (0xD800, 0xDFFF)  # halves of UTF-16 pairs; no encoding can hold one
RANGES = (  # first and last code point
    *((0x00, 0x1F), (0x7F, 0x9F)),  # C0, DEL and C1, which has CSI (U+009B), OSC (U+009D) and NEL (U+0085)
    *((0x061C, 0x061C), (0x200E, 0x200F), (0x202A, 0x202E), (0x2066, 0x2069)),  # direction of text
    (0x2028, 0x2029),  # line and paragraph separator
    *((0x200B, 0x200B), (0x2060, 0x2065), (0x206A, 0x206F), (0xFEFF, 0xFEFF)),  # no width
    (0xFFF9, 0xFFFB),  # annotations, which hide text
    (0xFDD0, 0xFDEF),
    *((plane << 16 | 0xFFFE, plane << 16 | 0xFFFF) for plane in range(17)),  # no characters
)


def _one(point: int) -> str:
    """The code point in a regular expression of Python, Rust and ECMA 262, which agree on \\x and \\u alone."""
    return f"\\x{point:02x}" if point <= 0xFF else f"\\u{point:04x}" if point <= 0xFFFF else chr(point)


def _class_of(ranges: tuple[tuple[int, int], ...]) -> str:
    """The inner part of a character class. Beyond U+FFFF it has characters alone, no ranges: in JavaScript without the
    flag `u`, they would be ranges of surrogates that end before they begin."""
    return "".join(
        f"{_one(low)}-{_one(high)}" if low < high <= 0xFFFF else "".join(map(_one, range(low, high + 1)))
        for low, high in ranges
    )


PLAIN = f"^[^{_class_of(RANGES)}]*$"  # the pattern of plain text, for JSON Schema
REFUSED = re.compile(f"[{_class_of((*RANGES, SURROGATES))}]")


def refusal(text: str) -> str | None:
    """What is wrong with `text`, with the position and code point of its first refused character; None if it is plain.

    `must not contain control characters or …; character 3 is U+009B`
    """
    found = REFUSED.search(text)
    if found is None:
        return None
    return (
        "must not contain control characters or invisible formatting characters; "
        f"character {found.start() + 1} is U+{ord(found[0]):04X}"
    )


def escaped(text: str) -> str:
    """`text` with refused characters as `\\x9b`, `\\u202e` or `\\U0001fffe`. Texts that are older than the rule, and
    error messages of others, may have them."""
    return REFUSED.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    point = ord(found[0])
    return f"\\x{point:02x}" if point <= 0xFF else f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"
