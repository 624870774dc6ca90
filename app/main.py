"""The front end as an ASGI application: wiring, nothing else."""

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from threading import Thread
from types import FrameType
from wsgiref.simple_server import WSGIServer

import structlog
import uvicorn
from anyio import CapacityLimiter
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from app import errors, logging
from app.api import events, jobs, results, system, uploads
from app.api.wiring import Services
from app.idempotency import Idempotency
from app.ids import new_id
from app.jobs import Jobs
from app.metrics import Metrics
from app.observe import Observe
from app.records import Records
from app.settings import API_STOP_SECONDS, Settings
from app.store import Store
from app.uploads import Uploads

DESCRIPTION = "Restores degraded high-definition video with VISION-XL."
REDIS_SECONDS = 2.0  # the longest a command may take; a client is better told than kept waiting
LISTENERS = 16
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

NO_REDIS = "VXL_REDIS_URL is not set: the API needs the Redis that its workers use"

log = structlog.get_logger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application with its parts; `uvicorn app.main:create_app --factory` runs it."""
    settings = settings or Settings()
    logging.configure(settings)
    services = assemble(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server = measured(services)
        yield
        if server is not None:
            server[0].shutdown()
            server[0].server_close()
            server[1].join()
        services.records.redis.close()

    app = FastAPIOffline(  # its pages of documentation bring all they show with them
        title="VISION-XL",
        version=services.version,
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=errors.RESPONSES,
    )
    app.openapi = partial(errors.openapi, app)  # type: ignore[method-assign]
    app.state.services = services
    for part in (uploads, jobs, events, results, system):
        app.include_router(part.router)
    errors.install(app)
    app.add_middleware(Observe, metrics=services.metrics)
    app.add_middleware(
        CorrelationIdMiddleware,
        header_name="X-Request-Id",
        generator=lambda: new_id("req"),
        validator=lambda found: REQUEST_ID.fullmatch(found) is not None,
    )
    return app


def assemble(settings: Settings) -> Services:
    """All parts, joined."""
    settings.scratch.mkdir(parents=True, exist_ok=True)
    release = version("vision-xl")
    records, store = Records(connect(settings)), Store(settings.files)
    jobs = Jobs(settings, records, store)
    uploads = Uploads(settings, records, store)
    uploads.clear()
    metrics = Metrics(settings, jobs, release)
    jobs.on_end = metrics.job_ended
    return Services(
        settings=settings,
        records=records,
        store=store,
        jobs=jobs,
        uploads=uploads,
        idempotency=Idempotency(jobs),
        metrics=metrics,
        listeners=CapacityLimiter(LISTENERS),
        version=release,
    )


def measured(services: Services) -> tuple[WSGIServer, Thread] | None:
    """The server that Prometheus scrapes, where there is to be one and its port can be had."""
    settings = services.settings
    if not settings.api_metrics_port:
        return None
    try:
        return services.metrics.serve(settings.host, settings.api_metrics_port)
    except OSError as error:  # an API that works unseen is better than none
        log.error("no metrics: the port cannot be had", port=settings.api_metrics_port, reason=str(error))
        return None


def connect(settings: Settings) -> Redis:
    """A client that tells soon that Redis is away, and finds it again by itself; raises ValueError without a URL."""
    if not settings.redis_url:
        raise ValueError(NO_REDIS)
    return Redis.from_url(
        settings.redis_url,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        # Once more on a connection that Redis closed while it lay idle; a slow answer is never asked for twice.
        retry=Retry(ConstantBackoff(0.05), 1, supported_errors=(RedisConnectionError,)),
    )


class Server(uvicorn.Server):
    """Tells the application when it is to stop, so that event streams end; their clients come back to another."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.services.stopping.set()  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    settings = Settings()
    logging.configure(settings)
    if not settings.redis_url:
        log.error(NO_REDIS)
        return 2
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=API_STOP_SECONDS,
    )
    Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
