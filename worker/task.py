"""One job: clip in, solver, clip out. The only place where queue, files and solver meet.

`load` runs once in the life of the process that holds the model; the `Restorer` it gives back then takes job after job.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import structlog
import torch
from obstore.exceptions import BaseError
from redis.exceptions import RedisError

from app.contract import RESULT_FILES, Estimated, Job, JobMetrics, JobStatus, Manifest, OutputInfo, Version
from app.degradations import task_of
from app.keys import result_key, upload_key
from app.records import IllegalTransition, Records, UnknownJob, now
from app.restoration import Restoration
from app.settings import Settings
from app.store import Store
from worker.card import card_of
from worker.checkpoints import StoredCheckpoints, digest_of
from worker.compiled import compile_for
from worker.control import Control, TaskFailed
from worker.failures import explained, in_worker_words
from worker.loaded import learned_of, prior_of
from worker.outcome import Outcome
from worker.patience import Patience, connect
from worker.pipeline import Pipeline
from worker.progress import Meter
from worker.scenes import Scan, scan
from worker.solver.prior import DiffusersPrior
from worker.ticket import LeaseLost

log = structlog.get_logger(__name__)
LIBRARIES = ("torch", "diffusers", "av")


def restore_clip(job_id: str) -> None:
    """What the queue calls by name; the warm worker answers it with its `Restorer` instead."""
    raise RuntimeError("a job runs only in a worker that holds the model: start `vxl worker`")


def load(settings: Settings, control: Control) -> "Restorer":
    """Load the prior and connect to Redis and the store."""
    if settings.redis_url is None:
        raise ValueError("VXL_REDIS_URL is not set")
    settings.scratch.mkdir(parents=True, exist_ok=True)
    redis = connect(settings.redis_url)
    prior = prior_of(settings)
    if settings.sizes_to_compile and not prior.offload:  # weights that move would be compiled for anew each time
        compile_for(
            prior,
            settings.sizes_to_compile,
            settings.part_frames,
            settings.micro_batch,
            settings.memory_budget,
            cache=settings.cache,
            each=control.pulse,
        )
    return Restorer(settings, control, prior, Records(redis), Store(settings.files))


class Seen(NamedTuple):
    """Files of a job, and what a look at the clip has shown."""

    file: Path
    scan: Scan
    mask: Path | None
    kernel: Path | None


class Restorer:
    """Restores one clip after the other with one warm prior."""

    def __init__(
        self, settings: Settings, control: Control, prior: DiffusersPrior, records: Records, store: Store
    ) -> None:
        self.settings, self.control, self.prior = settings, control, prior
        self.records, self.store, self.learned = records, store, learned_of(settings, prior)
        self.patience = Patience(records, control)
        self.model, self.card = settings.model, card_of(prior)
        self.device = torch.cuda.get_device_name() if prior.device.type == "cuda" else "cpu"
        self.version = Version(service=version("vision-xl"), model=settings.model, weights_sha256=prior.weights_sha256)

    def __call__(self, job_id: str) -> None:
        """Restore the clip of a queued job and record how it went; raises as worker/control.py says."""
        job = self.patience.get(job_id)
        started = now()
        changes: dict[str, Any] = {"attempt": job.attempt + 1, "version": self.version}
        if job.started_at is None:
            waited = (started - job.queued_at).total_seconds()
            changes |= {"started_at": started, "metrics": JobMetrics(queue_seconds=round(waited, 3))}
        job = self.patience.move(job, JobStatus.starting, **changes)
        self._guarded(job, lambda scratch: self._restore(job, scratch))

    def help(self, job_id: str, run: int) -> None:
        """Solve a run of a job that another worker has; raises as `__call__`, LeaseLost where it is not to be done."""
        job = self.patience.get(job_id)
        meter = Meter(job.id, task_of(job.request.degradations()), self.control, self.records, run)

        def work(scratch: Path) -> None:
            pipeline = self._pipeline(job, self._seen(job, scratch, meter), meter)
            with explained(), self._checkpoints(job, scratch) as checkpoints:
                if not pipeline.help(run, scratch, checkpoints):
                    raise LeaseLost(f"{job_id}: this worker would do it otherwise")

        self._guarded(job, work)

    def _guarded(self, job: Job, work: Callable[[Path], None]) -> None:
        """Do it with a directory of its own, and put what goes wrong into a worker's words."""
        upload = job.request.source.upload_id
        own = TemporaryDirectory(dir=self.settings.scratch, prefix=f"{job.id}-", ignore_cleanup_errors=True)
        with own as scratch, in_worker_words(self.prior.device, lambda: self._reads(upload)):
            work(Path(scratch))

    def _reads(self, upload_id: str) -> bool:
        """Whether the store has the clip; the disk that it lies on may go while it is read."""
        try:
            return self.store.info(upload_key(upload_id)) is not None
        except (BaseError, OSError):
            return False

    def _restore(self, job: Job, scratch: Path) -> None:
        task = task_of(job.request.degradations())
        meter = Meter(job.id, task, self.control, self.records)
        seen = self._seen(job, scratch, meter)
        job = self.patience.move(job, JobStatus.processing)
        if self.prior.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        pipeline = self._pipeline(job, seen, meter)
        long = len(pipeline.plan.runs) > self.settings.fanout_segments
        with explained(), self._checkpoints(job, scratch) as checkpoints:
            outcome = pipeline.run(scratch, checkpoints, meter.board if long else None)
        self._observe(task, outcome, meter.solver_seconds)

        job = self.patience.move(job, JobStatus.finalizing)
        meter.enter("encoding", outcome.frames)
        self._finish(job, outcome, meter)

    def _seen(self, job: Job, scratch: Path, meter: Meter) -> Seen:
        """The clip, looked at from end to end, and what came with it."""
        meter.enter("decoding", 0)
        source = job.request.source
        file = self.patience.fetch(self.store, upload_key(source.upload_id), scratch)
        beside = {kind: self.patience.fetch(self.store, upload_key(i), scratch) for kind, i in source.beside().items()}
        seen = scan(file, each=meter.check)
        if len(seen.pts) != job.source.frames:
            raise TaskFailed("corrupt_stream", "The clip does not decode as it did when it was uploaded.")
        meter.measured("decode", len(seen.pts))
        return Seen(file, seen, beside.get("mask"), beside.get("kernel"))

    def _pipeline(self, job: Job, seen: Seen, meter: Meter) -> Pipeline:
        with explained():
            return Pipeline(
                self.prior,
                job.request,
                *seen,
                micro_batch=self.settings.micro_batch,
                budget=self.settings.memory_budget,
                part_frames=self.settings.part_frames,
                tile_pixels=self.settings.tile_pixels,
                follower=meter,
                learned=self.learned,
            )

    def _checkpoints(self, job: Job, scratch: Path) -> StoredCheckpoints:
        """Where an attempt that was interrupted left off, for one that would come to the same result."""
        settings, prior = self.settings, self.prior
        identity = {
            "request": job.request.model_dump(mode="json", include={"source", *Restoration.model_fields}),
            "source": job.source.sha256,
            "version": self.version.model_dump(),
            "libraries": {name: version(name) for name in LIBRARIES},
            "device": [prior.device.type, str(prior.unet.dtype), str(prior.vae.dtype)],
            "sizes": [settings.part_frames, settings.tile_pixels],
            "learned": [str(settings.lpips), str(settings.fvd)] if job.request.simulate else [],
        }
        return StoredCheckpoints(self.store, job.id, identity, scratch, self.control.go_on)

    def _observe(self, task: str, outcome: Outcome, seconds: float) -> None:
        for _ in range(outcome.frames):
            self.control.observe(
                "visionxl_frame_duration_seconds",
                seconds / outcome.frames,
                task=task,
                resolution=f"{outcome.width}x{outcome.height}",
            )
        self.control.observe("visionxl_frames_processed_total", outcome.frames, task=task)
        batch = outcome.settings["micro_batch"]
        self.control.observe("visionxl_micro_batch_frames", batch["size"])
        self.control.observe("visionxl_micro_batch_jobs_total", 1, reason=batch["reason"])
        if self.prior.device.type == "cuda":
            self.control.observe("visionxl_gpu_memory_peak_bytes", torch.cuda.max_memory_allocated())

    def _finish(self, job: Job, outcome: Outcome, meter: Meter) -> None:
        """Write the manifest, put all files into the store, and only then say that the job succeeded."""
        files = dict(outcome.files)
        size, digest = files["output"].stat().st_size, digest_of(files["output"])
        output = OutputInfo(
            width=outcome.width, height=outcome.height, frames=outcome.frames, bytes=size, sha256=digest
        )
        changes: dict[str, Any] = {
            "output": output,
            "metrics": job.metrics.model_copy(
                update={
                    "gpu_seconds": round(meter.solver_seconds, 3),
                    "seconds_per_frame": round(meter.solver_seconds / outcome.frames, 4),
                    "data_residual": outcome.residual,
                    "data_residual_before": outcome.residual_before,
                    "noise_sigma": outcome.noise_sigma,
                    **outcome.compared,
                }
            ),
            "estimated": _estimated(outcome),
            "warnings": [*job.warnings, *outcome.warnings],
            **job.ending(now(), self.settings.result_ttl_seconds),
        }
        manifest = self._manifest(job.model_copy(update=changes), outcome, meter)
        files["manifest"] = files["output"].with_name(RESULT_FILES["manifest"])
        files["manifest"].write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n")
        try:
            for name, path in files.items():
                self.patience.put(self.store, result_key(job, name), path)
            meter.done()
            self.patience.move(job, JobStatus.succeeded, **changes)
        except (IllegalTransition, UnknownJob, LeaseLost):
            with suppress(BaseError, RedisError):
                now_it_is = self.records.find(job.id)
                if now_it_is is None or now_it_is.queued_at != job.queued_at:  # nobody asks for these any more
                    for name in files:
                        self.store.delete(result_key(job, name))
            raise

    def _manifest(self, job: Job, outcome: Outcome, meter: Meter) -> Manifest:
        """All it takes to know how the result came about, and to make it again."""
        told = job.model_dump(
            mode="json",
            include={"id", "request", "source", "output", "seed", "metrics", "estimated", "warnings", "attempt"},
        )
        libraries = {name: version(name) for name in LIBRARIES}
        return told | {
            "solver": job.request.solver.model_dump() | outcome.settings,
            "noise_sigma": outcome.noise_sigma,
            "scenes": outcome.scenes,
            "frames": outcome.per_frame,
            "data_residual": {"before": outcome.residual_before, "after": outcome.residual},
            "stage_seconds": {stage: round(seconds, 3) for stage, seconds in meter.spent().items()},
            "version": self.version.model_dump() | libraries,
            "device": self.device,
        }


def _estimated(outcome: Outcome) -> Estimated | None:
    found = outcome.estimated
    return Estimated(degradation=found.degradation, confidence=found.confidence) if found else None
