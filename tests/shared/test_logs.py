"""Logging: a traceback shows where the error occurred, but no values of variables; texts of others are escaped."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from shared import logs

ACCIDENT = """
import structlog
from shared import logs
logs.configure("DEBUG")
def connect(password):
    raise RuntimeError("nobody there, \\x9b2J\\x1b[2J")
try:
    connect("sword" + "fish")
except RuntimeError:
    structlog.get_logger().exception("it went wrong", path="/\\x9b2J\\x1b[2J\\u202e")
"""


def said(terminal: bool) -> str:
    reader, writer = pty.openpty() if terminal else os.pipe()
    subprocess.run([sys.executable, "-c", ACCIDENT], stderr=writer, check=True)
    os.close(writer)
    text = b""
    try:
        while piece := os.read(reader, 65_536):
            text += piece
    except OSError:  # the end of a terminal whose other side is closed
        pass
    os.close(reader)
    return text.decode()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_traceback_holds_lines_of_code_and_no_values(terminal: bool) -> None:
    text = said(terminal)
    assert "it went wrong" in text
    assert "Traceback" in text
    assert "nobody there" in text
    assert "swordfish" not in text
    assert not {"\x9b", "\u202e"} & set(text)
    assert "\x1b[2J" not in text
    assert "\\x9b2J\\x1b[2J" in text or not terminal
    if not terminal:
        assert json.loads(text)["event"] == "it went wrong"


def test_a_long_value_is_cut_and_a_traceback_is_not():
    values = {"event": "e" * 5000, "path": "p" * 5000, "exception": "x" * 5000, "number": 7, "short": "s"}
    cut = logs.cut_values(None, "info", values)
    assert cut["path"] == "p" * logs.LONGEST_VALUE + "… (5000 characters)"
    assert (len(cut["event"]), len(cut["exception"]), cut["number"], cut["short"]) == (5000, 5000, 7, "s")
