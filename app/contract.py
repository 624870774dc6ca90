"""What crosses the border: requests as clients write them, jobs as they read them, and the life of a job.

The REST surface, the queue and the worker all speak these models; `/openapi.json` is made from them.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, computed_field, field_validator, model_validator

from app.containers import BesideKind, UploadKind
from app.degradations import Degradation, Strict
from app.restoration import Restoration
from app.sizes import nearest_sdxl_size

# --- what the client asks for --------------------------------------------------------------------------------------


class Source(Strict):
    """The measured clip; the mask that says which of its pixels are known (white); the kernel that blurred it."""

    upload_id: str = Field(pattern=r"^up_[0-9a-z]{26}$", examples=["up_01k2m3n4p5q6r7s8t9v0w1x2y3"])
    mask_upload_id: str | None = Field(None, pattern=r"^up_[0-9a-z]{26}$")
    kernel_upload_id: str | None = Field(None, pattern=r"^up_[0-9a-z]{26}$")

    def beside(self) -> dict[BesideKind, str]:
        """The uploads that go with the clip, by what they are."""
        ids: dict[BesideKind, str | None] = {"mask": self.mask_upload_id, "kernel": self.kernel_upload_id}
        return {kind: upload_id for kind, upload_id in ids.items() if upload_id is not None}


class JobRequest(Restoration):
    """Restore an uploaded clip. Say what happened to it as `task` or as a list `degradation`, applied in order.

    Or have it found: `"blur": "estimate"`. Where the clip does not tell, the job fails as `degradation_not_identified`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"source": {"upload_id": "up_01k2m3n4p5q6r7s8t9v0w1x2y3"}, "task": "deblur"},
                {
                    "source": {"upload_id": "up_01k2m3n4p5q6r7s8t9v0w1x2y3"},
                    "degradation": [
                        {"kind": "temporal_average", "window": 7},
                        {"kind": "downsample", "factor": 4},
                    ],
                    "solver": {"seed": 7},
                },
            ]
        }
    )

    source: Source
    priority: Literal["high", "normal", "low"] = "normal"
    cancel_after_seconds: int | None = Field(None, ge=1, le=7 * 86400, description="deadline, from creation")
    expires_after_seconds: int | None = Field(None, ge=60, le=30 * 86400, description="how long the result is kept")
    metadata: dict[str, JsonValue] = Field(default_factory=dict, max_length=50)


# --- uploads -------------------------------------------------------------------------------------------------------


class MediaInfo(BaseModel):
    """What decoding the file showed. Sizes are after rotation; `frames` were counted, not claimed."""

    width: int
    height: int
    frames: int
    frame_rate: str = Field(examples=["25/1"], description="mean rate; a rational number")
    duration_seconds: float
    codec: str
    pixel_format: str
    variable_frame_rate: bool = False
    has_audio: bool = False
    rotation: int = 0

    @field_validator("frame_rate")
    @classmethod
    def _rational(cls, value: str) -> str:
        Fraction(value)
        return value


class Upload(BaseModel):
    """A file the service holds."""

    id: str
    tenant: str | None = Field(None, exclude_if=lambda tenant: tenant is None)
    kind: UploadKind = "clip"
    bytes: int
    sha256: str
    media: MediaInfo
    warnings: list[str] = Field(default_factory=list)
    created_at: datetime
    expires_at: datetime


# --- jobs ----------------------------------------------------------------------------------------------------------


class JobStatus(StrEnum):
    queued = "queued"
    starting = "starting"
    processing = "processing"
    finalizing = "finalizing"
    succeeded = "succeeded"
    failed = "failed"
    canceling = "canceling"
    canceled = "canceled"
    expired = "expired"


TERMINAL = frozenset({JobStatus.succeeded, JobStatus.failed, JobStatus.canceled, JobStatus.expired})

# The life of a job: from each state, the states it may go to. A lost or preempted worker sends a live job back to
# `queued`; nothing leaves a terminal state but a retry, which queues the job again.
TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.queued: frozenset({JobStatus.starting, JobStatus.canceled, JobStatus.expired, JobStatus.failed}),
    JobStatus.starting: frozenset({JobStatus.processing, JobStatus.canceling, JobStatus.failed, JobStatus.queued}),
    JobStatus.processing: frozenset({JobStatus.finalizing, JobStatus.canceling, JobStatus.failed, JobStatus.queued}),
    JobStatus.finalizing: frozenset({JobStatus.succeeded, JobStatus.canceling, JobStatus.failed, JobStatus.queued}),
    JobStatus.canceling: frozenset({JobStatus.canceled, JobStatus.failed}),
    JobStatus.succeeded: frozenset(),
    JobStatus.failed: frozenset({JobStatus.queued}),
    JobStatus.canceled: frozenset({JobStatus.queued}),
    JobStatus.expired: frozenset({JobStatus.queued}),
}


class Progress(BaseModel):
    """How far the solver is; `frames_done` counts frame evaluations of the present stage."""

    stage: Literal["queued", "decoding", "inverting", "sampling", "encoding", "done"]
    percent: float = Field(ge=0, le=100)
    frames_done: int = 0
    frames_total: int = 0
    seconds_per_frame: float | None = None
    eta_seconds: float | None = None


class JobSource(BaseModel):
    """The measured clip as probed."""

    width: int
    height: int
    frames: int
    frame_rate: str
    sha256: str


class OutputInfo(BaseModel):
    """The restored clip; sdxl_size: width and height of the nearest size that SDXL was trained for."""

    width: int
    height: int
    frames: int
    bytes: int
    sha256: str

    @computed_field
    def sdxl_size(self) -> tuple[int, int]:
        return nearest_sdxl_size(self.width, self.height)


class JobMetrics(BaseModel):
    """Measured, never estimated; null until known. The residual is RMS of y - A x in [0, 1] pixel units.

    All from psnr on compare the result, before it is encoded, with the clean clip where the job simulates; `_before` is
    what the solver starts from. psnr: dB. vmaf: libvmaf's default model, 0 to 100; null for frames under 32 pixels.
    warp_error: mean RMS in [0, 1] of each frame against the next one moved back onto it, along the clean clip's motion;
    `_truth` is the clean clip's own. lpips, fvd: where the service has their networks; fvd of 16 frames at a time, from
    32 on.
    """

    queue_seconds: float | None = None
    gpu_seconds: float | None = None
    seconds_per_frame: float | None = None
    data_residual: float | None = None
    data_residual_before: float | None = None
    noise_sigma: float | None = None
    psnr: float | None = None
    psnr_before: float | None = None
    ssim: float | None = None
    ssim_before: float | None = None
    vmaf: float | None = None
    vmaf_before: float | None = None
    warp_error: float | None = None
    warp_error_before: float | None = None
    warp_error_truth: float | None = None
    lpips: float | None = None
    lpips_before: float | None = None
    fvd: float | None = None
    fvd_before: float | None = None


class Estimated(BaseModel):
    """What was found to have happened to a clip that did not say, in order, and how probable it is."""

    degradation: list[Degradation]
    confidence: float = Field(ge=0, le=1)


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    detail: str
    retryable: bool


class Version(BaseModel):
    """What made the result."""

    service: str
    model: str
    weights_sha256: str


class Job(BaseModel):
    """A restoration, from its request to its result."""

    id: str
    status: JobStatus
    terminal: bool = False
    request: JobRequest
    source: JobSource
    queue_position: int | None = None
    tenant: str | None = None
    attempt: int = 0
    progress: Progress
    output: OutputInfo | None = None
    metrics: JobMetrics = Field(default_factory=JobMetrics)
    estimated: Estimated | None = None
    error: JobError | None = None
    warnings: list[str] = Field(default_factory=list)
    version: Version | None = None
    seed: int
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    urls: dict[str, str]

    @model_validator(mode="after")
    def _terminal_follows_status(self) -> Self:
        self.terminal = self.status in TERMINAL
        return self

    def overdue(self, at: datetime) -> bool:
        """Past the deadline that the client set, which counts from the job's creation."""
        seconds = self.request.cancel_after_seconds
        return seconds is not None and self.created_at + timedelta(seconds=seconds) <= at

    def ending(self, at: datetime, kept_seconds: float) -> dict[str, datetime]:
        """The dates of a job that ends now: kept_seconds is what the service grants a client that states nothing."""
        kept = self.request.expires_after_seconds or kept_seconds
        return {"completed_at": at, "expires_at": at + timedelta(seconds=kept)}


RESULT_FILES = {
    "output": "output.mp4",
    "preview": "preview.mp4",
    "comparison": "comparison.mp4",
    "manifest": "manifest.json",
}


def job_urls(job_id: str) -> dict[str, str]:
    """Paths of a job and of all that hangs on it."""
    base = f"/v1/jobs/{job_id}"
    return {"self": base} | {name: f"{base}/{name}" for name in ("cancel", "events", *RESULT_FILES)}


Manifest = dict[str, Any]

# How the queue calls a worker: by the name of a function that takes the job's id.
TASK = "worker.task.restore_clip"
CALL_KEPT_SECONDS = 3600  # by the queue once it has failed; the job's record stays
