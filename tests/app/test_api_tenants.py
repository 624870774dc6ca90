"""Several tenants of one service, told apart by a header: none sees anything of another."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from app.contract import JobStatus
from app.records import Records
from tests.app.conftest import Server, assert_problem


@pytest.fixture
def api(serve: Callable[..., Any]) -> Iterator[httpx.Client]:
    with serve(tenant_header="X-Tenant") as server, httpx.Client(base_url=server.url, timeout=30) as api:
        yield api


def test_a_job_has_the_tenant_that_the_header_names(api: httpx.Client, clip: bytes) -> None:
    """A key of one tenant says nothing of another's."""
    ids = set()
    for tenant in ("a", "b", None):
        own = {"X-Tenant": tenant} if tenant else {}
        upload = api.post("/v1/uploads", content=clip, headers=own).json()
        body = {"source": {"upload_id": upload["id"]}, "task": "deblur"}
        jobs = [api.post("/v1/jobs", json=body, headers=own | {"Idempotency-Key": "same"}).json() for _ in range(2)]
        assert jobs[0]["id"] == jobs[1]["id"]
        assert jobs[0]["tenant"] == tenant
        ids.add(jobs[0]["id"])
    assert len(ids) == 3


def test_what_is_anothers_is_not_there(api: httpx.Client, records: Records, clip: bytes) -> None:
    mine, theirs = {"X-Tenant": "a"}, {"X-Tenant": "b"}
    upload = api.post("/v1/uploads", content=clip, headers=mine).json()
    assert upload["tenant"] == "a"
    body = {"source": {"upload_id": upload["id"]}, "task": "deblur"}
    at = f"/v1/jobs/job_{26 * '7'}"
    assert api.put(at, json=body, headers=mine).status_code == 202
    for other in (theirs, {}):
        assert_problem(api.get(f"/v1/uploads/{upload['id']}", headers=other), 404, "upload_not_found")
        assert_problem(api.delete(f"/v1/uploads/{upload['id']}", headers=other), 404, "upload_not_found")
        assert_problem(api.post("/v1/jobs", json=body, headers=other), 404, "upload_not_found")
        for method, path in (
            ("GET", at),
            ("GET", f"{at}/events"),
            ("GET", f"{at}/output"),
            ("POST", f"{at}/cancel"),
            ("POST", f"{at}/retry"),
            ("DELETE", at),
        ):
            assert_problem(api.request(method, path, headers=other), 404, "job_not_found")
        assert_problem(api.put(at, json=body, headers=other), 404, "job_not_found")
        assert api.get("/v1/jobs", headers=other).json() == {"data": [], "next_cursor": None}
    assert [job["id"] for job in api.get("/v1/jobs", headers=mine).json()["data"]] == [at.rpartition("/")[2]]
    assert api.post(f"{at}/cancel", headers=mine).json()["status"] == "canceled"
    assert api.post(f"{at}/retry", headers=mine).json()["tenant"] == "a"
    assert records.get(at.rpartition("/")[2]).status is JobStatus.queued


def test_without_a_header_there_are_no_tenants(server: Server, body: dict[str, Any]) -> None:
    with httpx.Client(base_url=server.url) as api:
        job = api.post("/v1/jobs", json=body, headers={"X-Tenant": "a"}).json()
        assert job["tenant"] is None
        assert api.get(job["urls"]["self"], headers={"X-Tenant": "b"}).json()["id"] == job["id"]
        assert "tenant" not in api.get(f"/v1/uploads/{body['source']['upload_id']}").json()
