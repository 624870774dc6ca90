"""JSON bodies that cannot hurt: of bounded size and depth, and of text that can be written again."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.errors import Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # the last one perhaps unfinished; never backtracks
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class BoundedRequest(Request):
    """Reads no more than MAX_BYTES; refuses what is not JSON, or too deep."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            received = bytearray()
            async for chunk in self.stream():
                received += chunk
                if len(received) > MAX_BYTES:
                    raise Problem(400, "json_too_large", f"The body may have {MAX_BYTES} bytes.")
            self._body = bytes(received)
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if self._body and media_type != "application/json":
            raise Problem(415, "unsupported_media_type", "The body must be sent as application/json.")
        return self._body

    async def json(self) -> Any:
        body = await self.body()
        if depth(body) > MAX_DEPTH:
            raise Problem(400, "json_too_deep", f"The body may nest {MAX_DEPTH} levels.")
        try:
            parsed = json.loads(body)
            json.dumps(parsed, ensure_ascii=False).encode()  # half a surrogate pair could never be stored or sent back
        except ValueError:
            raise Problem(400, "invalid_json", "The body is not valid JSON in UTF-8.") from None
        return parsed


class Bounded(APIRoute):
    """A route whose body, if any, is read as a BoundedRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(BoundedRequest(request.scope, request.receive))

        return bounded


def depth(body: bytes) -> int:
    """How deep brackets nest outside strings; counting ends one past MAX_DEPTH."""
    deepest = level = 0
    for bracket in STRINGS.sub(b"", body).translate(None, NO_BRACKETS):
        level += 1 if bracket in b"[{" else -1
        deepest = max(deepest, level)
        if deepest > MAX_DEPTH:
            break
    return deepest
