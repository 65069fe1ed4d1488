"""Texts of others as they are shown: characters that a terminal obeys, or that hide or reorder the text around them,
are written as escapes. New names cannot have them; older ones, and error messages of other services, can.

shared/plain_text.py has the same ranges, and the reasons, for the service; a test compares the two."""

from __future__ import annotations

import re

RANGES = (  # first and last code point
    *((0x00, 0x1F), (0x7F, 0x9F), (0x061C, 0x061C), (0x200B, 0x200B), (0x200E, 0x200F), (0x2028, 0x202E)),
    *((0x2060, 0x206F), (0xD800, 0xDFFF), (0xFDD0, 0xFDEF), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB)),
    *((plane << 16 | 0xFFFE, plane << 16 | 0xFFFF) for plane in range(17)),
)
_CLASS = "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in RANGES)
_ONE_LINE = re.compile(f"[{_CLASS}]")
_LINES = re.compile(f"(?![\n\t])[{_CLASS}]")
_COLOURED_LINES = re.compile(f"(?!\x1b\\[[0-9;]*m)(?![\n\t])[{_CLASS}]")


def escaped(text: str) -> str:
    """`text` on one line, with characters that are not plain as `\\x9b`, `\\u202e` or `\\U0001fffe`."""
    return _ONE_LINE.sub(_escape, text)


def escaped_lines(text: str, coloured: bool = False) -> str:
    """As `escaped`, but line breaks and tabs stay, and colours if `coloured`."""
    return (_COLOURED_LINES if coloured else _LINES).sub(_escape, text)


def escaped_json(text: str) -> str:
    """A JSON text, with the same characters as JSON's own escapes, such as `\\u009b`: they occur in strings alone."""
    return _LINES.sub(lambda found: "".join(f"\\u{unit:04x}" for unit in _utf16(found[0])), text)


def _escape(found: re.Match[str]) -> str:
    point = ord(found[0])
    return f"\\x{point:02x}" if point <= 0xFF else f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"


def _utf16(letter: str) -> list[int]:
    data = letter.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]
