"""Logs on stderr, in klog's form or as JSON lines.

klog header: ``I0102 15:04:05.000000   pid file:line] message key="value"``. Structured values ride on the
standard logging call: ``log.info("Pod started", extra={"pod": key})``.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

_LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "component"}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class KlogFormatter(logging.Formatter):
    """One line in klog's text form; an exception's trace follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        head = f"{_LETTERS.get(record.levelno, 'I')}{when:%m%d %H:%M:%S.%f} {os.getpid():7d} {record.filename}:{record.lineno}] "
        extras = "".join(f" {key}={_quoted(value)}" for key, value in _extras(record).items())
        line = head + record.getMessage() + extras
        if record.exc_info and record.exc_info[1]:
            line += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return line


class JSONFormatter(logging.Formatter):
    """One JSON object a line: ts (milliseconds), caller, msg, v or err, then the structured values."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": round(record.created * 1000, 3),
            "level": record.levelname.lower(),
            "caller": f"{record.filename}:{record.lineno}",
            "msg": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1]:
            line["err"] = "".join(traceback.format_exception(record.exc_info[1]))
        line.update(_extras(record))
        return msgspec.json.encode(line, enc_hook=str).decode()


def _quoted(value: Any) -> str:
    return str(value) if isinstance(value, (int, float)) else '"' + str(value).replace('"', '\\"') + '"'


def configure(*, verbosity: int = 0, format_: str = "text", stream: TextIO | None = None) -> None:
    """Send all logs to *stream* (stderr); ``-v 2`` and above shows our debug lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter() if format_ == "json" else KlogFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("twinstack").setLevel(logging.DEBUG if verbosity >= 2 else logging.INFO)
