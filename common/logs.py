"""Structured logs: one line an event, with the ids of what it is about."""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

from common.settings import LogLevel

# Five files of 10 MB: enough for days at INFO, and no volunteer's disk fills up.
ROTATE_BYTES = 10 * 1024 * 1024
ROTATE_FILES = 5


def configure(level: LogLevel, file: Path | None = None) -> None:
    """Sends the events of this process to `file`, or to standard error without one."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(file, maxBytes=ROTATE_BYTES, backupCount=ROTATE_FILES)
    logging.basicConfig(level=level.value, handlers=[handler], format="%(message)s", force=True)
    # Each request of ours would be a line of httpx's, and each start one of uvicorn's.
    for chatty in ("httpx", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
