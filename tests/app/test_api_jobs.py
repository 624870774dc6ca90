"""From the request to the queue."""

import json
import re
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from app.contract import JobStatus
from app.records import Records
from tests import media
from tests.app.conftest import Server, assert_problem, mask

JOB_ID = "job_" + "0" * 25 + "z"


def test_a_job_is_queued(api: httpx.Client, body: dict[str, Any], upload_id: str, redis_client: Redis) -> None:
    response = api.post("/v1/jobs", json=body | {"metadata": {"shot": 12}})
    assert response.status_code == 202
    job = response.json()
    assert re.fullmatch(r"job_[0-9a-z]{26}", job["id"])
    assert response.headers["location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["terminal"], job["queue_position"], job["attempt"]) == ("queued", False, 0, 0)
    assert job["source"] == {
        "width": 64,
        "height": 48,
        "frames": 12,
        "frame_rate": "25/1",
        "sha256": api.get(f"/v1/uploads/{upload_id}").json()["sha256"],
    }
    assert job["request"]["metadata"] == {"shot": 12}
    assert api.get(job["urls"]["self"]).json() == job

    queued = Queue("normal", connection=redis_client, serializer=JSONSerializer).jobs
    assert [(one.id, one.func_name, one.args) for one in queued] == [
        (job["id"], "worker.task.restore_clip", [job["id"]])
    ]


def test_what_happened_may_be_left_to_be_estimated(api: httpx.Client, body: dict[str, Any]) -> None:
    response = api.post("/v1/jobs", json=body | {"task": None, "blur": "estimate"})
    assert response.status_code == 202
    job = response.json()
    assert (job["request"]["task"], job["request"]["degradation"], job["estimated"]) == (None, [], None)


def test_positions_count_the_higher_queues_first(api: httpx.Client, body: dict[str, Any]) -> None:
    ids = {
        name: api.post("/v1/jobs", json=body | {"priority": priority}).json()["id"]
        for name, priority in [("l", "low"), ("n1", "normal"), ("n2", "normal"), ("h", "high")]
    }
    places = {name: api.get(f"/v1/jobs/{job_id}").json()["queue_position"] for name, job_id in ids.items()}
    assert places == {"h": 0, "n1": 1, "n2": 2, "l": 3}
    listed = {job["id"]: job["queue_position"] for job in api.get("/v1/jobs").json()["data"]}
    assert listed == {ids[name]: place for name, place in places.items()}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": "colorize"}, "task"),
        ({"tempo": 3}, "tempo"),
        ({"task": None}, "body"),
        ({"blur": "estimate"}, "body"),
        ({"task": None, "blur": "guess"}, "blur"),
        ({"task": None, "blur": "estimate", "simulate": True}, "blur"),
        ({"task": None, "blur": "estimate", "solver": {"preset": "published"}}, "blur"),
        ({"tier": "turbo"}, "tier"),
        ({"tier": "fast", "solver": {"preset": "published"}}, "tier"),
        ({"solver": {"steps": 1}}, "solver.steps"),
        ({"source": {}}, "source.upload_id"),
        ({"task": None, "degradation": [{"kind": "downsample", "factor": 99}]}, "degradation.0.factor"),
        ({"task": None, "degradation": [{"kind": "rain"}]}, "degradation.0"),
        ({"cancel_after_seconds": 0}, "cancel_after_seconds"),
        ({"task": None, "degradation": [{"kind": "temporal_average", "window": 13}]}, "degradation.0.window"),
        ({"task": "temporal_deblur"}, "task"),
        ({"task": None, "degradation": [{"kind": "downsample", "factor": 16}] * 3}, "degradation"),
        ({"task": None, "degradation": [{"kind": "temporal_downsample", "factor": 16}] * 2}, "degradation"),
        ({"task": None, "degradation": [{"kind": "gaussian_blur"}]}, "degradation.0"),
        ({"task": None, "degradation": [{"kind": "gaussian_blur", "sigma": 2, "sigma_x": 2}]}, "degradation.0"),
        ({"task": None, "degradation": [{"kind": "gaussian_blur", "sigma_x": 2}]}, "degradation.0"),
        ({"task": None, "degradation": [{"kind": "gaussian_blur", "sigma": 2, "angle": 5}]}, "degradation.0"),
        ({"task": None, "degradation": [{"kind": "motion_blur", "length": 500}]}, "degradation.0.length"),
        ({"task": None, "degradation": [{"kind": "kernel_blur", "kernel": [[0.5, 0.4]]}]}, "degradation.0.kernel"),
        (
            {"task": None, "degradation": [{"kind": "kernel_blur", "kernel": [[0.5], [0.2, 0.3]]}]},
            "degradation.0.kernel",
        ),
        ({"solver": {"tau": 0.0001}}, "solver.tau"),  # which leaves no timestep
        ({"task": None, "degradation": [{"kind": "kernel_blur"}]}, "source.kernel_upload_id"),
        ({"task": None, "degradation": [{"kind": "mask"}]}, "source.mask_upload_id"),
    ],
)
def test_the_field_at_fault_is_named(
    api: httpx.Client, body: dict[str, Any], redis_client: Redis, change: dict[str, Any], field: str
) -> None:
    problem = assert_problem(api.post("/v1/jobs", json=body | change), 422, "invalid_parameter")
    assert field in [error["field"] for error in problem["errors"]]
    assert "Value error" not in problem["detail"]
    assert redis_client.keys("vxl:job*") == []


@pytest.mark.parametrize(
    "step",
    [
        {"kind": "downsample", "factor": 2, "filter": "bicubic"},
        {"kind": "gaussian_blur", "sigma_x": 3, "sigma_y": 1, "angle": 30},
        {"kind": "motion_blur", "length": 9.5, "angle": -20},
        {"kind": "disc_blur", "radius": 3},
        {"kind": "kernel_blur", "kernel": [[0.25, 0.25], [0.25, 0.2501]]},
        {"kind": "temporal_downsample", "factor": 4},
    ],
    ids=lambda step: step["kind"],
)
def test_every_degradation_is_taken(api: httpx.Client, upload_id: str, step: dict[str, Any]) -> None:
    """And as it was written; what the published solver has no model of is refused it."""
    body = {"source": {"upload_id": upload_id}, "degradation": [step]}
    job = api.post("/v1/jobs", json=body)
    assert job.status_code == 202
    assert job.json()["request"]["degradation"][0].items() >= step.items()
    refused = api.post("/v1/jobs", json=body | {"solver": {"preset": "published"}})
    problem = assert_problem(refused, 422, "invalid_parameter")
    assert problem["errors"][0]["field"] == "solver.preset"


def test_a_kernel_may_be_uploaded(api: httpx.Client, upload_id: str, tmp_path: Path) -> None:
    spot = np.zeros((5, 7), np.uint8)
    spot[1:4, 2:5] = 200
    picture = media.still(tmp_path / "kernel.png", spot, "gray").read_bytes()
    kernel = api.post("/v1/uploads?kind=kernel", content=picture).json()
    assert (kernel["kind"], kernel["media"]["width"]) == ("kernel", 7)
    source = {"upload_id": upload_id, "kernel_upload_id": kernel["id"]}
    body = {"source": source, "degradation": [{"kind": "kernel_blur"}]}
    assert api.post("/v1/jobs", json=body).status_code == 202
    assert_problem(api.delete(f"/v1/uploads/{kernel['id']}"), 409, "upload_in_use")
    misplaced = {"source": source | {"kernel_upload_id": upload_id}}
    for other in (body | {"task": "deblur", "degradation": []}, body | misplaced):
        problem = assert_problem(api.post("/v1/jobs", json=other), 422, "invalid_parameter")
        assert problem["errors"][0]["field"] == "source.kernel_upload_id"
    assert_problem(api.post("/v1/uploads?kind=kernel", content=b"x" * 99), 415, "unsupported_container")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_kernel_of_no_numbers_is_refused(api: httpx.Client, upload_id: str, number: str) -> None:
    steps = f'[{{"kind": "kernel_blur", "kernel": [[1, {number}]]}}]'
    body = f'{{"source": {{"upload_id": "{upload_id}"}}, "degradation": {steps}}}'
    response = api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem = assert_problem(response, 422, "invalid_parameter")
    assert problem["errors"][0]["field"].startswith("degradation.0.kernel")


@pytest.mark.parametrize(
    ("stated", "field"),
    [
        ({"task": "super_resolution_x4"}, None),
        ({"task": "inpaint"}, None),
        ({"degradation": [{"kind": "mask", "known": 0.2, "moving": True}, {"kind": "downsample", "factor": 2}]}, None),
        ({"degradation": [{"kind": "temporal_downsample", "factor": 4}]}, None),
        ({"degradation": [{"kind": "temporal_average", "window": 7, "boundary": "valid"}]}, None),
        ({"degradation": [{"kind": "downsample", "factor": 5}]}, "degradation.0.factor"),
        ({"degradation": [{"kind": "temporal_downsample", "factor": 5}]}, "degradation.0.factor"),
        (
            {"degradation": [{"kind": "temporal_downsample", "factor": 4}, {"kind": "temporal_average", "window": 4}]},
            "degradation.1.window",
        ),
        ({"degradation": [{"kind": "mask"}, {"kind": "mask"}]}, "degradation"),
    ],
)
def test_a_clean_clip_may_be_degraded_first(
    api: httpx.Client, upload_id: str, stated: dict[str, Any], field: str | None
) -> None:
    """Where it divides; without `simulate` the clip is the measured one, and a mask has to be sent."""
    body = {"source": {"upload_id": upload_id}, "simulate": True} | stated
    answer = api.post("/v1/jobs", json=body)
    if field is None:
        assert answer.status_code == 202, answer.text
        assert answer.json()["metrics"]["psnr"] is None
    else:
        assert assert_problem(answer, 422, "invalid_parameter")["errors"][0]["field"] == field
    if "mask" in str(stated) or "inpaint" in str(stated):
        refused = assert_problem(api.post("/v1/jobs", json=body | {"simulate": False}), 422, "invalid_parameter")
        assert refused["errors"][0]["field"] in ("source.mask_upload_id", "degradation.0")


def test_nan_is_refused(api: httpx.Client, upload_id: str) -> None:
    body = {"source": {"upload_id": upload_id}, "task": "deblur", "solver": {"tau": float("nan")}}
    response = api.post("/v1/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert assert_problem(response, 422, "invalid_parameter")["errors"][0]["field"] == "solver.tau"


def test_the_published_solver_is_offered_where_it_can_run(
    api: httpx.Client, body: dict[str, Any], tmp_path: Path
) -> None:
    published = {"solver": {"preset": "published"}}
    job = api.post("/v1/jobs", json=body | published).json()
    assert job["request"]["solver"]["preset"] == "published"

    mask_id = api.post("/v1/uploads?kind=mask", content=mask(tmp_path / "mask.png")).json()["id"]
    masked = {"source": body["source"] | {"mask_upload_id": mask_id}, "task": "inpaint"} | published
    problem = assert_problem(api.post("/v1/jobs", json=masked), 422, "invalid_parameter")
    assert "knows no mask" in problem["errors"][0]["detail"]

    tiny = api.post("/v1/uploads", content=media.clip(tmp_path / "tiny.mp4", size=(32, 30)).read_bytes()).json()["id"]
    small = {"source": {"upload_id": tiny}, "task": "deblur"} | published
    problem = assert_problem(api.post("/v1/jobs", json=small), 422, "invalid_parameter")
    assert problem["errors"][0]["field"] == "solver.preset"
    assert api.post("/v1/jobs", json=small | {"task": "super_resolution_x4"}).status_code == 202


def test_a_window_within_the_clip_is_taken(api: httpx.Client, body: dict[str, Any]) -> None:
    for step in ({"window": 12}, {"window": 13, "boundary": "valid"}):
        change = {"task": None, "degradation": [{"kind": "temporal_average"} | step]}
        assert api.post("/v1/jobs", json=body | change).status_code == 202


def test_a_job_needs_an_upload_that_exists(api: httpx.Client) -> None:
    body = {"source": {"upload_id": "up_" + "0" * 26}, "task": "deblur"}
    problem = assert_problem(api.post("/v1/jobs", json=body), 404, "upload_not_found")
    assert problem["errors"][0]["field"] == "source.upload_id"


def test_a_mask_must_fit_where_it_acts(api: httpx.Client, upload_id: str, tmp_path: Path) -> None:
    def uploaded(width: int, height: int) -> str:
        content = mask(tmp_path / "mask.png", width, height)
        return str(api.post("/v1/uploads?kind=mask", content=content).json()["id"])

    measured, restored = uploaded(64, 48), uploaded(128, 96)
    half, holes = {"kind": "downsample", "factor": 2}, {"kind": "mask"}

    def post(mask_id: str, *degradation: dict[str, Any]) -> httpx.Response:
        source = {"upload_id": upload_id, "mask_upload_id": mask_id}
        return api.post("/v1/jobs", json={"source": source, "degradation": degradation})

    assert post(measured, holes).status_code == 202
    assert post(measured, half, holes).status_code == 202
    assert post(restored, holes, half).status_code == 202
    for response in (post(restored, holes), post(restored, half, holes), post(measured, holes, half)):
        problem = assert_problem(response, 422, "mask_mismatch")
        assert problem["errors"][0]["field"] == "source.mask_upload_id"

    assert_problem(post(upload_id, holes), 422, "invalid_parameter")
    swapped = api.post("/v1/jobs", json={"source": {"upload_id": measured}, "task": "deblur"})
    assert_problem(swapped, 422, "invalid_parameter")


def test_a_mask_of_another_length_is_refused(
    api: httpx.Client, upload_id: str, tmp_path: Path, records: Records
) -> None:
    content = mask(tmp_path / "mask.png")
    mask_id = api.post("/v1/uploads?kind=mask", content=content).json()["id"]
    upload = records.upload(mask_id)
    assert upload is not None
    records.put_upload(upload.model_copy(update={"media": upload.media.model_copy(update={"frames": 5})}))
    source = {"upload_id": upload_id, "mask_upload_id": mask_id}
    assert_problem(api.post("/v1/jobs", json={"source": source, "task": "inpaint"}), 422, "mask_mismatch")


def test_a_chosen_id_makes_one_job(api: httpx.Client, body: dict[str, Any], redis_client: Redis) -> None:
    first = api.put(f"/v1/jobs/{JOB_ID}", json=body)
    assert (first.status_code, first.json()["id"]) == (202, JOB_ID)
    again = api.put(f"/v1/jobs/{JOB_ID}", json=body)
    assert (again.status_code, again.json()) == (200, first.json())
    other = api.put(f"/v1/jobs/{JOB_ID}", json=body | {"task": "temporal_deblur"})
    assert_problem(other, 409, "job_exists")
    assert_problem(api.put("/v1/jobs/mine", json=body), 404, "job_not_found")
    assert redis_client.llen("rq:queue:normal") == 1


def test_ten_at_once_make_one_job(server: Server, body: dict[str, Any], redis_client: Redis) -> None:
    def put(_: int) -> int:
        return httpx.put(f"{server.url}/v1/jobs/{JOB_ID}", json=body).status_code

    with ThreadPoolExecutor(10) as pool:
        codes = sorted(pool.map(put, range(10)))
    assert codes == [200] * 9 + [202]
    assert redis_client.llen("rq:queue:normal") == 1


def test_a_full_queue_says_when_to_come_back(serve: Callable[..., Any], clip: bytes) -> None:
    with serve(max_queue=1) as server, httpx.Client(base_url=server.url) as api:
        body = {"source": {"upload_id": api.post("/v1/uploads", content=clip).json()["id"]}, "task": "deblur"}
        first = api.post("/v1/jobs", json=body).json()
        refused = api.post("/v1/jobs", json=body)
        assert_problem(refused, 503, "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        assert len(api.get("/v1/jobs").json()["data"]) == 1
        api.post(first["urls"]["cancel"])
        assert api.post("/v1/jobs", json=body).status_code == 202
        assert_problem(api.post(first["urls"]["self"] + "/retry"), 503, "queue_full")


def test_lists_come_in_pages(api: httpx.Client, body: dict[str, Any], records: Records) -> None:
    ids = [api.post("/v1/jobs", json=body).json()["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = api.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        if len(seen) == 2:  # what a cursor points at may go, and new jobs may come
            records.move(ids[3], JobStatus.canceled)
            assert api.delete(f"/v1/jobs/{ids[3]}").status_code == 204
            api.post("/v1/jobs", json=body)
    assert seen == ids[::-1]

    records.move(ids[0], JobStatus.starting)
    assert [job["id"] for job in api.get("/v1/jobs?status=starting").json()["data"]] == [ids[0]]
    for query, field in (
        ("limit=101", "limit"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
        (f"cursor={urlsafe_b64encode(f'nan {ids[0]}'.encode()).decode()}", "cursor"),
        (f"cursor={urlsafe_b64encode(b'1.0 job_1').decode()}", "cursor"),
        ("status=odd", "status"),
    ):
        problem = assert_problem(api.get(f"/v1/jobs?{query}"), 422, "invalid_parameter")
        assert problem["errors"][0]["field"] == field


def test_an_unchanged_job_is_not_sent_again(api: httpx.Client, job: dict[str, Any], records: Records) -> None:
    etag = api.get(job["urls"]["self"]).headers["etag"]
    unchanged = api.get(job["urls"]["self"], headers={"If-None-Match": f'"other", W/{etag}'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    records.move(job["id"], JobStatus.starting)
    assert api.get(job["urls"]["self"], headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.parametrize("job_id", ["job_" + "0" * 26, "job_short", "up_" + "0" * 26, "job_" + "0" * 26 + "%0A", "x"])
def test_an_unknown_job_is_not_found(api: httpx.Client, job_id: str) -> None:
    for method, path in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("GET", "/events"),
        ("GET", "/output"),
        ("GET", "/manifest"),
    ]:
        assert_problem(api.request(method, f"/v1/jobs/{job_id}{path}"), 404, "job_not_found")


def test_a_client_may_wait_for_the_end(api: httpx.Client, job: dict[str, Any], records: Records) -> None:
    started = time.monotonic()
    timely = api.get(job["urls"]["self"], headers={"Prefer": "respond-async, wait=1"})
    assert 0.9 < time.monotonic() - started < 4
    assert (timely.json()["status"], timely.headers["preference-applied"]) == ("queued", "wait=1")

    threading.Timer(0.5, records.move, (job["id"], JobStatus.failed)).start()
    started = time.monotonic()
    ended = api.get(job["urls"]["self"], headers={"Prefer": "wait=600"})
    assert time.monotonic() - started < 5
    assert (ended.json()["status"], ended.headers["preference-applied"]) == ("failed", "wait=60")


def test_whoever_submits_may_wait_too(api: httpx.Client, body: dict[str, Any]) -> None:
    deadline = api.post("/v1/jobs", json=body | {"cancel_after_seconds": 1}, headers={"Prefer": "wait=10"})
    assert (deadline.status_code, deadline.json()["status"]) == (202, "expired")
