"""What one worker measures, in one registry: the parent's.

The task measures in the horse, whose observations arrive over the pipe as (name, value, labels); see NAMES below for
what it may report. So the horse needs no registry of its own, and its death costs no numbers.
"""

from datetime import datetime
from threading import Thread
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from app.contract import Job, JobStatus
from app.degradations import task_of

log = structlog.get_logger(__name__)

FRAME_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
JOB_SECONDS = (1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200)
WAIT_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400, 86400)
CANCEL_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)

STATES = ("loading", "idle", "busy", "draining", "unhealthy", "defunct")

# Name: help, labels, buckets. The first two come from the task, the others from the parent.
HISTOGRAMS: dict[str, tuple[str, list[str], tuple[float, ...]]] = {
    "visionxl_frame_duration_seconds": (
        "One output frame through the whole loop",
        ["task", "resolution", "gpu"],
        FRAME_SECONDS,
    ),
    "visionxl_frame_stage_duration_seconds": (
        "One frame through one stage: decode, invert, denoise, vae_decode, data_step, vae_encode, encode",
        ["task", "stage"],
        FRAME_SECONDS,
    ),
    "visionxl_job_duration_seconds": ("From the start of a job to its end", ["task", "status"], JOB_SECONDS),
    "visionxl_job_queue_wait_seconds": ("From a job's entry into its queue to its start", ["priority"], WAIT_SECONDS),
    "visionxl_cancel_latency_seconds": ("From the wish to cancel to the end of the job", [], CANCEL_SECONDS),
}
COUNTERS = {
    "visionxl_frames_processed_total": ("Frames restored", ["task", "worker"]),
    "visionxl_gpu_errors_total": ("Errors of the device, by kind", ["kind"]),
    "visionxl_micro_batch_jobs_total": ("Jobs by what decided how many frames went at a time", ["reason"]),
    "visionxl_jobs_finished_total": ("Jobs that ended", ["task", "status", "error_code"]),
    "visionxl_job_resumes_total": ("Jobs queued again after an interruption", ["reason"]),
}
GAUGES = {
    "visionxl_gpu_memory_peak_bytes": ("Most memory the task ever held on the device", ["worker"]),
    "visionxl_micro_batch_frames": ("Frames that went through the prior at a time in the last job", ["worker"]),
    "visionxl_worker_state": ("1 for the state the worker is in, 0 for the others", ["worker", "gpu", "state"]),
    "visionxl_worker_last_heartbeat_timestamp_seconds": ("When the worker last reached Redis", ["worker"]),
    "visionxl_build_info": ("Always 1: what is running", ["version", "model"]),
}
NAMES = frozenset({*HISTOGRAMS, *COUNTERS, *GAUGES})


class Metrics:
    """The instruments of one worker. The labels `worker` and `gpu` are filled in where they are not given."""

    def __init__(self, worker: str, version: str, model: str) -> None:
        self.registry = CollectorRegistry()
        self.filled_in = {"worker": worker, "gpu": ""}
        self._labels = {name: labels for name, (_, labels, *_) in (HISTOGRAMS | COUNTERS | GAUGES).items()}
        self._histograms = {
            name: Histogram(name, text, labels, buckets=buckets, registry=self.registry)
            for name, (text, labels, buckets) in HISTOGRAMS.items()
        }
        self._counters = {n: Counter(n, text, labels, registry=self.registry) for n, (text, labels) in COUNTERS.items()}
        self._gauges = {n: Gauge(n, text, labels, registry=self.registry) for n, (text, labels) in GAUGES.items()}
        self.observe("visionxl_build_info", 1, version=version, model=model)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Observe a histogram, add to a counter, or set a gauge. Raises ValueError for a name or labels not listed."""
        if name not in NAMES:
            raise ValueError(f"no metric is called {name}")
        needed = self._labels[name]
        given = {key: self.filled_in[key] for key in needed if key in self.filled_in} | labels
        if histogram := self._histograms.get(name):
            (histogram.labels(**given) if needed else histogram).observe(value)
        elif counter := self._counters.get(name):
            counter.labels(**given).inc(value)
        else:
            self._gauges[name].labels(**given).set(value)

    def report(self, name: str, value: float, **labels: str) -> None:
        """`observe` for what comes from the horse: a mistake there must not end the worker."""
        try:
            self.observe(name, value, **labels)
        except ValueError as error:
            log.error("unknown observation", name=name, labels=labels, reason=str(error))

    def state(self, now_in: str, gpu: str) -> None:
        """The worker's state, one of STATES, and the device that its horse found; from here on the label `gpu`."""
        if gpu != self.filled_in["gpu"]:
            self._gauges["visionxl_worker_state"].clear()
            self.filled_in["gpu"] = gpu
        for state in STATES:
            self.observe("visionxl_worker_state", float(state == now_in), state=state)

    def job_started(self, job: Job, waited: float) -> None:
        self.observe("visionxl_job_queue_wait_seconds", waited, priority=job.request.priority)

    def job_resumed(self, reason: str) -> None:
        """A job went back to the queue: preempted, stalled, worker_lost, out_of_memory, store_unavailable."""
        self.observe("visionxl_job_resumes_total", 1, reason=reason)

    def job_ended(self, job: Job, asked: datetime | None) -> None:
        """A job ended; `asked` is when somebody wished to cancel it."""
        task = task_of(job.request.degradations())
        code = job.error.code if job.error else ""
        self.observe("visionxl_jobs_finished_total", 1, task=task, status=job.status, error_code=code)
        if job.started_at and job.completed_at:
            seconds = (job.completed_at - job.started_at).total_seconds()
            self.observe("visionxl_job_duration_seconds", max(0, seconds), task=task, status=job.status)
        if asked and job.completed_at and job.status is JobStatus.canceled:
            self.observe("visionxl_cancel_latency_seconds", max(0, (job.completed_at - asked).total_seconds()))

    def serve(self, host: str, port: int) -> tuple[WSGIServer, Thread]:
        """Start the server that Prometheus scrapes; raises OSError where the port is taken."""
        return start_http_server(port, addr=host, registry=self.registry)
