"""`vxl demo`: degrade the sample clip, have a service of its own restore it over HTTP, and compare."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from app.degradations import Task, degradations_of
from worker.encode import write_clip
from worker.measures import psnr, sharpness, ssim
from worker.stated import operator_of
from worker.video import Beside, Clip, read_clip

SAMPLE = Path(__file__).resolve().parent.parent / "app" / "static" / "sample.mp4"
CRF = 10  # of the degraded clip: what a careful client would send
LINE = 4  # pixels between the pictures
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
console = Console()


@app.command()
def demo(
    task: Annotated[Task, typer.Option(help="what to do to the sample clip, and have undone")] = Task.deblur,
    frames: Annotated[int, typer.Option(min=1, max=25)] = 25,
    directory: Annotated[Path, typer.Option("--output", "-o", help="where the files go")] = Path("demo"),
) -> None:
    """Restore the sample clip through a service that runs for the occasion."""
    directory.mkdir(parents=True, exist_ok=True)
    sample = read_clip(SAMPLE, frames)
    truth = sample.frames.float()
    degraded, mask = degrade(sample, truth, task, directory)
    with service(directory / "service.log") as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        job = restore(client, task, degraded, mask)
        output = directory / "restored.mp4"
        output.write_bytes(client.get(job["urls"]["output"]).raise_for_status().content)
        for name, suffix in (("comparison", "mp4"), ("manifest", "json")):
            found = client.get(job["urls"][name]).raise_for_status().content
            (directory / f"{name}.{suffix}").write_bytes(found)
    given, restored = on_grid(read_clip(degraded).frames.float(), truth), read_clip(output).frames.float()
    picture = directory / "side-by-side.png"
    save_side_by_side([given, restored, truth], picture)
    show(task, {"input": given, "restored": restored}, truth, job)
    console.print(f"restored clip  {output}\nside by side   {picture}   (input, restored, truth)", highlight=False)


def degrade(sample: Clip, truth: Tensor, task: Task, directory: Path) -> tuple[Path, Path | None]:
    """Write the degraded clip as 8-bit H.264, and the mask if the task has one."""
    degradations = degradations_of(task)
    mask = None
    if degradations[-1].kind == "mask":
        generator = torch.Generator().manual_seed(0)
        mask = (torch.rand(1, 1, *truth.shape[-2:], generator=generator) > 0.5).float()
    degraded = directory / "degraded.mp4"
    y = operator_of(degradations, Beside(mask), truth.device).A(truth)
    # Chroma at half size would mix known pixels with lost ones.
    write_clip(degraded, y, sample, pts=sample.pts, crf=CRF, full_chroma=mask is not None)
    if mask is None:
        return degraded, None
    picture = directory / "mask.png"
    Image.fromarray(mask[0, 0].mul(255).byte().numpy()).save(picture)
    return degraded, picture


@contextmanager
def service(log: Path) -> Iterator[str]:
    """The whole service on a free port, its files in a directory that goes with it."""
    with TemporaryDirectory(prefix="vxl-demo-") as data, log.open("wb") as lines:
        port = free_port()
        own = {"VXL_PORT": str(port), "VXL_DATA_DIR": data, "VXL_METRICS_PORT": "0", "VXL_API_METRICS_PORT": "0"}
        # Its own Redis and files, whatever the caller has set for a service that runs already.
        inherited = {k: v for k, v in os.environ.items() if k not in ("VXL_REDIS_URL", "VXL_STORE_URL", "VXL_HOST")}
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"], env=inherited | own, stdout=lines, stderr=lines
        )
        try:
            url = f"http://127.0.0.1:{port}"
            await_ready(url, process, log)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()  # and with it, all that it started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_ready(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    with console.status("starting the service: Redis, API, worker"):
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
    raise RuntimeError(f"the service did not get ready:\n{log.read_text()[-2000:]}")


def restore(client: httpx.Client, task: Task, degraded: Path, mask: Path | None) -> dict[str, Any]:
    """Upload, submit, follow, and return the finished job; raises RuntimeError where it failed."""
    source = {"upload_id": upload(client, degraded, "clip")}
    if mask:
        source["mask_upload_id"] = upload(client, mask, "mask")
    request = {"source": source, "task": task.value}
    job: dict[str, Any] = client.post("/v1/jobs", json=request).raise_for_status().json()
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        line = bar.add_task("queued", total=100)
        while not job["terminal"]:
            time.sleep(0.3)
            job = client.get(job["urls"]["self"]).raise_for_status().json()
            bar.update(line, completed=job["progress"]["percent"], description=job["progress"]["stage"])
    if job["status"] != "succeeded":
        raise RuntimeError(f"the job {job['status']}: {job['error']}")
    return job


def upload(client: httpx.Client, path: Path, kind: str) -> str:
    with path.open("rb") as body:
        answer = client.post("/v1/uploads", params={"kind": kind}, content=body)
    return str(answer.raise_for_status().json()["id"])


def on_grid(clip: Tensor, truth: Tensor) -> Tensor:
    """A small clip enlarged bicubically, any other as it is."""
    if clip.shape == truth.shape:
        return clip
    size = (truth.shape[-2], truth.shape[-1])
    return torch.nn.functional.interpolate(clip, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def save_side_by_side(clips: list[Tensor], path: Path) -> None:
    """The middle frame of each, doubled in size, in a row."""
    frames = [clip[len(clip) // 2].permute(1, 2, 0).mul(255).round().byte().numpy() for clip in clips]
    height, width = frames[0].shape[:2]
    sheet = Image.new("RGB", ((2 * width + LINE) * len(frames) - LINE, 2 * height), "white")
    for place, frame in enumerate(frames):
        sheet.paste(Image.fromarray(frame).resize((2 * width, 2 * height)), (place * (2 * width + LINE), 0))
    sheet.save(path)


def show(task: Task, clips: dict[str, Tensor], truth: Tensor, job: dict[str, Any]) -> None:
    table = Table(
        "",
        "PSNR (dB)",
        "SSIM",
        "sharpness",
        title=f"{task.value}: {len(truth)} frames of {truth.shape[-1]}x{truth.shape[-2]}",
    )
    for name, clip in clips.items():
        values = (f"{psnr(clip, truth):.2f}", f"{ssim(clip, truth):.4f}", f"{sharpness(clip, truth):.2f}")
        table.add_row(name, *values)
    console.print(table)
    metrics = job["metrics"]
    console.print(
        f"{metrics['seconds_per_frame']:.2f} seconds a frame; "
        f"data residual {metrics['data_residual_before']:.4f} -> {metrics['data_residual']:.4f}",
        highlight=False,
    )


if __name__ == "__main__":
    app(prog_name="vxl demo")
