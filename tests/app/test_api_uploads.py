"""Files come in whole and checked, or leave no trace."""

import asyncio
import base64
import hashlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from app.main import create_app
from app.settings import Settings
from tests import media
from tests.app.conftest import Server, assert_problem, mask


def test_a_clip_comes_in_and_goes(api: httpx.Client, server: Server, clip: bytes) -> None:
    created = api.post("/v1/uploads", content=clip)
    assert created.status_code == 201
    upload = created.json()
    assert created.headers["location"] == f"/v1/uploads/{upload['id']}"
    assert upload["bytes"] == len(clip)
    assert upload["sha256"] == hashlib.sha256(clip).hexdigest()
    media = upload["media"]
    assert (media["width"], media["height"], media["frames"], media["frame_rate"]) == (64, 48, 12, "25/1")
    assert [path.read_bytes() for path in server.files] == [clip]

    assert api.get(created.headers["location"]).json() == upload
    assert api.delete(created.headers["location"]).status_code == 204
    assert_problem(api.get(created.headers["location"]), 404, "upload_not_found")
    assert_problem(api.delete(created.headers["location"]), 404, "upload_not_found")
    assert server.files == []


@pytest.mark.parametrize("odd", ["up_1", "up_" + 26 * "A", "up_01k2m3n4p5q6r7s8t9v0w1x2y3:jobs", "..%2f..%2fetc"])
def test_an_id_of_the_wrong_form_belongs_to_no_upload(api: httpx.Client, redis_client: Redis, odd: str) -> None:
    redis_client.sadd("vxl:upload:up_01k2m3n4p5q6r7s8t9v0w1x2y3:jobs", "job_1")
    assert api.get(f"/v1/uploads/{odd}").status_code == 404
    assert api.delete(f"/v1/uploads/{odd}").status_code == 404


def test_a_mask_comes_in_as_one(api: httpx.Client, tmp_path: Path) -> None:
    created = api.post("/v1/uploads?kind=mask", content=mask(tmp_path / "mask.png"))
    assert created.status_code == 201, created.text
    assert created.json()["kind"] == "mask"
    assert created.json()["media"]["frames"] == 1


def test_another_kind_is_refused(api: httpx.Client) -> None:
    problem = assert_problem(api.post("/v1/uploads?kind=poem", content=b"x"), 422, "invalid_parameter")
    assert problem["errors"][0]["field"] == "kind"


def test_a_body_without_length_streams_in(api: httpx.Client, clip: bytes) -> None:
    def pieces() -> Iterator[bytes]:
        yield clip[:1000]
        yield b""
        yield clip[1000:]

    created = api.post("/v1/uploads", content=pieces())
    assert created.json()["sha256"] == hashlib.sha256(clip).hexdigest()


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "truncated_file"),
        (bytes(range(7, 256)) * 40, 415, "unsupported_container"),
        (b"<!doctype html><html><body>a clip</body></html>", 415, "unsupported_container"),
    ],
    ids=["empty", "bytes", "html"],
)
def test_what_is_no_clip_is_refused_and_removed(
    api: httpx.Client, server: Server, redis_client: Redis, content: bytes, status: int, code: str
) -> None:
    assert_problem(api.post("/v1/uploads", content=content), status, code)
    assert server.files == []
    assert redis_client.keys("vxl:upload:*") == []


def test_what_cannot_be_restored_is_refused_and_removed(api: httpx.Client, server: Server, tmp_path: Path) -> None:
    late_index = media.clip(tmp_path / "late.mp4", movflags="-faststart")
    early_index = media.clip(tmp_path / "early.mp4", frames=40)
    for path, status, code in [
        (media.zip_archive(tmp_path / "zip.mp4"), 415, "unsupported_container"),
        (media.audio_only(tmp_path / "sound.mp4"), 422, "no_video_stream"),
        (media.cut_in_half(late_index, tmp_path / "cut.mp4"), 422, "truncated_file"),
        (media.cut_in_half(early_index, tmp_path / "half.mp4"), 422, "corrupt_stream"),
    ]:
        assert_problem(api.post("/v1/uploads", content=path.read_bytes()), status, code)
    assert server.files == []


def test_a_checksum_is_compared(api: httpx.Client, server: Server, clip: bytes) -> None:
    digest = hashlib.sha256(clip).digest()
    good = {"Content-Digest": f"sha-512=:AAAA:, sha-256=:{base64.b64encode(digest).decode()}:"}
    assert api.post("/v1/uploads", content=clip, headers=good).status_code == 201
    assert api.post("/v1/uploads", content=clip, headers={"X-Checksum-SHA256": digest.hex()}).status_code == 201
    for path in server.files:
        path.unlink()

    other = {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(b'').digest()).decode()}:"}
    assert_problem(api.post("/v1/uploads", content=clip, headers=other), 422, "checksum_mismatch")
    for bad in ({"Content-Digest": "sha-256=:abc:"}, {"X-Checksum-SHA256": "no"}, {"Content-Digest": "sha-256=:YQ==:"}):
        problem = assert_problem(api.post("/v1/uploads", content=clip, headers=bad), 422, "invalid_parameter")
        assert problem["errors"][0]["field"] == "Content-Digest"
    assert server.files == []


def test_a_file_over_the_limit_is_refused(serve: Callable[..., Any], clip: bytes) -> None:
    """Whether its length is announced, or only comes to light on the way."""
    with serve(max_upload_bytes=len(clip)) as server, httpx.Client(base_url=server.url, timeout=30) as api:
        assert api.post("/v1/uploads", content=clip).status_code == 201
        assert_problem(api.post("/v1/uploads", content=clip + b"\0"), 413, "file_too_large")
        assert_problem(api.post("/v1/uploads", content=iter([clip, b"\0"])), 413, "file_too_large")
        assert_problem(api.post("/v1/uploads", content=iter([clip] * 500)), 413, "file_too_large")
        assert len(server.files) == 1


def test_a_body_shorter_than_announced_is_refused(
    redis_client: Redis, server: Server, tmp_path: Path, clip: bytes
) -> None:
    """Where the HTTP server passes it on at all."""
    settings = Settings(redis_url=server.settings.redis_url, data_dir=tmp_path, api_metrics_port=0)

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as api:
            return await api.post("/v1/uploads", content=clip, headers={"Content-Length": str(len(clip) + 5)})

    assert_problem(asyncio.run(post()), 400, "length_mismatch")
    assert list((tmp_path / "files" / "uploads").iterdir()) == []


def test_a_client_that_leaves_leaves_nothing(server: Server, redis_client: Redis) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/uploads HTTP/1.1\r\nHost: api\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 20_000_000
        )
        deadline = time.monotonic() + 10
        while not server.files and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.files, "the store has begun to write"
    while server.files and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.files == []
    assert redis_client.keys("vxl:upload:*") == []


def test_memory_stays_small(serve: Callable[..., Any]) -> None:
    """A 200 MB body never lies in memory whole."""
    with serve() as server, httpx.Client(base_url=server.url, timeout=60) as api:
        before = peak_bytes()
        assert_problem(
            api.post("/v1/uploads", content=(bytes(1 << 20) for _ in range(200))), 415, "unsupported_container"
        )
        assert peak_bytes() - before < 120 << 20


def peak_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@contextmanager
def small_disk(disk: Path) -> Iterator[Path]:
    """80 MiB, of which uploads must leave 64."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs privileges")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("megabytes", [60, 90], ids=["into the spare room", "beyond the disk"])
def test_a_full_disk_is_told_and_nothing_half_written(
    serve: Callable[..., Any], tmp_path: Path, clip: bytes, megabytes: int
) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        serve(data_dir=disk) as server,
        httpx.Client(base_url=server.url, timeout=30) as api,
    ):
        assert api.post("/v1/uploads", content=clip).status_code == 201
        announced = api.post("/v1/uploads", content=bytes(megabytes << 20))
        assert assert_problem(announced, 507, "storage_full")["retryable"]
        unannounced = api.post("/v1/uploads", content=(bytes(1 << 20) for _ in range(megabytes)))
        assert_problem(unannounced, 507, "storage_full")
        assert len(server.files) == 1


def test_an_upload_in_use_stays(api: httpx.Client, upload_id: str, job: dict[str, Any]) -> None:
    assert job["id"] in assert_problem(api.delete(f"/v1/uploads/{upload_id}"), 409, "upload_in_use")["detail"]
    assert api.post(job["urls"]["cancel"]).status_code == 200
    assert api.delete(f"/v1/uploads/{upload_id}").status_code == 204


def test_warnings_and_limits_of_the_probe_reach_the_client(serve: Callable[..., Any], tmp_path: Path) -> None:
    long = media.clip(tmp_path / "long.mp4", frames=30).read_bytes()
    with serve(max_frames=20, data_dir=tmp_path / "data") as server, httpx.Client(base_url=server.url) as api:
        assert_problem(api.post("/v1/uploads", content=long), 422, "too_many_frames")
        assert server.files == []
