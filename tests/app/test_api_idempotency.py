"""A request sent twice makes one job."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import httpx
from redis import Redis

from app.contract import JobStatus
from app.records import Records
from tests.app.conftest import Server, assert_problem

KEY = {"Idempotency-Key": "a-key"}


def test_the_same_body_gets_the_first_answer(
    api: httpx.Client, body: dict[str, Any], records: Records, redis_client: Redis
) -> None:
    first = api.post("/v1/jobs", json=body, headers=KEY)
    records.move(first.json()["id"], JobStatus.starting)
    again = api.post("/v1/jobs", json=body, headers=KEY)
    assert (again.status_code, again.json(), again.headers["location"]) == (
        202,
        first.json(),
        first.headers["location"],
    )
    assert again.headers["etag"] == first.headers["etag"]
    assert redis_client.llen("rq:queue:normal") == 1

    other = api.post("/v1/jobs", json=body, headers={"Idempotency-Key": "another"})
    assert other.json()["id"] != first.json()["id"]


def test_another_body_is_refused(api: httpx.Client, body: dict[str, Any]) -> None:
    api.post("/v1/jobs", json=body, headers=KEY)
    other = api.post("/v1/jobs", json=body | {"priority": "low"}, headers=KEY)
    assert_problem(other, 422, "idempotency_key_reused")


def test_a_request_still_under_way_is_a_conflict(api: httpx.Client, body: dict[str, Any], redis_client: Redis) -> None:
    """Under way: the key is claimed, and no job is known yet."""
    name = "vxl:idempotency:" + sha256(b"a-key").hexdigest()
    first = api.post("/v1/jobs", json=body, headers=KEY)
    stored = redis_client.get(name)
    assert isinstance(stored, bytes)
    claim = b'{"body": "%s"}' % stored.split(b'"')[3]
    redis_client.set(name, claim)
    assert assert_problem(api.post("/v1/jobs", json=body, headers=KEY), 409, "request_in_flight")["retryable"]

    # The one that claimed it died right after the job was made: the key still leads to the job.
    redis_client.set(name, claim[:-1] + b', "job_id": "%s"}' % first.json()["id"].encode())
    assert api.post("/v1/jobs", json=body, headers=KEY).json()["id"] == first.json()["id"]


def test_a_refused_request_frees_its_key(api: httpx.Client, body: dict[str, Any], upload_id: str) -> None:
    missing = body | {"source": {"upload_id": "up_" + "0" * 26}}
    assert_problem(api.post("/v1/jobs", json=missing, headers=KEY), 404, "upload_not_found")
    assert api.post("/v1/jobs", json=body, headers=KEY).status_code == 202


def test_ten_at_once_make_one_job(server: Server, body: dict[str, Any], redis_client: Redis) -> None:
    def post(_: int) -> int:
        return httpx.post(f"{server.url}/v1/jobs", json=body, headers=KEY).status_code

    with ThreadPoolExecutor(10) as pool:
        codes = Counter(pool.map(post, range(10)))
    assert codes[202] >= 1
    assert codes[202] + codes[409] == 10
    assert redis_client.llen("rq:queue:normal") == 1


def test_an_empty_or_endless_key_is_refused(api: httpx.Client, body: dict[str, Any]) -> None:
    for key in ("", "k" * 256):
        response = api.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
        assert assert_problem(response, 422, "invalid_parameter")["errors"][0]["field"] == "idempotency-key"
