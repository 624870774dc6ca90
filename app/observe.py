"""What every request passes through: its log line, its measure, and an answer even where nobody foresaw the error."""

import time

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import render
from app.metrics import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
QUIET = frozenset({"/livez", "/readyz", "/startupz"})
CLIENT_LEFT = 499  # the status under which a request counts that got no answer

log = structlog.get_logger(__name__)


class Observe:
    """Logs and measures each request; turns an unforeseen error into a 500 that does not show its cause."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = CLIENT_LEFT
        started = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            log.exception("request failed", path=scope["path"])
            if status != CLIENT_LEFT:
                raise  # the response has begun: break the connection, lest half a response look whole
            await render(Request(scope), error)(scope, receive, watch)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self.metrics.http.labels(method, route, str(status)).observe(seconds)
        if scope["path"] not in QUIET or status >= 500:
            log.info("request", method=method, path=scope["path"], status=status, seconds=round(seconds, 4))
