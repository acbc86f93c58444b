"""Log lines in klog's form and as JSON."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest

from twinstack.loops import logs


@pytest.fixture
def stream():
    root, ours = logging.getLogger(), logging.getLogger("twinstack")
    before = root.handlers[:], root.level, ours.level
    yield io.StringIO()
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


def test_a_line_in_klogs_form(stream):
    logs.configure(stream=stream)
    logging.getLogger("twinstack.agent").warning("Pod failed", extra={"pod": "demo/web", "code": 3})
    assert re.fullmatch(r'W\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ test_logs\.py:\d+\] Pod failed pod="demo/web" code=3\n', stream.getvalue())


def test_a_line_of_json_with_the_trace_of_an_error(stream):
    logs.configure(stream=stream, format_="json")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("twinstack").exception("Sync failed", extra={"key": ("demo", "web")})
    line = json.loads(stream.getvalue())
    assert line["msg"] == "Sync failed" and line["level"] == "error" and line["key"] == ["demo", "web"] and "ValueError: broken" in line["err"]


def test_details_are_shown_from_verbosity_two_and_others_only_when_they_warn(stream):
    logs.configure(stream=stream, verbosity=1)
    logging.getLogger("twinstack.x").debug("detail")
    logging.getLogger("aiohttp").info("chatter")
    assert stream.getvalue() == ""
    logs.configure(stream=stream, verbosity=2)
    logging.getLogger("twinstack.x").debug("detail")
    assert "detail" in stream.getvalue()
