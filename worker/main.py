"""`python -m worker.main`: one worker, until SIGTERM or SIGINT."""

import socket
import sys
from importlib.metadata import version
from uuid import uuid4

import structlog

from app.logging import configure
from app.settings import Settings
from worker.metrics import Metrics
from worker.patience import connect
from worker.warm_worker import WarmWorker

log = structlog.get_logger(__name__)


def main(loader: str = "worker.task:load") -> int:
    """Run a worker; its exit status. `loader` names what loads the task, see worker/control.py."""
    settings = Settings()
    configure(settings)
    if settings.redis_url is None:
        log.error("VXL_REDIS_URL is not set: a worker needs the Redis that its API uses")
        return 2
    # Not the process's number alone: in a container every worker has the same.
    name = f"{socket.gethostname()}-{uuid4().hex[:6]}"
    metrics = Metrics(name, version("vision-xl"), settings.model)
    server = None
    if settings.metrics_port:
        try:
            server, _ = metrics.serve(settings.host, settings.metrics_port)
        except OSError as error:  # a worker that works unseen is better than none
            log.error("no metrics: the port cannot be had", port=settings.metrics_port, reason=str(error))
    with connect(settings.redis_url) as connection:
        WarmWorker(settings, connection, metrics, name, loader).run()
    if server:
        server.shutdown()
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
