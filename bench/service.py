"""What the service takes besides the solver: pickup of a queued job, and the wall time of a job minus the solver's.

    python bench/service.py                    # a clip of 75 frames of 256x160, five short jobs for the pickup

The whole service runs for the occasion, with the bundled checkpoint, and is asked over HTTP as a client would ask it.
The job's own clock counts from its queue to its end: reading, solving, encoding, and putting files into the store.
`solver` is the manifest's seconds of the loop, `other` what its stages of reading and writing took, `rest` all else.
"""

import argparse
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from speed import moving

from app.degradations import Task
from worker.demo import SAMPLE, degrade, service, upload
from worker.encode import write_clip
from worker.solver.stages import STAGES
from worker.video import read_clip

LOOK = 0.5  # seconds between two looks at a job, as a client would take; times are the job's own


def finished(client: httpx.Client, upload_id: str, task: Task) -> dict[str, Any]:
    """A job sent and followed to its end."""
    request = {"source": {"upload_id": upload_id}, "task": task.value}
    job: dict[str, Any] = client.post("/v1/jobs", json=request).raise_for_status().json()
    while not job["terminal"]:
        time.sleep(LOOK)
        job = client.get(job["urls"]["self"]).raise_for_status().json()
    assert job["status"] == "succeeded", job["error"]
    return job


def seconds_between(job: dict[str, Any], one: str, other: str) -> float:
    return (datetime.fromisoformat(job[other]) - datetime.fromisoformat(job[one])).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=75)
    parser.add_argument("--size", default="160x256", help="height x width")
    parser.add_argument("--task", type=Task, default=Task.deblur_plus)
    parser.add_argument("--pickups", type=int, default=5)
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    sample = read_clip(SAMPLE, 2)
    step = sample.pts[1] - sample.pts[0]
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        truth = moving(args.frames, height, width)
        like = directory / "clean.mp4"
        write_clip(like, truth, sample, pts=[n * step for n in range(args.frames)], crf=10)
        long, _ = degrade(read_clip(like), truth, args.task, directory)
        (directory / "short").mkdir()
        short, _ = degrade(read_clip(SAMPLE, 8), truth[:8], args.task, directory / "short")
        with service(directory / "log") as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            ids = [upload(client, path, "clip") for path in (short, long)]
            pickups = [finished(client, ids[0], args.task)["metrics"]["queue_seconds"] for _ in range(args.pickups)]
            job = finished(client, ids[1], args.task)
            manifest = client.get(job["urls"]["manifest"]).raise_for_status().json()
    wall = seconds_between(job, "queued_at", "completed_at")
    solver = sum(manifest["stage_seconds"].get(stage, 0) for stage in STAGES)
    other = sum(manifest["stage_seconds"].values()) - solver
    table = Table("wall", "solver", "other", "rest", "besides the solver", title=f"{args.frames} frames, seconds")
    table.add_row(
        f"{wall:.2f}", f"{solver:.2f}", f"{other:.2f}", f"{wall - solver - other:.2f}", f"{1 - solver / wall:.1%}"
    )
    Console(width=100).print(table)
    print(f"pickup of a queued job: median {median(pickups):.3f} s, longest {max(pickups):.3f} s")
    print("  ".join(f"{stage} {seconds}" for stage, seconds in manifest["stage_seconds"].items()))


if __name__ == "__main__":
    main()
