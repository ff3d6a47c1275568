"""Structured logs: an event in kebab-case, and fields. One line each, for a person or as JSON.

Never give a key, a token or a password as a field.
"""

import json
import logging
import time
from typing import TextIO

ROOT = "keyferry"


def log(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """Write ``event`` with ``fields`` to ``logger``."""
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"fields": fields})


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry.update(_fields(record))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """``time level event key=value …``. Values are escaped: a stranger's text stays on its line."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        parts = [f"{stamp} {record.levelname.lower():7} {record.getMessage()}"]
        for key, value in _fields(record).items():
            text = str(value)
            if not text or not text.isprintable() or " " in text or '"' in text:
                text = json.dumps(text)
            parts.append(f"{key}={text}")
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(stream: TextIO, as_json: bool, level: int = logging.INFO) -> None:
    """Send Keyferry's events to ``stream``. Calling it again replaces the handler before."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logger = logging.getLogger(ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
