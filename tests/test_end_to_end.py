"""The whole service as its users meet it: `vxl serve` in its own processes, real HTTP, a real clip, a real solver."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests import media
from tests.processes import alive, descendants, wait_until
from worker.demo import SAMPLE, await_ready, free_port
from worker.encode import write_clip
from worker.measures import psnr
from worker.solver.operators import Chain
from worker.solver.spatial import Convolution, Downsample, GaussianBlur
from worker.solver.temporal import TemporalDownsample
from worker.video import read_clip, read_kernel

FRAMES = 3


@pytest.fixture(scope="module")
def degraded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample clip at a quarter of its size."""
    path = tmp_path_factory.mktemp("clip") / "small.mp4"
    clip = read_clip(SAMPLE, FRAMES)
    write_clip(path, Chain([Downsample(4)]).A(clip.frames.float()), clip, pts=clip.pts, crf=10)
    return path


@dataclass(frozen=True)
class Service:
    """A running service: its process, a client of its API, and where its worker's metrics are."""

    pid: int
    client: httpx.Client
    metrics: str


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The whole service, which leaves no process behind."""
    directory = tmp_path_factory.mktemp("service")
    port, metrics_port = free_port(), free_port()
    own = {"VXL_PORT": str(port), "VXL_DATA_DIR": str(directory), "VXL_METRICS_PORT": str(metrics_port)}
    log = directory / "service.log"
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            env=os.environ | own | {"VXL_API_METRICS_PORT": "0"},
            stdout=lines,
            stderr=lines,
        )
    family: list[int] = []
    try:
        url = f"http://127.0.0.1:{port}"
        await_ready(url, process, log)
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Service(process.pid, client, f"http://127.0.0.1:{metrics_port}/metrics")
        family = descendants(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    assert len(family) >= 4  # Redis, API, worker, horse
    assert [pid for pid in family if alive(pid)] == []


@pytest.fixture
def client(service: Service) -> httpx.Client:
    return service.client


def upload(client: httpx.Client, path: Path) -> str:
    answer = client.post("/v1/uploads", content=path.read_bytes())
    assert answer.status_code == 201, answer.text
    assert answer.json()["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    return str(answer.json()["id"])


def submit(client: httpx.Client, upload_id: str, **request: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"source": {"upload_id": upload_id}, "task": "super_resolution_x4"} | request)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == answer.json()["urls"]["self"]
    return dict(answer.json())


def finished(client: httpx.Client, job: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while not job["terminal"]:
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
        job = client.get(job["urls"]["self"]).json()
    return job


def test_a_clip_goes_in_and_comes_back_restored(client: httpx.Client, degraded: Path, tmp_path: Path) -> None:
    job = finished(client, submit(client, upload(client, degraded)))

    assert job["status"] == "succeeded", job
    assert job["progress"] == {"stage": "done", "percent": 100.0} | {
        key: job["progress"][key] for key in ("frames_done", "frames_total", "seconds_per_frame", "eta_seconds")
    }
    assert (job["output"]["width"], job["output"]["height"]) == (256, 160)
    assert job["output"]["sdxl_size"] == [1280, 768]
    body = client.get(job["urls"]["output"]).content
    assert hashlib.sha256(body).hexdigest() == job["output"]["sha256"]
    output = tmp_path / "output.mp4"
    output.write_bytes(body)
    restored, source = read_clip(output), read_clip(degraded)
    assert restored.frames.shape == (FRAMES, 3, 160, 256)
    assert [pts * restored.time_base for pts in restored.pts] == [pts * source.time_base for pts in source.pts]
    small = Chain([Downsample(4)]).A(restored.frames.float())
    assert (small - source.frames.float()).abs().mean() < 2 / 255
    truth = read_clip(SAMPLE, FRAMES).frames.float()
    bicubic = Downsample(4).lift(source.frames.float()).clamp(0, 1)
    assert psnr(restored.frames, truth) > psnr(bicubic, truth)

    for name in ("preview", "comparison"):
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(client.get(job["urls"][name]).content)
        assert len(read_clip(path).frames) == FRAMES
    manifest = client.get(job["urls"]["manifest"]).json()
    assert manifest["output"]["sha256"] == job["output"]["sha256"]
    assert manifest["version"]["weights_sha256"] == job["version"]["weights_sha256"]
    assert manifest["stage_seconds"]["vae_decode"] > 0
    assert manifest["solver"]["tiles"]["count"] == 1
    batch = manifest["solver"]["micro_batch"]
    assert batch["reason"] in ("enough", "memory", "frames")
    assert 1 <= batch["size"] == batch["chosen"] <= 4
    assert 0 < batch["frame_bytes"] < batch["free_bytes"]


def test_what_happened_is_found_or_the_job_is_refused(client: httpx.Client, tmp_path: Path) -> None:
    clip, blurred = read_clip(SAMPLE, FRAMES), tmp_path / "blurred.mp4"
    still = clip.frames.float()[:1].expand(FRAMES, -1, -1, -1)
    write_clip(blurred, GaussianBlur(2.0).A(still), clip, pts=clip.pts, crf=6)
    guess = {"task": None, "blur": "estimate"}
    job = finished(client, submit(client, upload(client, blurred), **guess))
    assert job["status"] == "succeeded", job
    (step,) = job["estimated"]["degradation"]
    assert (step["kind"], step["sigma"]) == ("gaussian_blur", pytest.approx(2, rel=0.15))
    assert client.get(job["urls"]["manifest"]).json()["estimated"] == job["estimated"]

    refused = finished(client, submit(client, upload(client, SAMPLE), **guess))
    assert (refused["status"], refused["estimated"]) == ("failed", None)
    assert (refused["error"]["code"], refused["error"]["retryable"]) == ("degradation_not_identified", False)
    assert "State what happened as task or degradation" in refused["error"]["detail"]


def test_the_same_seed_makes_the_same_file_in_the_same_warm_process(service: Service, degraded: Path) -> None:
    client = service.client
    upload_id = upload(client, degraded)
    family = descendants(service.pid)
    first, second, other = (finished(client, submit(client, upload_id, solver={"seed": seed})) for seed in (1, 1, 2))
    assert first["output"]["sha256"] == second["output"]["sha256"] != other["output"]["sha256"]
    assert descendants(service.pid) == family


def test_events_tell_the_way_to_the_result(client: httpx.Client, degraded: Path) -> None:
    job = submit(client, upload(client, degraded))
    kinds, statuses, last = [], [], ""
    with client.stream("GET", job["urls"]["events"]) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kinds.append(value)
            elif name == "data":
                last = value
                if kinds[-1] == "status":
                    statuses.append(json.loads(value)["status"])
    assert statuses == ["queued", "starting", "processing", "finalizing", "succeeded"]
    assert "progress" in kinds
    assert json.loads(last)["id"] == job["id"]
    assert json.loads(last)["output"]["frames"] == FRAMES


def test_a_running_job_is_canceled_and_the_next_one_runs(client: httpx.Client, degraded: Path) -> None:
    upload_id = upload(client, degraded)
    long = submit(client, upload_id, solver={"steps": 500, "tau": 0.5})
    while client.get(long["urls"]["self"]).json()["status"] != "processing":
        time.sleep(0.1)
    assert client.post(long["urls"]["cancel"]).status_code == 202
    assert finished(client, long)["status"] == "canceled"
    assert client.get(long["urls"]["output"]).status_code == 409
    assert finished(client, submit(client, upload_id))["status"] == "succeeded"


def test_a_deleted_job_is_gone_with_its_files(client: httpx.Client, degraded: Path) -> None:
    job = finished(client, submit(client, upload(client, degraded)))
    assert client.delete(job["urls"]["self"]).status_code == 204
    assert client.get(job["urls"]["self"]).status_code == 404
    assert client.get(job["urls"]["output"]).status_code == 404


def test_operators_see_seconds_per_frame(service: Service, degraded: Path) -> None:
    client = service.client
    finished(client, submit(client, upload(client, degraded)))
    text = httpx.get(service.metrics).text
    assert 'visionxl_frame_duration_seconds_count{gpu="cpu",resolution="256x160",task="super_resolution_x4"}' in text
    for stage in ("decode", "invert", "denoise", "vae_decode", "data_step", "vae_encode", "encode"):
        assert f'visionxl_frame_stage_duration_seconds_count{{stage="{stage}",task="super_resolution_x4"}}' in text
    assert "visionxl_frames_processed_total{" in text
    assert 'visionxl_jobs_finished_total{error_code="",status="succeeded",task="super_resolution_x4"}' in text
    assert "visionxl_worker_state{" in text


def test_a_long_exposure_comes_back_at_its_full_frame_rate(client: httpx.Client, tmp_path: Path) -> None:
    """Blurred by an uploaded kernel, two frames to an exposure: shifted, as the kernel is no mirror image of itself."""
    clip = read_clip(SAMPLE, 4)
    spot = np.zeros((7, 9), np.uint8)
    spot[1:5, 2:8] = 255
    kernel = media.still(tmp_path / "kernel.png", spot, "gray")
    operator = Chain([TemporalDownsample(2), Convolution(read_kernel(kernel))])
    truth = clip.frames.float()
    measured = tmp_path / "measured.mp4"
    write_clip(measured, operator.A(truth), clip, pts=[2 * t for t in clip.pts[:2]], crf=4)
    kernel_id = client.post("/v1/uploads?kind=kernel", content=kernel.read_bytes()).json()["id"]
    source = {"upload_id": upload(client, measured), "kernel_upload_id": kernel_id}
    stated = [{"kind": "temporal_downsample", "factor": 2}, {"kind": "kernel_blur"}]
    job = finished(client, submit(client, "", source=source, task=None, degradation=stated))

    assert job["status"] == "succeeded", job
    output = tmp_path / "output.mp4"
    output.write_bytes(client.get(job["urls"]["output"]).content)
    restored = read_clip(output)
    assert [t * restored.time_base for t in restored.pts] == [t * clip.time_base for t in clip.pts]
    assert psnr(restored.frames, truth) > psnr(operator.lift(operator.A(truth)), truth) + 2
    manifest = client.get(job["urls"]["manifest"]).json()
    assert len(manifest["solver"]["rho"]) == len(manifest["solver"]["timesteps"])
    assert all(later > earlier for earlier, later in pairwise(manifest["solver"]["rho"]))


def test_the_model_that_is_held_is_known(client: httpx.Client) -> None:
    wait_until(lambda: client.get("/v1/models").json()["data"][0]["card"] is not None)  # it is loaded by then
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["live_workers"]) == ("bundled", 1)
    card = model["card"]
    assert (card["kind"], card["prediction_type"], card["autoencoder"]) == ("sdxl", "epsilon", "AutoencoderDC")
    assert (card["latent_channels"], card["factor"], card["bundled"]) == (32, 4, True)
    told = subprocess.run(
        [sys.executable, "-m", "app.cli", "models", "--url", str(client.base_url)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "160"},
    )
    assert told.returncode == 0, told.stderr
    assert card["weights_sha256"][:12] in told.stdout


def test_a_simulation_says_how_near_its_result_is(client: httpx.Client, tmp_path: Path) -> None:
    """By the same measures as here, of the output file; and the same seed degrades alike."""
    clip = read_clip(SAMPLE, 2)
    clean = tmp_path / "clean.mp4"
    write_clip(clean, clip.frames.float(), clip, pts=clip.pts, crf=0)
    truth = read_clip(clean).frames.float()
    upload_id = upload(client, clean)
    request = {"task": "inpaint", "simulate": True, "noise_sigma": 0.02, "output": {"crf": 0}}
    first, second = (finished(client, submit(client, upload_id, **request)) for _ in range(2))

    assert first["status"] == "succeeded", first
    metrics = first["metrics"]
    assert metrics["psnr"] > metrics["psnr_before"] + 0.3
    assert metrics["ssim"] > metrics["ssim_before"]
    assert 20 < metrics["vmaf"] < 100
    assert 0 < metrics["warp_error_truth"] < metrics["warp_error"] < 0.1  # noise flickers
    assert metrics["lpips"] is metrics["fvd"] is None
    assert metrics["noise_sigma"] == 0.02
    output = tmp_path / "output.mp4"
    output.write_bytes(client.get(first["urls"]["output"]).content)
    assert psnr(read_clip(output).frames, truth) == pytest.approx(metrics["psnr"], abs=0.1)
    assert first["output"]["sha256"] == second["output"]["sha256"]
    assert client.get(first["urls"]["manifest"]).json()["request"]["simulate"] is True
