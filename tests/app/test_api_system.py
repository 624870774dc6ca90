"""Health, limits, models, metrics, the schema."""

import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from app.api.system import EXAMPLE
from app.contract import JobStatus
from app.records import Records
from tests.app.conftest import Server, assert_problem


def tell(redis_client: Redis, name: str, **info: Any) -> None:
    """What a worker says of itself."""
    redis_client.set(
        f"vxl:worker:{name}", json.dumps({"name": name, "model": "bundled", "device": "cpu"} | info), ex=60
    )


def test_the_process_is_live(api: httpx.Client) -> None:
    for path in ("/livez", "/startupz"):
        assert api.get(path).json()["status"] == "ok"


def test_ready_means_redis_store_and_a_worker(api: httpx.Client, server: Server, redis_client: Redis) -> None:
    response = api.get("/readyz")
    problem = assert_problem(response, 503, "not_ready")
    assert [error["field"] for error in problem["errors"]] == ["worker"]

    for state in ("unhealthy", "loading", "draining"):
        tell(redis_client, "one", state=state)
        assert_problem(api.get("/readyz"), 503, "not_ready")
    tell(redis_client, "two", state="idle")
    ready = api.get("/readyz")
    assert ready.status_code == 200
    assert {check["name"]: check["ok"] for check in ready.json()["checks"]} == {
        "redis": True,
        "store": True,
        "worker": True,
    }
    assert server.files == []


def test_a_store_that_takes_no_files_is_not_ready(
    serve: Callable[..., Any], redis_client: Redis, tmp_path: Path
) -> None:
    with serve() as server, httpx.Client(base_url=server.url) as api:
        tell(redis_client, "one", state="idle")
        Path(server.settings.files, "health").rmdir() if Path(server.settings.files, "health").exists() else None
        Path(server.settings.files, "health").write_bytes(b"a file where a directory must be")
        problem = assert_problem(api.get("/readyz"), 503, "not_ready")
        assert [error["field"] for error in problem["errors"]] == ["store"]


def test_models_are_those_that_workers_hold(api: httpx.Client, redis_client: Redis) -> None:
    assert api.get("/v1/models").json() == {"data": []}
    tell(redis_client, "a", state="idle")
    tell(redis_client, "b", state="busy", device="cuda:0")
    tell(redis_client, "c", state="loading", model="sdxl")
    data = api.get("/v1/models").json()["data"]
    assert [(model["id"], [worker["name"] for worker in model["workers"]]) for model in data] == [
        ("bundled", ["a", "b"]),
        ("sdxl", ["c"]),
    ]
    assert data[0]["workers"][1]["device"] == "cuda:0"
    assert [model["live_workers"] for model in data] == [2, 1]


def test_models_are_told_apart_by_their_cards(api: httpx.Client, redis_client: Redis) -> None:
    card = EXAMPLE["data"][0]["card"]
    tell(redis_client, "a", state="idle", card=card)
    tell(redis_client, "b", state="draining", card=card)
    tell(redis_client, "c", state="idle", card=card | {"weights_sha256": "0" * 64})
    tell(redis_client, "d", state="loading", card=None)
    data = api.get("/v1/models").json()["data"]
    found = [(m["card"], m["live_workers"], [worker["name"] for worker in m["workers"]]) for m in data]
    assert found == [(None, 1, ["d"]), (card | {"weights_sha256": "0" * 64}, 1, ["c"]), (card, 1, ["a", "b"])]
    tell(redis_client, "e", state="idle", card={"kind": "of another version"})
    assert api.get("/readyz").status_code == 200
    assert all("card" not in worker for model in data for worker in model["workers"])
    assert api.get("/openapi.json").json()["components"]["schemas"]["Models"]["examples"] == [EXAMPLE]


def test_limits_are_those_of_the_settings(serve: Callable[..., Any]) -> None:
    with serve(max_frames=7, max_upload_bytes=1000) as server:
        limits = httpx.get(f"{server.url}/v1/limits").json()
    assert (limits["max_frames"], limits["max_upload_bytes"], limits["max_json_bytes"]) == (7, 1000, 262144)


def test_metrics_have_a_port_of_their_own(serve: Callable[..., Any], clip: bytes, records: Records) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serve(api_metrics_port=port) as server, httpx.Client(base_url=server.url) as api:
        upload_id = api.post("/v1/uploads", content=clip).json()["id"]
        api.post("/v1/uploads", content=b"")
        body = {"source": {"upload_id": upload_id}, "task": "deblur_plus"}
        ids = [api.post("/v1/jobs", json=body).json()["id"] for _ in range(2)]
        api.get(f"/v1/jobs/{ids[0]}")
        ids += [api.post("/v1/jobs", json=body).json()["id"] for _ in range(2)]
        for _ in range(2):
            api.post(f"/v1/jobs/{ids[2]}/cancel")
        records.move(ids[3], JobStatus.starting)
        api.post(f"/v1/jobs/{ids[3]}/cancel")  # which its worker will do, and count
        ids.append(api.post("/v1/jobs", json=body | {"cancel_after_seconds": 1}).json()["id"])
        time.sleep(1.05)
        for _ in range(2):
            assert api.get(f"/v1/jobs/{ids[4]}").json()["status"] == "expired"
        api.request("PROPFIND", "/v1/pot")
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert api.get("/metrics").status_code == 404

    for line in (
        'visionxl_uploads_total{outcome="accepted",reason=""} 1.0',
        'visionxl_uploads_total{outcome="refused",reason="truncated_file"} 1.0',
        'visionxl_jobs_created_total{task="deblur_plus"} 5.0',
        'visionxl_jobs_finished_total{error_code="",status="canceled",task="deblur_plus"} 1.0',
        'visionxl_jobs_finished_total{error_code="expired",status="expired",task="deblur_plus"} 1.0',
        'visionxl_queue_depth{queue="normal"} 3.0',
        'visionxl_queue_depth{queue="high"} 0.0',
        'visionxl_queue_oldest_job_age_seconds{queue="high"} 0.0',
        'visionxl_http_request_duration_seconds_count{method="GET",route="/v1/jobs/{job_id}",status="200"} 3.0',
        'visionxl_http_request_duration_seconds_count{method="other",route="unmatched",status="404"} 1.0',
    ):
        assert line in text.splitlines()
    age = next(
        line for line in text.splitlines() if line.startswith('visionxl_queue_oldest_job_age_seconds{queue="normal"}')
    )
    assert 0 < float(age.split()[1]) < 30
    assert 'visionxl_build_info{model="bundled",version="' in text
    assert not any(job_id in text for job_id in (*ids, upload_id))


def test_a_queue_is_as_old_as_its_oldest_job(
    api: httpx.Client, body: dict[str, Any], server: Server, redis_client: Redis
) -> None:
    """Which need not be the first: what was given back is there anew."""
    _, second = (api.post("/v1/jobs", json=body).json()["id"] for _ in range(2))
    redis_client.hset(f"rq:job:{second}", "enqueued_at", "2026-01-01T00:00:00.000000Z")
    states = {state.name: state for state in server.services.jobs.queues()}
    assert states["normal"].depth == 2
    assert states["normal"].oldest_age_seconds > 3600
    assert (states["high"].depth, states["high"].oldest_age_seconds) == (0, 0)


def test_a_metrics_port_that_is_taken_does_not_end_the_api(serve: Callable[..., Any]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        serve(api_metrics_port=taken.getsockname()[1]) as server,
    ):
        assert httpx.get(f"{server.url}/livez").status_code == 200


def test_the_schema_shows_examples_and_errors(api: httpx.Client) -> None:
    schema = api.get("/openapi.json").json()
    assert schema["components"]["schemas"]["JobRequest"]["examples"][0]["task"] == "deblur"
    assert set(schema["components"]["schemas"]["Problem"]["properties"]) >= {"code", "retryable", "errors"}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert "application/problem+json" in operation["responses"]["4XX"]["content"], (method, path)
            assert "422" not in operation["responses"]
    ids = [operation["operationId"] for methods in schema["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    assert "application/octet-stream" in schema["paths"]["/v1/uploads"]["post"]["requestBody"]["content"]
    assert "video/mp4" in schema["paths"]["/v1/jobs/{job_id}/output"]["get"]["responses"]["200"]["content"]
    resolve(schema, schema)
    page = api.get("/docs").text
    assert "VISION-XL" in page
    assert "https://" not in page  # readable where there is no internet
    for asset in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert api.get(asset).status_code == 200


def resolve(node: Any, schema: dict[str, Any]) -> None:
    """Every reference leads somewhere."""
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            target: Any = schema
            for step in reference.removeprefix("#/").split("/"):
                target = target[step]
        for value in node.values():
            resolve(value, schema)
    elif isinstance(node, list):
        for value in node:
            resolve(value, schema)


def test_a_worker_takes_what_the_api_queued(
    api: httpx.Client, job: dict[str, Any], redis_client: Redis, records: Records
) -> None:
    """By LMOVE, as the worker does: the position is 0 while the record still says queued, then null."""
    redis_client.lmove("rq:queue:normal", "rq:queue:normal:intermediate", "LEFT", "RIGHT")
    assert api.get(job["urls"]["self"]).json()["queue_position"] == 0
    records.move(job["id"], JobStatus.starting)
    assert api.get(job["urls"]["self"]).json()["queue_position"] is None
