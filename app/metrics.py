"""What the API measures, in Prometheus' terms, on a port of its own. No id is ever a label."""

from collections.abc import Iterator
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from app.contract import Job
from app.degradations import task_of
from app.jobs import Jobs
from app.settings import Settings

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The instruments, in a registry of their own."""

    def __init__(self, settings: Settings, jobs: Jobs, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # no visionxl_jobs_created_created
        self.registry = CollectorRegistry()
        self.http = Histogram(
            "visionxl_http_request_duration_seconds",
            "From the request's first byte to the response's last",
            ["method", "route", "status"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.uploads = Counter(
            "visionxl_uploads_total",
            "Uploads by outcome (accepted, refused) and, where refused, the code of the problem",
            ["outcome", "reason"],
            registry=self.registry,
        )
        self.jobs_created = Counter("visionxl_jobs_created_total", "Jobs queued", ["task"], registry=self.registry)
        self.jobs_finished = Counter(
            "visionxl_jobs_finished_total",
            "Jobs that ended",  # here those that never started; a worker counts its own under the same name
            ["task", "status", "error_code"],
            registry=self.registry,
        )
        build = Gauge("visionxl_build_info", "Always 1: what is running", ["version", "model"], registry=self.registry)
        build.labels(version, settings.model).set(1)
        self.registry.register(QueueCollector(jobs))

    def job_ended(self, job: Job) -> None:
        """The API itself ended a job."""
        code = job.error.code if job.error else ""
        self.jobs_finished.labels(task_of(job.request.degradations()), job.status, code).inc()

    def serve(self, host: str, port: int) -> tuple[WSGIServer, Thread]:
        """Start the server that Prometheus scrapes."""
        return start_http_server(port, addr=host, registry=self.registry)


class QueueCollector(Collector):
    """Reads the queues at every scrape; says nothing while Redis is away."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth = GaugeMetricFamily("visionxl_queue_depth", "Jobs waiting", labels=["queue"])
        age = GaugeMetricFamily(
            "visionxl_queue_oldest_job_age_seconds", "How long the oldest job has waited", labels=["queue"]
        )
        try:
            queues = self.jobs.queues()
        except RedisError:
            return
        for queue in queues:
            depth.add_metric([queue.name], queue.depth)
            age.add_metric([queue.name], queue.oldest_age_seconds)
        yield depth
        yield age
