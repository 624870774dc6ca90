"""The files of a job, whole and in parts."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.contract import JobStatus
from app.keys import result_key
from app.records import Records, now
from tests.app.conftest import Server, assert_problem
from tests.app.test_api_lifecycle import advance

CONTENT = bytes(range(256)) * 40_000  # more than one piece of the store


@pytest.fixture
def done(server: Server, job: dict[str, Any], records: Records) -> dict[str, Any]:
    """A job that succeeded."""
    advance(records, job["id"], JobStatus.succeeded, expires_at=now() + timedelta(days=1))
    for name in ("output", "preview", "comparison", "manifest"):
        put(server, job["id"], name, b"{}" if name == "manifest" else CONTENT)
    return job


def put(server: Server, job_id: str, name: str, content: bytes) -> None:
    server.services.store.put_bytes(result_key(server.services.records.get(job_id), name), content)


@pytest.mark.parametrize(
    ("name", "media_type", "shown"),
    [
        ("output", "video/mp4", "attachment"),
        ("preview", "video/mp4", "inline"),
        ("comparison", "video/mp4", "inline"),
        ("manifest", "application/json", "inline"),
    ],
)
def test_every_result_comes_whole(
    api: httpx.Client, done: dict[str, Any], name: str, media_type: str, shown: str
) -> None:
    response = api.get(done["urls"][name])
    assert response.status_code == 200
    assert response.content == (b"{}" if name == "manifest" else CONTENT)
    assert response.headers["content-type"] == media_type
    suffix = "json" if name == "manifest" else "mp4"
    assert response.headers["content-disposition"] == f'{shown}; filename="{done["id"]}-{name}.{suffix}"'
    assert response.headers["accept-ranges"] == "bytes"

    head = api.head(done["urls"][name])
    assert (head.status_code, head.content) == (200, b"")
    for header in ("content-length", "content-type", "etag", "accept-ranges", "content-disposition"):
        assert head.headers[header] == response.headers[header]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=8388600-8388700", 8388600, 8388701),
        ("bytes=10239990-", 10239990, len(CONTENT)),
        ("bytes=-10", len(CONTENT) - 10, len(CONTENT)),
        ("bytes=5-99999999", 5, len(CONTENT)),
        ("bytes=-99999999", 0, len(CONTENT)),
    ],
)
def test_a_range_comes_alone(api: httpx.Client, done: dict[str, Any], asked: str, start: int, end: int) -> None:
    response = api.get(done["urls"]["output"], headers={"Range": asked})
    assert response.status_code == 206
    assert response.content == CONTENT[start:end]
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert int(response.headers["content-length"]) == end - start


@pytest.mark.parametrize("asked", ["bytes=10240000-", "bytes=99999999-100000000", "bytes=-0"])
def test_a_range_outside_the_file_is_refused(api: httpx.Client, done: dict[str, Any], asked: str) -> None:
    response = api.get(done["urls"]["output"], headers={"Range": asked})
    assert_problem(response, 416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize(
    "asked", ["bytes=9-5", "bytes=-", "frames=1-2", "bytes=1-2,4-5", "bytes=a-b", "nonsense", f"bytes={5000 * '9'}-"]
)
def test_a_range_that_makes_no_sense_is_ignored(api: httpx.Client, done: dict[str, Any], asked: str) -> None:
    assert api.head(done["urls"]["output"], headers={"Range": asked}).status_code == 200


def test_parts_of_two_versions_never_mix(api: httpx.Client, server: Server, done: dict[str, Any]) -> None:
    etag = api.head(done["urls"]["output"]).headers["etag"]
    asked = {"Range": "bytes=0-9", "If-Range": etag}
    assert api.get(done["urls"]["output"], headers=asked).status_code == 206
    assert api.get(done["urls"]["output"], headers={"If-None-Match": etag}).status_code == 304
    put(server, done["id"], "output", CONTENT[:100])
    changed = api.get(done["urls"]["output"], headers=asked)
    assert (changed.status_code, changed.content) == (200, CONTENT[:100])


def test_there_is_no_result_before_the_end(api: httpx.Client, job: dict[str, Any], records: Records) -> None:
    assert_problem(api.get(job["urls"]["output"]), 409, "job_not_finished")
    assert api.head(job["urls"]["output"]).status_code == 409
    advance(records, job["id"], JobStatus.failed)
    assert_problem(api.get(job["urls"]["manifest"]), 409, "job_has_no_result")


def test_a_result_is_gone_once_expired(api: httpx.Client, done: dict[str, Any], records: Records) -> None:
    records.update(done["id"], expires_at=now() - timedelta(seconds=1))
    assert_problem(api.get(done["urls"]["output"]), 410, "result_expired")


def test_a_result_that_was_not_made_is_not_found(api: httpx.Client, server: Server, done: dict[str, Any]) -> None:
    server.services.store.delete(result_key(server.services.records.get(done["id"]), "comparison"))
    assert_problem(api.get(done["urls"]["comparison"]), 404, "result_not_found")
