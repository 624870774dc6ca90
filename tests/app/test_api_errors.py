"""Whatever goes wrong, the answer is a problem document."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from starlette.responses import StreamingResponse

from app.main import create_app
from app.settings import Settings
from tests.app.conftest import assert_problem

JSON = {"Content-Type": "application/json"}


def test_no_such_path(api: httpx.Client) -> None:
    assert_problem(api.get("/v2/jobs"), 404, "not_found")
    assert_problem(api.get("/v1/jobs/job_0/a/b"), 404, "not_found")


def test_no_such_method(api: httpx.Client) -> None:
    response = api.delete("/v1/jobs")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"]


def test_the_request_id_is_the_clients_if_it_is_decent(api: httpx.Client) -> None:
    assert api.get("/livez", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = api.get("/livez", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"]
    assert made.startswith("req_")
    assert api.get("/nowhere").headers["x-request-id"].startswith("req_")


HURTFUL = {
    "cut": (b"{", 400, "invalid_json"),
    "latin-1": (b'{"a": "\xff"}', 400, "invalid_json"),
    "half a pair": (b'{"a": "\\ud800"}', 400, "invalid_json"),
    "half a pair as name": (b'{"\\ud800": 1}', 400, "invalid_json"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", 400, "invalid_json"),
    "deep": (b"[" * 33 + b"]" * 33, 400, "json_too_deep"),
    "deeper": (b"[" * 100_000, 400, "json_too_deep"),
    "large": (b'{"a": "' + b"a" * (256 * 1024) + b'"}', 400, "json_too_large"),
    "empty": (b"", 422, "invalid_parameter"),
    "null": (b"null", 422, "invalid_parameter"),
    "list": (b"[]", 422, "invalid_parameter"),
    "brackets in a string": (b'"\\"' + b"[" * 40 + b'"', 422, "invalid_parameter"),
}


@pytest.mark.parametrize(("content", "status", "code"), HURTFUL.values(), ids=HURTFUL)
def test_json_that_could_hurt(api: httpx.Client, content: bytes, status: int, code: str) -> None:
    assert_problem(api.post("/v1/jobs", content=content, headers=JSON), status, code)


def test_a_body_that_never_ends_is_cut_off(api: httpx.Client) -> None:
    response = api.post("/v1/jobs", content=(b" " * 65536 for _ in range(64)), headers=JSON)
    assert_problem(response, 400, "json_too_large")


def test_metadata_may_nest(api: httpx.Client, body: dict[str, Any]) -> None:
    deep: Any = "ü"
    for _ in range(30):
        deep = [deep]
    created = api.post("/v1/jobs", json=body | {"metadata": {"deep": deep}})
    assert created.json()["request"]["metadata"] == {"deep": deep}


def test_a_body_of_another_type_is_refused(api: httpx.Client) -> None:
    assert_problem(api.post("/v1/jobs", data={"task": "deblur"}), 415, "unsupported_media_type")
    assert_problem(api.post("/v1/jobs", content=b"{}"), 415, "unsupported_media_type")


def test_the_request_is_not_echoed(api: httpx.Client) -> None:
    response = api.post("/v1/jobs", json={"source": {"upload_id": "<script>"}, "task": "deblur"})
    assert "script" not in response.text


def test_a_500_does_not_show_its_cause(redis_client: Redis, serve: Callable[..., Any], body: dict[str, Any]) -> None:
    """A record that cannot be read, as a foreign hand may have left it."""
    job_id = "job_" + "0" * 26
    redis_client.set(f"vxl:job:{job_id}", b'{"secret": "hunter2"}')
    with serve() as server, httpx.Client(base_url=server.url) as api:
        response = api.get(f"/v1/jobs/{job_id}")
        problem = assert_problem(response, 500, "internal_error")
        assert "secret" not in response.text
        assert "ValidationError" not in json.dumps(problem)
        metrics = server.services.metrics.registry
        labels = {"method": "GET", "route": "/v1/jobs/{job_id}", "status": "500"}
        assert metrics.get_sample_value("visionxl_http_request_duration_seconds_count", labels) == 1


def test_an_error_after_the_start_breaks_the_connection(redis_client: Redis, tmp_path: Path) -> None:
    """Half a response must not look whole."""
    app = create_app(Settings(redis_url="redis://127.0.0.1:1/0", data_dir=tmp_path, api_metrics_port=0))

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("the other half is missing")

        return StreamingResponse(pieces())

    async def get() -> bytes:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as api:
            return (await api.get("/half")).content

    with pytest.raises(RuntimeError, match="the other half"):
        asyncio.run(get())
