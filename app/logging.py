"""Log lines with the request's id in each: for a terminal, or JSON for machines."""

import logging
import sys
from typing import TextIO

import structlog
from asgi_correlation_id import correlation_id
from structlog.typing import EventDict, Processor

from app.settings import Settings


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at that moment, so that it survives a redirection."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("follows sys.stderr")


def _request_id(logger: object, method: str, event: EventDict) -> EventDict:
    if found := correlation_id.get():
        event["request_id"] = found
    return event


def configure(settings: Settings) -> None:
    """Send every logger of the process, ours or a library's, through one format. Tracebacks never show locals."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if settings.log_format == "json":
        last += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = sys.stderr.isatty()
        last += [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
    handler = _Stderr()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=last, foreign_pre_chain=shared))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
